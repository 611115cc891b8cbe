//! Bytes on their way out.

/// What is to be written to one side. Whoever fills it keeps the bound.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    buf: Vec<u8>,
    done: usize,
}

impl Pipe {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buf.get(self.done..).unwrap_or_default()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.done >= self.buf.len()
    }

    /// Takes a whole message, without a copy when nothing waits.
    pub(crate) fn push(&mut self, message: Vec<u8>) {
        if self.is_empty() {
            *self = Self { buf: message, done: 0 };
        } else {
            self.buf.drain(..self.done);
            self.done = 0;
            self.buf.extend_from_slice(&message);
        }
    }

    /// Forgets the first `n` bytes. The memory goes with the last of them, so that an idle connection holds none.
    pub(crate) fn consume(&mut self, n: usize) {
        self.done = self.done.saturating_add(n);
        if self.is_empty() {
            *self = Self::default();
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_not_kept_by_a_reader_that_is_always_a_byte_behind() {
        let mut pipe = Pipe::default();
        pipe.push(vec![0]);
        for n in 1..=255 {
            pipe.push(vec![n; 1000]);
            pipe.consume(1000);
            assert_eq!(pipe.bytes(), [n]);
            assert!(pipe.buf.len() <= 1001);
        }
        pipe.consume(1);
        assert_eq!(pipe.buf.capacity(), 0);
    }
}
