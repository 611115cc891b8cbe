//! From a request to a program: login, shell, environment, directory, arguments. Pure but for looking at files.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use sandgate_wire::message::{Exec, FileProtocol, Files, Program, Reason};

use crate::own;
use crate::sys::{self, Chdir, Failure};
use crate::users::{Creds, Database, HomeFrom, User};

/// PATH when the image names none: as Debian's root has it.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Shells to try after the login's own, in order, in these directories.
const FALLBACK_SHELLS: [&str; 3] = ["bash", "ash", "sh"];
const SHELL_DIRS: [&str; 4] = ["/bin", "/usr/bin", "/usr/local/bin", "/sbin"];
/// Entries of PATH that are looked at; a longer one is cut.
const MAX_PATH_ENTRIES: usize = 256;

/// A variable.
pub type Var = (Vec<u8>, Vec<u8>);

/// What the agent knows before any request.
#[derive(Debug)]
pub struct Base {
    /// The image's environment: the agent's own.
    pub env: Vec<Var>,
    /// The agent's effective user.
    pub uid: u32,
    /// The agent's own file.
    pub exe: OsString,
}

impl Base {
    /// From the agent's own process.
    pub fn from_process() -> Self {
        let env = std::env::vars_os().map(|(k, v)| (k.into_vec(), v.into_vec())).collect();
        Self { env, uid: rustix::process::geteuid().as_raw(), exe: own::exe() }
    }
}

/// A program ready to be started.
pub struct Launch {
    /// The login.
    pub user: User,
    /// Whom to become; `None` when the agent is that user already and may not change groups.
    pub creds: Option<Creds>,
    /// Files to try.
    pub programs: Vec<CString>,
    /// Arguments.
    pub argv: Vec<CString>,
    /// Environment.
    pub envp: Vec<CString>,
    /// Directories to try.
    pub chdirs: Vec<Chdir>,
    /// What to say when nothing can be executed.
    pub failure: Failure,
    /// It is one of the agent's own file servers.
    pub own: bool,
}

/// A request that cannot be served, with the text for its sender.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub text: String,
}

impl Refusal {
    /// A refusal with this text.
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }
}

/// Works out what to run. `tty` is the terminal's path, when there is one.
pub fn prepare(base: &Base, exec: &Exec, db: &Database, tty: Option<&[u8]>) -> Result<Launch, Refusal> {
    let user = login(base, exec.user.as_deref(), db)?;
    let shell = find_shell(&user.shell);
    let env = environment(base, exec, &user, shell.as_deref(), tty);
    let files = own_server(exec, shell.as_deref(), &env)?;
    let (programs, argv, failure) = match &files {
        Some(files) => server(files, &user, &base.exe)?,
        None => program(exec, shell, &env)?,
    };
    let envp =
        env.into_iter().map(|(k, v)| c_string([&k[..], b"=", &v].concat())).collect::<Result<_, _>>()?;
    let chdirs = directories(exec, &user)?;
    let creds = (base.uid == 0).then(|| user.creds.clone());
    Ok(Launch { user, creds, programs, argv, envp, chdirs, failure, own: files.is_some() })
}

/// The login of a request; without a name the agent's own.
pub fn login(base: &Base, user: Option<&[u8]>, db: &Database) -> Result<User, Refusal> {
    let user = match user {
        None => db.by_uid(base.uid),
        Some(name) => db.find(name).ok_or_else(|| {
            Refusal::new(
                Reason::NoSuchUser,
                format!("no such user in the sandbox: {}", String::from_utf8_lossy(name)),
            )
        })?,
    };
    if base.uid != 0 && user.creds.uid != base.uid {
        let text = format!(
            "the agent runs as uid {} and cannot become {}",
            base.uid,
            String::from_utf8_lossy(&user.name)
        );
        return Err(Refusal::new(Reason::NotPermitted, text));
    }
    Ok(user)
}

/// The file server to run: the one that was asked for, or that of scp when the image has no scp to run.
fn own_server(exec: &Exec, shell: Option<&[u8]>, env: &[Var]) -> Result<Option<Files>, Refusal> {
    match &exec.program {
        Program::Files(files) => match &files.protocol {
            FileProtocol::Scp(line) if !own::is_scp(line) => {
                Err(Refusal::new(Reason::BadRequest, "this scp command needs a shell"))
            }
            _ => Ok(Some(files.clone())),
        },
        Program::Command(line) if exec.pty.is_none() && own::is_scp(line) => {
            let has_scp = shell.is_some() && search(b"scp", env)?.iter().any(|path| sys::is_executable(path));
            let protocol = FileProtocol::Scp(line.clone());
            Ok((!has_scp).then_some(Files { protocol, root: None, read_only: false }))
        }
        _ => Ok(None),
    }
}

fn server(files: &Files, user: &User, exe: &OsStr) -> Result<Prepared, Refusal> {
    let list = |words: Vec<Vec<u8>>| words.into_iter().map(c_string).collect::<Result<Vec<_>, _>>();
    let argv = own::arguments(files, root(files, user)?);
    let prefix = [b"sandgate: ", &argv[0][..], b": "].concat();
    let failure = Failure { prefix, missing: b"the agent's own file is gone\n".to_vec() };
    Ok((list(own::paths(exe))?, list(argv)?, failure))
}

/// The root directory of a file server as a whole path. A relative one starts at the login's home, and not at the directory that the server
/// comes to run in: that is `/` when the home cannot be entered.
fn root(files: &Files, user: &User) -> Result<Option<Vec<u8>>, Refusal> {
    let Some(root) = &files.root else { return Ok(None) };
    if root.starts_with(b"/") {
        return Ok(Some(root.clone()));
    }
    if user.home_from == HomeFrom::Nowhere || !user.home.starts_with(b"/") {
        let text = format!(
            "the root directory starts at the home directory, and {} has none",
            String::from_utf8_lossy(&user.name)
        );
        return Err(Refusal::new(Reason::NotPermitted, text));
    }
    Ok(Some([&user.home[..], b"/", root].concat()))
}

fn c_string(bytes: Vec<u8>) -> Result<CString, Refusal> {
    CString::new(bytes).map_err(|_| Refusal::new(Reason::BadRequest, "a string holds a NUL byte"))
}

/// The login's own shell when it can be executed, else the first usual one.
fn find_shell(own: &[u8]) -> Option<Vec<u8>> {
    let usable = |path: &[u8]| CString::new(path).is_ok_and(|p| sys::is_executable(&p));
    if own.starts_with(b"/") && usable(own) {
        return Some(own.to_vec());
    }
    let all = FALLBACK_SHELLS
        .iter()
        .flat_map(|name| SHELL_DIRS.iter().map(move |dir| format!("{dir}/{name}").into_bytes()));
    all.into_iter().find(|path| usable(path))
}

/// The image's variables, then what sshd sets, then the client's.
fn environment(base: &Base, exec: &Exec, user: &User, shell: Option<&[u8]>, tty: Option<&[u8]>) -> Vec<Var> {
    let mut env = base.env.clone();
    let mut set = |name: &[u8], value: &[u8]| match env.iter_mut().find(|(n, _)| n == name) {
        Some((_, v)) => *v = value.to_vec(),
        None => env.push((name.to_vec(), value.to_vec())),
    };
    set(b"USER", &user.name);
    set(b"LOGNAME", &user.name);
    set(b"HOME", &user.home);
    set(b"MAIL", &[b"/var/mail/", &user.name[..]].concat());
    set(b"SHELL", shell.unwrap_or(b"/bin/sh"));
    if !base.env.iter().any(|(n, v)| n == b"PATH" && !v.is_empty()) {
        set(b"PATH", DEFAULT_PATH);
    }
    if let Some(value) = &exec.ssh_client {
        set(b"SSH_CLIENT", value);
    }
    if let Some(value) = &exec.ssh_connection {
        set(b"SSH_CONNECTION", value);
    }
    if let Some(tty) = tty {
        set(b"SSH_TTY", tty);
    }
    if let Some(pty) = &exec.pty
        && !pty.term.is_empty()
    {
        set(b"TERM", &pty.term);
    }
    for (name, value) in &exec.env {
        set(name, value);
    }
    env
}

type Prepared = (Vec<CString>, Vec<CString>, Failure);

fn program(exec: &Exec, shell: Option<Vec<u8>>, env: &[Var]) -> Result<Prepared, Refusal> {
    if let Program::Argv(argv) = &exec.program {
        let name = argv.first().filter(|n| !n.is_empty());
        let name = name.ok_or_else(|| Refusal::new(Reason::BadRequest, "there is no program to run"))?;
        let programs = search(name, env)?;
        let missing: &[u8] =
            if name.contains(&b'/') { b"No such file or directory\n" } else { b"command not found\n" };
        let failure = Failure { prefix: [&one_line(name)[..], b": "].concat(), missing: missing.to_vec() };
        let argv = argv.iter().map(|a| c_string(a.clone())).collect::<Result<_, _>>()?;
        return Ok((programs, argv, failure));
    }
    let Some(shell) = shell else {
        let missing = match &exec.program {
            Program::Command(line) => {
                format!("no shell found in this image (tried bash, ash, sh): cannot run {}\n", excerpt(line))
            }
            _ => "no shell found in this image (tried bash, ash, sh)\n".to_owned(),
        };
        let failure = Failure { prefix: b"sandgate: ".to_vec(), missing: missing.into_bytes() };
        return Ok((Vec::new(), vec![c_string(b"sh".to_vec())?], failure));
    };
    let base_name = shell.rsplit(|b| *b == b'/').next().unwrap_or_default().to_vec();
    let argv = match &exec.program {
        Program::Command(line) => vec![base_name, b"-c".to_vec(), line.clone()],
        _ => vec![[b"-", &base_name[..]].concat()],
    };
    let argv = argv.into_iter().map(c_string).collect::<Result<_, _>>()?;
    let failure =
        Failure { prefix: [&shell[..], b": "].concat(), missing: b"No such file or directory\n".to_vec() };
    Ok((vec![c_string(shell)?], argv, failure))
}

/// As execvp: a name with a slash is a path, any other is looked for in PATH (an empty entry is the current directory).
fn search(name: &[u8], env: &[Var]) -> Result<Vec<CString>, Refusal> {
    if name.contains(&b'/') {
        return Ok(vec![c_string(name.to_vec())?]);
    }
    let path = env.iter().find(|(n, _)| n == b"PATH").map_or(DEFAULT_PATH, |(_, v)| v);
    let entries = path.split(|b| *b == b':').take(MAX_PATH_ENTRIES);
    entries
        .map(|dir| {
            c_string(
                Path::new(OsStr::from_bytes(dir)).join(OsStr::from_bytes(name)).into_os_string().into_vec(),
            )
        })
        .collect()
}

/// A name as it may appear in a one-line message.
fn one_line(name: &[u8]) -> Vec<u8> {
    name.iter().take(200).map(|b| if b.is_ascii_control() { b'?' } else { *b }).collect()
}

fn excerpt(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut words: String = text.chars().take(80).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > 80 {
        words.push('…');
    }
    words
}

/// The asked-for directory, or home, or `/`; sshd's words when home is missing.
fn directories(exec: &Exec, user: &User) -> Result<Vec<Chdir>, Refusal> {
    let mut dirs = Vec::new();
    let mut push = |path: &[u8], complaint: Vec<u8>| -> Result<(), Refusal> {
        dirs.push(Chdir { path: c_string(path.to_vec())?, complaint });
        Ok(())
    };
    if let Some(cwd) = &exec.cwd {
        push(cwd, [b"sandgate: could not chdir to ", &one_line(cwd)[..], b": "].concat())?;
    }
    push(&user.home, [b"Could not chdir to home directory ", &one_line(&user.home)[..], b": "].concat())?;
    push(b"/", Vec::new())?;
    Ok(dirs)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use sandgate_wire::message::{Pty, Size};

    fn base() -> Base {
        Base {
            env: vec![(b"IMAGE".to_vec(), b"1".to_vec()), (b"HOME".to_vec(), b"/wrong".to_vec())],
            uid: 0,
            exe: OsString::new(),
        }
    }

    fn exec(program: Program) -> Exec {
        Exec {
            passed_stdio: false,
            user: None,
            program,
            pty: None,
            env: Vec::new(),
            cwd: None,
            ssh_connection: Some(b"1.2.3.4 5 6.7.8.9 22".to_vec()),
            ssh_client: None,
        }
    }

    fn strings(list: &[CString]) -> Vec<String> {
        list.iter().map(|s| s.to_string_lossy().into_owned()).collect()
    }

    fn launch(exec: &Exec, tty: Option<&[u8]>) -> Launch {
        prepare(&base(), exec, &Database::default(), tty).ok().unwrap()
    }

    #[test]
    fn a_login_shell_and_its_environment() {
        let mut e = exec(Program::Shell);
        e.pty = Some(Pty { term: b"xterm".to_vec(), size: Size::default(), modes: Vec::new() });
        e.env = vec![(b"LC_X".to_vec(), b"\xff".to_vec())];
        let l = launch(&e, Some(b"/dev/pts/3"));
        assert!(strings(&l.argv)[0].starts_with('-'), "{:?}", l.argv);
        let env = strings(&l.envp);
        for want in [
            "IMAGE=1",
            "HOME=/",
            "USER=root",
            "LOGNAME=root",
            "MAIL=/var/mail/root",
            "TERM=xterm",
            "SSH_TTY=/dev/pts/3",
            "SSH_CONNECTION=1.2.3.4 5 6.7.8.9 22",
        ] {
            assert!(env.iter().any(|v| v == want), "{want} in {env:?}");
        }
        assert!(env.iter().any(|v| v.starts_with("PATH=/usr/local/sbin:")));
        assert_eq!(env.iter().filter(|v| v.starts_with("HOME=")).count(), 1);
        assert!(l.envp.iter().any(|v| v.as_bytes() == b"LC_X=\xff"));
    }

    #[test]
    fn a_command_goes_unchanged_to_the_shell() {
        let l = launch(&exec(Program::Command(b"echo  'a  b' $X \xff".to_vec())), None);
        assert_eq!(l.argv[1].as_bytes(), b"-c");
        assert_eq!(l.argv[2].as_bytes(), b"echo  'a  b' $X \xff");
        assert!(!strings(&l.argv)[0].contains('/'));
    }

    #[test]
    fn a_plain_program_is_searched_in_the_sessions_path() {
        let mut e = exec(Program::Argv(vec![b"tool".to_vec(), b"x".to_vec()]));
        e.env = vec![(b"PATH".to_vec(), b"/a::/b".to_vec())];
        assert_eq!(strings(&launch(&e, None).programs), ["/a/tool", "tool", "/b/tool"]);
        e.program = Program::Argv(vec![b"./tool".to_vec()]);
        assert_eq!(strings(&launch(&e, None).programs), ["./tool"]);
        assert!(prepare(&base(), &exec(Program::Argv(Vec::new())), &Database::default(), None).is_err());
    }

    #[test]
    fn no_shell_is_one_clear_line() {
        let (programs, _, failure) = program(&exec(Program::Shell), None, &[]).ok().unwrap();
        assert!(programs.is_empty());
        assert_eq!(failure.prefix, b"sandgate: ");
        assert_eq!(failure.missing, b"no shell found in this image (tried bash, ash, sh)\n");
        let (.., failure) = program(&exec(Program::Command(b"a\nb".to_vec())), None, &[]).ok().unwrap();
        assert_eq!(failure.missing.iter().filter(|b| **b == b'\n').count(), 1);
    }

    #[test]
    fn a_root_without_a_slash_starts_at_home_wherever_the_server_does() {
        let dir = tempfile::tempdir().unwrap();
        let passwd =
            "ann:x:1000:1000::/home/ann:/bin/sh\nodd:x:1001:1001::odd:/bin/sh\nbob:x:1002:1002:::/bin/sh\n";
        std::fs::write(dir.path().join("passwd"), passwd).unwrap();
        let db = Database::load(dir.path());
        let prepared = |user: &str, root: Option<&str>| {
            let root = root.map(|root| root.as_bytes().to_vec());
            let mut e = exec(Program::Files(Files { protocol: FileProtocol::Sftp, root, read_only: false }));
            e.user = Some(user.as_bytes().to_vec());
            prepare(&base(), &e, &db, None).map(|launch| strings(&launch.argv))
        };
        for (user, root, whole) in [
            ("ann", ".", "/home/ann/."),
            ("ann", "drop/in", "/home/ann/drop/in"),
            ("ann", "/srv", "/srv"),
            ("bob", "/srv", "/srv"),
        ] {
            let argv = prepared(user, Some(root)).ok().unwrap();
            assert_eq!(argv, ["sftp-server", "--audit", "--root", whole], "{user} {root}");
        }
        assert_eq!(prepared("bob", None).ok().unwrap(), ["sftp-server", "--audit"]);
        // Whoever has no home, by an empty or an odd field or no entry at all, has no directory in it.
        for user in ["bob", "odd", "4321"] {
            let refused = prepared(user, Some(".")).err().unwrap();
            assert!(refused.text.contains("root directory"), "{}", refused.text);
        }
    }

    #[test]
    fn only_root_changes_users() {
        let other = Base { env: Vec::new(), uid: 1000, exe: OsString::new() };
        let mut e = exec(Program::Shell);
        e.user = Some(b"0".to_vec());
        assert_eq!(
            prepare(&other, &e, &Database::default(), None).err().unwrap().reason,
            Reason::NotPermitted
        );
        e.user = Some(b"1000".to_vec());
        assert!(prepare(&other, &e, &Database::default(), None).ok().unwrap().creds.is_none());
        e.user = Some(b"nobody-here".to_vec());
        assert_eq!(
            prepare(&base(), &e, &Database::default(), None).err().unwrap().reason,
            Reason::NoSuchUser
        );
    }
}
