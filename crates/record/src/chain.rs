//! The chain of hashes: each link stands for all bytes before it.
//!
//! The first link begins with the recording's own identifier, so that no part of another recording fits. Whoever can rewrite the whole
//! file can make a new chain, too; that shows by the [`Head`], which the gateway keeps elsewhere.

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

/// What the first link begins with, so that its hash can mean nothing else.
const DOMAIN: &[u8] = b"sandgate recording 1\n";

/// The last link: how many there are, and the hash.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Head {
    /// Links so far.
    pub count: u64,
    /// SHA-256 of the last one, in hexadecimal; empty before the first.
    pub sha256: String,
}

/// How the lines of a file's own kind look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Comments of an asciicast.
    Cast,
    /// Objects of a timeline.
    Timeline,
}

impl Form {
    /// What every link begins with.
    pub(crate) fn link_prefix(self) -> &'static [u8] {
        match self {
            Form::Cast => b"# sandgate-chain: ",
            Form::Timeline => b"{\"chain\":",
        }
    }

    /// What the line of totals begins with.
    pub(crate) fn end_prefix(self) -> &'static [u8] {
        match self {
            Form::Cast => b"# sandgate-end: ",
            Form::Timeline => b"{\"end\":",
        }
    }

    fn link(self, head: &Head) -> String {
        let Head { count, sha256 } = head;
        match self {
            Form::Cast => format!("# sandgate-chain: {count} {sha256}"),
            Form::Timeline => format!("{{\"chain\":{count},\"sha256\":\"{sha256}\"}}"),
        }
    }
}

/// A chain while it grows.
pub(crate) struct Chain {
    form: Form,
    context: Context,
    head: Head,
    /// Whether anything came after the last link.
    open: bool,
}

impl Chain {
    pub(crate) fn new(form: Form, id: &str) -> Chain {
        let mut context = Context::new(&SHA256);
        context.update(DOMAIN);
        context.update(id.as_bytes());
        context.update(b"\n");
        Chain { form, context, head: Head::default(), open: false }
    }

    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Takes a line and its end.
    pub(crate) fn line(&mut self, line: &[u8]) {
        self.context.update(line);
        self.context.update(b"\n");
        self.open = true;
    }

    /// Makes the next link, and gives its line.
    pub(crate) fn link(&mut self) -> String {
        let ended = std::mem::replace(&mut self.context, Context::new(&SHA256)).finish();
        self.context.update(ended.as_ref());
        self.head = Head { count: self.head.count.saturating_add(1), sha256: hex(ended.as_ref()) };
        self.open = false;
        self.form.link(&self.head)
    }
}

/// In lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Lines that were written and not taken yet, with their chain.
pub(crate) struct Sheet {
    chain: Chain,
    out: Vec<u8>,
}

impl Sheet {
    pub(crate) fn new(form: Form, id: &str) -> Sheet {
        Sheet { chain: Chain::new(form, id), out: Vec::new() }
    }

    pub(crate) fn line(&mut self, line: &str) {
        self.chain.line(line.as_bytes());
        self.out.extend_from_slice(line.as_bytes());
        self.out.push(b'\n');
    }

    /// Closes what was written since the last link with one.
    pub(crate) fn link(&mut self) {
        if self.chain.is_open() {
            let line = self.chain.link();
            self.out.extend_from_slice(line.as_bytes());
            self.out.push(b'\n');
        }
    }

    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.out.len()
    }

    pub(crate) fn head(&self) -> &Head {
        self.chain.head()
    }
}
