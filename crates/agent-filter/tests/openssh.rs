//! OpenSSH's own programs on both sides of a filter: `ssh-add`, `ssh-keygen` and `ssh` ask, `ssh-agent` answers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sandgate_agent_filter::testing::message;
use sandgate_agent_filter::{Config, Event, Filter, Fingerprint, Outcome, Purpose, Refused, Signed};
use tempfile::TempDir;

/// A real agent, and a socket that leads to it through filters.
struct Bench {
    dir: TempDir,
    agent: Child,
    events: Arc<Mutex<Vec<Event>>>,
}

/// What a reader thread brings.
enum Got {
    Guest(Vec<u8>),
    GuestEnd,
    Agent(Vec<u8>),
    AgentEnd,
}

impl Bench {
    /// With two keys, `one` and `two`, of which the guest may use those that `allow` picks.
    fn new(allow: impl FnOnce(&Self) -> Option<BTreeSet<Fingerprint>>) -> Self {
        let dir = TempDir::new().unwrap();
        let socket = dir.path().join("agent");
        let agent =
            Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
        let bench = Self { dir, agent, events: Arc::default() };
        std::fs::write(bench.path("stdin"), "").unwrap();
        std::fs::write(bench.path("askpass"), "#!/bin/sh\necho secret\n").unwrap();
        std::fs::set_permissions(bench.path("askpass"), Permissions::from_mode(0o700)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "the agent does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        for name in ["one", "two", "new"] {
            bench.keygen(&["-q", "-t", "ed25519", "-N", "", "-C", &format!("key {name}"), "-f", name]);
        }
        let direct = bench.ask_at("ssh-add", &["one", "two"], &socket);
        assert!(direct.status.success(), "{direct:?}");
        let config = Config { allowed_keys: allow(&bench).map(Arc::new) };
        let listener = UnixListener::bind(bench.path("guest")).unwrap();
        let events = Arc::clone(&bench.events);
        std::thread::spawn(move || {
            for guest in listener.incoming() {
                let filter = Filter::new(config.clone());
                let (guest, agent) = (guest.unwrap(), UnixStream::connect(&socket));
                let events = Arc::clone(&events);
                std::thread::spawn(move || pump(filter, &guest, &agent.unwrap(), &events));
            }
        });
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ask_at(&self, program: &str, arguments: &[&str], socket: &Path) -> Output {
        Command::new(program)
            .args(arguments)
            .current_dir(self.dir.path())
            .env("SSH_AUTH_SOCK", socket)
            .env("SSH_ASKPASS_REQUIRE", "force")
            .env("SSH_ASKPASS", self.path("askpass"))
            .stdin(File::open(self.path("stdin")).unwrap())
            .output()
            .unwrap()
    }

    /// Runs a program of the guest.
    fn ask(&self, program: &str, arguments: &[&str]) -> Output {
        self.ask_at(program, arguments, &self.path("guest"))
    }

    fn keygen(&self, arguments: &[&str]) -> String {
        let output = self.ask_at("ssh-keygen", arguments, Path::new("/nowhere"));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// As `ssh-keygen` prints it.
    fn fingerprint(&self, file: &str) -> Fingerprint {
        self.keygen(&["-l", "-f", file]).split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// All events so far, once there is one like the wanted.
    fn events(&self, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let events = self.events.lock().unwrap().clone();
            if events.iter().any(&wanted) {
                return events;
            }
            assert!(Instant::now() < deadline, "no such event: {events:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signed(&self) -> Vec<Signed> {
        let events = self.events(|event| matches!(event, Event::Signed(_)));
        events
            .into_iter()
            .filter_map(|it| if let Event::Signed(signed) = it { Some(*signed) } else { None })
            .collect()
    }

    /// What the agent really holds.
    fn held(&self) -> usize {
        let output = self.ask_at("ssh-add", &["-l"], &self.path("agent"));
        String::from_utf8(output.stdout).unwrap().lines().filter(|line| line.contains("SHA256:")).count()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

fn read(mut from: UnixStream, to: &Sender<Got>, data: fn(Vec<u8>) -> Got, end: Got) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.send(data(buffer[..n].to_vec())).is_err() {
            return;
        }
    }
    let _ = to.send(end);
}

/// One connection through a filter. Writes block; what a filter does not take yet waits here.
fn pump(mut filter: Filter, guest: &UnixStream, agent: &UnixStream, events: &Mutex<Vec<Event>>) {
    let (to, from): (_, Receiver<Got>) = mpsc::channel();
    for (stream, data, end) in
        [(guest, Got::Guest as fn(_) -> _, Got::GuestEnd), (agent, Got::Agent as fn(_) -> _, Got::AgentEnd)]
    {
        let (stream, to) = (stream.try_clone().unwrap(), to.clone());
        std::thread::spawn(move || read(stream, &to, data, end));
    }
    let (mut guest_bytes, mut agent_bytes) = (Vec::new(), Vec::new());
    for got in from {
        match got {
            Got::Guest(bytes) => guest_bytes.extend(bytes),
            Got::Agent(bytes) => agent_bytes.extend(bytes),
            Got::GuestEnd => break,
            Got::AgentEnd => filter.agent_closed(),
        }
        while let Ok(from_guest) = filter.guest_input(&guest_bytes) {
            let Ok(from_agent) = filter.agent_input(&agent_bytes) else { break };
            guest_bytes.drain(..from_guest);
            agent_bytes.drain(..from_agent);
            let out = filter.to_agent().len() + filter.to_guest().len();
            (&mut &*agent).write_all(filter.to_agent()).unwrap();
            filter.consume_to_agent(usize::MAX);
            let _ = (&mut &*guest).write_all(filter.to_guest());
            filter.consume_to_guest(usize::MAX);
            events.lock().unwrap().extend(std::iter::from_fn(|| filter.poll_event()));
            if from_guest + from_agent + out == 0 {
                break;
            }
        }
    }
    filter.close();
    events.lock().unwrap().extend(std::iter::from_fn(|| filter.poll_event()));
    let _ = (guest.shutdown(Shutdown::Both), agent.shutdown(Shutdown::Both));
}

/// Sends a message on a connection of its own, and gives the answer without its length field.
fn exchange(socket: &Path, message: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(message).unwrap();
    let mut len = [0; 4];
    stream.read_exact(&mut len).unwrap();
    let mut body = vec![0; u32::from_be_bytes(len) as usize];
    stream.read_exact(&mut body).unwrap();
    body
}

#[test]
fn keys_can_be_listed_and_nothing_else_of_the_agent_changed() {
    let bench = Bench::new(|_| None);
    let list = bench.ask("ssh-add", &["-l"]);
    assert!(list.status.success());
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(list.contains("key one") && list.contains("key two"), "{list}");
    assert!(list.contains(&bench.fingerprint("one.pub").to_string()), "{list}");
    for (arguments, number) in [
        (&["new"][..], 17),
        (&["-c", "new"], 25),
        (&["-t", "60", "new"], 25),
        (&["-D"], 19),
        (&["-d", "one.pub"], 18),
        (&["-x"], 22),
        (&["-X"], 23),
        (&["-s", "/usr/lib/none.so"], 20),
        (&["-e", "/usr/lib/none.so"], 21),
    ] {
        bench.events.lock().unwrap().clear();
        let refused = bench.ask("ssh-add", arguments);
        assert!(!refused.status.success(), "{arguments:?} {refused:?}");
        bench.events(|event| *event == Event::Refused(Refused::Message { number }));
        assert_eq!(bench.held(), 2, "{arguments:?}");
    }
}

#[test]
fn a_signature_in_a_namespace_is_made_and_told() {
    let bench = Bench::new(|_| None);
    std::fs::write(bench.path("commit"), "a commit").unwrap();
    let sign = ["-Y", "sign", "-n", "git", "-f", "two.pub", "commit"];
    let output = bench.ask("ssh-keygen", &sign);
    assert!(output.status.success(), "{output:?}");
    std::fs::copy(bench.path("commit"), bench.path("stdin")).unwrap();
    bench.keygen(&["-Y", "check-novalidate", "-n", "git", "-s", "commit.sig"]);
    let signed = bench.signed();
    assert_eq!(signed.len(), 1);
    assert_eq!(
        (signed[0].key.fingerprint, signed[0].outcome),
        (bench.fingerprint("two.pub"), Outcome::Signed)
    );
    let Purpose::SshSig { namespace, hash } = &signed[0].purpose else { panic!("{signed:?}") };
    assert!(*namespace == *"git" && *hash == *"sha512");
}

#[test]
fn an_allow_list_hides_the_other_keys_and_refuses_to_sign_with_them() {
    let bench = Bench::new(|bench| Some(BTreeSet::from([bench.fingerprint("one.pub")])));
    let list = String::from_utf8(bench.ask("ssh-add", &["-l"]).stdout).unwrap();
    assert!(list.contains("key one") && !list.contains("key two"), "{list}");
    std::fs::write(bench.path("file"), "text").unwrap();
    let sign =
        |key| bench.ask("ssh-keygen", &["-Y", "sign", "-n", "file", "-f", key, "file"]).status.success();
    // The private key would be used in place of the agent.
    std::fs::remove_file(bench.path("two")).unwrap();
    std::fs::remove_file(bench.path("one")).unwrap();
    // OpenSSH's client looks into the list first and asks for nothing that is not there; others do not.
    assert!(!sign("two.pub"));
    let list = exchange(&bench.path("agent"), &message(11, &[], &[]));
    let key = &list[list.len() - 4 - "key two".len() - 51..][..51];
    let answer = exchange(&bench.path("guest"), &message(13, &[key, b"data"], &[0; 4]));
    assert_eq!(answer, [5]);
    let refused = bench.signed();
    assert_eq!(
        (refused[0].key.fingerprint, refused[0].outcome),
        (bench.fingerprint("two.pub"), Outcome::NotAllowed)
    );
    assert!(sign("one.pub"));
}

#[test]
fn a_login_with_ssh_is_told_with_user_session_and_verified_host() {
    let bench = Bench::new(|_| None);
    // An sshd that runs as root insists on this directory.
    let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let user = user.trim();
    if user == "root" && !Path::new("/run/sshd").exists() {
        std::fs::create_dir("/run/sshd").unwrap();
    }
    for (kind, host_key_type) in
        [("ed25519", "ssh-ed25519"), ("ecdsa", "ecdsa-sha2-nistp256"), ("rsa", "rsa-sha2-512")]
    {
        bench.events.lock().unwrap().clear();
        let host = format!("host_{kind}");
        bench.keygen(&["-q", "-t", kind, "-N", "", "-f", &host]);
        std::fs::copy(bench.path("one.pub"), bench.path("authorized")).unwrap();
        let at = |name: &str| bench.path(name).display().to_string();
        let config = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nPermitRootLogin yes\nUsePAM no\nPidFile none\n",
            at(&host),
            at("authorized"),
        );
        std::fs::write(bench.path("sshd_config"), config).unwrap();
        let proxy = format!("ProxyCommand=/usr/sbin/sshd -i -f {} -E {}", at("sshd_config"), at("sshd.log"));
        let algorithms = format!("HostKeyAlgorithms={host_key_type}");
        let options = [
            &proxy,
            &algorithms,
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "BatchMode=yes",
            "PreferredAuthentications=publickey",
            "IdentityFile=none",
        ];
        let mut arguments = vec!["-F", "/dev/null", "-T"];
        options.iter().for_each(|option| arguments.extend(["-o", option]));
        let target = format!("{user}@somewhere");
        arguments.extend([target.as_str(), "true"]);
        let output = bench.ask("ssh", &arguments);
        let log = std::fs::read_to_string(bench.path("sshd.log")).unwrap_or_default();
        assert!(output.status.success(), "{output:?} {log}");
        let signed = bench.signed();
        assert_eq!(signed[0].outcome, Outcome::Signed);
        assert!(signed[0].comment.as_ref().unwrap() == "key one");
        let Purpose::Login(login) = &signed[0].purpose else { panic!("{signed:?}") };
        assert!(login.user == *user && login.service == *"ssh-connection" && login.other_key.is_none());
        let host_key = bench.fingerprint(&format!("{host}.pub"));
        assert_eq!(login.host_key, Some(host_key));
        let binding = login.binding.as_ref().unwrap();
        assert_eq!(binding.host_key, host_key);
        assert!(binding.verified && binding.accepted && !binding.forwarding, "{binding}");
    }
}
