//! `sandgate token …`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use sandgate_policy::{FileAccess, Label, RecordMode, Scopes, SourceNetworks};
use sandgate_web::api::{CreateToken, TokenCreated, TokenView};
use sandgate_web::client::{Client, segment};

use super::forward_rules::{self, ForwardArgs};
use super::listing::{self, Gone, LsArgs};
use crate::{output, values};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token and print it, this once
    Create(Box<CreateArgs>),
    /// List tokens
    Ls(LsArgs),
    /// Revoke a token and end its live sessions
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Name of the sandbox that it opens
    sandbox: String,
    /// How long it lives, such as 1h [default: [tokens] default_ttl, which is 1h]
    #[arg(long, value_parser = values::duration)]
    ttl: Option<Duration>,
    /// What it is good for [default: shell,exec,sftp,forward,agent, or sftp alone with --sftp-root or --sftp-read-only]
    #[arg(long)]
    scopes: Option<Scopes>,
    /// Directory in the sandbox that sftp and scp see as /; a relative one starts at the user's home
    #[arg(long, value_name = "DIR")]
    sftp_root: Option<String>,
    /// Let sftp and scp read only
    #[arg(long)]
    sftp_read_only: bool,
    /// A text to recognize it by
    #[arg(long, default_value = "")]
    label: Label,
    /// Network it may be used from; may be given several times [default: anywhere]
    #[arg(long, value_name = "NETWORK")]
    source: Vec<String>,
    /// What of its sessions is recorded: off, terminal or all; the sandbox and the configuration may ask for more
    #[arg(long, value_name = "MODE", default_value_t)]
    record: RecordMode,
    #[command(flatten)]
    forward: ForwardArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// As `token ls` shows it
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(data_dir: &Path, command: Command) -> anyhow::Result<ExitCode> {
    let client = Client::new(data_dir);
    match command {
        Command::Create(args) => create(&client, *args).await?,
        Command::Ls(args) => list(&client, &args).await?,
        Command::Revoke(args) => {
            if args.id.starts_with("sg_") {
                bail!("that is a token, not an id; `sandgate token ls` shows the ids");
            }
            client.delete(&format!("/api/v1/tokens/{}", segment(&args.id))).await?;
            Gone { key: "id", value: &args.id, what: "revoked" }.print(args.json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(client: &Client, args: CreateArgs) -> anyhow::Result<()> {
    let asked = CreateToken {
        sandbox: args.sandbox,
        ttl_seconds: args.ttl.map(|ttl| ttl.as_secs()),
        scopes: args.scopes,
        label: args.label,
        sources: SourceNetworks::parse(args.source)?,
        files: FileAccess { root: args.sftp_root, read_only: args.sftp_read_only },
        forward: args.forward.rules()?,
        record: args.record,
    };
    let token: TokenCreated = client.post("/api/v1/tokens", &asked).await?;
    if args.json {
        return output::json(&token);
    }
    println!("{}", token.ssh_command);
    eprintln!(
        "sandgate: token {}, valid until {}; it is not shown again",
        token.id,
        output::time(token.expires_at)
    );
    Ok(())
}

async fn list(client: &Client, args: &LsArgs) -> anyhow::Result<()> {
    let head = ["ID", "TOKEN", "SANDBOX", "STATE", "SCOPES", "EXPIRES", "LAST USED", "LABEL"];
    listing::list(client, "/api/v1/tokens", args, head, |token: TokenView| {
        let used = token.last_used_at.map_or_else(|| "never".to_owned(), output::time);
        let mut scopes = token.scopes.to_string();
        if let Some(root) = &token.files.root {
            scopes.push_str(&format!(" below {root}"));
        }
        if token.files.read_only {
            scopes.push_str(" read-only");
        }
        for (name, rules) in forward_rules::lines(&token.forward) {
            scopes.push_str(&format!(" {name}={rules}"));
        }
        let shown = format!("{}...", token.prefix);
        [
            token.id,
            shown,
            token.sandbox,
            token.state,
            scopes,
            output::time(token.expires_at),
            used,
            token.label,
        ]
    })
    .await
}
