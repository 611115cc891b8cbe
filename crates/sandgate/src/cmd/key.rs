//! `sandgate key …`.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use sandgate_policy::{CertAuthority, KeyName, Principals};
use sandgate_web::api::{AddKey, KeyView};
use sandgate_web::client::{Client, segment};

use super::listing::{self, Gone, LsArgs};
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
    /// It is an authority: certificates that it has signed log in, and it does not itself
    #[arg(long)]
    cert_authority: bool,
    /// What a certificate has to name; by default the sandbox
    #[arg(long, value_name = "NAME,NAME", requires = "cert_authority", value_parser = Principals::parse)]
    principals: Option<Principals>,
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
        Command::Ls(args) => list(&client, &args).await?,
        Command::Rm(args) => {
            client.delete(&format!("/api/v1/keys/{}", segment(&args.name))).await?;
            Gone { key: "name", value: &args.name, what: "removed" }.print(args.json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn add(client: &Client, args: AddArgs) -> anyhow::Result<()> {
    let mut public_key = String::new();
    std::fs::File::open(&args.file)
        .and_then(|file| file.take(MAX_FILE).read_to_string(&mut public_key))
        .with_context(|| format!("the key file {} cannot be read", args.file.display()))?;
    let cert_authority =
        args.cert_authority.then(|| CertAuthority { principals: args.principals.unwrap_or_default() });
    let asked = AddKey { name: args.name, public_key, sandboxes: args.sandbox, cert_authority };
    let key: KeyView = client.post("/api/v1/keys", &asked).await?;
    if args.json {
        return output::json(&key);
    }
    println!("{} {}", key.name, key.fingerprint);
    Ok(())
}

async fn list(client: &Client, args: &LsArgs) -> anyhow::Result<()> {
    let head = ["NAME", "FINGERPRINT", "USE", "SANDBOXES", "ADDED", "LAST USED"];
    listing::list(client, "/api/v1/keys", args, head, |key: KeyView| {
        let sandboxes = key.sandboxes.map_or_else(|| "every".to_owned(), |names| names.join(","));
        let used = key.last_used_at.map_or_else(|| "never".to_owned(), output::time);
        let good_for = match key.cert_authority {
            None => "login".to_owned(),
            Some(authority) if authority.principals.is_empty() => "certificates".to_owned(),
            Some(authority) => format!("certificates for {}", authority.principals),
        };
        [key.name, key.fingerprint, good_for, sandboxes, output::time(key.created_at), used]
    })
    .await
}
