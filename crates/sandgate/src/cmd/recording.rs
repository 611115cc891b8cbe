//! `sandgate recording …`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Seek as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use sandgate_record::{CastReader, Verdict, verify, write_raw, write_text};
use sandgate_web::api::{RecordingView, RecordingsPage, Verified};
use sandgate_web::client::{Client, segment};
use serde_json::json;

use super::listing::Gone;
use crate::output;

/// Recordings on one page of the list.
const PAGE: u32 = 500;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List recordings, the newest first
    Ls(LsArgs),
    /// Play a terminal here, as it was seen
    Play(PlayArgs),
    /// Write a recording to a file or to standard output
    Export(ExportArgs),
    /// Check that nothing was cut off or changed
    Verify(VerifyArgs),
    /// Remove a recording
    Rm(RmArgs),
}

#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// Only those of this sandbox
    #[arg(long, value_name = "NAME")]
    sandbox: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct PlayArgs {
    /// As `recording ls` shows it
    id: String,
    /// So many times as fast
    #[arg(long, value_name = "N", default_value = "1", value_parser = positive)]
    speed: f64,
    /// Longest pause
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    idle_limit: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// As it was written: asciicast v3, or the timeline
    V3,
    /// Asciicast v2, for older players
    V2,
    /// The output without escape sequences
    Text,
    /// The bytes that the client saw
    Raw,
}

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// As `recording ls` shows it
    id: String,
    /// What to write
    #[arg(long, value_enum, default_value_t = Format::V3)]
    format: Format,
    /// Where to write it; must not be there yet [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// As `recording ls` shows it
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    id: Option<String>,
    /// Check this file against itself, without a gateway
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// As `recording ls` shows it
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(data_dir: &Path, command: Command) -> anyhow::Result<ExitCode> {
    let client = Client::new(data_dir);
    match command {
        Command::Ls(args) => list(&client, args).await?,
        Command::Play(args) => play(&client, args).await?,
        Command::Export(args) => export(&client, args).await?,
        Command::Verify(args) => return check(&client, args).await,
        Command::Rm(args) => {
            client.delete(&path(&args.id)).await?;
            Gone { key: "id", value: &args.id, what: "removed" }.print(args.json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(id: &str) -> String {
    format!("/api/v1/recordings/{}", segment(id))
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && f64::is_finite(number) => Ok(number),
        _ => Err("a number greater than 0 is needed".to_owned()),
    }
}

async fn list(client: &Client, args: LsArgs) -> anyhow::Result<()> {
    let sandbox = args.sandbox.map(|name| format!("&sandbox={}", segment(&name))).unwrap_or_default();
    let mut all: Vec<RecordingView> = Vec::new();
    let mut before = String::new();
    loop {
        let page: RecordingsPage =
            client.get(&format!("/api/v1/recordings?limit={PAGE}{sandbox}{before}")).await?;
        all.extend(page.recordings);
        match page.next {
            Some(next) => before = format!("&before={}", segment(&next)),
            None => break,
        }
    }
    if args.json {
        return output::json(&all);
    }
    let rows: Vec<_> = all
        .into_iter()
        .map(|recording| {
            let state = match (recording.live, recording.complete) {
                (true, _) => "live",
                (false, true) => "complete",
                (false, false) => "incomplete",
            };
            [
                recording.id,
                recording.sandbox,
                recording.session,
                recording.kind,
                output::time(recording.started_at),
                format!("{:.1}", recording.seconds),
                recording.bytes.to_string(),
                state.to_owned(),
            ]
        })
        .collect();
    output::table(["ID", "SANDBOX", "SESSION", "KIND", "STARTED", "SECONDS", "BYTES", "STATE"], &rows);
    Ok(())
}

/// The recording in a file without a name, so that its length is no matter.
async fn fetch(client: &Client, id: &str) -> anyhow::Result<BufReader<File>> {
    let directory = std::env::temp_dir();
    let name = directory.join(format!("sandgate-recording-{}", std::process::id()));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&name)
        .with_context(|| format!("cannot make a file in {}", directory.display()))?;
    std::fs::remove_file(&name)?;
    client.get_pieces(&path(id), |piece| file.write_all(piece)).await?;
    file.rewind()?;
    Ok(BufReader::new(file))
}

async fn play(client: &Client, args: PlayArgs) -> anyhow::Result<()> {
    let reader = CastReader::new(fetch(client, &args.id).await?)?;
    let longest = args.idle_limit.map(Duration::try_from_secs_f64).transpose()?;
    let mut last = Duration::ZERO;
    let mut screen = io::stdout();
    for event in reader {
        let event = event?;
        if event.code != "o" {
            continue;
        }
        let pause = event.at.saturating_sub(last);
        last = event.at;
        let pause = longest.map_or(pause, |longest| pause.min(longest));
        tokio::time::sleep(Duration::try_from_secs_f64(pause.as_secs_f64() / args.speed)?).await;
        screen.write_all(event.bytes())?;
        screen.flush()?;
    }
    Ok(())
}

async fn export(client: &Client, args: ExportArgs) -> anyhow::Result<()> {
    let mut to: Box<dyn Write> = match &args.output {
        None => Box::new(io::stdout()),
        Some(path) => {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            Box::new(file.with_context(|| format!("cannot make {}", path.display()))?)
        }
    };
    match args.format {
        Format::V3 => client.get_pieces(&path(&args.id), |piece| to.write_all(piece)).await?,
        Format::V2 => {
            let path = format!("{}?format=v2", path(&args.id));
            client.get_pieces(&path, |piece| to.write_all(piece)).await?;
        }
        Format::Text => write_text(fetch(client, &args.id).await?, &mut to)?,
        Format::Raw => write_raw(fetch(client, &args.id).await?, &mut to)?,
    }
    Ok(to.flush()?)
}

/// 0 for a valid one, 1 otherwise.
async fn check(client: &Client, args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let (name, verified) = match (args.file, args.id) {
        (Some(file), _) => {
            let name = file.display().to_string();
            let open = File::open(&file).with_context(|| format!("cannot read {name}"))?;
            let verdict: Verdict = verify(BufReader::new(open), None)?;
            (name, Verified { valid: verdict.is_valid(), detail: verdict.to_string() })
        }
        (None, Some(id)) => {
            let verified = client.post(&format!("{}/verify", path(&id)), &()).await?;
            (id, verified)
        }
        (None, None) => anyhow::bail!("name a recording or a file"),
    };
    if args.json {
        output::json(&json!({ "recording": name, "valid": verified.valid, "detail": verified.detail }))?;
    } else {
        println!("{name}: {}", verified.detail);
    }
    Ok(if verified.valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
