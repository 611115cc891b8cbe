//! `GET /api/v1/ssh-config`: Host blocks for `~/.ssh/config`.
//!
//! The alias is the sandbox's name, so `ssh demo`, `scp demo:…` and IDEs work without a port on their command lines.
//! `HostKeyAlias` gives all sandboxes of one gateway one name in known_hosts, whatever alias or tunnel leads to them.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use sandgate_gateway::Gateway;

use crate::problem::Problem;
use crate::schema::Refusals;
use crate::status::host_key_lines;

/// Host blocks for ~/.ssh/config, for every sandbox.
#[utoipa::path(
    get, path = "/ssh-config", tag = "gateway",
    responses((status = 200, body = String, content_type = "text/plain"), Refusals)
)]
pub(crate) async fn all(State(gateway): State<Arc<Gateway>>) -> Result<String, Problem> {
    let names: Vec<String> = gateway.sandboxes.list().await.into_iter().map(|info| info.spec.name).collect();
    render(&gateway, &names)
}

/// A Host block for ~/.ssh/config.
#[utoipa::path(
    get, path = "/sandboxes/{name}/ssh-config", tag = "sandboxes",
    params(("name" = String, Path)),
    responses((status = 200, body = String, content_type = "text/plain"), Refusals)
)]
pub(crate) async fn one(
    State(gateway): State<Arc<Gateway>>,
    Path(name): Path<String>,
) -> Result<String, Problem> {
    if gateway.sandboxes.id_of(&name).is_none() {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no sandbox \"{name}\"")));
    }
    render(&gateway, &[name])
}

fn render(gateway: &Gateway, names: &[String]) -> Result<String, Problem> {
    let (host, port) = gateway.advertised();
    Ok(text(names, &host, port, &host_key_lines(gateway)?))
}

fn text(names: &[String], host: &str, port: u16, host_keys: &[String]) -> String {
    let known_as = if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") };
    let mut text = String::new();
    // Writing to a String cannot fail.
    for name in names {
        let _ = write!(
            text,
            "Host {name}\n    HostName {host}\n    Port {port}\n    User {name}\n    HostKeyAlias {known_as}\n    \
             ServerAliveInterval 30\n\n"
        );
    }
    text.push_str("# User is the sandbox, which logs in by a public key (sandgate key add). To use a token instead, put the\n");
    text.push_str("# token in place of the name: User sg_...\n");
    text.push_str("# These lines belong in ~/.ssh/known_hosts:\n");
    for key in host_keys {
        let _ = writeln!(text, "# known_hosts: {known_as} {key}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// What the stock client makes of the text.
    fn effective(text: &str, alias: &str) -> String {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("config");
        std::fs::write(&file, text).expect("written");
        let output = Command::new("ssh").args(["-G", "-F"]).arg(&file).arg(alias).output().expect("ssh runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).to_lowercase()
    }

    #[test]
    fn the_stock_client_reads_it() {
        let keys = vec![
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti".to_owned(),
        ];
        let text = text(&["demo".to_owned(), "other".to_owned()], "192.0.2.1", 2222, &keys);
        for alias in ["demo", "other"] {
            let options = effective(&text, alias);
            for line in [
                format!("user {alias}\n").as_str(),
                "hostname 192.0.2.1\n",
                "port 2222\n",
                "hostkeyalias [192.0.2.1]:2222\n",
            ] {
                assert!(options.contains(line), "{line} is not in {options}");
            }
        }
        assert!(text.contains(&format!("# known_hosts: [192.0.2.1]:2222 {}", keys[0])));
    }

    #[test]
    fn the_standard_port_has_no_brackets() {
        assert!(text(&["demo".to_owned()], "box", 22, &[]).contains("HostKeyAlias box\n"));
    }
}
