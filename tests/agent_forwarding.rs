//! Forwarding of the user's agent, with the stock `ssh -A`, `ssh-agent` and `ssh-add`, with agents and clients that misbehave, and by
//! `sandgate ssh -A`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

#[path = "agent_forwarding/ends.rs"]
mod ends;
#[path = "agent_forwarding/failures.rs"]
mod failures;
#[path = "agent_forwarding/load.rs"]
mod load;
#[path = "agent_forwarding/native.rs"]
mod native;
#[path = "agent_forwarding/sessions.rs"]
mod sessions;
#[path = "agent_forwarding/uses.rs"]
mod uses;

use std::process::Command;
use std::time::Duration;

use sandgate_tests::client::DEADLINE;
use sandgate_tests::{Feed, Target, run};
use serde_json::Value;

/// The rows of the audit trail about agents, oldest first, as `action detail`.
fn audit_rows(target: &Target) -> Vec<String> {
    let query = "SELECT action || ' ' || detail AS row FROM audit WHERE action LIKE 'agent.%' ORDER BY seq";
    let mut command = Command::new("sqlite3");
    command.args(["-readonly", "-json"]).arg(target.gateway().data_dir().join("sandgate.db")).arg(query);
    let text = run(&mut command, Feed::Null, DEADLINE).ok();
    let rows: Vec<Value> = if text.is_empty() { Vec::new() } else { serde_json::from_str(&text).unwrap() };
    rows.iter().map(|row| row["row"].as_str().unwrap().to_owned()).collect()
}

/// As [`audit_rows`], once there is one with all of these words.
#[track_caller]
fn audit_row(target: &Target, words: &[&str]) -> String {
    let mut rows = Vec::new();
    let mut found = None;
    sandgate_tests::wait::until(Duration::from_secs(10), || {
        rows = audit_rows(target);
        found = rows.iter().find(|row| words.iter().all(|word| row.contains(word))).cloned();
        found.is_some()
    });
    found.unwrap_or_else(|| panic!("no row with {words:?}: {rows:#?}"))
}

/// One number of the gateway's page of metrics.
fn metric(target: &Target, name: &str) -> u64 {
    target.gateway().metric(name)
}

/// Open descriptors of a process.
fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().count()
}

/// The guest agent's process.
fn guest_agent(target: &Target) -> u32 {
    target.gateway().agent_pid("box")
}
