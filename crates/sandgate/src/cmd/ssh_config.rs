//! `sandgate ssh-config`.

use std::path::Path;
use std::process::ExitCode;

use sandgate_web::client::{Client, segment};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this sandbox
    sandbox: Option<String>,
}

pub async fn run(data_dir: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let path = match args.sandbox {
        Some(name) => format!("/api/v1/sandboxes/{}/ssh-config", segment(&name)),
        None => "/api/v1/ssh-config".to_owned(),
    };
    print!("{}", Client::new(data_dir).get_text(&path).await?);
    Ok(ExitCode::SUCCESS)
}
