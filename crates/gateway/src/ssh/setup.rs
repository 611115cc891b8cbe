//! The first part of a session channel: what the client asks for before it starts a program (RFC 4254 §6.2, §6.4).

use sandgate_guest::{Program, PtySpec};
use sandgate_policy::AcceptEnv;
use sandgate_ssh::driver::{Request, Requests};
use sandgate_ssh::event::{ChannelRequest, PtyRequest, WindowChange};

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
    pub(super) env: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Answers requests until the client starts a program; `None` when it went away without.
pub(super) async fn collect(requests: &mut Requests, accept_env: &AcceptEnv) -> Option<Setup> {
    let mut pty = None;
    let mut env = Environment::default();
    let program = loop {
        let Request { request, question } = requests.next().await?;
        match request {
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
            ChannelRequest::Shell => {
                question.accept();
                break Program::Shell;
            }
            ChannelRequest::Exec { command } => {
                question.accept();
                break Program::Command(command);
            }
            // Everything else is refused by dropping the question; stock clients carry on.
            _ => {}
        }
    };
    Some(Setup { program, pty, env: env.variables })
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
