//! The daily removal of what the store has kept long enough.

use std::sync::Arc;
use std::time::Duration;

use sandgate_store::{Keep, Store};
use time::OffsetDateTime;

/// How often. The configuration speaks of days.
const EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Begins at once, so that a gateway which is often started anew forgets too, and goes on for as long as the store is there.
pub(crate) fn start(store: &Arc<Store>, keep: Keep) {
    let store = Arc::downgrade(store);
    tokio::spawn(async move {
        while let Some(store) = store.upgrade() {
            store.forget(OffsetDateTime::now_utc(), keep).await;
            drop(store);
            tokio::time::sleep(EVERY).await;
        }
    });
}
