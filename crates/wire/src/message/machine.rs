//! What the host asks of an agent that is the init of a whole machine.

use crate::DecodeError;
use crate::codec::{Reader, WriteFields};

/// Nanoseconds in a second.
const NANOS: u32 = 1_000_000_000;

/// One thing to do with the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineRequest {
    /// End all sessions and switch it off.
    PowerOff,
    /// Set its clock.
    SetClock {
        /// Since 1970, in UTC.
        seconds: u64,
        /// Below a second.
        nanos: u32,
    },
}

impl MachineRequest {
    pub(crate) fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::PowerOff => out.put_u8(1),
            Self::SetClock { seconds, nanos } => {
                out.put_u8(2);
                out.put_u64(seconds);
                out.put_u32(nanos);
            }
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u8()? {
            1 => Ok(Self::PowerOff),
            2 => {
                let (seconds, nanos) = (r.u64()?, r.u32()?);
                // Later than any clock can be set to, or no fraction.
                if i64::try_from(seconds).is_err() || nanos >= NANOS {
                    return Err(DecodeError::BadValue);
                }
                Ok(Self::SetClock { seconds, nanos })
            }
            _ => Err(DecodeError::BadValue),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::message::Open;

    #[test]
    fn requests_survive_the_wire_and_nonsense_does_not() {
        for request in [MachineRequest::PowerOff, MachineRequest::SetClock { seconds: 1 << 33, nanos: 5 }] {
            let bytes = Open::Machine(request).encode().unwrap();
            assert_eq!(Open::decode(&bytes), Ok(Open::Machine(request)));
            assert!(Open::decode(&bytes[..bytes.len() - 1]).is_err(), "cut short");
        }
        for bad in [
            MachineRequest::SetClock { seconds: u64::MAX, nanos: 0 },
            MachineRequest::SetClock { seconds: 1, nanos: NANOS },
        ] {
            assert!(Open::decode(&Open::Machine(bad).encode().unwrap()).is_err(), "{bad:?}");
        }
        assert!(Open::decode(&[7, 9]).is_err());
    }
}
