//! `sandgate image …`.

mod progress;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use sandgate_driver::{Credentials, ImageRef, Platform};
use sandgate_web::api::{ImageView, ImportImage, Login, PullEvent, PullImage};
use sandgate_web::client::{Client, segment};

use super::listing::{self, Gone, LsArgs};
use crate::output;
use progress::Progress;

/// Longest file with a login that is read, in bytes.
const MAX_AUTH_FILE: u64 = 1 << 20;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Get an image from a registry
    Pull(PullArgs),
    /// List images
    Ls(LsArgs),
    /// Remove an image that no sandbox uses
    Rm(RmArgs),
    /// Take an image from a file: an OCI layout, what `docker save` wrote, or a root file system as tar
    Import(ImportArgs),
}

#[derive(Debug, clap::Args)]
pub struct PullArgs {
    /// Such as debian:12 or registry:5000/team/box@sha256:…
    #[arg(value_name = "NAME")]
    name: ImageRef,
    /// What it is to run on, such as linux/arm64; this machine, if not said
    #[arg(long)]
    platform: Option<Platform>,
    /// A Docker config.json with the login for the registry
    #[arg(long, value_name = "FILE")]
    auth_file: Option<PathBuf>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// As `image ls` shows it
    name: ImageRef,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// A tar file, or the directory of an OCI layout
    #[arg(value_name = "FILE")]
    source: PathBuf,
    /// What to call it; may be left out where the file says it
    #[arg(value_name = "NAME")]
    name: Option<ImageRef>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(data_dir: &Path, command: Command) -> anyhow::Result<ExitCode> {
    let client = Client::new(data_dir);
    match command {
        Command::Pull(args) => pull(&client, args).await?,
        Command::Ls(args) => list(&client, &args).await?,
        Command::Import(args) => import(&client, args).await?,
        Command::Rm(args) => {
            let name = args.name.familiar();
            client.delete(&format!("/api/v1/images?name={}", segment(&name))).await?;
            Gone { key: "name", value: &name, what: "removed" }.print(args.json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn pull(client: &Client, args: PullArgs) -> anyhow::Result<()> {
    let login = args.auth_file.map(|path| login(&path, args.name.registry())).transpose()?.flatten();
    let request = PullImage {
        name: args.name.canonical(),
        platform: args.platform.map(|platform| platform.to_string()),
        login: login.map(|login| Login { username: login.username, password: login.password }),
    };
    let mut progress = Progress::new(args.quiet || args.json);
    let mut outcome = None;
    client
        .post_lines("/api/v1/images/pull", &request, |event: PullEvent| match event {
            PullEvent::Progress(event) => progress.event(event),
            last => outcome = Some(last),
        })
        .await?;
    progress.end();
    match outcome {
        Some(PullEvent::Pulled { image }) if args.json => output::json(&image),
        Some(PullEvent::Pulled { image }) => {
            println!("{} {}", image.name, image.digest);
            Ok(())
        }
        Some(PullEvent::Failed { detail }) => bail!("{detail}"),
        _ => bail!("the gateway ended before the image was there"),
    }
}

/// What a Docker configuration says about a registry. It is read here, with the rights of whoever types this.
fn login(path: &Path, registry: &str) -> anyhow::Result<Option<Credentials>> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_AUTH_FILE).read_to_string(&mut text))
        .with_context(|| format!("the file {} cannot be read", path.display()))?;
    Credentials::from_docker_config(&text, registry).with_context(|| path.display().to_string())
}

async fn import(client: &Client, args: ImportArgs) -> anyhow::Result<()> {
    let source = std::path::absolute(&args.source)?;
    let name = args.name.map(|name| name.canonical());
    let image: ImageView = client.post("/api/v1/images/import", &ImportImage { source, name }).await?;
    if args.json {
        return output::json(&image);
    }
    println!("{} {}", image.name, image.digest);
    Ok(())
}

async fn list(client: &Client, args: &LsArgs) -> anyhow::Result<()> {
    let head = ["NAME", "DIGEST", "PLATFORM", "SIZE", "ADDED"];
    listing::list(client, "/api/v1/images", args, head, |image: ImageView| {
        let digest = image.digest.chars().take("sha256:".len() + 12).collect();
        let size = indicatif::BinaryBytes(image.size).to_string();
        [image.name, digest, image.platform, size, output::time(image.added_at)]
    })
    .await
}
