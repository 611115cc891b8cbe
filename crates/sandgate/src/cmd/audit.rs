//! `sandgate audit`.

use std::path::Path;
use std::process::ExitCode;

use sandgate_web::api::{AuditPage, AuditView};
use sandgate_web::client::{Client, segment};

use crate::output;

/// Rows that one request may ask for.
const PAGE: u32 = 1000;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rows at most, the newest
    #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Only what concerns this sandbox
    #[arg(long, value_name = "NAME")]
    sandbox: Option<String>,
    /// Only actions that begin so, such as file.
    #[arg(long, value_name = "PREFIX")]
    action: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(data_dir: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(data_dir);
    let mut rows: Vec<AuditView> = Vec::new();
    let mut before = None;
    loop {
        let left = args.limit.saturating_sub(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        if left == 0 {
            break;
        }
        let mut path = format!("/api/v1/audit?limit={}", left.min(PAGE));
        for (name, value) in [("sandbox", &args.sandbox), ("action", &args.action)] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", segment(value)));
            }
        }
        if let Some(before) = before {
            path.push_str(&format!("&before={before}"));
        }
        let page: AuditPage = client.get(&path).await?;
        rows.extend(page.entries);
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    // As a log is read: the newest last.
    rows.reverse();
    if args.json {
        output::json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| {
            let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            let at = output::time(row.at);
            [at, row.action, or_none(row.sandbox), row.actor, or_none(row.client), row.detail]
        })
        .collect();
    output::table(["TIME", "ACTION", "SANDBOX", "WHO", "FROM", "DETAIL"], &rows);
    Ok(ExitCode::SUCCESS)
}
