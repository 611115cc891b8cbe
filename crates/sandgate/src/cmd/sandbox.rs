//! `sandgate sandbox …`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sandgate_driver::{BindMount, ImageSource, Network, Runtime};
use sandgate_policy::SandboxName;
use sandgate_web::api::{NewSandbox, SandboxView};
use sandgate_web::client::{Client, segment};
use serde_json::json;

use crate::{output, values};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a sandbox; it starts when somebody connects
    Create(Box<CreateArgs>),
    /// List sandboxes
    Ls(LsArgs),
    /// Start a sandbox
    Start(NameArgs),
    /// Stop a sandbox; what it wrote stays
    Stop(NameArgs),
    /// Remove a sandbox with all it wrote, and revoke its tokens
    Rm(RmArgs),
    /// Show everything about a sandbox
    Inspect(NameArgs),
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Lower-case letters, digits and dashes
    name: SandboxName,
    /// Who makes sandboxes
    #[arg(long, default_value = "oci")]
    driver: String,
    /// builtin, runc, crun, runsc, or the path of a program with runc's command line
    #[arg(long, default_value = "builtin")]
    runtime: Runtime,
    /// host, or the path of a directory or tar file (OCI layout or plain root file system)
    #[arg(long, default_value = "host")]
    image: ImageSource,
    /// Login user inside
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Memory limit, such as 512M
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    memory: Option<u64>,
    /// CPU limit in cores, such as 0.5
    #[arg(long, value_name = "CORES")]
    cpus: Option<f64>,
    /// Limit of processes and threads
    #[arg(long, value_name = "COUNT")]
    pids: Option<u64>,
    /// Variable for every session; may be given several times
    #[arg(long, value_name = "K=V", value_parser = values::variable)]
    env: Vec<(String, String)>,
    /// Share a host path; may be given several times
    #[arg(long, value_name = "HOST:GUEST[:ro]")]
    mount: Vec<BindMount>,
    /// none or host
    #[arg(long, default_value = "none")]
    network: Network,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// Only this one
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct NameArgs {
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct RmArgs {
    name: String,
    /// Also when it runs
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(data_dir: &Path, command: Command) -> anyhow::Result<ExitCode> {
    let client = Client::new(data_dir);
    match command {
        Command::Create(args) => create(&client, *args).await?,
        Command::Ls(args) => list(&client, args).await?,
        Command::Start(args) => act(&client, args, "start").await?,
        Command::Stop(args) => act(&client, args, "stop").await?,
        Command::Rm(args) => remove(&client, args).await?,
        Command::Inspect(args) => {
            let sandbox: SandboxView = client.get(&path(&args.name)).await?;
            if args.json { output::json(&sandbox)? } else { show(&sandbox) }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(name: &str) -> String {
    format!("/v1/sandboxes/{}", segment(name))
}

async fn create(client: &Client, args: CreateArgs) -> anyhow::Result<()> {
    let new = NewSandbox {
        name: args.name,
        driver: args.driver,
        runtime: args.runtime,
        // The gateway has another working directory.
        image: match args.image {
            ImageSource::Host => ImageSource::Host,
            ImageSource::Path(path) => ImageSource::Path(absolute(path)?),
        },
        user: args.user,
        memory_bytes: args.memory,
        cpus: args.cpus,
        pids: args.pids,
        env: args.env,
        mounts: args.mount,
        network: args.network,
    };
    let sandbox: SandboxView = client.post("/v1/sandboxes", &new).await?;
    if args.json {
        return output::json(&sandbox);
    }
    println!("{}", sandbox.name);
    Ok(())
}

fn absolute(path: PathBuf) -> anyhow::Result<PathBuf> {
    Ok(std::path::absolute(path)?)
}

async fn list(client: &Client, args: LsArgs) -> anyhow::Result<()> {
    let sandboxes: Vec<SandboxView> = match args.name {
        Some(name) => vec![client.get(&path(&name)).await?],
        None => client.get("/v1/sandboxes").await?,
    };
    if args.json {
        return output::json(&sandboxes);
    }
    let rows: Vec<_> = sandboxes
        .into_iter()
        .map(|sandbox| {
            let sessions = sandbox.sessions.to_string();
            [
                sandbox.name,
                sandbox.state,
                sessions,
                sandbox.runtime,
                sandbox.image,
                output::time(sandbox.created_at),
            ]
        })
        .collect();
    output::table(["NAME", "STATE", "SESSIONS", "RUNTIME", "IMAGE", "CREATED"], &rows);
    Ok(())
}

async fn act(client: &Client, args: NameArgs, verb: &str) -> anyhow::Result<()> {
    let sandbox: SandboxView = client.post(&format!("{}/{verb}", path(&args.name)), &()).await?;
    if args.json {
        return output::json(&sandbox);
    }
    for warning in &sandbox.warnings {
        eprintln!("sandgate: {warning}");
    }
    println!("{}: {}", sandbox.name, sandbox.state);
    Ok(())
}

async fn remove(client: &Client, args: RmArgs) -> anyhow::Result<()> {
    let query = if args.force { "?force=true" } else { "" };
    client.delete(&format!("{}{query}", path(&args.name))).await?;
    if args.json {
        return output::json(&json!({ "name": args.name, "removed": true }));
    }
    println!("{}: removed", args.name);
    Ok(())
}

fn show(sandbox: &SandboxView) {
    let mut lines = vec![
        ("name", sandbox.name.clone()),
        ("id", sandbox.id.clone()),
        ("state", sandbox.state.clone()),
        ("sessions", sandbox.sessions.to_string()),
        ("driver", sandbox.driver.clone()),
        ("runtime", sandbox.runtime.clone()),
        ("image", sandbox.image.clone()),
        ("network", sandbox.network.clone()),
        ("created", output::time(sandbox.created_at)),
    ];
    let mut more = |name, value: Option<String>| lines.extend(value.map(|value| (name, value)));
    more("reason", sandbox.reason.clone());
    more("since", sandbox.since.map(output::time));
    more("pid", sandbox.pid.map(|pid| pid.to_string()));
    more("user", sandbox.user.clone());
    more("memory", sandbox.memory_bytes.map(|bytes| format!("{} MiB", bytes >> 20)));
    more("cpus", sandbox.cpus.map(|cpus| cpus.to_string()));
    lines.extend(sandbox.mounts.iter().map(|mount| ("mount", mount.clone())));
    lines.extend(sandbox.warnings.iter().map(|warning| ("warning", warning.clone())));
    for (name, value) in lines {
        println!("{name:<9} {value}");
    }
}
