//! Reaching the user's agent, again if need be.
//!
//! An agent that is being restarted, or a laptop that has just woken up, answers "connect failed" for a moment. Programs do not try
//! again by themselves: `git fetch` would fail.

use std::time::{Duration, Instant};

use super::trail::Trail;
use super::{AgentStream, OpenError, UserAgent};

/// Attempts after the first one. With the pauses below a program waits 1.4 s at most before it hears that there is no agent.
const RETRIES: u32 = 3;
/// Pause before the first of them; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Makes a connection to the user's agent. What goes wrong is in the log when this returns.
pub(super) async fn open(agent: &impl UserAgent, trail: &Trail) -> Option<AgentStream> {
    let started = Instant::now();
    let stream = attempts(agent, trail).await;
    let metrics = trail.metrics();
    metrics.open_time.add(started.elapsed());
    if stream.is_some() {
        metrics.opened.increment()
    } else {
        metrics.open_failures.increment()
    }
    stream
}

async fn attempts(agent: &impl UserAgent, trail: &Trail) -> Option<AgentStream> {
    let mut pause = FIRST_PAUSE;
    for _ in 0..RETRIES {
        match agent.open().await {
            Ok(stream) => return Some(stream),
            Err(OpenError::Unreachable(reason)) => {
                trail.metrics().open_retries.increment();
                trail.failed(&format_args!("the agent cannot be reached, trying again: {reason}"));
            }
            Err(OpenError::Refused(reason)) => {
                trail.failed(&format_args!("the agent cannot be reached: {reason}"));
                return None;
            }
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    match agent.open().await {
        Ok(stream) => Some(stream),
        Err(error) => {
            trail.failed(&format_args!("the agent cannot be reached, giving up: {error}"));
            None
        }
    }
}
