//! Between Rust values and columns.

use sandgate_policy::{ForwardRules, RecordMode};
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

/// Rules for forwarding as they are stored. Always fits the other way.
pub(crate) fn rules_text(rules: &ForwardRules) -> Result<String, StoreError> {
    serde_json::to_string(rules).map_err(|_| StoreError::Malformed("list of rules for forwarding"))
}

/// The other way. What this version does not know is an error: fewer rules would permit more.
pub(crate) fn rules(text: &str) -> Result<ForwardRules, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Malformed("list of rules for forwarding"))
}

/// What is recorded, as it is stored. What this version does not know is an error: it may record too little.
pub(crate) fn record(text: &str) -> Result<RecordMode, StoreError> {
    text.parse().map_err(|_| StoreError::Malformed("recording mode"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_are_not_known_are_not_left_out() {
        assert!(rules("{}").expect("rules").is_empty());
        for unknown in ["", "null", "1", r#"{"permit_moon":["any"]}"#, r#"{"permit_open":["d*:1"]}"#] {
            assert!(matches!(rules(unknown), Err(StoreError::Malformed(_))), "{unknown}");
        }
    }
}
