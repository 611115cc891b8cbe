//! `sandgate sandbox …`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sandgate_driver::{
    AdoptTarget, BindMount, External, ExternalLink, ImageSource, Network, Runtime, TlsFiles,
};
use sandgate_policy::{RecordMode, SandboxName};
use sandgate_web::api::{Adopt, DEFAULT_DRIVER, NewSandbox, SandboxView, UsageView};
use sandgate_web::client::{Client, segment};
use serde_json::json;

use super::forward_rules::{self, ForwardArgs};
use crate::{output, values};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a sandbox; it starts when somebody connects
    Create(Box<CreateArgs>),
    /// Make a sandbox of a container that Docker or Podman has already; the container stays when the sandbox is removed
    Adopt(AdoptArgs),
    /// List sandboxes
    Ls(LsArgs),
    /// Start a sandbox
    Start(NameArgs),
    /// Stop a sandbox; what it wrote stays
    Stop(NameArgs),
    /// Halt a sandbox; it keeps its memory and its sessions. Whoever connects resumes it
    Pause(NameArgs),
    /// Let a paused sandbox go on
    Resume(NameArgs),
    /// Remove a sandbox with all it wrote, and revoke its tokens
    Rm(RmArgs),
    /// Show everything about a sandbox
    Inspect(NameArgs),
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Lower-case letters, digits and dashes
    name: SandboxName,
    /// oci, qemu (a virtual machine), docker (also Podman), or external for what runs an agent already; external is taken when there is a --link
    #[arg(long)]
    driver: Option<String>,
    /// builtin, runc, crun, runsc, or the path of a program with runc's command line; with docker a runtime that the engine knows
    #[arg(long, default_value = "builtin")]
    runtime: Runtime,
    /// host, the path of a directory or tar file (OCI layout or plain root file system), or the name of an image
    #[arg(long, default_value = "host", value_parser = values::image)]
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
    /// Size of a virtual machine's disk, such as 8G
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    disk: Option<u64>,
    /// Kernel of a virtual machine, vmlinuz or vmlinux [default: what the gateway's configuration says]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Variable for every session; may be given several times
    #[arg(long, value_name = "K=V", value_parser = values::variable)]
    env: Vec<(String, String)>,
    /// Share a host path; may be given several times
    #[arg(long, value_name = "HOST:GUEST[:ro]")]
    mount: Vec<BindMount>,
    /// none or host
    #[arg(long, default_value = "none")]
    network: Network,
    /// What of its sessions is recorded: off, terminal or all
    #[arg(long, value_name = "MODE", default_value_t)]
    record: RecordMode,
    #[command(flatten)]
    external: ExternalArgs,
    #[command(flatten)]
    forward: ForwardArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct AdoptArgs {
    /// docker:NAME, or docker:LABEL=VALUE for the one container that has the label
    target: AdoptTarget,
    /// What to call it [default: the container's name]
    #[arg(long)]
    name: Option<SandboxName>,
    /// Login user inside [default: the container's]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// What of its sessions is recorded: off, terminal or all
    #[arg(long, value_name = "MODE", default_value_t)]
    record: RecordMode,
    #[command(flatten)]
    forward: ForwardArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The way to an agent that runs already.
#[derive(Debug, clap::Args)]
pub struct ExternalArgs {
    /// unix:/PATH, hybrid:/PATH:PORT, vsock:CID:PORT, exec:COMMAND or tcp:HOST:PORT
    #[arg(long, value_name = "LINK")]
    link: Option<ExternalLink>,
    /// For tcp: the authorities that sign the agent's certificate (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["tls_cert", "tls_key"])]
    tls_ca: Option<PathBuf>,
    /// For tcp: our certificate (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    tls_cert: Option<PathBuf>,
    /// For tcp: the key of our certificate (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_cert"])]
    tls_key: Option<PathBuf>,
}

impl ExternalArgs {
    fn into_external(self) -> anyhow::Result<Option<External>> {
        let Some(link) = self.link else {
            anyhow::ensure!(
                self.tls_ca.is_none(),
                "TLS files are for a link: name it with --link tcp:HOST:PORT"
            );
            return Ok(None);
        };
        let tls = match (self.tls_ca, self.tls_cert, self.tls_key) {
            (Some(ca), Some(cert), Some(key)) => {
                Some(TlsFiles { ca: absolute(ca)?, cert: absolute(cert)?, key: absolute(key)? })
            }
            _ => None,
        };
        Ok(Some(External { link, tls }))
    }
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
        Command::Adopt(args) => adopt(&client, args).await?,
        Command::Ls(args) => list(&client, args).await?,
        Command::Start(args) => act(&client, args, "start").await?,
        Command::Stop(args) => act(&client, args, "stop").await?,
        Command::Pause(args) => act(&client, args, "pause").await?,
        Command::Resume(args) => act(&client, args, "resume").await?,
        Command::Rm(args) => remove(&client, args).await?,
        Command::Inspect(args) => {
            let sandbox: SandboxView = client.get(&path(&args.name)).await?;
            if args.json { output::json(&sandbox)? } else { show(&sandbox) }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(name: &str) -> String {
    format!("/api/v1/sandboxes/{}", segment(name))
}

async fn create(client: &Client, args: CreateArgs) -> anyhow::Result<()> {
    let external = args.external.into_external()?;
    let default_driver = if external.is_some() { "external" } else { DEFAULT_DRIVER };
    let new = NewSandbox {
        name: args.name,
        driver: args.driver.unwrap_or_else(|| default_driver.to_owned()),
        runtime: args.runtime,
        // The gateway has another working directory.
        image: match args.image {
            ImageSource::Path(path) => ImageSource::Path(absolute(path)?),
            other => other,
        },
        user: args.user,
        memory_bytes: args.memory,
        cpus: args.cpus,
        pids: args.pids,
        disk_bytes: args.disk,
        kernel: args.kernel.map(resolved).transpose()?,
        env: args.env,
        mounts: args.mount,
        network: args.network,
        external,
        adopt: None,
        forward: args.forward.rules()?,
        record: args.record,
    };
    let sandbox: SandboxView = client.post("/api/v1/sandboxes", &new).await?;
    made(&sandbox, args.json)
}

async fn adopt(client: &Client, args: AdoptArgs) -> anyhow::Result<()> {
    let forward = args.forward.rules()?;
    let adopt = Adopt { target: args.target, name: args.name, user: args.user, forward, record: args.record };
    let sandbox: SandboxView = client.post("/api/v1/adopt", &adopt).await?;
    made(&sandbox, args.json)
}

fn made(sandbox: &SandboxView, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(sandbox);
    }
    println!("{}", sandbox.name);
    Ok(())
}

fn absolute(path: PathBuf) -> anyhow::Result<PathBuf> {
    Ok(std::path::absolute(path)?)
}

/// The same file without `..`, whatever is to be put in its place later: a link stays a link.
fn resolved(path: PathBuf) -> anyhow::Result<PathBuf> {
    let path = absolute(path)?;
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(path) };
    // Of a directory that is not there the gateway says so.
    Ok(dir.canonicalize().map_or(path.clone(), |dir| dir.join(name)))
}

async fn list(client: &Client, args: LsArgs) -> anyhow::Result<()> {
    let sandboxes: Vec<SandboxView> = match args.name {
        Some(name) => vec![client.get(&path(&name)).await?],
        None => client.get("/api/v1/sandboxes").await?,
    };
    if args.json {
        return output::json(&sandboxes);
    }
    let rows: Vec<_> = sandboxes
        .into_iter()
        .map(|sandbox| {
            let sessions = sandbox.sessions.to_string();
            let memory = sandbox.usage.as_ref().and_then(|usage| usage.memory_bytes);
            [
                sandbox.name,
                sandbox.state,
                sessions,
                memory.map_or_else(|| "-".to_owned(), mebibytes),
                if sandbox.driver == DEFAULT_DRIVER { sandbox.runtime } else { sandbox.driver },
                sandbox.link.or(sandbox.adopted).unwrap_or(sandbox.image),
                output::time(sandbox.created_at),
            ]
        })
        .collect();
    output::table(["NAME", "STATE", "SESSIONS", "MEMORY", "RUNTIME", "IMAGE", "CREATED"], &rows);
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
        ("created", output::time(sandbox.created_at)),
    ];
    match (&sandbox.link, &sandbox.adopted) {
        (Some(link), _) => lines.push(("link", link.clone())),
        (None, Some(adopted)) => lines.push(("adopted", adopted.clone())),
        (None, None) => lines.extend([
            ("runtime", sandbox.runtime.clone()),
            ("image", sandbox.image.clone()),
            ("network", sandbox.network.clone()),
        ]),
    }
    let mut more = |name, value: Option<String>| lines.extend(value.map(|value| (name, value)));
    more("engine", sandbox.engine.clone());
    more("reason", sandbox.reason.clone());
    more("since", sandbox.since.map(output::time));
    more("pid", sandbox.pid.map(|pid| pid.to_string()));
    more("user", sandbox.user.clone());
    more("memory", sandbox.memory_bytes.map(mebibytes));
    more("cpus", sandbox.cpus.map(|cpus| cpus.to_string()));
    more("disk", sandbox.disk_bytes.map(mebibytes));
    more("kernel", sandbox.kernel.clone());
    more("accel", sandbox.accel.clone());
    more("start", sandbox.start.clone());
    more("record", (sandbox.record != RecordMode::Off).then(|| sandbox.record.to_string()));
    lines.extend(sandbox.usage.iter().flat_map(usage_lines));
    lines.extend(sandbox.mounts.iter().map(|mount| ("mount", mount.clone())));
    lines.extend(forward_rules::lines(&sandbox.forward));
    lines.extend(sandbox.warnings.iter().map(|warning| ("warning", warning.clone())));
    for (name, value) in lines {
        println!("{name:<9} {value}");
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// What a sandbox uses now, of what it may.
fn usage_lines(usage: &UsageView) -> Vec<(&'static str, String)> {
    let of = |now: Option<String>, most: Option<String>| match (now, most) {
        (Some(now), Some(most)) => Some(format!("{now} of {most}")),
        (now, _) => now,
    };
    let memory = of(usage.memory_bytes.map(mebibytes), usage.memory_limit_bytes.map(mebibytes));
    let cpu = usage.cpu_seconds.map(|seconds| format!("{seconds:.1} s of processors"));
    let plain = |count: u64| count.to_string();
    let processes = of(usage.processes.map(plain), usage.processes_limit.map(plain));
    let processes = processes.map(|count| format!("{count} processes and threads"));
    [memory.map(|memory| format!("{memory} of memory")), cpu, processes]
        .into_iter()
        .flatten()
        .map(|line| ("uses", line))
        .collect()
}
