//! Recordings of sessions: their file formats, the chain of hashes that shows a change, and conversion.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking"))]
