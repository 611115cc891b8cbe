//! `sandgate cp`: files into a sandbox, out of one, or from one to another.
//!
//! Each side of a copy is a [`side::Side`]: this machine, a sandbox behind its SFTP server, or this program's own streams. [`copier`] walks
//! a tree on one side and makes it on the other. All of it is synchronous and runs in a thread of its own; an interrupt ends the process,
//! and with it the connection and the session.

mod copier;
mod local;
mod place;
mod progress;
mod remote;
mod side;
mod standard;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use sandgate_sftp::client::Client as SftpClient;
use sandgate_web::api::SftpRequest;
use sandgate_web::client::Client;

use crate::values;
use copier::{Copier, Options};
use local::Local;
use place::Place;
use progress::Progress;
use remote::Remote;
use side::Side;
use standard::Standard;

/// Copy files to, from or between sandboxes
///
/// A sandbox's path is NAME:PATH; a relative one starts at the user's home. A local name with a colon is written ./a:b.
/// "-" is standard input or output.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Copy directories with all that is in them; symbolic links are followed
    #[arg(short, long)]
    recursive: bool,
    /// Keep modes and times
    #[arg(short, long)]
    preserve: bool,
    /// Go on with files of which the target has the beginning, and leave out those that it has whole
    #[arg(long)]
    resume: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// User inside
    #[arg(short, long, value_name = "USER")]
    user: Option<OsString>,
    /// What to copy, and last where to
    #[arg(required = true, num_args = 2.., value_names = ["SRC", "DST"])]
    paths: Vec<OsString>,
}

/// The sources' sides by sandbox; `None` stands for this machine.
type Sides = HashMap<Option<String>, Box<dyn Side + Send>>;

pub async fn run(data_dir: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let mut places = args.paths.into_iter().map(Place::parse).collect::<Result<Vec<_>, _>>()?;
    let target = places.pop().context("there is no target")?;
    if target.sandbox().is_none() && places.iter().any(|source| source.sandbox().is_none()) {
        bail!("either the sources or the target have to be in a sandbox: NAME:PATH");
    }
    if target.is_standard() && places.len() > 1 {
        bail!("only one file can go to standard output");
    }
    let request = SftpRequest { user: args.user.map(values::into_bytes) };
    let client = Client::new(data_dir);
    let to = open(&client, &request, &target).await?;
    let mut sides = Sides::new();
    let mut all_opened = true;
    for source in places.iter().filter(|source| !source.is_standard()) {
        let key = source.sandbox().map(str::to_owned);
        if sides.contains_key(&key) {
            continue;
        }
        match open(&client, &request, source).await {
            Ok(side) => drop(sides.insert(key, side)),
            Err(error) => {
                eprintln!("sandgate: {error:#}");
                all_opened = false;
            }
        }
    }
    let options = Options { recursive: args.recursive, preserve: args.preserve, resume: args.resume };
    let progress = Progress::new(args.quiet);
    let work = move || copy(sides, to, &places, &target, options, progress);
    let all_copied = tokio::task::spawn_blocking(work).await.context("the copy broke off")?;
    Ok(if all_opened && all_copied { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One side. A sandbox's is a session of its own, which starts the sandbox where it is stopped.
async fn open(client: &Client, request: &SftpRequest, place: &Place) -> anyhow::Result<Box<dyn Side + Send>> {
    let Place::Sandbox { name, .. } = place else {
        return Ok(if place.is_standard() { Box::new(Standard) } else { Box::new(Local) });
    };
    let stream = client.sftp(name, request).await?;
    let session = tokio::task::spawn_blocking(move || SftpClient::begin(stream)).await?;
    let session = session.with_context(|| format!("the file server of {name} did not start"))?;
    Ok(Box::new(Remote::new(name.clone(), session)))
}

/// Copies everything; whether all of it went well.
fn copy(
    mut sides: Sides,
    mut to: Box<dyn Side + Send>,
    sources: &[Place],
    target: &Place,
    options: Options,
    progress: Progress,
) -> bool {
    let mut copier = Copier::new(&mut *to, target, options, progress);
    if !copier.find_target(sources.len()) {
        return false;
    }
    let mut standard = Standard;
    for source in sources {
        let from: &mut dyn Side = match sides.get_mut(&source.sandbox().map(str::to_owned)) {
            _ if source.is_standard() => &mut standard,
            Some(side) => &mut **side,
            // Told already.
            None => continue,
        };
        if copier.copy(from, source).is_err() {
            // A connection is gone; told already.
            return false;
        }
    }
    copier.is_all_copied()
}
