//! `sandgate cp`: files and trees into a sandbox, out of one, and from one to another.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use sandgate_tests::client::DEADLINE;
use sandgate_tests::process::{Guard, Output};
use sandgate_tests::terminal::Terminal;
use sandgate_tests::wait::until;
use sandgate_tests::{Feed, Target, data, run, skip};

/// A gateway with `box`, whose image is this machine's, and `bare`, whose image holds nothing.
fn start() -> Option<Target> {
    if skip::oracle_lacks("control socket") {
        return None;
    }
    let target = Target::start();
    let image = target.dir().join("empty");
    fs::create_dir(&image).unwrap();
    fs::set_permissions(&image, fs::Permissions::from_mode(0o755)).unwrap();
    target.gateway().create_sandbox("bare", &["--image", image.to_str().unwrap()]);
    target.gateway().start_sandbox("bare");
    Some(target)
}

/// `sandgate cp ARGS…` in the scratch directory.
fn command(target: &Target, args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = target.gateway().command(&["cp"]);
    command.args(args).current_dir(target.dir());
    command
}

#[track_caller]
fn cp(target: &Target, args: &[impl AsRef<OsStr>]) -> Output {
    run(&mut command(target, args), Feed::Null, DEADLINE)
}

/// A copy that works says nothing.
#[track_caller]
fn cp_ok(target: &Target, args: &[impl AsRef<OsStr>]) {
    let output = cp(target, args);
    assert_eq!((output.ok(), output.errors()), (String::new(), String::new()));
}

/// A copy that fails does so with these lines and no others, in any order.
#[track_caller]
fn cp_fails(target: &Target, args: &[impl AsRef<OsStr>], lines: &[&str]) {
    let output = cp(target, args);
    output.exits(1);
    let errors = output.errors();
    let mut said: Vec<&str> = errors.lines().collect();
    let mut wanted: Vec<String> = lines.iter().map(|line| format!("sandgate: {line}")).collect();
    said.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(said, wanted);
}

/// A script inside `box`.
#[track_caller]
fn inside(target: &Target, script: &str) -> String {
    run(&mut target.gateway().command(&["exec", "box", "--", "sh", "-c", script]), Feed::Null, DEADLINE).ok()
}

/// File servers that run inside `box`; by their arguments, since they are the agent's own file under another name.
fn servers(target: &Target) -> String {
    inside(target, "pgrep -c -f '^sftp-server' || true")
}

fn sessions(target: &Target) -> Vec<String> {
    let list = target.gateway().json(&["session", "ls"]);
    let id = |session: &serde_json::Value| session["id"].as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(id).collect()
}

/// Every path below a directory, with the contents of files; links are followed.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(directory).unwrap().to_owned();
            if path.is_dir() {
                left.push(path);
                found.insert(name, None);
            } else {
                found.insert(name, Some(fs::read(&path).unwrap()));
            }
        }
    }
    found
}

/// A tree with every kind of name, sizes around the lengths of requests, and links to a file and to a directory.
fn make_tree(top: &Path) {
    let names: [&[u8]; 9] = [
        b"plain",
        b"with  spaces ",
        b"new\nline",
        b"not \xff\xfe text",
        b"-rf",
        b"a:b",
        b"*?[x]~\\",
        b"\x1b[31m",
        &[b'n'; 255],
    ];
    let sizes = [1, 32 * 1024, 255 * 1024, 255 * 1024 + 1, 700_001];
    for directory in ["", "d", "d/ e\n", "d/ e\n/f"].map(|it| top.join(it)) {
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("empty"), "").unwrap();
        for (seed, name) in names.iter().enumerate() {
            let bytes = data::random(seed as u64, sizes[seed % sizes.len()]);
            fs::write(directory.join(OsStr::from_bytes(name)), bytes).unwrap();
        }
    }
    fs::create_dir(top.join("nothing in it")).unwrap();
    symlink("plain", top.join("link")).unwrap();
    symlink("d/ e\n/f", top.join("link to a directory")).unwrap();
}

#[test]
fn a_file_goes_into_an_image_with_nothing_in_it_and_back() {
    let Some(target) = start() else { return };
    for (name, len) in [("none", 0), ("one", 1), ("some", 12_345_678)] {
        let bytes = data::random(3, len);
        fs::write(target.dir().join(name), &bytes).unwrap();
        cp_ok(&target, &[name, "bare:"]);
        cp_ok(&target, &[&format!("bare:{name}"), "back"]);
        assert!(fs::read(target.dir().join("back")).unwrap() == bytes, "{name}");
    }
    // To another name, over something longer, with an absolute path, and by way of `~`.
    fs::write(target.dir().join("short"), "short").unwrap();
    cp_ok(&target, &["short", "bare:some"]);
    cp_ok(&target, &["short", "bare:/abs"]);
    cp_ok(&target, &["bare:~/some", "bare:/abs", "."]);
    for name in ["some", "abs"] {
        assert_eq!(fs::read(target.dir().join(name)).unwrap(), b"short", "{name}");
    }
}

#[test]
fn a_tree_with_odd_names_goes_both_ways_and_from_sandbox_to_sandbox() {
    let Some(target) = start() else { return };
    let tree = target.dir().join("tree");
    make_tree(&tree);
    let all = contents(&tree);
    cp_ok(&target, &["-r", "tree", "bare:new"]);
    // Into a directory that is there, under its own name.
    cp_ok(&target, &["-r", "bare:new", "box:/tmp"]);
    fs::create_dir(target.dir().join("back")).unwrap();
    cp_ok(&target, &["-r", "box:/tmp/new/", "back"]);
    assert!(contents(&target.dir().join("back/new")) == all);
    // What has no name of its own goes straight into the target; again over what is there.
    cp_ok(&target, &["-r", "tree/.", "bare:new"]);
    cp_ok(&target, &["-r", "bare:new/.", "again"]);
    assert!(contents(&target.dir().join("again")) == all);
    // One file with an odd name.
    let odd = OsString::from_vec(b"bare:new/not \xff\xfe text".to_vec());
    cp_ok(&target, &[&odd, OsStr::new("odd")]);
    assert!(fs::read(target.dir().join("odd")).unwrap() == data::random(3, 255 * 1024 + 1));
}

#[test]
fn modes_and_times_are_kept_when_asked_and_otherwise_the_umask_holds() {
    let Some(target) = start() else { return };
    let tree = target.dir().join("tree");
    fs::create_dir_all(tree.join("closed")).unwrap();
    fs::write(tree.join("closed/file"), "x").unwrap();
    fs::write(tree.join("open"), "x").unwrap();
    let set = |path: &str, mode: u32, time: &str| {
        fs::set_permissions(tree.join(path), fs::Permissions::from_mode(mode)).unwrap();
        run(Command::new("touch").args(["-d", time]).arg(tree.join(path)), Feed::Null, DEADLINE).ok();
    };
    set("closed/file", 0o4741, "@1000000000");
    set("open", 0o666, "@1100000000");
    set("closed", 0o555, "@1200000000");
    set("", 0o770, "@1300000000");
    cp_ok(&target, &["-rp", "tree", "box:/tmp/kept"]);
    let show = "cd /tmp && stat -c '%a %Y' kept kept/closed kept/closed/file kept/open";
    let kept = "770 1300000000\n555 1200000000\n741 1000000000\n666 1100000000";
    assert_eq!(inside(&target, show), kept, "set-uid is not kept, all else is");
    cp_ok(&target, &["-rp", "box:/tmp/kept", "back"]);
    let status = |path: &str| {
        let meta = fs::metadata(target.dir().join("back").join(path)).unwrap();
        format!("{:o} {}", meta.mode() & 0o7777, meta.mtime())
    };
    assert_eq!(["", "closed", "closed/file", "open"].map(status).join("\n"), kept);
    // Without -p the time is now and the umask takes its part; a directory that may not be written to is filled all the same.
    cp_ok(&target, &["-r", "tree", "box:/tmp/plain"]);
    let now = inside(&target, "date +%s").parse::<i64>().unwrap();
    let plain = inside(&target, "cd /tmp/plain && stat -c '%a' . closed closed/file open; stat -c %Y open");
    let lines: Vec<&str> = plain.lines().collect();
    assert_eq!(lines[..4], ["750", "555", "741", "644"]);
    assert!((now - lines[4].parse::<i64>().unwrap()).abs() < 600);
}

#[test]
fn what_fails_is_named_in_a_line_each_and_the_others_are_copied() {
    let Some(target) = start() else { return };
    let dir = target.dir();
    make_tree(&dir.join("tree"));
    for name in ["a", "b"] {
        fs::write(dir.join(name), name).unwrap();
    }
    inside(&target, "mkdir /tmp/to");
    cp_fails(
        &target,
        &["a", "gone\n", "tree", "b", "box:/tmp/to"],
        &["gone\\n: No such file or directory", "tree: is a directory; -r copies it"],
    );
    assert_eq!(inside(&target, "cat /tmp/to/a /tmp/to/b"), "ab");
    cp_fails(
        &target,
        &["box:/tmp/to/a", "box:/none", "nosuch:x", "box:/tmp/to/b", "."],
        &["there is no sandbox \"nosuch\"", "box:/none: No such file or directory"],
    );
    cp_fails(&target, &["a", "nosuch:"], &["there is no sandbox \"nosuch\""]);
    cp_fails(&target, &["a", "b", "box:/none"], &["box:/none: No such file or directory"]);
    cp_fails(&target, &["a", "b", "box:/tmp/to/a"], &["box:/tmp/to/a: Not a directory"]);
    cp_fails(&target, &["a", "box:/none/"], &["box:/none/: Not a directory"]);
    cp_fails(&target, &["box:/dev/null", "x"], &["box:/dev/null: not a regular file"]);
    cp_fails(&target, &["/dev/null", "box:x"], &["/dev/null: not a regular file"]);
    cp_fails(&target, &["-r", "tree", "box:/tmp/to/a"], &["box:/tmp/to/a: Not a directory"]);
    cp_fails(&target, &["box:/tmp/to/a", "/dev/full"], &["/dev/full: No space left on device"]);
    let both = "either the sources or the target have to be in a sandbox: NAME:PATH";
    cp_fails(&target, &["a", "./b:c"], &[both]);
    cp(&target, &["a"]).exits(2);
    // Links that lead nowhere or back up; everything else arrives.
    symlink("nowhere", dir.join("tree/d/dangling")).unwrap();
    symlink("..", dir.join("tree/d/up")).unwrap();
    let lost =
        ["d/dangling: No such file or directory", "d/up: a link to a directory that it is in; left out"];
    cp_fails(
        &target,
        &["-r", "tree", "box:/tmp"],
        &lost.map(|it| format!("tree/{it}")).each_ref().map(|it| &**it),
    );
    inside(&target, "cd /tmp/tree/d && ln -s nowhere dangling && ln -s .. up");
    let remote = lost.map(|it| format!("box:/tmp/tree/{it}"));
    cp_fails(&target, &["-r", "box:/tmp/tree", "back"], &remote.each_ref().map(|it| &**it));
    fs::remove_file(dir.join("tree/d/dangling")).unwrap();
    fs::remove_file(dir.join("tree/d/up")).unwrap();
    assert!(contents(&dir.join("back")) == contents(&dir.join("tree")));
}

#[test]
fn nothing_is_copied_onto_or_into_itself() {
    let Some(target) = start() else { return };
    inside(&target, "mkdir -p /tmp/t/in && echo kept >/tmp/t/f && ln -s t /tmp/l");
    let refused = |from: &str| format!("{from}: cannot be copied onto or into itself");
    cp_fails(&target, &["box:/tmp/t/f", "box:/tmp/l/f"], &[&refused("box:/tmp/t/f")]);
    cp_fails(&target, &["box:/tmp/t/f", "box:/tmp/l"], &[&refused("box:/tmp/t/f")]);
    cp_fails(&target, &["-r", "box:/tmp/t", "box:/tmp/l/in"], &[&refused("box:/tmp/t")]);
    cp_fails(&target, &["-r", "box:/tmp/t", "box:/tmp/t/new"], &[&refused("box:/tmp/t")]);
    cp_ok(&target, &["-r", "box:/tmp/t", "box:/tmp/t2"]);
    assert_eq!(inside(&target, "cat /tmp/t/f /tmp/t2/f"), "kept\nkept");
}

/// `name` is gone on with where it has the beginning of `whole`: shown by a byte far before its end that is wrong and stays so.
#[track_caller]
fn resumed(target: &Target, args: [&str; 2], there: &Path, whole: &[u8]) {
    // Made by the copy, so that it belongs to the user inside; written over in place below.
    cp_ok(target, &args);
    let mut part = whole[..5_000_000].to_vec();
    part[1000] ^= 1;
    fs::write(there, &part).unwrap();
    cp_ok(target, &["--resume", args[0], args[1]]);
    let mut expected = whole.to_vec();
    expected[1000] ^= 1;
    assert!(fs::read(there).unwrap() == expected, "it was not gone on with");
    // Whole already: left alone.
    cp_ok(target, &["--resume", args[0], args[1]]);
    assert!(fs::read(there).unwrap() == expected);
    // Another end, too long, or empty: copied anew.
    let (mut other, long) = (part.clone(), [whole, b"more"].concat());
    other[4_999_999] ^= 1;
    for bytes in [&other[..], &long, b""] {
        fs::write(there, bytes).unwrap();
        cp_ok(target, &["--resume", args[0], args[1]]);
        assert!(fs::read(there).unwrap() == whole);
    }
    // Without the option nothing is trusted.
    fs::write(there, &part).unwrap();
    cp_ok(target, &args);
    assert!(fs::read(there).unwrap() == whole);
}

#[test]
fn a_partial_copy_is_gone_on_with() {
    if skip::oracle_lacks("control socket") {
        return;
    }
    let shared = tempfile::tempdir_in("/tmp").unwrap();
    let mount = format!("{}:/shared", shared.path().display());
    let target = Target::start_with(&sandgate_tests::Options {
        create_args: vec!["--mount".to_owned(), mount],
        ..Default::default()
    });
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let whole = data::random(9, 9_000_000);
    fs::write(target.dir().join("f"), &whole).unwrap();
    resumed(&target, ["f", "box:/shared/f"], &shared.path().join("f"), &whole);
    resumed(&target, ["box:/shared/f", "back"], &target.dir().join("back"), &whole);
}

#[test]
fn a_copy_that_was_interrupted_leaves_no_session_and_can_be_gone_on_with() {
    let Some(target) = start() else { return };
    let whole = data::random(11, 20_000_000);
    fs::write(target.dir().join("f"), &whole).unwrap();
    let interrupt = |mut client: Guard| {
        assert_eq!(servers(&target), "1");
        client.signal(Signal::INT);
        assert_eq!(client.wait(Duration::from_secs(5)), Some(130));
        let quiet = || servers(&target) == "0" && sessions(&target).is_empty();
        assert!(until(Duration::from_secs(10), quiet), "a session is left");
    };
    // The input stops in the middle, so the copy is surely under way.
    let mut up = command(&target, &["-", "box:/tmp/g"]);
    let mut client = Guard::spawn(up.stdin(Stdio::piped()).stderr(Stdio::null()));
    client.child().stdin.as_mut().unwrap().write_all(&whole[..9_000_000]).unwrap();
    let size = || inside(&target, "stat -c %s /tmp/g 2>/dev/null || echo 0").parse::<u64>().unwrap();
    assert!(until(Duration::from_secs(10), || size() > 4_000_000));
    interrupt(client);
    let part = size();
    assert!(part < 20_000_000, "{part}");
    cp_ok(&target, &["--resume", "f", "box:/tmp/g"]);
    assert_eq!(inside(&target, "sha256sum </tmp/g").split(' ').next(), Some(&*data::sha256(&whole)));
    // The output is not read, and what came of it is a beginning.
    let mut down = command(&target, &["box:/tmp/g", "-"]);
    let mut client = Guard::spawn(down.stdout(Stdio::piped()).stderr(Stdio::null()));
    let mut part = vec![0; 5_000_000];
    client.child().stdout.as_mut().unwrap().read_exact(&mut part).unwrap();
    assert_eq!(sessions(&target).len(), 1);
    interrupt(client);
    fs::write(target.dir().join("back"), &part).unwrap();
    cp_ok(&target, &["--resume", "box:/tmp/g", "back"]);
    assert!(fs::read(target.dir().join("back")).unwrap() == whole);
}

#[test]
fn a_session_that_is_ended_ends_the_copy() {
    let Some(target) = start() else { return };
    let mut feed = command(&target, &["-", "box:f"]);
    let mut client = Guard::spawn(feed.stdin(Stdio::piped()).stderr(Stdio::piped()));
    let mut ids = Vec::new();
    assert!(until(Duration::from_secs(10), || {
        ids = sessions(&target);
        ids.len() == 1
    }));
    assert_eq!(servers(&target), "1");
    target.gateway().cli(&["session", "kill", &ids[0]]).ok();
    assert!(until(Duration::from_secs(10), || sessions(&target).is_empty()), "the session lives on");
    // The client notices when it has something to send.
    let mut stdin = client.child().stdin.take().unwrap();
    let _ = stdin.write_all(&[0; 1 << 20]);
    drop(stdin);
    assert_eq!(client.wait(Duration::from_secs(10)), Some(1));
    let mut errors = String::new();
    client.child().stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(errors, "sandgate: box:f: the connection to the file server was lost\n");
    assert!(until(Duration::from_secs(10), || servers(&target) == "0"), "the file server lives on");
}

#[test]
fn a_stopped_sandbox_is_started_and_one_without_a_gateway_is_a_clear_error() {
    let Some(mut target) = start() else { return };
    fs::write(target.dir().join("f"), "x").unwrap();
    cp_ok(&target, &["f", "bare:f"]);
    for name in ["box", "bare"] {
        target.gateway().cli(&["sandbox", "stop", name]).ok();
        cp_ok(&target, &["f", &format!("{name}:g")]);
        assert!(target.gateway().is_running(name));
    }
    cp_ok(&target, &["bare:f", "back"]);
    target.gateway_mut().kill();
    let output = cp(&target, &["f", "box:"]);
    output.exits(1);
    assert!(output.errors().contains("no gateway is running") && output.errors().lines().count() == 1);
}

#[test]
fn what_the_user_inside_may_not_do_is_refused() {
    let Some(target) = start() else { return };
    let dir = target.dir();
    fs::create_dir(dir.join("tree")).unwrap();
    for name in ["tree/a", "tree/b"] {
        fs::write(dir.join(name), "x").unwrap();
    }
    inside(
        &target,
        "install -d -o nobody /tmp/n && echo s >/tmp/n/secret && chmod 600 /tmp/n/secret && echo o >/tmp/n/open",
    );
    cp_fails(&target, &["-u", "nobody", "tree/a", "box:/etc/x"], &["box:/etc/x: Permission denied"]);
    cp_fails(
        &target,
        &["-u", "nobody", "-r", "box:/tmp/n", "back"],
        &["box:/tmp/n/secret: Permission denied"],
    );
    assert_eq!(fs::read(dir.join("back/open")).unwrap(), b"o\n", "the others are copied");
    cp_ok(&target, &["-u", "nobody", "-r", "tree", "box:/tmp/n"]);
    assert_eq!(inside(&target, "stat -c %U /tmp/n/tree /tmp/n/tree/a"), "nobody\nnobody");
    inside(&target, "chmod 755 /tmp/n/tree; chown root /tmp/n/tree /tmp/n/tree/a");
    cp_fails(
        &target,
        &["-u", "nobody", "-r", "tree", "box:/tmp/n"],
        &["box:/tmp/n/tree/a: Permission denied"],
    );
}

#[test]
fn standard_streams_are_copied_too() {
    let Some(target) = start() else { return };
    let bytes = data::random(5, 3_000_000);
    let output = run(&mut command(&target, &["-", "bare:f"]), Feed::Bytes(bytes.clone()), DEADLINE);
    assert_eq!((output.ok(), output.errors()), (String::new(), String::new()));
    let output = cp(&target, &["bare:f", "-"]);
    output.exits(0);
    assert!(output.stdout == bytes && output.stderr.is_empty());
    cp_fails(&target, &["-", "bare:/"], &["-: has no name of its own; name the target's file"]);
    // Files of /proc have no size and are copied whole.
    let output = cp(&target, &["box:/proc/self/status", "-"]);
    assert!(output.text().starts_with("Name:"), "{output:?}");
}

#[test]
fn progress_is_shown_on_a_terminal_alone() {
    let Some(target) = start() else { return };
    fs::write(target.dir().join("a\x1b[31m"), vec![0; 30 << 20]).unwrap();
    let mut terminal = Terminal::spawn(&at(&target, &["a\x1b[31m", "bare:f"]), 120, 24);
    assert_eq!(terminal.wait(), 0);
    let screen = terminal.screen();
    assert!(screen.contains("100%") && screen.contains("30.00 MiB"), "{screen:?}");
    assert!(screen.contains("a\\u{1b}[31m") && !screen.contains("\x1b[31m"), "{screen:?}");
    let mut terminal = Terminal::spawn(&at(&target, &["-q", "a\x1b[31m", "bare:f"]), 120, 24);
    assert_eq!((terminal.wait(), terminal.screen().as_str()), (0, ""));
}

/// As [`command`], with absolute paths in place of a working directory, which a terminal's program does not get.
fn at(target: &Target, args: &[&str]) -> Command {
    let absolute = |arg: &&str| match arg {
        local if local.starts_with('a') => target.dir().join(local).into_os_string(),
        other => OsString::from(other),
    };
    let mut command = target.gateway().command(&["cp"]);
    command.args(args.iter().map(absolute)).env("TERM", "xterm");
    command
}

#[test]
fn what_is_copied_is_in_the_audit_trail() {
    let Some(target) = start() else { return };
    if sandgate_tests::paths::which("sqlite3").is_none() {
        skip::because("sqlite3 is not installed (Debian package sqlite3)");
        return;
    }
    fs::write(target.dir().join("f"), "12345").unwrap();
    cp_ok(&target, &["f", "bare:/odd name"]);
    let rows = || {
        let mut query = Command::new("sqlite3");
        query.arg("-readonly").arg(target.gateway().data_dir().join("sandgate.db"));
        query.arg("SELECT actor, detail FROM audit WHERE action = 'file.write'");
        run(&mut query, Feed::Null, DEADLINE).ok()
    };
    let told = until(Duration::from_secs(10), || rows().contains("\"/odd name\", 5 bytes"));
    assert!(told, "{:?}", rows());
}

#[test]
fn heavy_ten_thousand_files_and_a_large_one_take_little_memory() {
    let Some(target) = start() else { return };
    let tree = target.dir().join("tree");
    for number in 0..10_000 {
        let directory = tree.join(format!("{}", number / 500));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(format!("{number}")), data::random(number, 4096)).unwrap();
    }
    run(Command::new("truncate").args(["-s", "1G"]).arg(tree.join("large")), Feed::Null, DEADLINE).ok();
    let measured = |args: &[&str]| {
        let mut time = Command::new("/usr/bin/env");
        time.args(["python3", "-c", PEAK]).arg(sandgate_tests::paths::sandgate());
        time.arg("--data-dir")
            .arg(target.gateway().data_dir())
            .arg("cp")
            .args(args)
            .current_dir(target.dir());
        run(&mut time, Feed::Null, Duration::from_secs(240)).ok().parse::<u64>().unwrap()
    };
    let up = measured(&["-r", "tree", "box:/tmp/tree"]);
    let down = measured(&["-r", "box:/tmp/tree", "back"]);
    let (sent, got) = (contents(&tree), contents(&target.dir().join("back")));
    assert!(sent == got, "{} and {} files", sent.len(), got.len());
    assert!(up.max(down) < 64 << 10, "{up} KiB up, {down} KiB down");
}

/// Runs a program and prints the most memory it had resident, in KiB.
const PEAK: &str = "import resource, subprocess, sys\n\
                    code = subprocess.call(sys.argv[1:])\n\
                    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n\
                    sys.exit(code)";
