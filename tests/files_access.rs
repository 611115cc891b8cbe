//! What a credential may do with files: the scope, the root directory, reading alone; and what the audit trail keeps of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use sandgate_tests::client::DEADLINE;
use sandgate_tests::files::{Look, same};
use sandgate_tests::raw::codec::Writer;
use sandgate_tests::raw::{Client, Proof, pty};
use sandgate_tests::wait::until;
use sandgate_tests::{Feed, Output, Target, data, paths, run, skip};
use serde_json::Value;

/// What makes `scp` speak either protocol.
const PROTOCOLS: [&str; 2] = ["-s", "-O"];

/// Another token of the same sandbox, and what its holder does.
struct Holder<'a> {
    target: &'a Target,
    user: String,
    token: String,
    session: String,
}

impl<'a> Holder<'a> {
    #[track_caller]
    fn new(target: &'a Target, args: &[&str]) -> Self {
        let made = target.gateway().token("box", args);
        Self { target, user: format!("User={}", made.token), session: made.id, token: made.token }
    }

    #[track_caller]
    fn scp(&self, args: &[&str]) -> Output {
        self.target.scp(&[&["-o", &self.user], args].concat())
    }

    #[track_caller]
    fn sftp(&self, batch: &str) -> Output {
        self.target.sftp(&["-o", &self.user], batch)
    }

    #[track_caller]
    fn ssh(&self, args: &[&str]) -> Output {
        run(self.target.ssh(&["-l", &self.token]).args(args), Feed::Null, DEADLINE)
    }
}

/// A file on this side to send.
fn parcel(target: &Target) -> (PathBuf, Vec<u8>) {
    let (file, bytes) = (target.dir().join("parcel"), data::random(8, 100_000));
    std::fs::write(&file, &bytes).unwrap();
    (file, bytes)
}

#[test]
fn without_the_scope_scp_and_sftp_say_so() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let (parcel, _) = parcel(&target);
    let (parcel, far) = (parcel.to_str().unwrap(), target.far_dir());
    let holder = Holder::new(&target, &["--scopes", "shell,exec,forward,agent"]);
    for output in [
        holder.scp(&[parcel, &format!("box:{far}/never")]),
        holder.scp(&["box:/etc/passwd", "/dev/null"]),
        holder.sftp("pwd\n"),
    ] {
        assert_ne!(output.code, 0);
        let said = "This token does not have the scope \"sftp\"; it has: shell,exec,forward,agent.";
        assert!(output.errors().contains(said), "{}", output.errors());
    }
    target.exec(&format!("test ! -e {far}/never")).ok();
    // The old protocol is a command, and whoever may run commands may run that one.
    holder.scp(&["-O", parcel, &format!("box:{far}/copied")]).ok();
    let holder = Holder::new(&target, &["--scopes", "shell"]);
    for protocol in PROTOCOLS {
        let output = holder.scp(&[protocol, parcel, &format!("box:{far}/never")]);
        assert_ne!(output.code, 0);
        assert!(output.errors().contains("does not have the scope"), "{}", output.errors());
    }
    target.exec(&format!("test ! -e {far}/never")).ok();
}

#[test]
fn a_token_for_files_copies_and_does_nothing_else() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let (far, tree) = (target.far_dir(), target.near_tree());
    let (near, tree) = (Look::All.near(&tree), tree.to_str().unwrap().to_owned());
    let holder = Holder::new(&target, &["--scopes", "sftp"]);
    for protocol in PROTOCOLS {
        let there = format!("{far}/tree{protocol}");
        holder.scp(&[protocol, "-r", "-p", &tree, &format!("box:{there}")]).ok();
        same(&near, &Look::All.far(&target, &there));
        let back = target.dir().join(format!("back{protocol}"));
        holder.scp(&[protocol, "-r", "-p", &format!("box:{there}"), back.to_str().unwrap()]).ok();
        same(&near, &Look::All.near(&back));
    }
    let back = target.dir().join("back");
    holder.sftp(&format!("put -rp {tree} {far}/sftp\nget -rp {far}/sftp {}\n", back.display())).ok();
    same(&near, &Look::All.near(&back));

    let touch = format!("touch {far}/never");
    let commands = [
        touch.clone(),
        format!("scp -t {far}; {touch}"),
        format!("scp -t {far} & {touch}"),
        format!("scp -t {far}\n{touch}"),
        format!("scp -t $({touch})"),
        format!("scp -t `{touch}`"),
        format!("scp -t {far} >{far}/never"),
        format!("scp -S /usr/bin/touch {far}/never"),
        format!("scp -o ProxyCommand='{touch}' {far} box:"),
        format!("scp {far}/tree-s/UPPER.txt {far}/never"),
        format!("scp  && {touch}"),
        format!("exec scp -t {far}; {touch}"),
        format!("sh -c '{touch}'"),
        "/usr/lib/openssh/sftp-server".to_owned(),
        String::new(),
    ];
    for command in commands {
        let output = holder.ssh(&["box", &command]);
        assert_ne!(output.code, 0, "{command:?} ended well");
        assert!(output.stdout.is_empty(), "{command:?} said {:?}", output.text());
        assert!(!output.stderr.is_empty(), "no reason was given for {command:?}");
    }
    for args in [&["-tt", "box"][..], &["-tt", "box", "id"], &["-T", "box"]] {
        let output = holder.ssh(args);
        assert_ne!(output.code, 0, "{args:?}");
        assert!(!output.text().contains("uid="), "{args:?}: {}", output.text());
        let said = format!("{}{}", output.text(), output.errors());
        assert!(said.contains("does not have the scope"), "{args:?}: {said:?}");
    }
    target.exec(&format!("test ! -e {far}/never")).ok();
}

/// `outside/secret` beside `root`, and in `root` every link that leads there for whoever is not held.
fn trap(target: &Target) -> String {
    let far = target.far_dir();
    let script = format!(
        "cd {far} && mkdir -p root/sub outside && echo the-secret >outside/secret && echo inside >root/inside && cd root && \
         ln -s {far}/outside abs-dir && ln -s {far}/outside/secret abs && ln -s ../outside rel-dir && \
         ln -s ../../outside/secret sub/rel && ln -s / slash && ln -s /inside abs-inside && ln -s /proc/self/root magic"
    );
    target.exec(&script).ok();
    far
}

/// Paths that lead to the secret, or to another file outside, from inside the root.
fn ways_out(far: &str) -> Vec<String> {
    let fixed = [
        "../outside/secret",
        "sub/../../outside/secret",
        "/../outside/secret",
        "abs",
        "abs-dir/secret",
        "rel-dir/secret",
        "sub/rel",
        "slash/etc/passwd",
        "magic/etc/passwd",
        "/etc/passwd",
        "/proc/self/root/etc/passwd",
    ];
    let named = [format!("{far}/outside/secret"), format!("slash{far}/outside/secret")];
    fixed.into_iter().map(str::to_owned).chain(named).collect()
}

#[test]
fn nothing_leads_out_of_a_root() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let far = trap(&target);
    // The ways are there: whoever is not held gets out by all of them but one, whose `/` is another.
    let blocked = format!(
        "cd {far}/root; for way in {}; do cat $way >/dev/null 2>&1 || echo $way; done",
        ways_out(&far).join(" ")
    );
    assert_eq!(target.exec(&blocked).ok(), "/../outside/secret");
    let (parcel, bytes) = parcel(&target);
    let (parcel, root) = (parcel.to_str().unwrap(), format!("{far}/root"));
    let holder = Holder::new(&target, &["--sftp-root", &root]);
    let outside = Look::All.far(&target, &format!("{far}/outside"));
    let passwd = target.exec("sha256sum /etc/passwd").ok();
    let got = target.dir().join("got");
    let taken = got.to_str().unwrap();
    let text = holder.sftp("pwd\nls -1\n").ok();
    assert!(text.contains("working directory: /\n"), "{text}");
    for way in ways_out(&far) {
        let batch = [
            format!("get {way} {taken}"),
            format!("put {parcel} {way}"),
            format!("chmod 777 {way}"),
            format!("rename {way} moved"),
            format!("ln {way} linked"),
        ];
        // A link itself may be renamed or linked, being inside; what matters is below.
        for line in &batch[..if ["abs", "sub/rel"].contains(&&*way) { 3 } else { 5 }] {
            let output = holder.sftp(&format!("{line}\n"));
            assert_eq!(output.code, 1, "{line:?} worked: {output:?}");
        }
        for protocol in PROTOCOLS {
            let there = format!("box:{way}");
            let output = holder.scp(&[protocol, &there, taken]);
            assert_eq!(output.code, 1, "scp {protocol} {there}: {output:?}");
            let output = holder.scp(&[protocol, parcel, &there]);
            assert_eq!(output.code, 1, "scp {protocol} to {there}: {output:?}");
        }
        assert!(!got.exists(), "{way} led to {:?}", std::fs::read_to_string(&got));
    }
    // Links and patterns that the client makes and sends lead nowhere either.
    let output = holder.sftp(&format!("ln -s {far}/outside/secret mine\nget mine {taken}\n"));
    output.exits(1);
    for pattern in ["~root/*", "~/../outside/*", "../outside/*", "/root/*"] {
        for protocol in PROTOCOLS {
            let output = holder.scp(&[protocol, "-r", &format!("box:{pattern}"), taken]);
            assert_ne!(output.code, 0, "{pattern}: {output:?}");
        }
    }
    assert!(!got.exists());
    same(&outside, &Look::All.far(&target, &format!("{far}/outside")));
    assert_eq!(target.exec("sha256sum /etc/passwd").ok(), passwd);

    // Inside it is a file server like any other, and absolute links end at the root.
    for protocol in PROTOCOLS {
        holder.scp(&[protocol, parcel, &format!("box:/sub/new{protocol}")]).ok();
        holder.scp(&[protocol, "box:abs-inside", taken]).ok();
        assert_eq!(std::fs::read_to_string(&got).unwrap(), "inside\n");
        std::fs::remove_file(&got).unwrap();
    }
    holder.sftp(&format!("put {parcel} ../../sub/new\n")).ok();
    let hashes =
        target.exec(&format!("cat {root}/sub/new-s {root}/sub/new-O {root}/sub/new | sha256sum")).ok();
    assert_eq!(hashes.split(' ').next().unwrap(), data::sha256(&bytes.repeat(3)));
    let all = target.dir().join("all");
    holder.scp(&["-O", "-r", "box:sub", all.to_str().unwrap()]).exits(1);
    assert!(!all.join("rel").exists(), "a link out of the root was followed");
}

#[test]
fn a_root_may_start_at_home_and_has_to_be_there() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let (parcel, bytes) = parcel(&target);
    target.exec("mkdir ~/drop").ok();
    let holder = Holder::new(&target, &["--sftp-root", "drop"]);
    holder.scp(&[parcel.to_str().unwrap(), "box:"]).ok();
    let hash = target.exec("sha256sum <~/drop/parcel").ok();
    assert_eq!(hash.split(' ').next().unwrap(), data::sha256(&bytes));
    let refused = |root: &str| {
        let holder = Holder::new(&target, &["--sftp-root", root]);
        for output in [
            holder.scp(&["box:etc/passwd", "/dev/null"]),
            holder.scp(&["-O", "box:etc/passwd", "/dev/null"]),
            holder.sftp("ls\n"),
        ] {
            assert_ne!(output.code, 0);
            assert!(output.stdout.is_empty(), "{output:?}");
            assert!(output.errors().contains("root directory"), "the user is not told why: {output:?}");
        }
    };
    refused("/no/such/directory");
    // Programs run in `/` where there is no home. A root does not begin there.
    target.exec("mv ~ /away").ok();
    refused(".");
    refused("drop");
}

#[test]
fn reading_alone_is_reading_alone() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let (far, tree) = (target.far_dir(), target.near_tree());
    let (parcel, _) = parcel(&target);
    let parcel = parcel.to_str().unwrap();
    target.scp(&["-r", "-p", tree.to_str().unwrap(), &format!("box:{far}/tree")]).ok();
    let near = Look::All.near(&tree);
    for (name, args) in
        [("free", vec!["--sftp-read-only"]), ("held", vec!["--sftp-read-only", "--sftp-root", &far])]
    {
        let holder = Holder::new(&target, &args);
        let top = if name == "held" { String::new() } else { far.clone() };
        for protocol in PROTOCOLS {
            let back = target.dir().join(format!("{name}{protocol}"));
            holder.scp(&[protocol, "-r", "-p", &format!("box:{top}/tree"), back.to_str().unwrap()]).ok();
            same(&near, &Look::All.near(&back));
            for to in ["new", "tree/empty"] {
                let output = holder.scp(&[protocol, parcel, &format!("box:{top}/{to}")]);
                output.exits(1);
                assert!(output.errors().contains("ermission denied"), "{}", output.errors());
            }
            holder.scp(&[protocol, "-r", tree.to_str().unwrap(), &format!("box:{top}/new")]).exits(1);
        }
        let changes = [
            format!("put {parcel} {top}/new"),
            format!("put {parcel} {top}/tree/empty"),
            format!("rm {top}/tree/empty"),
            format!("rename {top}/tree/empty {top}/new"),
            format!("mkdir {top}/new"),
            format!("rmdir \"{top}/tree/sub/empty directory\""),
            format!("chmod 777 {top}/tree/empty"),
            format!("chown 1 {top}/tree/empty"),
            format!("ln {top}/tree/empty {top}/new"),
            format!("ln -s empty {top}/new"),
            format!("copy {top}/tree/empty {top}/new"),
        ];
        for change in changes {
            let output = holder.sftp(&format!("{change}\n"));
            assert_eq!(output.code, 1, "{change:?} worked");
            let said = output.errors();
            assert!(said.contains("ermission denied") || said.contains("not support"), "{change:?}: {said}");
        }
    }
    same(&near, &Look::All.far(&target, &format!("{far}/tree")));
    assert_eq!(target.exec(&format!("ls {far}")).ok(), "tree");
}

#[test]
fn a_restriction_goes_with_no_scope_that_walks_around_it() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    for restriction in [&["--sftp-root", "/srv"][..], &["--sftp-read-only"]] {
        for scope in ["shell,sftp", "exec,sftp", "forward,sftp"] {
            let output =
                target.gateway().cli(&[&["token", "create", "box", "--scopes", scope], restriction].concat());
            assert_ne!(output.code, 0, "{scope} {restriction:?}");
            assert!(output.errors().contains("SFTP restriction"), "{}", output.errors());
        }
        let holder = Holder::new(&target, restriction);
        assert_ne!(holder.ssh(&["box", "echo never"]).code, 0);
    }
}

/// The rows of the audit trail for files, oldest first, as `action detail`, with the actor.
fn file_rows(target: &Target) -> Vec<(String, String, String)> {
    let query = "SELECT action, actor, detail FROM audit WHERE action LIKE 'file.%' OR action LIKE 'dir.%' ORDER BY seq";
    let mut command = Command::new("sqlite3");
    command.args(["-readonly", "-json"]).arg(target.gateway().data_dir().join("sandgate.db")).arg(query);
    let text = run(&mut command, Feed::Null, DEADLINE).ok();
    let rows: Vec<Value> = if text.is_empty() { Vec::new() } else { serde_json::from_str(&text).unwrap() };
    let field = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    rows.iter().map(|row| (field(row, "action"), field(row, "actor"), field(row, "detail"))).collect()
}

#[test]
fn changes_of_files_are_in_the_audit_trail() {
    if skip::oracle_lacks("audit trail") {
        return;
    }
    if paths::which("sqlite3").is_none() {
        skip::because("sqlite3 is not installed (Debian package sqlite3)");
        return;
    }
    let target = Target::start();
    let (parcel, _) = parcel(&target);
    let (parcel, far) = (parcel.to_str().unwrap(), target.far_dir());
    let holder = Holder::new(&target, &["--scopes", "sftp"]);
    let batch = format!(
        "put {parcel} {far}/written\nrename {far}/written {far}/moved\nget {far}/moved /dev/null\nmkdir {far}/dir\n\
         rmdir {far}/dir\nrm {far}/moved\n"
    );
    holder.sftp(&batch).ok();
    holder.scp(&["-O", parcel, &format!("box:{far}/old\\ one")]).ok();
    let held = Holder::new(&target, &["--sftp-root", &far]);
    held.scp(&[parcel, "box:/held"]).ok();
    let expected = [
        ("file.write", format!("\"{far}/written\", 100000 bytes written, size 100000")),
        ("file.rename", format!("\"{far}/written\" to \"{far}/moved\", size 100000")),
        ("dir.make", format!("\"{far}/dir\"")),
        ("dir.remove", format!("\"{far}/dir\"")),
        ("file.remove", format!("\"{far}/moved\", size 100000")),
        ("file.write", format!("\"{far}/old one\", 100000 bytes written, size 100000")),
        ("file.write", format!("user root, root \"{far}\": \"/held\", 100000 bytes written, size 100000")),
    ];
    let wanted = |rows: &[(String, String, String)]| {
        let mut rows = rows.iter();
        expected.iter().all(|(action, end)| rows.any(|row| row.0 == *action && row.2.ends_with(end.as_str())))
    };
    let mut rows = Vec::new();
    let found = until(Duration::from_secs(10), || {
        rows = file_rows(&target);
        wanted(&rows)
    });
    assert!(found, "expected {expected:#?} in this order in {rows:#?}");
    let sessions = session_ids(&target);
    for (_, actor, detail) in &rows {
        let by = if detail.contains("/held\"") { &held } else { &holder };
        assert_eq!(*actor, format!("token {}", by.session), "the actor of {detail}");
        let id = detail.strip_prefix("session ").and_then(|it| it.split(',').next()).unwrap();
        assert!(sessions.contains(id), "no session {id} in {sessions}");
        assert!(detail.contains(", user root"), "{detail}");
    }
    assert!(!rows.iter().any(|row| row.2.contains("/dev/null")), "reading is no change: {rows:#?}");
}

/// What a file server tells goes over a pipe that has names in `/proc`, and its memory has one.
#[test]
fn a_token_for_files_forges_no_rows_and_changes_no_process() {
    if skip::oracle_lacks("audit trail") {
        return;
    }
    if paths::which("sqlite3").is_none() {
        return skip::because("sqlite3 is not installed (Debian package sqlite3)");
    }
    let target = Target::start();
    let (far, forged) = (target.far_dir(), target.dir().join("forged"));
    std::fs::write(&forged, "removed 0 /etc/passwd\n").unwrap();
    let forged = forged.to_str().unwrap();
    let holder = Holder::new(&target, &["--scopes", "sftp"]);
    for path in ["/proc/self/fd/2", "/dev/stderr", "/proc/self/fd/1", "/proc/self/mem", "/proc/self/comm"] {
        for protocol in PROTOCOLS {
            let output = holder.scp(&[protocol, forged, &format!("box:{path}")]);
            assert_ne!(output.code, 0, "{protocol} to {path}");
            assert!(
                output.errors().contains("ermission denied"),
                "{protocol} to {path}: {}",
                output.errors()
            );
        }
    }
    // Reading is as before, but of the pipe: it would take lines away.
    holder.sftp("get /proc/self/comm /dev/null\n").ok();
    assert_ne!(holder.sftp("get /proc/self/fd/2 /dev/null\n").code, 0);
    holder.scp(&[forged, &format!("box:{far}/last")]).ok();
    let mut rows = Vec::new();
    let found = until(Duration::from_secs(10), || {
        rows = file_rows(&target);
        rows.iter().any(|row| row.2.contains("/last\""))
    });
    assert!(found && rows.iter().all(|row| row.2.contains("/last\"")), "{rows:#?}");
}

/// As go-scp asks for it.
#[test]
fn scp_by_its_path_is_for_a_token_for_files_too() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let far = target.far_dir();
    let holder = Holder::new(&target, &["--scopes", "sftp"]);
    let mut client = Client::connect(target.port).unwrap();
    assert!(client.authenticate(&holder.token, &Proof::None).unwrap());
    let channel = client.open_session().unwrap();
    let command = Writer::default().string(format!("/usr/bin/scp -qt \"{far}\"")).done();
    assert!(client.request(channel, "exec", &command).unwrap());
    client.data(channel, b"C0644 5 came\nhello\0").unwrap();
    client.eof(channel).unwrap();
    let ending = client.finish(channel).unwrap();
    assert_eq!((ending.status, &ending.stdout[..]), (Some(0), &[0, 0, 0][..]), "{ending:?}");
    assert_eq!(target.exec(&format!("cat {far}/came")).ok(), "hello");
    let output = holder.ssh(&["box", "/tmp/scp -t /tmp"]);
    assert!(output.errors().contains("does not have the scope"), "{}", output.errors());
}

/// A client may ask for a terminal first. A file server on one would tell the client what it changes, and nobody else.
#[test]
fn a_terminal_does_not_hide_a_file_server_from_the_audit_trail() {
    if skip::oracle_lacks("audit trail") {
        return;
    }
    if paths::which("sqlite3").is_none() {
        return skip::because("sqlite3 is not installed (Debian package sqlite3)");
    }
    let target = Target::start();
    let far = target.far_dir();
    let holder = Holder::new(&target, &["--scopes", "sftp"]);
    let mut client = Client::connect(target.port).unwrap();
    assert!(client.authenticate(&holder.token, &Proof::None).unwrap());
    let channel = client.open_session().unwrap();
    // No signals, no echo, no lines, and no character is turned into another (RFC 4254 section 8).
    let raw: Vec<u8> =
        [50, 51, 53, 36, 38, 70].into_iter().flat_map(|mode| [mode, 0, 0, 0, 0]).chain([0]).collect();
    assert!(client.request(channel, "pty-req", &pty("xterm", 80, 24, &raw)).unwrap());
    let command = Writer::default().string(format!("scp -t {far}")).done();
    assert!(client.request(channel, "exec", &command).unwrap());
    client.data(channel, b"C0644 5 hidden\nhello\0").unwrap();
    client.eof(channel).unwrap();
    let ending = client.finish(channel).unwrap();
    assert_eq!((ending.status, &ending.stdout[..]), (Some(0), &[0, 0, 0][..]), "{ending:?}");
    let mut rows = Vec::new();
    let found = until(Duration::from_secs(10), || {
        rows = file_rows(&target);
        rows.iter().any(|row| row.0 == "file.write" && row.2.ends_with("hidden\", 5 bytes written, size 5"))
    });
    assert!(found, "{rows:#?}");
}

#[test]
fn a_client_whose_file_server_is_killed_is_told_and_what_was_being_written_is_known() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let far = target.far_dir();
    let file = target.dir().join("slow");
    std::fs::write(&file, data::random(9, 4_000_000)).unwrap();
    let file = file.to_str().unwrap();
    let holder = Holder::new(&target, &["--scopes", "sftp"]);
    // At this rate (kbit/s) the file takes 16 s.
    let slow = ["-l", "2000"];
    let told = "sandgate: the file server was killed (signal KILL); the sandbox may be out of memory\n";
    let check = |output: Output| {
        assert_ne!(output.code, 0);
        assert_eq!(output.errors().matches(told).count(), 1, "{}", output.errors());
    };
    killing(&target, "sftp-server", &format!("{far}/by-sftp"), || {
        check(
            target.sftp(&[&["-o", &holder.user], &slow[..]].concat(), &format!("put {file} {far}/by-sftp\n")),
        );
    });
    killing(&target, "sftp-server", &format!("{far}/by-scp"), || {
        check(holder.scp(&[&slow[..], &["-s", file, &format!("box:{far}/by-scp")]].concat()));
    });
    killing(&target, "scp", &format!("{far}/by-old-scp"), || {
        check(holder.scp(&[&slow[..], &["-O", file, &format!("box:{far}/by-old-scp")]].concat()));
    });
    if paths::which("sqlite3").is_none() {
        skip::because("sqlite3 is not installed (Debian package sqlite3)");
        return;
    }
    let mut rows = Vec::new();
    let known = until(Duration::from_secs(10), || {
        rows = file_rows(&target);
        ["by-sftp", "by-scp", "by-old-scp"].iter().all(|name| {
            rows.iter().any(|row| row.0 == "file.write.cut" && row.2.ends_with(&format!("\"{far}/{name}\"")))
        })
    });
    assert!(known, "{rows:#?}");
}

/// Does something while a bystander waits for a file to be there, and then kills the program of that name.
fn killing(target: &Target, program: &str, file: &str, work: impl FnOnce()) {
    let line = format!(
        "until test -s {file}; do sleep 0.05; done; for p in /proc/[0-9]*; do \
         case \"$(tr '\\0' '\\n' <$p/cmdline 2>/dev/null | head -n 1)\" in {program}) kill -9 ${{p#/proc/}};; esac; done"
    );
    std::thread::scope(|scope| {
        scope.spawn(|| target.exec(&line).ok());
        work();
    });
}

/// Everything in the table of sessions, with kinds.
fn session_ids(target: &Target) -> String {
    let mut command = Command::new("sqlite3");
    command.args(["-readonly"]).arg(target.gateway().data_dir().join("sandgate.db"));
    let rows = run(command.arg("SELECT id, kind FROM sessions"), Feed::Null, DEADLINE).ok();
    assert!(rows.contains("|sftp") && rows.contains("|scp"), "{rows}");
    rows
}
