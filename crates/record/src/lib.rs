//! Recordings of sessions: their file formats, the chain of hashes that shows a change, and conversion.
//!
//! A session with a terminal is an asciicast of version 3; whatever else passes the gateway is a timeline of byte counts and
//! hashes, in lines of JSON. Here are formats only: bytes in and bytes out, times are arguments. `docs/recordings.md` describes both.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking"))]

mod cast;
mod chain;
mod convert;
mod header;
mod lines;
mod read;
mod timeline;
mod verify;

pub use cast::CastWriter;
pub use chain::Head;
pub use convert::{write_raw, write_text, write_v2};
pub use header::{Header, Terminal};
pub use lines::MAX_LINE;
pub use read::{CastReader, Event, ReadError};
pub use timeline::{Direction, TimelineWriter};
pub use verify::{Verdict, verify};

/// Time since the start of a recording as it is written: seconds with six digits behind the point.
fn seconds(at: std::time::Duration) -> String {
    format!("{}.{:06}", at.as_secs(), at.subsec_micros())
}
