//! The report: `bench/RESULTS.md`.

use std::fmt::Write as _;
use std::process::Command;

use crate::stats::{Series, ratio};

/// What a budget is compared with.
#[derive(Debug, Clone, Copy)]
pub enum Budget {
    /// The figure must be at most this.
    AtMost(f64),
    /// The figure must be at least this.
    AtLeast(f64),
    /// Nothing is asked of it.
    None,
}

impl Budget {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
            Self::None => true,
        }
    }

    fn words(self, unit: &str) -> String {
        match self {
            Self::AtMost(limit) => format!("at most {limit}{unit}"),
            Self::AtLeast(limit) => format!("at least {limit}{unit}"),
            Self::None => String::new(),
        }
    }
}

/// One line of the table.
#[derive(Debug)]
pub struct Line {
    what: String,
    ours: String,
    theirs: String,
    figure: String,
    budget: String,
    met: bool,
}

/// The lines collected so far.
#[derive(Debug, Default)]
pub struct Report {
    lines: Vec<Line>,
    notes: Vec<String>,
}

impl Report {
    /// A line whose figure is the ratio of two medians.
    pub fn ratio(&mut self, what: &str, series: [&Series; 2], unit: &str, digits: usize, budget: Budget) {
        let value = ratio(series[0].median(), series[1].median());
        self.push(
            what,
            cell(series[0], unit, digits),
            cell(series[1], unit, digits),
            format!("{value:.2}"),
            budget.words(" ×"),
            budget.met(value),
        );
    }

    /// A line whose figure has been computed by the caller.
    pub fn figure(&mut self, what: &str, ours: String, theirs: String, value: (f64, &str), budget: Budget) {
        let (value, unit) = value;
        self.push(what, ours, theirs, format!("{value:.2}{unit}"), budget.words(unit), budget.met(value));
    }

    fn push(&mut self, what: &str, ours: String, theirs: String, figure: String, budget: String, met: bool) {
        let verdict = match (budget.as_str(), met) {
            ("", _) => String::new(),
            (budget, true) => format!(" ({budget}: met)"),
            (budget, false) => format!(" ({budget}: NOT MET)"),
        };
        println!("{what}: {ours} | {theirs} | {figure}{verdict}");
        self.lines.push(Line { what: what.to_owned(), ours, theirs, figure, budget, met });
    }

    /// A remark below the table.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The whole file.
    pub fn render(&self, heading: &str) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "# Bench: sandgate beside sshd\n\n{heading}\n");
        let open: Vec<&Line> = self.lines.iter().filter(|l| !l.met).collect();
        if open.is_empty() {
            let _ = writeln!(out, "Every budget is met.\n");
        } else {
            let _ = writeln!(
                out,
                "**Not met ({} of {}):**\n",
                open.len(),
                self.lines.iter().filter(|l| !l.budget.is_empty()).count()
            );
            for line in open {
                let _ = writeln!(out, "* {}: {}, budget {}", line.what, line.figure, line.budget);
            }
            let _ = writeln!(out);
        }
        let _ = writeln!(out, "| what | sandgate | sshd | figure | budget | |");
        let _ = writeln!(out, "| --- | --- | --- | --- | --- | --- |");
        for line in &self.lines {
            let verdict = match (line.budget.as_str(), line.met) {
                ("", _) => "",
                (_, true) => "met",
                (_, false) => "**not met**",
            };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {verdict} |",
                line.what, line.ours, line.theirs, line.figure, line.budget
            );
        }
        let _ = writeln!(
            out,
            "\nMedians; in brackets the 10th and 90th percentile. A figure with × is sandgate's median over sshd's.\n"
        );
        for note in &self.notes {
            let _ = writeln!(out, "* {note}");
        }
        out
    }
}

/// "median (p10–p90) unit".
pub fn cell(series: &Series, unit: &str, digits: usize) -> String {
    let (low, high) = series.spread();
    format!("{:.digits$} {unit} ({low:.digits$}–{high:.digits$}, n={})", series.median(), series.len())
}

/// The machine: processor, cores, memory, kernel.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("unknown processor", |l| l.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo")
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
        / 1024;
    format!("{model}, {cores} cores, {memory} GiB, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

/// The first line that a program prints when asked for its version, on either stream.
pub fn version(program: &str, flag: &str) -> String {
    let Ok(out) = Command::new(program).arg(flag).output() else { return "unknown".to_owned() };
    let text = [out.stdout, out.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .find(|l| l.contains("OpenSSH") || l.contains("sandgate"))
        .unwrap_or("unknown")
        .trim()
        .to_owned()
}
