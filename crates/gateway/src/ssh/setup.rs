//! The first part of a session channel: what the client asks for before it starts a program (RFC 4254 §6.2, §6.4).

use sandgate_guest::{FileProtocol, Files, Program, PtySpec};
use sandgate_policy::{AcceptEnv, Permission, Principal};
use sandgate_ssh::driver::{Request, RequestQuestion, Requests};
use sandgate_ssh::event::{ChannelRequest, PtyRequest, WindowChange, X11Request};

use crate::agent_forward::{self, AgentRequest};

/// Most variables that one session may set. OpenSSH's sshd allows 128.
const MAX_ENV: usize = 128;
/// Most bytes of names and values together; the kernel's limit for one string is 128 KiB.
const MAX_ENV_BYTES: usize = 256 * 1024;
/// Largest TERM worth passing on, in bytes.
const MAX_TERM: usize = 256;

/// What the client asked for, once it is complete.
pub(super) struct Setup {
    pub(super) program: Program,
    pub(super) pty: Option<PtySpec>,
    /// A terminal was asked for and the credential withholds it: the session works without, as with sshd, and says so.
    pub(super) terminal_withheld: bool,
    pub(super) env: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) agent: AgentRequest,
    /// Answered when the display is there: replies keep the order of the requests, so later ones wait for it.
    pub(super) x11: Option<(X11Request, RequestQuestion)>,
}

/// Answers requests until the client starts a program; `None` when it went away without.
pub(super) async fn collect(
    requests: &mut Requests,
    accept_env: &AcceptEnv,
    principal: &Principal,
) -> Option<Setup> {
    let mut pty = None;
    let mut terminal_withheld = false;
    let mut agent = AgentRequest::NotAsked;
    let mut x11 = None;
    let mut env = Environment::default();
    let program = loop {
        let Request { request, question } = requests.next().await?;
        match request {
            ChannelRequest::Pty(_) if principal.session.terminal == Permission::Withheld => {
                terminal_withheld = true;
            }
            ChannelRequest::Pty(asked) if pty.is_none() && asked.term.len() <= MAX_TERM => {
                pty = Some(pty_spec(asked));
                question.accept();
            }
            ChannelRequest::WindowChange(size) => {
                if let Some(pty) = &mut pty {
                    resize(pty, size);
                }
            }
            ChannelRequest::Env { name, value }
                if accept_env.accepts(&name) && env.has_room(&name, &value) =>
            {
                env.set(name, value);
                question.accept();
            }
            // The second one is refused, as by sshd.
            ChannelRequest::AgentForward if agent == AgentRequest::NotAsked => {
                // Noted in either case: stock clients are silent when it is refused, so the session says why on stderr.
                agent = AgentRequest::Asked;
                if agent_forward::permitted(principal).is_ok() {
                    question.accept();
                }
            }
            ChannelRequest::X11(asked) if x11.is_none() => x11 = Some((asked, question)),
            ChannelRequest::Shell => {
                question.accept();
                break Program::Shell;
            }
            ChannelRequest::Exec { command } => {
                question.accept();
                break Program::Command(command);
            }
            // Accepted even without the scope: stock clients show what comes on stderr, and not why a request failed.
            ChannelRequest::Subsystem { name } if name == b"sftp" => {
                question.accept();
                // sshd would run its server on a terminal that was asked for; bytes would not come through.
                pty = None;
                break Program::Files(Files { protocol: FileProtocol::Sftp, root: None, read_only: false });
            }
            // Everything else is refused by dropping the question; stock clients carry on.
            _ => {}
        }
    };
    Some(Setup { program, pty, terminal_withheld, env: env.variables, agent, x11 })
}

#[derive(Default)]
struct Environment {
    variables: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
}

impl Environment {
    fn has_room(&self, name: &[u8], value: &[u8]) -> bool {
        self.variables.len() < MAX_ENV
            && self.bytes + name.len() + value.len() <= MAX_ENV_BYTES
            && !value.contains(&0)
    }

    fn set(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.bytes += name.len() + value.len();
        self.variables.push((name, value));
    }
}

fn pty_spec(asked: PtyRequest) -> PtySpec {
    PtySpec {
        term: asked.term,
        cols: asked.size.columns,
        rows: asked.size.rows,
        xpixel: asked.size.x_pixels,
        ypixel: asked.size.y_pixels,
        modes: asked.modes,
    }
}

fn resize(pty: &mut PtySpec, size: WindowChange) {
    (pty.cols, pty.rows, pty.xpixel, pty.ypixel) = (size.columns, size.rows, size.x_pixels, size.y_pixels);
}
