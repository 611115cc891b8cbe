//! `sandgate api-key …` and `sandgate login-link`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use sandgate_policy::{KeyName, Role};
use sandgate_web::api::{ApiKeyCreated, ApiKeyView, CreateApiKey, LoginLink};
use sandgate_web::client::{Client, segment};

use super::listing::{self, Gone, LsArgs};
use crate::{output, values};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a key for the HTTP API and the dashboard, and print it, this once
    Create(CreateArgs),
    /// List API keys
    Ls(LsArgs),
    /// Revoke an API key and end the terminals and logins that rest on it
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// A name to recognize it by
    name: KeyName,
    /// What it is good for: admin, user or viewer
    #[arg(long)]
    role: Role,
    /// How long it lives, such as 30d [default: until it is revoked]
    #[arg(long, value_parser = values::duration)]
    ttl: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// As `api-key ls` shows it
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct LinkArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(data_dir: &Path, command: Command) -> anyhow::Result<ExitCode> {
    let client = Client::new(data_dir);
    match command {
        Command::Create(args) => create(&client, args).await?,
        Command::Ls(args) => list(&client, &args).await?,
        Command::Revoke(args) => {
            if args.id.starts_with("sgk_") {
                bail!("that is an API key, not an id; `sandgate api-key ls` shows the ids");
            }
            client.delete(&format!("/api/v1/api-keys/{}", segment(&args.id))).await?;
            Gone { key: "id", value: &args.id, what: "revoked" }.print(args.json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints an address with which one browser can log in as the owner.
pub async fn login_link(data_dir: &Path, args: &LinkArgs) -> anyhow::Result<ExitCode> {
    let link: LoginLink = Client::new(data_dir).post("/api/v1/login-codes", &()).await?;
    if args.json {
        output::json(&link)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(url) = link.url else {
        bail!("this gateway serves no HTTP: start it with --http-listen, or set [http] listen");
    };
    println!("{url}");
    eprintln!("sandgate: good for one login, within 15 minutes");
    Ok(ExitCode::SUCCESS)
}

async fn create(client: &Client, args: CreateArgs) -> anyhow::Result<()> {
    let asked =
        CreateApiKey { name: args.name, role: args.role, ttl_seconds: args.ttl.map(|ttl| ttl.as_secs()) };
    let key: ApiKeyCreated = client.post("/api/v1/api-keys", &asked).await?;
    if args.json {
        return output::json(&key);
    }
    println!("{}", key.key);
    let until = key
        .expires_at
        .map_or_else(|| "until it is revoked".to_owned(), |end| format!("until {}", output::time(end)));
    eprintln!("sandgate: API key {}, valid {until}; it is not shown again", key.id);
    Ok(())
}

async fn list(client: &Client, args: &LsArgs) -> anyhow::Result<()> {
    let head = ["ID", "KEY", "NAME", "ROLE", "STATE", "EXPIRES", "LAST USED"];
    listing::list(client, "/api/v1/api-keys", args, head, |key: ApiKeyView| {
        let or_never = |at: Option<time::OffsetDateTime>| at.map_or_else(|| "never".to_owned(), output::time);
        let shown = format!("{}...", key.prefix);
        let (ends, used) = (or_never(key.expires_at), or_never(key.last_used_at));
        [key.id, shown, key.name, key.role.to_string(), key.state, ends, used]
    })
    .await
}
