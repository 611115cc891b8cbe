//! The command line as clap reads it.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::cmd;

/// The SSH front door for sandboxes.
#[derive(Debug, Parser)]
#[command(name = "sandgate", version, propagate_version = true)]
pub struct Cli {
    /// Where state, keys and the control socket live [default: /var/lib/sandgate for root, else ~/.local/share/sandgate]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How log lines on standard error look
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,
    /// Least level of log lines, or a filter such as sandgate_gateway=debug [default: info for serve, else warn]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Human,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a gateway, a sandbox "demo" and a token, and print the ssh line to paste
    Up(cmd::up::UpArgs),
    /// Run the gateway until SIGTERM or SIGINT; a second signal ends it at once
    Serve(cmd::serve::ServeArgs),
    /// Make and manage sandboxes
    #[command(subcommand)]
    Sandbox(cmd::sandbox::Command),
    /// Get and manage the images that sandboxes are made of
    #[command(subcommand)]
    Image(cmd::image::Command),
    /// Make and revoke tokens
    #[command(subcommand)]
    Token(cmd::token::Command),
    /// Add and remove public keys
    #[command(subcommand)]
    Key(cmd::key::Command),
    /// Make and revoke keys for the HTTP API and the dashboard
    #[command(subcommand)]
    ApiKey(cmd::api_key::Command),
    /// Print a link with which one browser can log in to the dashboard
    LoginLink(cmd::api_key::LinkArgs),
    /// Show the audit trail
    Audit(cmd::audit::Args),
    /// List and end live sessions
    #[command(subcommand)]
    Session(cmd::session::Command),
    /// List, play, export and verify recordings of sessions
    #[command(subcommand)]
    Recording(cmd::recording::Command),
    /// Print Host blocks for ~/.ssh/config, with known_hosts lines
    SshConfig(cmd::ssh_config::Args),
    /// Open a shell in a sandbox or run a command there, with forwards, as ssh does but without SSH
    Ssh(cmd::ssh::Args),
    /// Run a command in a sandbox
    Exec(cmd::exec::Args),
    /// Copy files to, from or between sandboxes: NAME:PATH
    Cp(cmd::cp::Args),
    /// Put the guest agent into another machine, or print how
    AgentInstall(cmd::agent_install::Args),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_contract_is_accepted() {
        for line in [
            "sandgate up",
            "sandgate serve --data-dir D --ssh-listen 127.0.0.1:0 --http-listen 127.0.0.1:0 --config F.toml",
            "sandgate --data-dir D sandbox create box --driver oci --runtime crun --image host --user me --memory 512M \
             --cpus 1 --env A=B --env C=D --mount /a:/b:ro --network none --json",
            "sandgate sandbox create vm --driver qemu --disk 8G --kernel boot/vmlinuz",
            "sandgate sandbox create box --driver docker --image debian:12 --runtime kata",
            "sandgate sandbox adopt docker:web --name box --user me --permit-open localhost:80 --json",
            "sandgate sandbox adopt docker:com.example.role=web --name box --record all",
            "sandgate --data-dir D sandbox ls --json",
            "sandgate sandbox start box --json",
            "sandgate sandbox stop box",
            "sandgate sandbox rm --force box",
            "sandgate sandbox inspect box --json",
            "sandgate image pull debian:12 --platform linux/amd64 --auth-file F --quiet --json",
            "sandgate image ls --json",
            "sandgate image rm debian:12 --json",
            "sandgate image import F.tar box:1 --json",
            "sandgate token create box --ttl 1h --scopes shell,exec,sftp,forward,agent --label ci --json",
            "sandgate token ls --json",
            "sandgate token revoke tok-1",
            "sandgate key add me id.pub --sandbox box --sandbox other",
            "sandgate key ls",
            "sandgate key rm me",
            "sandgate api-key create ci --role admin --ttl 1h --json",
            "sandgate api-key ls --json",
            "sandgate api-key revoke api-1",
            "sandgate login-link --json",
            "sandgate audit -n 5 --sandbox box --action file. --json",
            "sandgate session ls --json",
            "sandgate session kill ses-1",
            "sandgate sandbox create box --record all",
            "sandgate token create box --record terminal",
            "sandgate recording ls --sandbox box --json",
            "sandgate recording play rec-1 --speed 2 --idle-limit 1.5",
            "sandgate recording export rec-1 --format v2 -o F.cast",
            "sandgate recording verify rec-1 --json",
            "sandgate recording verify --file F.cast",
            "sandgate recording rm rec-1",
            "sandgate ssh-config",
            "sandgate ssh-config box --data-dir D",
            "sandgate exec box -t -u me -e A=B -- ls -l",
            "sandgate exec box -- sh -c true",
            "sandgate ssh box",
            "sandgate ssh -A -L 8080:localhost:80 -L /a:/b -R 0:localhost:80 -e none box -- ls -l",
            "sandgate ssh -n box true",
            "sandgate ssh box -N -T -q --user me --env A=B --keepalive 5s",
            "sandgate --data-dir D cp -r -p -q --resume -u me a ./b:c box:dir",
            "sandgate cp box:a -",
            "sandgate sandbox create vm --link vsock:3:1024",
            "sandgate sandbox create vm --link tcp:vm:1 --tls-ca a --tls-cert b --tls-key c",
            "sandgate agent-install --init openrc --listen vsock:1024 --root DIR",
        ] {
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            if let Err(error) = parse(&line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn the_data_directory_may_stand_anywhere() {
        for line in [
            "sandgate --data-dir D token ls",
            "sandgate token --data-dir D ls",
            "sandgate token ls --data-dir D",
        ] {
            assert_eq!(parse(line).expect(line).data_dir, Some("D".into()));
        }
    }

    #[test]
    fn what_follows_the_dashes_belongs_to_the_command() {
        let Command::Exec(args) = parse("sandgate exec box -- ls --json -t").expect("a command").command
        else {
            panic!("not exec")
        };
        assert_eq!(args.command, ["ls", "--json", "-t"]);
        assert!(!args.tty);
    }

    #[test]
    fn words_after_the_sandbox_are_the_command_as_with_ssh() {
        let Command::Ssh(args) = parse("sandgate ssh box -t ls -l -t").expect("a command").command else {
            panic!("not ssh")
        };
        assert_eq!((args.command, args.tty), (vec!["ls".into(), "-l".into(), "-t".into()], 1));
    }

    #[test]
    fn nonsense_is_refused_as_usage() {
        for line in [
            "sandgate",
            "sandgate fly",
            "sandgate sandbox create Bad_Name",
            "sandgate sandbox create box --memory much",
            "sandgate sandbox create box --mount /a",
            "sandgate sandbox adopt web",
            "sandgate sandbox adopt docker:web --record everything",
            "sandgate token create box --ttl soon",
            "sandgate token create box --scopes root",
            "sandgate api-key create ci",
            "sandgate api-key create ci --role root",
            "sandgate audit -n 0",
            "sandgate exec box",
            "sandgate sandbox create box --record everything",
            "sandgate recording verify",
            "sandgate recording play rec-1 --speed 0",
            "sandgate ssh",
            "sandgate ssh box --keepalive 0s",
            "sandgate cp box:a",
            "sandgate image pull A",
            "sandgate image pull debian --platform windows/amd64",
            "sandgate sandbox create box --link ssh:host",
            "sandgate sandbox create box --link tcp:vm:1 --tls-ca a",
        ] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }
}
