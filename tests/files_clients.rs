//! Programs that move files and are not OpenSSH's own: rsync, git, rclone, lftp, sshfs, and the SFTP libraries of Python and node.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sandgate_tests::client::DEADLINE;
use sandgate_tests::files::{Look, add_odd_names, make_many, same, set_old_times};
use sandgate_tests::foreign::{installed, node, python};
use sandgate_tests::process::Guard;
use sandgate_tests::wait::{scaled, until};
use sandgate_tests::{Feed, Kind, Target, run, skip};

/// Time for ten thousand files on a busy machine.
const LONG: Duration = Duration::from_secs(420);

/// Runs a local script with `$SSH`, `$DIR` and `$FAR`, which has to end well, and returns what it printed.
#[track_caller]
fn script(target: &Target, far: &str, text: &str) -> String {
    run(target.script(&format!("set -e; {text}")).env("FAR", far), Feed::Null, LONG).ok()
}

#[test]
fn rsync_mirrors_and_moves_nothing_twice() {
    if !installed(&[("rsync", "rsync")]) {
        return;
    }
    let target = Target::start();
    let (far, tree) = (target.far_dir(), target.near_tree());
    add_odd_names(&tree);
    std::os::unix::fs::symlink("../UPPER.txt", tree.join("sub/link")).unwrap();
    std::os::unix::fs::symlink("nowhere", tree.join("dangling")).unwrap();
    set_old_times(&tree);
    let up = "rsync -a --delete --itemize-changes -e \"$SSH\" $DIR/tree/ box:$FAR/tree/";
    let down = "rsync -a --delete --itemize-changes -e \"$SSH\" box:$FAR/tree/ $DIR/back/";
    // Gives what the first of two runs moved.
    let twice = |line: &str| {
        let moved = script(&target, &far, line);
        assert_eq!(script(&target, &far, line), "", "the second run moved something");
        moved
    };
    let as_near = |there: String| same(&Look::All.near(&tree), &there);
    assert!(twice(up).contains("<f"), "nothing was sent");
    as_near(Look::All.far(&target, &format!("{far}/tree")));
    assert!(twice(down).contains(">f"), "nothing came back");
    as_near(Look::All.near(&target.dir().join("back")));

    std::fs::remove_file(tree.join("dangling")).unwrap();
    std::fs::remove_dir_all(tree.join("level 0")).unwrap();
    std::fs::rename(tree.join("UPPER.txt"), tree.join("lower.txt")).unwrap();
    std::fs::write(tree.join("sub/added"), "more").unwrap();
    set_old_times(&tree);
    let moved = twice(up);
    assert!(moved.contains("*deleting") && moved.contains("sub/added"), "{moved}");
    as_near(Look::All.far(&target, &format!("{far}/tree")));
}

/// Makes `$DIR/work`, a repository with a history and a few MB, and pushes it to a new one at `$FAR/repo.git`.
const MAKE_REPOSITORY: &str = r#"
export GIT_SSH_COMMAND="$SSH" GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null HOME="$DIR"
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
$SSH box "git init -q --bare -b main '$FAR/repo.git'"
git init -q -b main "$DIR/work"
cd "$DIR/work"
for i in $(seq 30); do
    head -c 100000 /dev/urandom >"file $i"; mkdir -p "d$i"; seq $i 2000 >"d$i/lines"
    git add . && git commit -qm "change $i"
done
git remote add origin "box:$FAR/repo.git"
git push -q -u origin main
"#;

#[test]
fn git_clones_ten_times() {
    if !installed(&[("git", "git")]) {
        return;
    }
    let target = Target::start();
    let far = target.far_dir();
    let text = format!(
        "{MAKE_REPOSITORY}
         for i in $(seq {}); do
             git clone -q \"box:$FAR/repo.git\" \"$DIR/clone\"
             git -C \"$DIR/clone\" fsck --full --strict
             test \"$(git -C \"$DIR/clone\" rev-parse HEAD)\" = \"$(git rev-parse HEAD)\"
             diff -r --exclude=.git \"$DIR/clone\" \"$DIR/work\"
             rm -rf \"$DIR/clone\"
             echo cloned
         done",
        scaled(10)
    );
    assert_eq!(script(&target, &far, &text).matches("cloned").count(), scaled(10));
}

#[test]
fn heavy_git_pushes_and_fetches_a_hundred_times() {
    if !installed(&[("git", "git")]) {
        return;
    }
    let target = Target::start();
    let far = target.far_dir();
    let text = format!(
        "{MAKE_REPOSITORY}
         git clone -q \"box:$FAR/repo.git\" \"$DIR/clone\"
         for i in $(seq {}); do
             seq $i >counter; git add . && git commit -qm \"round $i\" && git push -q
             git -C \"$DIR/clone\" fetch -q
             test \"$(git -C \"$DIR/clone\" rev-parse origin/main)\" = \"$(git rev-parse HEAD)\"
             git -C \"$DIR/clone\" fetch -q
             echo fetched
         done
         git -C \"$DIR/clone\" fsck --full --strict",
        scaled(100)
    );
    assert_eq!(script(&target, &far, &text).matches("fetched").count(), scaled(100));
    target.exec(&format!("git -C {far}/repo.git fsck --full --strict")).ok();
    // Refusals are told as such.
    let output = run(
        &mut target.script(&format!("GIT_SSH_COMMAND=\"$SSH\" git clone -q box:{far}/nothing.git $DIR/none")),
        Feed::Null,
        DEADLINE,
    );
    output.exits(128);
    assert!(output.errors().contains("does not appear to be a git repository"), "{}", output.errors());
}

/// rclone with a remote `box:` that is this login.
fn rclone(target: &Target, login: &str) -> Command {
    let file = target.dir().join("rclone.conf");
    // rclone wants a key, a password or an agent; its library tries "none" before any of them.
    let proof = match target.kind() {
        Kind::Sshd => format!("key_file = {}", target.key().display()),
        Kind::Gateway => {
            let hidden = run(Command::new("rclone").args(["obscure", "unused"]), Feed::Null, DEADLINE).ok();
            format!("pass = {hidden}")
        }
    };
    let text =
        format!("[box]\ntype = sftp\nhost = 127.0.0.1\nport = {}\nuser = {login}\n{proof}\n", target.port);
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("rclone");
    command.arg("--config").arg(file).args(["--retries", "1", "--low-level-retries", "1"]);
    command.env("HOME", target.dir()).env_remove("SSH_AUTH_SOCK");
    command
}

/// Copies a tree with rclone to `far` and back, and has it compare.
#[track_caller]
fn rclone_copies(target: &Target, login: &str, far: &str) {
    let tree = target.near_tree();
    let back = target.dir().join("back");
    let (near, there) = (tree.to_str().unwrap(), format!("box:{far}/tree"));
    let rclone_run = |args: &[&str]| run(rclone(target, login).args(args), Feed::Null, LONG);
    rclone_run(&["sync", "--create-empty-src-dirs", near, &there]).ok();
    let checked = rclone_run(&["check", "--download", near, &there]);
    checked.ok();
    assert!(checked.errors().contains("0 differences found"), "{}", checked.errors());
    rclone_run(&["copy", "--create-empty-src-dirs", &there, back.to_str().unwrap()]).ok();
    same(&Look::Contents.near(&tree), &Look::Contents.near(&back));
    // A difference is found, and a second run repairs it.
    std::fs::write(tree.join("UPPER.txt"), "other").unwrap();
    std::fs::remove_file(tree.join("empty")).unwrap();
    rclone_run(&["check", "--download", near, &there]).exits(1);
    rclone_run(&["sync", near, &there]).ok();
    rclone_run(&["check", "--download", near, &there]).ok();
}

#[test]
fn rclone_sync_and_check() {
    if !installed(&[("rclone", "rclone")]) {
        return;
    }
    let target = Target::start();
    let far = target.far_dir();
    rclone_copies(&target, &target.login, &far);
}

#[test]
fn rclone_with_a_token_for_files_alone() {
    if skip::oracle_lacks("tokens") || !installed(&[("rclone", "rclone")]) {
        return;
    }
    let target = Target::start();
    let far = target.far_dir();
    let token = target.gateway().token("box", &["--sftp-root", &far]).token;
    rclone_copies(&target, &token, "");
}

#[test]
fn lftp_mirrors_both_ways() {
    if !installed(&[("lftp", "lftp")]) {
        return;
    }
    let target = Target::start();
    let (far, tree) = (target.far_dir(), target.near_tree());
    std::os::unix::fs::symlink("../UPPER.txt", tree.join("sub/link")).unwrap();
    let text = format!(
        "HOME=$DIR lftp -c \"set cmd:fail-exit yes; set net:max-retries 1; set net:timeout 20; \
         set sftp:connect-program '$SSH -a -x'; open -u {},unused sftp://box; \
         mirror -R --parallel=4 $DIR/tree $FAR/tree; mirror --parallel=4 $FAR/tree $DIR/back; \
         mirror -R --delete $DIR/tree $FAR/tree; cls -1 $FAR/tree\"",
        target.login
    );
    assert!(script(&target, &far, &text).contains("UPPER.txt"));
    // It keeps the times of files, not those of directories.
    let near = Look::Contents.near(&tree);
    same(&near, &Look::Contents.far(&target, &format!("{far}/tree")));
    same(&near, &Look::Contents.near(&target.dir().join("back")));
}

/// Runs a client script as `clients/files_common.py` says and compares what arrived where.
fn check_script(mut command: Command) {
    let target = Target::start();
    let (far, tree) = (target.far_dir(), target.near_tree());
    command.arg(target.port.to_string()).arg(&target.login).arg(target.dir()).arg(&far);
    if target.kind() == Kind::Sshd {
        command.arg(target.key());
    }
    run(command.env("HOME", target.dir()), Feed::Null, DEADLINE).ok();
    let near = Look::Contents.near(&tree);
    same(&near, &Look::Contents.far(&target, &format!("{far}/up")));
    same(&near, &Look::Contents.near(&target.dir().join("back")));
    target.exec(&format!("test ! -e {far}/play")).ok();
}

#[test]
fn paramiko() {
    if let Some(command) = python("paramiko_files.py") {
        check_script(command);
    }
}

#[test]
fn asyncssh_sftp_and_scp() {
    if let Some(command) = python("asyncssh_files.py") {
        check_script(command);
    }
}

#[test]
fn node_ssh2_sftp_client() {
    if let Some(command) = node("node_files.js", "ssh2-sftp-client") {
        check_script(command);
    }
}

/// A directory of the far side, mounted; unmounted when dropped.
struct Mount {
    process: Guard,
    dir: PathBuf,
}

impl Mount {
    /// Mounts `far` at `dir/mnt` with sshfs; `None`, after noting a skip, where the machine cannot.
    ///
    /// # Panics
    /// When sshfs does not get it mounted.
    fn new(target: &Target, far: &str) -> Option<Self> {
        if !installed(&[("sshfs", "sshfs"), ("fusermount3", "fuse3")]) {
            return None;
        }
        if std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_err() {
            skip::because("/dev/fuse cannot be opened");
            return None;
        }
        let (dir, log) = (target.dir().join("mnt"), target.dir().join("sshfs.log"));
        std::fs::create_dir_all(&dir).unwrap();
        let mut command = Command::new("sshfs");
        command.arg("-f").arg("-F").arg(target.config()).arg(format!("box:{far}")).arg(&dir);
        let output = std::fs::File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let mut mount = Self { process: Guard::spawn(&mut command), dir };
        let outside = std::fs::metadata(target.dir()).unwrap().dev();
        let up = until(Duration::from_secs(20), || {
            mount.process.wait(Duration::ZERO).is_some() || mount.device().is_some_and(|it| it != outside)
        });
        let said = || std::fs::read_to_string(&log).unwrap();
        assert!(up && mount.process.wait(Duration::ZERO).is_none(), "sshfs did not mount: {}", said());
        Some(mount)
    }

    fn device(&self) -> Option<u64> {
        std::fs::metadata(&self.dir).ok().map(|it| it.dev())
    }

    /// Unmounts, so that everything has been written and nothing is left in a cache, and waits for sshfs to end.
    #[track_caller]
    fn end(mut self) {
        run(Command::new("fusermount3").arg("-u").arg(&self.dir), Feed::Null, DEADLINE).ok();
        assert_eq!(self.process.wait(DEADLINE), Some(0), "sshfs did not end well");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.process.wait(Duration::ZERO).is_none() {
            let mut command = Command::new("fusermount3");
            let _ = command.args(["-u", "-z"]).arg(&self.dir).stderr(Stdio::null()).status();
        }
    }
}

/// Runs fio on the mounted directory: two jobs that write at random places, blocks from 512 bytes to 256 KiB, each with a checksum.
#[track_caller]
fn fio(mount: &Mount, more: &[&str]) {
    let mut command = Command::new("fio");
    command.args(["--name=verify", "--rw=randwrite", "--size=48M", "--numjobs=2", "--bsrange=512-256k"]);
    command.args([
        "--randseed=7",
        "--ioengine=psync",
        "--fallocate=none",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
    ]);
    command.arg(format!("--directory={}", mount.dir.display())).args(more);
    let text = run(&mut command, Feed::Null, LONG).ok();
    assert!(text.contains("err= 0"), "{text}");
}

/// Writes, reads it all back and compares; then once more what is there after a new mount, when nothing is in a cache.
#[test]
fn heavy_fio_verifies_files_on_sshfs() {
    if !installed(&[("fio", "fio")]) {
        return;
    }
    let target = Target::start();
    let far = target.far_dir();
    let Some(mount) = Mount::new(&target, &far) else { return };
    fio(&mount, &["--do_verify=1", "--end_fsync=1"]);
    mount.end();
    assert_eq!(target.exec(&format!("stat -c %s {far}/verify*")).ok(), format!("{0}\n{0}", 48 << 20));
    let mount = Mount::new(&target, &far).expect("it was mounted before");
    fio(&mount, &["--verify_only=1"]);
    mount.end();
}

/// How many files there are below `dir`.
fn count_files(dir: &Path) -> usize {
    run(Command::new("find").arg(dir).args(["-type", "f", "-printf", "x"]), Feed::Null, LONG).stdout.len()
}

#[test]
fn heavy_ten_thousand_files_on_sshfs() {
    let target = Target::start();
    let far = target.far_dir();
    let Some(mount) = Mount::new(&target, &far) else { return };
    let count = scaled(10_000);
    let tree = target.dir().join("many");
    make_many(&tree, count);
    assert_eq!(count_files(&tree), count);
    script(&target, &far, "cp -r $DIR/many $DIR/mnt/many");
    mount.end();
    let near = Look::Contents.near(&tree);
    same(&near, &Look::Contents.far(&target, &format!("{far}/many")));
    let mount = Mount::new(&target, &far).expect("it was mounted before");
    script(&target, &far, "cp -r $DIR/mnt/many $DIR/back; rm -r $DIR/mnt/many");
    mount.end();
    same(&near, &Look::Contents.near(&target.dir().join("back")));
    target.exec(&format!("test ! -e {far}/many")).ok();
}
