//! `sandgate session …`.

use std::path::Path;
use std::process::ExitCode;

use sandgate_web::api::SessionView;
use sandgate_web::client::{Client, segment};
use serde_json::json;

use super::listing::{self, LsArgs};
use crate::output;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List live sessions
    Ls(LsArgs),
    /// End a live session
    Kill(KillArgs),
}

#[derive(Debug, clap::Args)]
pub struct KillArgs {
    /// As `session ls` shows it
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(data_dir: &Path, command: Command) -> anyhow::Result<ExitCode> {
    let client = Client::new(data_dir);
    match command {
        Command::Ls(args) => list(&client, &args).await?,
        Command::Kill(args) => {
            client.delete(&format!("/api/v1/sessions/{}", segment(&args.id))).await?;
            if args.json {
                output::json(&json!({ "id": args.id, "killed": true }))?;
            } else {
                println!("{}: ended", args.id);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, args: &LsArgs) -> anyhow::Result<()> {
    let head = ["ID", "SANDBOX", "KIND", "CREDENTIAL", "CLIENT", "STARTED", "IN", "OUT"];
    listing::list(client, "/api/v1/sessions", args, head, |session: SessionView| {
        let client = session.client.unwrap_or_else(|| "local".to_owned());
        let kind = if session.pty { format!("{} (tty)", session.kind) } else { session.kind };
        let (sent, got) = (session.bytes_in.to_string(), session.bytes_out.to_string());
        [
            session.id,
            session.sandbox,
            kind,
            session.credential,
            client,
            output::time(session.started_at),
            sent,
            got,
        ]
    })
    .await
}
