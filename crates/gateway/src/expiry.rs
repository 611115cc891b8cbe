//! The end of a right that was given for a time.

use std::time::Duration;

use sandgate_policy::{Principal, clock};
use time::OffsetDateTime;

use crate::session::EndReason;

/// How far the end of a credential is slept towards at once.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// Resolves when the credential expires; never, for one that does not.
pub async fn expired(principal: &Principal) -> EndReason {
    let Some(at) = principal.expires_at else { return std::future::pending().await };
    loop {
        let left = at - OffsetDateTime::now_utc();
        let Ok(left) = Duration::try_from(left) else { break };
        if left.is_zero() {
            break;
        }
        // In steps, since the timer does not follow a wall clock that is set.
        tokio::time::sleep(left.min(MAX_SLEEP)).await;
    }
    EndReason::new(format!("Your access expired at {}.", clock(at)))
}
