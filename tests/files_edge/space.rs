//! No room: a full disk, and a quota. Both need a file system of their own, which only root can mount.

use std::path::{Path, PathBuf};
use std::process::Command;

use sandgate_tests::client::DEADLINE;
use sandgate_tests::sftp::{Ground, is_root};
use sandgate_tests::{Feed, Options, data, paths, run, skip};

/// Unmounts when dropped. It is to outlive the [`Ground`] that stands on it.
#[derive(Default)]
struct Mounted(Option<PathBuf>);

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            let _ = Command::new("umount").arg("-l").arg(dir).status();
            // The ground's own attempt found it busy.
            let _ = std::fs::remove_dir(dir);
        }
    }
}

fn root_only() -> bool {
    if !is_root() {
        skip::because("only root can mount a small file system");
    }
    is_root()
}

/// Writes more than fits, then what fits after the first is removed; says the same as OpenSSH of all of it.
fn fills_up(ground: &Ground, limit: usize, words: &str) {
    std::fs::write(ground.target.dir().join("big"), data::random(9, 3 * limit)).unwrap();
    std::fs::write(ground.target.dir().join("small"), data::random(10, limit / 4)).unwrap();
    let (code, text, errors) = ground.same_as_oracle(
        |_| (),
        |dir| {
            format!(
                "-put big {dir}/big\n-put small {dir}/later\nls -1 {dir}\nrm {dir}/big\n-rm {dir}/later\n\
                 put small {dir}/small\nget {dir}/small back\nrm {dir}/small\n"
            )
        },
    );
    assert_eq!(code, 0, "{errors}");
    assert!(errors.contains("write remote \"DIR/big\": Failure"), "{errors}");
    assert!(text.contains("big\n"), "what was written until then stays: {text}");
    assert_eq!(
        std::fs::read(ground.target.dir().join("back")).unwrap(),
        std::fs::read(ground.target.dir().join("small")).unwrap()
    );

    let far = ground.path().join("server");
    let far = far.display();
    let refused = ground.scp(&["big", &format!("box:{far}/big")]);
    refused.exits(1);
    assert!(refused.errors().contains(": Failure"), "{}", refused.errors());
    ground.sftp(format!("rm {far}/big\n")).ok();
    let refused = ground.scp(&["-O", "big", &format!("box:{far}/big")]);
    refused.exits(1);
    assert_eq!(refused.errors().trim_end(), format!("scp: {far}/big: {words}"));
    // The session after it finds everything as it should be.
    ground.sftp(format!("rm {far}/big\nput small {far}/small\nls -1 {far}\n")).ok();
}

#[test]
fn a_full_disk_fails_in_opensshs_words_and_harms_nothing() {
    if !root_only() {
        return;
    }
    let mut mounted = Mounted::default();
    let ground = Ground::prepared(Options::default(), |dir| mount_small(dir, &mut mounted));
    fills_up(&ground, 1 << 20, "No space left on device");
}

#[test]
fn a_full_disk_fails_in_opensshs_words_with_the_agents_own_scp() {
    if skip::oracle_lacks("images") || !root_only() {
        return;
    }
    let mut mounted = Mounted::default();
    let ground = Ground::bare_prepared(|dir| mount_small(dir, &mut mounted));
    fills_up(&ground, 1 << 20, "No space left on device");
}

/// Mounts a file system of 1 MiB.
fn mount_small(dir: &Path, mounted: &mut Mounted) {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(dir);
    run(&mut mount, Feed::Null, DEADLINE).ok();
    mounted.0 = Some(dir.to_owned());
}

/// A btrfs in a file, with a limit on all that is in it: the one quota that needs no support for quotas per user in the kernel.
fn with_quota(image: &Path, dir: &Path, limit: usize) -> Result<(), String> {
    std::fs::File::create(image).and_then(|file| file.set_len(256 << 20)).map_err(|err| err.to_string())?;
    for line in [
        format!("mkfs.btrfs -q {}", image.display()),
        format!("mount -o loop {} {}", image.display(), dir.display()),
        format!("btrfs quota enable {}", dir.display()),
        format!("btrfs qgroup limit {limit} {}", dir.display()),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let output = run(Command::new(words[0]).args(&words[1..]), Feed::Null, DEADLINE);
        if output.code != 0 {
            return Err(format!("{line}: {}", output.errors().trim()));
        }
    }
    Ok(())
}

fn over_quota(start: impl FnOnce(&mut dyn FnMut(&Path)) -> Ground) {
    if paths::which("mkfs.btrfs").is_none() {
        skip::because("mkfs.btrfs is not installed (Debian package btrfs-progs)");
        return;
    }
    let limit = 4 << 20;
    let mut mounted = Mounted::default();
    let image = tempfile::NamedTempFile::new().unwrap();
    let mut failed = None;
    let ground = start(&mut |dir| {
        mounted.0 = Some(dir.to_owned());
        failed = with_quota(image.path(), dir, limit).err();
    });
    if let Some(reason) = failed {
        skip::because(&format!("no file system with quotas can be had here: {reason}"));
        return;
    }
    fills_up(&ground, limit, "Disk quota exceeded");
}

#[test]
fn a_quota_fails_in_opensshs_words_and_harms_nothing() {
    if root_only() {
        over_quota(|prepare| Ground::prepared(Options::default(), prepare));
    }
}

#[test]
fn a_quota_fails_in_opensshs_words_with_the_agents_own_scp() {
    if !skip::oracle_lacks("images") && root_only() {
        over_quota(|prepare| Ground::bare_prepared(prepare));
    }
}
