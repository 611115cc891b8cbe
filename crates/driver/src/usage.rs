//! What a running sandbox uses of the machine.

use std::time::Duration;

/// Beyond this a limit in bytes is none: kernels and engines write "no limit" as the largest number that they have, rounded to pages.
const NO_LIMIT: u64 = 1 << 60;

/// What a sandbox uses, as far as it can be told: what nobody counts here is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory in bytes, without the files that the kernel would drop first.
    pub memory: Option<u64>,
    /// Most that `memory` may become, in bytes.
    pub memory_limit: Option<u64>,
    /// Time on processors since its start, over all cores.
    pub cpu: Option<Duration>,
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Most of them.
    pub processes_limit: Option<u64>,
}

impl Usage {
    /// Itself, or `None` where nothing is known.
    pub(crate) fn known(self) -> Option<Usage> {
        (self != Usage::default()).then_some(self)
    }
}

/// A number, unless it stands for "no limit".
pub(crate) fn limit(number: u64) -> Option<u64> {
    (number < NO_LIMIT).then_some(number)
}
