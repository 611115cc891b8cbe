//! The rules for forwarding on the command line, the same for tokens and sandboxes.

use sandgate_policy::{ForwardRules, ForwardRulesError, WrittenRules};

#[derive(Debug, Clone, clap::Args)]
#[command(
    next_help_heading = "Rules for forwarding (each may be given several times, or once with any or none)"
)]
pub struct ForwardArgs {
    /// What may be connected to (-L, -D, -W); * stands for any host or any port
    #[arg(long, value_name = "HOST:PORT")]
    permit_open: Vec<String>,
    /// What may be listened on (-R)
    #[arg(long, value_name = "[HOST:]PORT")]
    permit_listen: Vec<String>,
    /// Unix socket that may be connected to; DIR/* for all in a directory
    #[arg(long, value_name = "PATH")]
    permit_socket_open: Vec<String>,
    /// Unix socket that may be listened on; DIR/* for all in a directory
    #[arg(long, value_name = "PATH")]
    permit_socket_listen: Vec<String>,
    /// Key of a forwarded agent that may be used, as ssh-add -l prints it
    #[arg(long, value_name = "SHA256:...")]
    agent_key: Vec<String>,
}

impl ForwardArgs {
    /// The rules; a list that was not given says nothing.
    pub fn rules(self) -> Result<ForwardRules, ForwardRulesError> {
        let given = |words: Vec<String>| (!words.is_empty()).then_some(words);
        WrittenRules {
            permit_open: given(self.permit_open),
            permit_listen: given(self.permit_listen),
            permit_socket_open: given(self.permit_socket_open),
            permit_socket_listen: given(self.permit_socket_listen),
            agent_keys: given(self.agent_key),
        }
        .try_into()
    }
}

/// The rules as lines of a name and a value.
pub fn lines(rules: &ForwardRules) -> Vec<(&'static str, String)> {
    let written = WrittenRules::from(rules.clone());
    [
        ("permit-open", written.permit_open),
        ("permit-listen", written.permit_listen),
        ("permit-socket-open", written.permit_socket_open),
        ("permit-socket-listen", written.permit_socket_listen),
        ("agent-key", written.agent_keys),
    ]
    .into_iter()
    .filter_map(|(name, words)| Some((name, words?.join(" "))))
    .collect()
}
