//! Between Rust values and columns.

use time::OffsetDateTime;

use crate::StoreError;

/// A time as it is stored: milliseconds since 1970, cut to what a BIGINT holds.
pub(crate) fn millis(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// The other way.
pub(crate) fn time(millis: i64) -> Result<OffsetDateTime, StoreError> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000)
        .map_err(|_| StoreError::Malformed("time"))
}

/// The other way, for a column that may be empty.
pub(crate) fn maybe_time(millis: Option<i64>) -> Result<Option<OffsetDateTime>, StoreError> {
    millis.map(time).transpose()
}

/// A count as it is stored.
pub(crate) fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
