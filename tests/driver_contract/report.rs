//! Runs the behaviours of a group and writes down what came of each.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sandgate_tests::{paths, skip};

use crate::ground::{Ground, Kind};

/// A behaviour: its name in the table, and what asserts it.
pub type Behaviour = (&'static str, fn(&mut Ground));

/// Runs all of them on one ground.
pub fn group(kind: Kind, group: &str, behaviours: &[Behaviour]) {
    if skip::oracle_lacks("drivers") {
        return;
    }
    let mut ground = match Ground::start(kind) {
        Ok(ground) => ground,
        Err(reason) => {
            let rows: Vec<_> =
                behaviours.iter().map(|(name, _)| (*name, "skipped", reason.clone())).collect();
            write(kind, group, &rows);
            return skip::because(&reason);
        }
    };
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for (name, behaviour) in behaviours {
        ground.exemption = None;
        let outcome = catch_unwind(AssertUnwindSafe(|| behaviour(&mut ground)));
        rows.push(match (outcome, ground.exemption.take()) {
            (Err(panic), _) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
                failed.push(*name);
                (*name, "failed", text.unwrap_or_default())
            }
            (Ok(()), Some(reason)) => (*name, "exempt", reason),
            (Ok(()), None) => (*name, "ok", String::new()),
        });
    }
    write(kind, group, &rows);
    assert!(failed.is_empty(), "{} does not hold: {failed:?}", kind.name());
}

/// One line for each: group, behaviour, outcome, and the first line of why.
fn write(kind: Kind, group: &str, rows: &[(&str, &str, String)]) {
    let dir = paths::target_dir().join("contract");
    std::fs::create_dir_all(&dir).unwrap();
    let mut text = String::new();
    for (name, outcome, why) in rows {
        let why = why.lines().next().unwrap_or_default().replace('\t', " ");
        writeln!(text, "{group}\t{name}\t{outcome}\t{why}").unwrap();
    }
    std::fs::write(dir.join(format!("{}.{group}.tsv", kind.name())), text).unwrap();
}
