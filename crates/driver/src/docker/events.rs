//! The engine's events: a container that ends is known to have ended before anybody asks.
//!
//! An exec's stream usually ends with its container; not every engine closes it in every case, and sessions must not outlive what they run in.
//! All containers' ends are asked for and not only those with our label, since an adopted one does not have it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt as _;

use super::Inner;
use super::engine::plain;

/// Between two attempts to follow, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Follows until the driver is gone. One event at a time; what was missed while the engine was away is asked for.
pub(super) async fn follow(driver: Weak<Inner>) {
    let mut pause = FIRST_PAUSE;
    let mut since = now();
    loop {
        let Some(inner) = driver.upgrade() else { return };
        let client = inner.engine.client().await;
        drop(inner);
        if let Ok(docker) = client {
            let events = docker.events(Some(options(since)));
            tokio::pin!(events);
            while let Some(Ok(event)) = events.next().await {
                let Some(inner) = driver.upgrade() else { return };
                pause = FIRST_PAUSE;
                since = event.time.unwrap_or(since);
                ended(&inner, &event);
            }
            tracing::debug!(?pause, "the engine's events have broken off");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn options(since: i64) -> EventsOptions {
    let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let filters: HashMap<String, Vec<String>> = [
        ("type".to_owned(), list(&["container"])),
        ("event".to_owned(), list(&["die", "died", "remove", "destroy"])),
    ]
    .into();
    EventsOptions { since: Some(since.to_string()), filters: Some(filters), ..EventsOptions::default() }
}

fn ended(inner: &Arc<Inner>, event: &EventMessage) {
    let Some(actor) = &event.actor else { return };
    let Some(container) = actor.id.as_deref() else { return };
    // What is asked for again after a break may be older than the agent that runs there now.
    let at = event.time_nano.and_then(|nanos| u64::try_from(nanos).ok()).map(Duration::from_nanos);
    let at = at.map_or_else(SystemTime::now, |since| SystemTime::UNIX_EPOCH + since);
    let Some((id, live)) = inner.find(container, at) else { return };
    let code = actor.attributes.as_ref().and_then(|attributes| attributes.get("exitCode"));
    let code = code.map(|code| plain(code));
    tracing::info!(sandbox = %id, action = event.action, code, "the container of a sandbox has ended");
    live.close();
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
