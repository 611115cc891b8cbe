//! What a waiting user is told while a sandbox is made or started.

/// Receives one line at a time. Called from the task that does the work, so it must not block.
pub trait Progress: Send + Sync {
    /// A step has begun, for example "unpacking the image".
    fn step(&self, text: &str);

    /// Something does not hold that the user might rely on, for example a limit that this machine cannot enforce.
    fn warn(&self, text: &str);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn step(&self, _text: &str) {}
    fn warn(&self, _text: &str) {}
}
