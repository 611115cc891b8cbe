//! What a container uses, as the engine counts it.

use std::time::Duration;

use bollard::models::ContainerStatsResponse;
use bollard::query_parameters::StatsOptions;
use futures_util::StreamExt as _;

use super::engine::Engine;
use crate::Usage;
use crate::usage::limit;

/// Without an answer by then it is not known: whoever asks for the list of sandboxes does not wait for a number in it. An engine that takes longer is
/// no silent one, so this has a limit of its own and not that of the other questions.
const PATIENCE: Duration = Duration::from_millis(700);

/// Asks the engine.
pub(super) async fn ask(engine: &Engine, container: &str) -> Option<Usage> {
    let answer = async {
        let docker = engine.client().await.ok()?;
        // Without `one_shot` an engine waits for a second, to have something to compare with.
        let options = StatsOptions { stream: false, one_shot: true };
        let mut answers = std::pin::pin!(docker.stats(container, Some(options)));
        answers.next().await?.ok()
    };
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(stats) => of(&stats?).known(),
        Err(_) => {
            tracing::debug!(container, "the engine does not say in time what a container uses");
            None
        }
    }
}

fn of(stats: &ContainerStatsResponse) -> Usage {
    let memory = stats.memory_stats.as_ref();
    let pids = stats.pids_stats.as_ref();
    // As in `supervised/usage.rs`; of the two names that of version 1 comes first, since its groups have the other one with another meaning.
    let droppable = memory.and_then(|memory| {
        let more = memory.stats.as_ref()?;
        more.get("total_inactive_file").or_else(|| more.get("inactive_file")).copied()
    });
    let cpu = stats.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref()?.total_usage);
    Usage {
        memory: memory
            .and_then(|memory| memory.usage)
            .map(|used| used.saturating_sub(droppable.unwrap_or(0))),
        memory_limit: memory.and_then(|memory| memory.limit).and_then(limit).filter(|most| *most != 0),
        cpu: cpu.map(Duration::from_nanos),
        processes: pids.and_then(|pids| pids.current),
        processes_limit: pids.and_then(|pids| pids.limit).and_then(limit).filter(|most| *most != 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_says_is_understood() {
        let said = r#"{"cpu_stats":{"cpu_usage":{"total_usage":2500000000}},
            "memory_stats":{"usage":5000,"limit":8000,"stats":{"inactive_file":1,"total_inactive_file":1000}},
            "pids_stats":{"current":4,"limit":18446744073709551615}}"#;
        let expected = Usage {
            memory: Some(4000),
            memory_limit: Some(8000),
            cpu: Some(Duration::from_millis(2500)),
            processes: Some(4),
            processes_limit: None,
        };
        assert_eq!(of(&serde_json::from_str(said).unwrap()), expected);
        // Of a container that has just ended.
        let nothing = r#"{"cpu_stats":{},"memory_stats":{},"pids_stats":{}}"#;
        assert_eq!(of(&serde_json::from_str(nothing).unwrap()).known(), None);
    }
}
