//! To whom files belong, with which mode and times, and what is refused.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use sandgate_tests::client::DEADLINE;
use sandgate_tests::sftp::{Ground, is_root};
use sandgate_tests::{Feed, Options, paths, rootfs, run, skip};

/// A Sunday in September 2001.
const THEN: u64 = 1_000_000_000;

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Mode and time of change; a directory's last.
fn set(path: &Path, mode: u32, time: u64) {
    set_mode(path, mode);
    let file = std::fs::File::open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(time)).unwrap();
}

/// Name, mode and time of everything below, in the order of the names.
fn facts(root: &Path) -> Vec<(String, u32, i64)> {
    let mut out = Vec::new();
    let mut stack = vec![root.to_owned()];
    while let Some(path) = stack.pop() {
        let meta = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        out.push((name, meta.mode() & 0o7777, meta.mtime()));
        if meta.is_dir() {
            stack.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    out.sort();
    out
}

/// A tree of files with different modes and times.
fn tree(root: &Path) {
    std::fs::create_dir_all(root.join("sub")).unwrap();
    for (number, mode) in [0o644, 0o600, 0o640, 0o755, 0o666, 0o777, 0o440, 0o711].into_iter().enumerate() {
        let file = root.join(format!("sub/mode-{mode:o}"));
        std::fs::write(&file, format!("{number}")).unwrap();
        set(&file, mode, THEN + number as u64);
    }
    set(&root.join("sub"), 0o750, THEN + 100);
    // With a mode that survives the umask of the local side: for the directory named on the command line the client only makes it.
    set(root, 0o755, THEN + 200);
}

/// What a shell of the same login makes is the measure.
fn belongs_to_the_login(ground: &Ground) {
    let local = ground.target.dir().join("local");
    std::fs::create_dir(&local).unwrap();
    std::fs::write(local.join("f"), "f").unwrap();
    set_mode(&local.join("f"), 0o666);
    // The client of the new protocol sets a directory's mode itself, whatever the umask.
    set_mode(&local, 0o755);
    let far = ground.path().display();
    ground.target.exec(&format!("cd {far} && mkdir shell && touch shell/f")).ok();
    ground.sftp(format!("mkdir {far}/sftp\nput local/f {far}/sftp/f\n")).ok();
    ground.scp(&["-r", "local", &format!("box:{far}/scp")]).ok();
    ground.scp(&["-r", "-O", "local", &format!("box:{far}/old")]).ok();
    let facts = |name: &str| {
        ground.target.exec(&format!("cd {far}/{name} && stat -c '%U:%G %a' . f && id -un && umask")).ok()
    };
    let shell = facts("shell");
    assert!(shell.contains("755") && shell.contains("644"), "the umask is not 022: {shell}");
    for way in ["sftp", "scp", "old"] {
        assert_eq!(facts(way), shell, "{way}");
    }
}

#[test]
fn files_belong_to_the_login_user_with_its_umask() {
    belongs_to_the_login(&Ground::of_a_user());
}

#[test]
fn files_belong_to_root_when_root_logs_in() {
    belongs_to_the_login(&Ground::new());
}

#[test]
fn relative_paths_begin_at_the_users_home() {
    let ground = Ground::of_a_user();
    let home = ground.target.exec("cd && pwd").ok();
    let far = ground.path().display();
    let output = ground.sftp(format!("pwd\ncd {far}\npwd\n"));
    let expected = format!(
        "Remote working directory: {home}\nsftp> cd {far}\nsftp> pwd\nRemote working directory: {far}\n"
    );
    assert!(output.ok() + "\n" == format!("sftp> pwd\n{expected}"), "{}", output.text());
}

#[test]
fn mode_and_times_are_kept_with_p() {
    keeps_mode_and_times(&Ground::of_a_user());
}

#[test]
fn mode_and_times_are_kept_with_p_by_the_agents_own_scp() {
    if !skip::oracle_lacks("images") {
        keeps_mode_and_times(&Ground::bare());
    }
}

fn keeps_mode_and_times(ground: &Ground) {
    let local = ground.target.dir().join("local");
    tree(&local);
    let expected = facts(&local);
    let far = ground.path().display();
    ground.sftp(format!("mkdir {far}/sftp\nput -rp local/. {far}/sftp\nget -rp {far}/sftp back-sftp\n")).ok();
    ground.scp(&["-rp", "local", &format!("box:{far}/scp")]).ok();
    ground.scp(&["-rp", &format!("box:{far}/scp"), "back-scp"]).ok();
    ground.scp(&["-Orp", "local", &format!("box:{far}/old")]).ok();
    ground.scp(&["-Orp", &format!("box:{far}/old"), "back-old"]).ok();
    for way in ["sftp", "scp", "old"] {
        assert_eq!(facts(&ground.path().join(way)), expected, "{way}, uploaded");
        assert_eq!(facts(&ground.target.dir().join(format!("back-{way}"))), expected, "{way}, downloaded");
    }
}

#[test]
fn mode_times_and_symlinks_are_kept_with_a() {
    if paths::which("rsync").is_none() {
        skip::because("rsync is not installed (Debian package rsync)");
        return;
    }
    let ground = Ground::of_a_user();
    let local = ground.target.dir().join("local");
    tree(&local);
    symlink("sub/mode-644", local.join("sub/link")).unwrap();
    symlink("nowhere at all", local.join("sub/dangling")).unwrap();
    set(&local.join("sub"), 0o750, THEN + 100);
    let ssh = format!("ssh -F {}", ground.target.config().display());
    let sync = |from: &str, to: &str| {
        let mut command = Command::new("rsync");
        command.args(["-a", "-e", &ssh, from, to]).current_dir(ground.target.dir());
        run(&mut command, Feed::Null, DEADLINE).ok();
    };
    let far = ground.path().join("far");
    sync("local/", &format!("box:{}", far.display()));
    sync(&format!("box:{}/", far.display()), "back");
    // The time of a link itself is kept too.
    for root in [&far, &ground.target.dir().join("back")] {
        assert_eq!(facts(root), facts(&local));
        assert_eq!(root.join("sub/dangling").read_link().unwrap(), Path::new("nowhere at all"));
    }
    let user = ground.target.exec("id -un").ok();
    let owners = ground.target.exec(&format!("find {} -printf '%u\\n' | sort -u", far.display())).ok();
    assert_eq!(owners, user);
}

/// Things of somebody else: a file nobody may read, a directory nobody may enter, one nobody may change.
fn of_somebody_else(dir: &Path) {
    for (name, mode) in [("locked", 0o700), ("fixed", 0o755)] {
        std::fs::create_dir(dir.join(name)).unwrap();
        std::fs::create_dir(dir.join(name).join("sub")).unwrap();
        std::fs::write(dir.join(name).join("file"), "file").unwrap();
        set_mode(&dir.join(name).join("file"), 0o644);
        set_mode(&dir.join(name), mode);
    }
    std::fs::write(dir.join("secret"), "secret").unwrap();
    set_mode(&dir.join("secret"), 0o600);
}

#[test]
fn what_is_not_permitted_is_refused_in_opensshs_words() {
    if skip::oracle_lacks("login user other than root") {
        return;
    }
    if !is_root() {
        skip::because("only root can make files of another user");
        return;
    }
    let ground = Ground::of_a_user();
    let (_, _, errors) = ground.same_as_oracle(of_somebody_else, |dir| {
        let mut batch = String::new();
        for place in ["locked", "fixed"] {
            batch += &format!(
                "-ls -1 {dir}/{place}\n-cd {dir}/{place}\n-get {dir}/{place}/file x\n-put ssh_config {dir}/{place}/new\n\
                 -put ssh_config {dir}/{place}/file\n-rm {dir}/{place}/file\n-mkdir {dir}/{place}/new\n-rmdir {dir}/{place}/sub\n\
                 -rename {dir}/{place}/file {dir}/{place}/file2\n-rename {dir}/{place}/file {dir}/file2\n\
                 -ln -s x {dir}/{place}/new\n-ln {dir}/{place}/file {dir}/{place}/new\n-chmod 777 {dir}/{place}/file\n\
                 -chown 1000 {dir}/{place}/file\n-chgrp 0 {dir}/{place}\n-chmod 777 {dir}/{place}\n-get -r {dir}/{place} tree\n\
                 -put -p ssh_config {dir}/{place}/file\n"
            );
        }
        batch + &format!("-get {dir}/secret x\n-put ssh_config {dir}/secret\n-chmod 644 {dir}/secret\n-get -p {dir}/secret x\n")
    });
    assert!(errors.contains(": Permission denied"), "{errors}");

    let far = ground.path().join("server");
    let far = far.display();
    let refused = ground.scp(&[&format!("box:{far}/secret"), "x"]);
    refused.exits(1);
    assert_eq!(refused.errors().trim_end(), format!("scp: remote open \"{far}/secret\": Permission denied"));
    let refused = ground.scp(&["-O", &format!("box:{far}/secret"), "x"]);
    refused.exits(1);
    assert_eq!(refused.errors().trim_end(), format!("scp: {far}/secret: Permission denied"));
    let refused = ground.scp(&["-O", "ssh_config", &format!("box:{far}/fixed/new")]);
    refused.exits(1);
    assert_eq!(refused.errors().trim_end(), format!("scp: {far}/fixed/new: Permission denied"));
}

/// What `scp -O` says, each time.
fn refusals_of_the_old_scp(ground: &Ground) -> Vec<(i32, String)> {
    of_somebody_else(ground.path());
    let far = ground.path().display().to_string();
    let from = |name: &str| ground.scp(&["-O", &format!("box:{far}/{name}"), "x"]);
    let to = |name: &str| ground.scp(&["-O", "ssh_config", &format!("box:{far}/{name}")]);
    let outputs = [
        from("secret"),
        from("none"),
        from("fixed"),
        from("secret/x"),
        from("locked/*"),
        to("secret"),
        to("secret/"),
        to("secret/x"),
        to("fixed"),
        to("fixed/new"),
        to("locked/new"),
        to("none/new"),
        to("none/"),
    ];
    outputs.map(|it| (it.code, it.errors().replace(&far, "DIR"))).to_vec()
}

#[test]
fn the_agents_own_scp_refuses_in_opensshs_words() {
    if skip::oracle_lacks("images") {
        return;
    }
    if !is_root() {
        skip::because("only root can make files of another user");
        return;
    }
    let ours = refusals_of_the_old_scp(&Ground::bare());
    let theirs = refusals_of_the_old_scp(&Ground::new());
    assert_eq!(ours, theirs, "the agent's own scp is on the left, the host's on the right");
    assert!(ours.iter().all(|(code, words)| *code == 1 && words.starts_with("scp: DIR/")), "{ours:?}");
}

/// The ids of the host that a sandbox's user and group numbers begin at, from `uid_map` or `gid_map` of its first process.
fn first_id(ground: &Ground, map: &str) -> u32 {
    let map = std::fs::read_to_string(format!("/proc/{}/{map}", ground.root())).unwrap();
    let mut words = map.split_whitespace();
    assert_eq!(words.next(), Some("0"), "{map}");
    words.next().unwrap().parse().unwrap()
}

/// A login whose only way to a file is a group that `/etc/group` puts it into, and one that is in no such group.
#[test]
fn a_group_of_the_login_user_counts() {
    if skip::oracle_lacks("login user other than root") {
        return;
    }
    if !is_root() {
        skip::because("only root can make files of another user");
        return;
    }
    const SHARED: u32 = 2000;
    let image = tempfile::tempdir().unwrap();
    rootfs::empty_image(image.path());
    let etc = image.path().join("etc");
    let passwd = "root:x:0:0::/:/bin/sh\nmember:x:1000:1000::/:/bin/sh\nother:x:1001:1001::/:/bin/sh\n";
    std::fs::write(etc.join("passwd"), passwd).unwrap();
    let group = format!("root:x:0:\nmember:x:1000:\nother:x:1001:\nshared:x:{SHARED}:nobody,member\n");
    std::fs::write(etc.join("group"), group).unwrap();

    let gets = |user: &str| {
        let arguments = ["--image", image.path().to_str().unwrap(), "--user", user];
        let ground = Ground::with(Options {
            create_args: arguments.map(str::to_owned).to_vec(),
            ..Options::default()
        });
        let file = ground.path().join("f");
        std::fs::write(&file, "of the group").unwrap();
        let (root, shared) = (first_id(&ground, "uid_map"), first_id(&ground, "gid_map") + SHARED);
        chown(&file, Some(root), Some(shared)).unwrap();
        set_mode(&file, 0o640);
        let far = file.display();
        let listed = ground.sftp(format!("ls -l {far}\n")).ok();
        let owners: Vec<&str> = listed.lines().last().unwrap().split_whitespace().take(4).collect();
        assert_eq!(owners, ["-rw-r-----", "?", "root", "shared"], "as seen inside: {listed}");
        let outputs = [
            ground.sftp(format!("get {far} by-sftp\n")),
            ground.scp(&[&format!("box:{far}"), "by-scp"]),
            ground.scp(&["-O", &format!("box:{far}"), "by-old"]),
        ];
        let came = ["by-sftp", "by-scp", "by-old"]
            .map(|name| std::fs::read_to_string(ground.target.dir().join(name)).unwrap_or_default());
        let words = outputs.map(|output| (output.code, output.errors().replace(&far.to_string(), "FILE")));
        (words, came)
    };
    let (words, came) = gets("member");
    assert!(words.iter().all(|(code, _)| *code == 0), "{words:?}");
    assert_eq!(came, ["of the group"; 3]);
    let (words, came) = gets("other");
    assert!(words.iter().all(|(code, words)| *code == 1 && words.contains("Permission denied")), "{words:?}");
    assert_eq!(came, [""; 3]);
}
