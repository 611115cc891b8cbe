//! A root directory: nothing outside of it is reached, by no request and no race.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use sandgate_sftp::codec::*;
use sandgate_sftp::vfs::{Follow, RootError, RootedVfs, Times, Vfs};

/// `outside/secret`, and `root` with ways that lead there for whoever is not held.
fn trap() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("sub")).unwrap();
    std::fs::create_dir(dir.path().join("outside")).unwrap();
    std::fs::write(dir.path().join("outside/secret"), "secret").unwrap();
    std::fs::write(root.join("inside"), "inside").unwrap();
    symlink(dir.path().join("outside"), root.join("abs-dir")).unwrap();
    symlink(dir.path().join("outside/secret"), root.join("abs")).unwrap();
    symlink("../outside/secret", root.join("rel")).unwrap();
    symlink("../../outside", root.join("sub/rel-dir")).unwrap();
    symlink("/etc/passwd", root.join("passwd")).unwrap();
    symlink("/inside", root.join("abs-inside")).unwrap();
    symlink("../../../../inside", root.join("sub/up")).unwrap();
    symlink("/proc/self/root/etc/passwd", root.join("magic")).unwrap();
    dir
}

fn client(dir: &Path) -> Client {
    Client::rooted(&dir.join("root"))
}

const WAYS: [&[u8]; 12] = [
    b"/abs",
    b"/rel",
    b"/passwd",
    b"/magic",
    b"abs-dir/secret",
    b"sub/rel-dir/secret",
    b"../outside/secret",
    b"/../outside/secret",
    b"sub/../../outside/secret",
    b"sub/rel-dir/../outside/secret",
    b"/etc/passwd",
    b"/proc/self/root/etc/passwd",
];

#[test]
fn no_way_leads_out_for_reading() {
    let dir = trap();
    let mut client = client(dir.path());
    for way in WAYS {
        assert_eq!(client.open(way, READ), Err(Status::NO_SUCH_FILE), "{}", way.escape_ascii());
        assert_eq!(client.attrs(Request::Stat { id: 1, path: way }), Err(Status::NO_SUCH_FILE));
    }
    assert_eq!(client.opendir(b"abs-dir"), Err(Status::NO_SUCH_FILE));
    let root: Vec<Vec<u8>> = client.list(b"/..").into_iter().map(|(name, ..)| name).collect();
    assert!(root.contains(&b"inside".to_vec()) && !root.contains(&b"outside".to_vec()));
}

#[test]
fn links_and_dots_mean_what_they_mean_inside() {
    let dir = trap();
    let mut client = client(dir.path());
    for way in [&b"abs-inside"[..], b"sub/up", b"/../../inside", b"inside", b"sub/../inside"] {
        let handle = client.open(way, READ).unwrap();
        assert_eq!(client.read(&handle, 0, 99), Ok(b"inside".to_vec()));
    }
    assert_eq!(client.realpath(b"."), Ok(b"/".to_vec()));
    assert_eq!(client.realpath(b"sub/up"), Ok(b"/inside".to_vec()));
    assert_eq!(client.realpath(b"/../.."), Ok(b"/".to_vec()));
    assert_eq!(client.name(Request::Readlink { id: 1, path: b"passwd" }), Ok(b"/etc/passwd".to_vec()));
    assert_eq!(client.name(Request::Readlink { id: 1, path: b"inside" }), Err(Status::BAD_MESSAGE));
    assert_eq!(client.attrs(Request::Lstat { id: 1, path: b"passwd" }).unwrap().mode, Some(0o120_777));
    assert_eq!(
        client.attrs(Request::Lstat { id: 1, path: b"sub/" }).unwrap().mode.unwrap() & 0o170_000,
        0o040_000
    );
}

#[test]
fn no_way_leads_out_for_writing() {
    let dir = trap();
    let mut client = client(dir.path());
    let attrs = Attrs { mode: Some(0o600), times: Some((1, 1)), size: Some(0), owner: None };
    for way in [&b"abs"[..], b"rel", b"abs-dir/secret", b"sub/rel-dir/secret", b"../outside/secret"] {
        assert_eq!(client.call(Request::Setstat { id: 1, path: way, attrs }).status(), Status::NO_SUCH_FILE);
        let posix = Extended::PosixRename { from: b"inside", to: b"abs-dir/new" };
        assert_eq!(client.extended(posix).status(), Status::NO_SUCH_FILE);
        let hard = Extended::Hardlink { from: way, to: b"stolen" };
        let status = client.extended(hard).status();
        if status == Status::OK {
            // The link itself was linked, which still leads nowhere.
            assert_eq!(client.open(b"stolen", READ), Err(Status::NO_SUCH_FILE));
            client.call(Request::Remove { id: 1, path: b"stolen" });
        }
    }
    for way in [&b"abs-dir/new"[..], b"sub/rel-dir/new", b"../outside/new"] {
        assert_eq!(client.open(way, NEW), Err(Status::NO_SUCH_FILE));
        assert_eq!(client.call(Request::Mkdir { id: 1, path: way, attrs }).status(), Status::NO_SUCH_FILE);
        assert_eq!(
            client.call(Request::Symlink { id: 1, target: b"x", link: way }).status(),
            Status::NO_SUCH_FILE
        );
        assert_eq!(client.call(Request::Remove { id: 1, path: way }).status(), Status::NO_SUCH_FILE);
        assert_eq!(client.call(Request::Rmdir { id: 1, path: way }).status(), Status::NO_SUCH_FILE);
    }
    // A dangling absolute link is created where it leads to inside.
    symlink("/made", dir.path().join("root/dangling")).unwrap();
    assert!(client.open(b"dangling", NEW).is_ok());
    assert!(dir.path().join("root/made").exists());
    let outside: Vec<_> = std::fs::read_dir(dir.path().join("outside")).unwrap().collect();
    assert_eq!(outside.len(), 1);
    assert_eq!(std::fs::read(dir.path().join("outside/secret")).unwrap(), b"secret");
}

#[test]
fn operations_work_inside_as_they_do_without_a_root() {
    let dir = trap();
    let mut client = client(dir.path());
    let mode = Attrs { mode: Some(0o640), ..Attrs::default() };
    assert_eq!(
        client.call(Request::Setstat { id: 1, path: b"abs-inside", attrs: mode }).status(),
        Status::OK
    );
    assert_eq!(client.attrs(Request::Stat { id: 1, path: b"inside" }).unwrap().mode, Some(0o100_640));
    let times = Attrs { times: Some((3, 4)), ..Attrs::default() };
    assert_eq!(client.call(Request::Setstat { id: 1, path: b"inside", attrs: times }).status(), Status::OK);
    assert_eq!(client.extended(Extended::Lsetstat { path: b"passwd", attrs: times }).status(), Status::OK);
    assert_eq!(client.attrs(Request::Lstat { id: 1, path: b"passwd" }).unwrap().times, Some((3, 4)));
    assert_eq!(
        client.extended(Extended::Lsetstat { path: b"passwd", attrs: mode }).status(),
        Status::FAILURE
    );
    let size = Attrs { size: Some(3), ..Attrs::default() };
    assert_eq!(client.call(Request::Setstat { id: 1, path: b"inside", attrs: size }).status(), Status::OK);
    assert_eq!(client.call(Request::Setstat { id: 1, path: b"sub", attrs: size }).status(), Status::FAILURE);
    let none = Attrs::default();
    assert_eq!(client.call(Request::Mkdir { id: 1, path: b"new/", attrs: none }).status(), Status::OK);
    assert_eq!(client.call(Request::Rename { id: 1, from: b"new/", to: b"sub/moved" }).status(), Status::OK);
    assert_eq!(
        client.call(Request::Rename { id: 1, from: b"inside", to: b"sub/moved" }).status(),
        Status::FAILURE
    );
    assert_eq!(client.call(Request::Rmdir { id: 1, path: b"sub/moved" }).status(), Status::OK);
    assert_eq!(client.extended(Extended::Hardlink { from: b"inside", to: b"sub/hard" }).status(), Status::OK);
    assert!(matches!(client.extended(Extended::Statvfs { path: b"/" }).reply(), Reply::Extended { .. }));
    for path in [&b"/"[..], b".", b"..", b"sub/..", b"sub/."] {
        for request in [
            Request::Remove { id: 1, path },
            Request::Rmdir { id: 1, path },
            Request::Mkdir { id: 1, path, attrs: none },
            Request::Rename { id: 1, from: path, to: b"gone" },
            Request::Symlink { id: 1, target: b"x", link: path },
        ] {
            assert_ne!(client.call(request).status(), Status::OK, "{request:?}");
        }
    }
    let home = |user| Request::Extended { id: 1, request: Extended::HomeDirectory { user } };
    assert!(client.name(home(b"")).is_ok());
}

#[test]
fn the_directory_above_the_root_shows_nothing() {
    let dir = trap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let mut client = client(dir.path());
    let list = client.list(b"/");
    let find = |wanted: &[u8]| list.iter().find(|(name, ..)| name == wanted).unwrap().2;
    assert_eq!(find(b".."), find(b"."));
}

#[test]
fn a_race_of_links_and_renames_never_leads_out() {
    let dir = trap();
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("a/deep/er")).unwrap();
    std::fs::write(root.join("a/secret"), "inside").unwrap();
    std::fs::write(root.join("victim"), "mine").unwrap();
    let vfs = Arc::new(RootedVfs::new(root.as_os_str().as_bytes()).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    // `way` is by turns a directory inside and a link to the one outside; `deep` moves while `..` is walked from it.
    let mover = {
        let (root, stop, outside) = (root.clone(), Arc::clone(&stop), dir.path().join("outside"));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = std::fs::rename(root.join("a"), root.join("way"));
                let _ = std::fs::rename(root.join("way/deep"), root.join("deep"));
                let _ = std::fs::rename(root.join("deep"), root.join("way/deep"));
                let _ = std::fs::rename(root.join("way"), root.join("a"));
                let _ = symlink(&outside, root.join("way"));
                let _ = std::fs::remove_file(root.join("way"));
            }
        })
    };
    let times = Times { atime: 1, atime_nsec: 0, mtime: 1, mtime_nsec: 0 };
    let mut buf = [0; 16];
    let began = std::time::Instant::now();
    while began.elapsed() < std::time::Duration::from_millis(1500) {
        for path in
            [&b"way/secret"[..], b"a/deep/er/../../../../outside/secret", b"way/deep/../../../outside/secret"]
        {
            if let Ok(file) = vfs.open(path, READ, 0, sandgate_sftp::vfs::Wait::Allowed) {
                let n = file.read_at(&mut buf, 0).unwrap();
                assert_eq!(&buf[..n], b"inside");
            }
            let _ = vfs.set_mode(path, 0o444, Follow::Yes);
            let _ = vfs.set_times(path, times, Follow::Yes);
        }
        let _ = vfs.remove_file(b"way/victim");
        let _ = vfs.link(b"victim", b"way/victim");
        let _ = vfs.make_dir(b"way/made", 0o700);
        let _ = vfs.symlink(b"x", b"way/linked");
        let _ = vfs.rename(b"way/linked", b"way/renamed");
        let _ = vfs.remove_file(b"way/renamed");
        let _ = vfs.remove_dir(b"way/made");
    }
    stop.store(true, Ordering::Relaxed);
    mover.join().unwrap();
    let outside: Vec<_> =
        std::fs::read_dir(dir.path().join("outside")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(outside, ["secret"]);
    let meta = std::fs::metadata(dir.path().join("outside/secret")).unwrap();
    assert_ne!(std::os::unix::fs::MetadataExt::mtime(&meta), 1);
}

#[test]
fn a_root_that_is_none_is_an_error() {
    assert!(matches!(RootedVfs::new(b"/nonexistent"), Err(RootError::Root(_))));
    assert!(matches!(RootedVfs::new(b"/etc/passwd"), Err(RootError::Root(_))));
}
