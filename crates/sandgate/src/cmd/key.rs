//! `sandgate key …`.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use sandgate_policy::KeyName;
use sandgate_web::api::{AddKey, KeyView};
use sandgate_web::client::{Client, segment};
use serde_json::json;

use crate::output;

/// Longest file that is read, in bytes; no public key comes near.
const MAX_FILE: u64 = 64 * 1024;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Add a public key, for every sandbox or for those named
    Add(AddArgs),
    /// List public keys
    Ls(LsArgs),
    /// Remove a public key and end its live sessions
    Rm(RmArgs),
}

#[derive(Debug, clap::Args)]
pub struct AddArgs {
    /// Who it belongs to, such as alice@laptop
    name: KeyName,
    /// The public key's file
    #[arg(value_name = "FILE.pub")]
    file: PathBuf,
    /// Only for this sandbox; may be given several times
    #[arg(long, value_name = "NAME")]
    sandbox: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// As `key ls` shows it
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(data_dir: &Path, command: Command) -> anyhow::Result<ExitCode> {
    let client = Client::new(data_dir);
    match command {
        Command::Add(args) => add(&client, args).await?,
        Command::Ls(args) => list(&client, args).await?,
        Command::Rm(args) => {
            client.delete(&format!("/v1/keys/{}", segment(&args.name))).await?;
            if args.json {
                output::json(&json!({ "name": args.name, "removed": true }))?;
            } else {
                println!("{}: removed", args.name);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn add(client: &Client, args: AddArgs) -> anyhow::Result<()> {
    let mut public_key = String::new();
    std::fs::File::open(&args.file)
        .and_then(|file| file.take(MAX_FILE).read_to_string(&mut public_key))
        .with_context(|| format!("the key file {} cannot be read", args.file.display()))?;
    let key: KeyView =
        client.post("/v1/keys", &AddKey { name: args.name, public_key, sandboxes: args.sandbox }).await?;
    if args.json {
        return output::json(&key);
    }
    println!("{} {}", key.name, key.fingerprint);
    Ok(())
}

async fn list(client: &Client, args: LsArgs) -> anyhow::Result<()> {
    let keys: Vec<KeyView> = client.get("/v1/keys").await?;
    if args.json {
        return output::json(&keys);
    }
    let rows: Vec<_> = keys
        .into_iter()
        .map(|key| {
            let sandboxes = key.sandboxes.map_or_else(|| "every".to_owned(), |names| names.join(","));
            let used = key.last_used_at.map_or_else(|| "never".to_owned(), output::time);
            [key.name, key.fingerprint, sandboxes, output::time(key.created_at), used]
        })
        .collect();
    output::table(["NAME", "FINGERPRINT", "SANDBOXES", "ADDED", "LAST USED"], &rows);
    Ok(())
}
