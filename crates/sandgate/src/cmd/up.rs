//! `sandgate up`: from nothing to a line that opens a shell.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use sandgate_policy::{Label, SandboxName};
use sandgate_web::api::{CreateToken, LoginLink, NewSandbox, SandboxView, TokenCreated};
use sandgate_web::client::{Client, ClientError};

use super::serve;
use crate::output;
use crate::server::{PortTaken, Server};

/// Prints a line; that nobody reads it any more is no reason to end the gateway.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

/// The sandbox that `up` makes.
const NAME: &str = "demo";
/// Where the dashboard is served, if nobody says.
const HTTP_PORT: u16 = 8022;
/// How long the printed token lives, in seconds: a day's work. Where the configuration allows less, its default.
const TTL: u64 = 24 * 3600;

#[derive(Debug, clap::Args)]
pub struct UpArgs {
    #[command(flatten)]
    serve: serve::ServeArgs,
}

pub async fn run(data_dir: &Path, args: UpArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(data_dir);
    match client.get::<serde_json::Value>("/api/v1/status").await {
        Ok(_) => {
            eprintln!("sandgate: a gateway is running already; using it");
            prepare(&client).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(ClientError::NotRunning { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let taken = if args.serve.ssh_listen.is_some() { PortTaken::Fail } else { PortTaken::TakeAnother };
    let mut config = args.serve.config(data_dir)?;
    let http = config.http_listen.is_some();
    config.http_listen.get_or_insert(SocketAddr::from((Ipv4Addr::LOCALHOST, HTTP_PORT)));
    let http = if http { PortTaken::Fail } else { PortTaken::TakeAnother };
    let server = Server::start(config, taken, http).await?;
    tracing::info!(address = %server.ssh_address(), "listening");
    let prepared = async {
        prepare(&client).await?;
        say!("Ctrl-C ends the gateway; the sandbox keeps running, and `sandgate up` finds it again.");
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        code = server.run() => Ok(code),
        result = prepared => result.map(|()| ExitCode::SUCCESS),
    }
}

/// Makes the sandbox where it is missing, starts it, and prints the line.
async fn prepare(client: &Client) -> anyhow::Result<()> {
    let name: SandboxName = NAME.parse()?;
    let sandboxes: Vec<SandboxView> = client.get("/api/v1/sandboxes").await?;
    if !sandboxes.iter().any(|sandbox| sandbox.name == NAME) {
        eprintln!("sandgate: making the sandbox {NAME}");
        let _: SandboxView = client.post("/api/v1/sandboxes", &NewSandbox::new(name)).await?;
    }
    let sandbox: SandboxView = client.post(&format!("/api/v1/sandboxes/{NAME}/start"), &()).await?;
    for warning in &sandbox.warnings {
        eprintln!("sandgate: {warning}");
    }
    let mut asked = CreateToken {
        sandbox: NAME.to_owned(),
        ttl_seconds: Some(TTL),
        scopes: None,
        label: "up".parse::<Label>()?,
        sources: sandgate_policy::SourceNetworks::default(),
        files: sandgate_policy::FileAccess::default(),
        forward: sandgate_policy::ForwardRules::default(),
        record: sandgate_policy::RecordMode::Off,
    };
    let token: TokenCreated = match client.post("/api/v1/tokens", &asked).await {
        Err(ClientError::Refused(_)) => {
            asked.ttl_seconds = None;
            client.post("/api/v1/tokens", &asked).await?
        }
        result => result?,
    };
    say!(
        "The sandbox {NAME} is running. Until {} this line opens a shell in it:\n",
        output::time(token.expires_at)
    );
    say!("    {}\n", token.ssh_command);
    let link: LoginLink = client.post("/api/v1/login-codes", &()).await?;
    if let Some(url) = link.url {
        say!("In a browser, once and within 15 minutes:\n\n    {url}\n");
    }
    Ok(())
}
