//! What each request does and answers, through the whole engine, on a real directory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use common::*;
use sandgate_sftp::codec::*;
use sandgate_sftp::requests::Permitted;
use sandgate_sftp::vfs::{FsStat, OpenFlags, OsVfs, ReadOnly};
use sandgate_sftp::{Config, ServeError};

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_file_is_written_read_and_closed() {
    let dir = dir();
    let (mut client, path) = (Client::new(), at(dir.path(), b"f"));
    let handle = client.open(&path, NEW.with(READ)).unwrap();
    assert_eq!(client.write(&handle, 0, b"hello"), Status::OK);
    assert_eq!(client.write(&handle, 5, b" you"), Status::OK);
    assert_eq!(client.read(&handle, 0, 100), Ok(b"hello you".to_vec()));
    assert_eq!(client.read(&handle, 6, 2), Ok(b"yo".to_vec()));
    assert_eq!(client.read(&handle, 0, 0), Ok(Vec::new()));
    assert_eq!(client.read(&handle, 9, 1), Err(Status::EOF));
    assert_eq!(client.close(&handle), Status::OK);
    assert_eq!(client.close(&handle), Status::NO_SUCH_FILE);
    assert_eq!(client.read(&handle, 0, 1), Err(Status::FAILURE));
    assert_eq!(client.write(&handle, 0, b""), Status::FAILURE);
    client.end().unwrap();
    let name = String::from_utf8(path).unwrap();
    assert_eq!(client.recorded(), [format!("opened 0 {name}"), format!("wrote 9 {name} 9")]);
}

#[test]
fn open_flags_mean_what_they_mean_to_open() {
    let dir = dir();
    let (mut client, path) = (Client::new(), at(dir.path(), b"f"));
    assert_eq!(client.open(&path, READ), Err(Status::NO_SUCH_FILE));
    let exclusive = NEW.with(OpenFlags::EXCLUSIVE);
    let handle = client.open(&path, exclusive).unwrap();
    assert_eq!(client.write(&handle, 0, b"abc"), Status::OK);
    assert_eq!(client.read(&handle, 0, 1), Err(Status::NO_SUCH_FILE), "EBADF as OpenSSH tells it");
    assert_eq!(client.open(&path, exclusive), Err(Status::FAILURE));
    let append = client.open(&path, WRITE.with(OpenFlags::APPEND)).unwrap();
    assert_eq!(client.write(&append, 0, b"d"), Status::OK);
    client.send(&[
        Request::Write { id: 1, handle: &append, offset: 0, data: b"e" },
        Request::Write { id: 2, handle: &append, offset: 1, data: b"f" },
        Request::Write { id: 3, handle: &append, offset: 0, data: b"g" },
    ]);
    for id in 1..4 {
        let answer = client.receive().unwrap();
        assert_eq!((answer.id(), answer.status()), (id, Status::OK));
    }
    assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"abcdefg");
    let reader = client.open(&path, OpenFlags(0)).unwrap();
    assert_eq!(client.write(&reader, 0, b"x"), Status::NO_SUCH_FILE);
    assert_eq!(client.open(b"", READ), Err(Status::NO_SUCH_FILE));
    let folder = client.open(&at(dir.path(), b"."), READ).unwrap();
    assert_eq!(client.read(&folder, 0, 1), Err(Status::FAILURE));
    let long = at(dir.path(), &[b'x'; 256]);
    assert_eq!(client.open(&long, NEW), Err(Status::BAD_MESSAGE));
}

#[test]
fn neighbouring_writes_each_get_an_answer_and_land_where_they_belong() {
    let dir = dir();
    let mut client = Client::new();
    let handle = client.open(&at(dir.path(), b"f"), NEW).unwrap();
    // 200 of 1000 bytes, with a gap after 100 and one that goes back.
    let mut requests = Vec::new();
    let data: Vec<Vec<u8>> = (0..200_u8).map(|i| vec![i; 1000]).collect();
    let mut offset = 0;
    for (id, data) in data.iter().enumerate() {
        if id == 100 {
            offset += 500;
        }
        let offset_here = if id == 150 { 0 } else { offset };
        requests.push(Request::Write { id: id as u32, handle: &handle, offset: offset_here, data });
        offset += 1000;
    }
    client.send(&requests);
    for id in 0..200 {
        let answer = client.receive().unwrap();
        assert_eq!((answer.id(), answer.status()), (id, Status::OK));
    }
    let file = std::fs::read(dir.path().join("f")).unwrap();
    assert_eq!(file.len(), 200_500);
    assert!(file[..1000].iter().all(|b| *b == 150));
    assert!(file[99_000..100_000].iter().all(|b| *b == 99) && file[100_000..100_500].iter().all(|b| *b == 0));
    assert!(file[100_500..101_500].iter().all(|b| *b == 100) && file[199_500..].iter().all(|b| *b == 199));
    client.end().unwrap();
    assert!(client.recorded()[1].starts_with("wrote 200000 "));
}

#[test]
fn the_longest_packets_pass_and_a_longer_one_ends_the_session() {
    let dir = dir();
    let mut client = Client::new();
    let handle = client.open(&at(dir.path(), b"f"), NEW.with(READ)).unwrap();
    let data: Vec<u8> = (0..MAX_DATA).map(|i| i as u8).collect();
    for round in 0..4 {
        assert_eq!(client.write(&handle, round * MAX_DATA as u64, &data), Status::OK);
    }
    assert_eq!(client.read(&handle, MAX_DATA as u64, u32::MAX).unwrap(), data);
    client.send_bytes(&(MAX_PACKET as u32 + 1).to_be_bytes());
    assert!(matches!(client.end(), Err(ServeError::Packet(DecodeError::TooLong))));
}

#[test]
fn offsets_beyond_four_gigabytes_work_in_a_sparse_file() {
    let dir = dir();
    let (mut client, path) = (Client::new(), at(dir.path(), b"f"));
    let handle = client.open(&path, NEW.with(READ)).unwrap();
    let far = 5 << 30;
    assert_eq!(client.write(&handle, far, b"end"), Status::OK);
    assert_eq!(client.read(&handle, far, 10), Ok(b"end".to_vec()));
    assert_eq!(client.read(&handle, far - 2, 3), Ok(b"\0\0e".to_vec()));
    assert_eq!(client.attrs(Request::Fstat { id: 1, handle: &handle }).unwrap().size, Some(far + 3));
    assert_eq!(client.attrs(Request::Stat { id: 1, path: &path }).unwrap().size, Some(far + 3));
    let size = |size| Attrs { size: Some(size), ..Attrs::default() };
    assert_eq!(
        client.call(Request::Fsetstat { id: 1, handle: &handle, attrs: size(6 << 30) }).status(),
        Status::OK
    );
    assert_eq!(
        client.call(Request::Setstat { id: 1, path: &path, attrs: size(u64::MAX) }).status(),
        Status::BAD_MESSAGE
    );
    let meta = std::fs::metadata(dir.path().join("f")).unwrap();
    assert_eq!(meta.len(), 6 << 30);
    assert!(meta.blocks() < 100);
    assert_eq!(client.read(&handle, u64::MAX, 1), Err(Status::BAD_MESSAGE));
}

#[test]
fn any_name_that_the_system_takes_passes() {
    let dir = dir();
    let mut client = Client::new();
    let long = [b'n'; 255];
    let names: [&[u8]; 7] = [b"a b", b"a\nb", b"-rf", b"\xff\xfe", &long, b"~", b"*?[x]\"'\\"];
    for name in names {
        let path = at(dir.path(), name);
        let handle = client.open(&path, NEW).unwrap();
        assert_eq!(client.write(&handle, 0, name), Status::OK);
        assert_eq!(client.close(&handle), Status::OK);
        assert_eq!(client.realpath(&path), Ok(path));
    }
    let listed = client.list(&at(dir.path(), b""));
    let mut expected: Vec<&[u8]> = names.to_vec();
    expected.extend([&b"."[..], b".."]);
    expected.sort_unstable();
    assert_eq!(listed.iter().map(|(name, ..)| &name[..]).collect::<Vec<_>>(), expected);
    for (name, long, attrs) in listed {
        assert!(long.ends_with(&name));
        assert!(
            attrs.mode.is_some() && attrs.size.is_some() && attrs.owner.is_some() && attrs.times.is_some()
        );
    }
    for name in names {
        assert_eq!(client.call(Request::Remove { id: 1, path: &at(dir.path(), name) }).status(), Status::OK);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_large_directory_comes_in_bounded_pieces() {
    let dir = dir();
    for i in 0..2000 {
        std::fs::write(dir.path().join(format!("file-{i}")), "").unwrap();
        if i < 300 {
            std::fs::write(dir.path().join(format!("{i:0>255}")), "").unwrap();
        }
    }
    let mut client = Client::new();
    let handle = client.opendir(&at(dir.path(), b"")).unwrap();
    let mut count = 0;
    loop {
        let answer = client.call(Request::Readdir { id: 1, handle: &handle });
        let Reply::Name { names, .. } = answer.reply() else { break };
        let mut bytes = Vec::new();
        answer.reply().encode(&mut bytes);
        assert!(bytes.len() < 64 * 1024 && names.count() <= 256);
        count += names.count();
    }
    assert_eq!(count, 2302);
    assert_eq!(client.call(Request::Readdir { id: 1, handle: &handle }).status(), Status::EOF);
}

#[test]
fn the_long_name_is_the_line_of_ls() {
    let dir = dir();
    std::fs::write(dir.path().join("f"), "12345").unwrap();
    std::fs::set_permissions(dir.path().join("f"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let etc = dir.path().join("etc");
    std::fs::create_dir(&etc).unwrap();
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    std::fs::write(etc.join("passwd"), format!("login:x:{uid}:{gid}::/home/login:\nother:x:77777:7::/o:\n"))
        .unwrap();
    std::fs::write(etc.join("group"), format!("folk-with-long-name:x:{gid}:\n")).unwrap();
    let config = Config { etc, home: b"/home/login".to_vec(), ..Config::default() };
    let mut client = Client::with(config, Arc::new(OsVfs::new()));
    let list = client.list(&at(dir.path(), b""));
    let line = String::from_utf8(list.into_iter().find(|(name, ..)| name == b"f").unwrap().1).unwrap();
    assert!(line.starts_with("-rw-r-----    1 login    folk-with-long-name        5 "), "{line}");
    assert!(line.ends_with(" f"), "{line}");

    // The same names by number, and home directories.
    let (users, groups) = ([uid.to_be_bytes(), 4242_u32.to_be_bytes()].concat(), gid.to_be_bytes());
    let request =
        Extended::UsersGroupsById { users: Ids::new(&users).unwrap(), groups: Ids::new(&groups).unwrap() };
    let answer = client.extended(request);
    let Reply::Extended { body, .. } = answer.reply() else { panic!() };
    let lists: Vec<Vec<&[u8]>> = Strings(body).map(|list| Strings(list).collect()).collect();
    assert_eq!(lists, [vec![&b"login"[..], b""], vec![b"folk-with-long-name"]]);
    let home = |user| Request::Extended { id: 1, request: Extended::HomeDirectory { user } };
    assert_eq!(client.name(home(b"")), Ok(b"/home/login".to_vec()));
    assert_eq!(client.name(home(b"other")), Ok(b"/o".to_vec()));
    assert_eq!(client.name(home(b"nobody-here")), Err(Status::FAILURE));
}

#[test]
fn attributes_are_set_in_order_and_the_last_error_is_told() {
    let dir = dir();
    let (mut client, path) = (Client::new(), at(dir.path(), b"f"));
    std::fs::write(dir.path().join("f"), "12345").unwrap();
    let attrs = Attrs { size: Some(2), mode: Some(0o104_600), times: Some((11, 22)), owner: None };
    assert_eq!(client.call(Request::Setstat { id: 1, path: &path, attrs }).status(), Status::OK);
    let meta = std::fs::metadata(dir.path().join("f")).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o7777, meta.atime(), meta.mtime()), (2, 0o4600, 11, 22));
    // The size cannot be set, the mode can: both are tried, the failure is told.
    let attrs = Attrs { size: Some(u64::MAX), mode: Some(0o644), ..Attrs::default() };
    assert_eq!(client.call(Request::Setstat { id: 1, path: &path, attrs }).status(), Status::BAD_MESSAGE);
    assert_eq!(std::fs::metadata(dir.path().join("f")).unwrap().mode() & 0o7777, 0o644);

    let handle = client.open(&path, WRITE).unwrap();
    let attrs = Attrs { mode: Some(0o600), times: Some((1, u32::MAX)), ..Attrs::default() };
    assert_eq!(client.call(Request::Fsetstat { id: 1, handle: &handle, attrs }).status(), Status::OK);
    let told = client.attrs(Request::Lstat { id: 1, path: &path }).unwrap();
    assert_eq!((told.mode, told.times), (Some(0o100_600), Some((1, u32::MAX))));

    std::os::unix::fs::symlink("f", dir.path().join("l")).unwrap();
    let link = at(dir.path(), b"l");
    let times = Attrs { times: Some((5, 6)), ..Attrs::default() };
    assert_eq!(client.extended(Extended::Lsetstat { path: &link, attrs: times }).status(), Status::OK);
    assert_eq!(client.attrs(Request::Lstat { id: 1, path: &link }).unwrap().times, Some((5, 6)));
    assert_eq!(client.attrs(Request::Stat { id: 1, path: &link }).unwrap().times, Some((1, u32::MAX)));
    let size = Attrs { size: Some(0), ..Attrs::default() };
    assert_eq!(
        client.extended(Extended::Lsetstat { path: &link, attrs: size }).status(),
        Status::BAD_MESSAGE
    );
    let mode = Attrs { mode: Some(0o777), ..Attrs::default() };
    assert_eq!(client.extended(Extended::Lsetstat { path: &link, attrs: mode }).status(), Status::FAILURE);
    let name = String::from_utf8(path).unwrap();
    assert_eq!(client.recorded()[..2], [format!("resized 2 {name}"), format!("changed 0 {name}")]);
}

#[test]
fn rename_never_replaces_and_posix_rename_does() {
    let dir = dir();
    let mut client = Client::new();
    let p = |name: &[u8]| at(dir.path(), name);
    for name in ["a", "b"] {
        std::fs::write(dir.path().join(name), name).unwrap();
    }
    for name in ["d", "e"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let mut rename =
        |from: &[u8], to: &[u8]| client.call(Request::Rename { id: 1, from: &p(from), to: &p(to) }).status();
    assert_eq!(rename(b"a", b"b"), Status::FAILURE);
    assert_eq!(rename(b"d", b"e"), Status::FAILURE);
    assert_eq!(rename(b"a", b"d"), Status::FAILURE);
    assert_eq!(rename(b"no", b"x"), Status::NO_SUCH_FILE);
    assert_eq!(rename(b"a", b"c"), Status::OK);
    assert_eq!(rename(b"d", b"f"), Status::OK);
    assert_eq!(std::fs::metadata(dir.path().join("c")).unwrap().nlink(), 1);
    assert!(
        !dir.path().join("a").exists() && !dir.path().join("d").exists() && dir.path().join("f").is_dir()
    );
    let mut posix = |from: &[u8], to: &[u8]| {
        client.extended(Extended::PosixRename { from: &p(from), to: &p(to) }).status()
    };
    assert_eq!(posix(b"c", b"b"), Status::OK);
    assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), b"a");
    assert_eq!(posix(b"f", b"e"), Status::OK);
    assert_eq!(posix(b"b", b"e"), Status::FAILURE);
}

#[test]
fn links_are_made_the_way_openssh_orders_the_names() {
    let dir = dir();
    let mut client = Client::new();
    let (target, link) = (at(dir.path(), b"t"), at(dir.path(), b"l"));
    std::fs::write(dir.path().join("t"), "x").unwrap();
    assert_eq!(client.call(Request::Symlink { id: 1, target: b"t", link: &link }).status(), Status::OK);
    assert_eq!(std::fs::read_link(dir.path().join("l")).unwrap(), Path::new("t"));
    assert_eq!(client.name(Request::Readlink { id: 1, path: &link }), Ok(b"t".to_vec()));
    assert_eq!(client.name(Request::Readlink { id: 1, path: &target }), Err(Status::BAD_MESSAGE));
    assert_eq!(client.call(Request::Symlink { id: 1, target: b"t", link: &link }).status(), Status::FAILURE);
    let hard = at(dir.path(), b"h");
    assert_eq!(client.extended(Extended::Hardlink { from: &target, to: &hard }).status(), Status::OK);
    assert_eq!(std::fs::metadata(dir.path().join("h")).unwrap().nlink(), 2);
    assert_eq!(client.extended(Extended::Hardlink { from: &target, to: &hard }).status(), Status::FAILURE);
}

#[test]
fn directories_are_made_and_removed() {
    let dir = dir();
    let (mut client, path) = (Client::new(), at(dir.path(), b"d"));
    let attrs = Attrs { mode: Some(0o41_700), ..Attrs::default() };
    assert_eq!(client.call(Request::Mkdir { id: 1, path: &path, attrs }).status(), Status::OK);
    assert_eq!(std::fs::metadata(dir.path().join("d")).unwrap().mode() & 0o777, 0o700);
    assert_eq!(client.call(Request::Mkdir { id: 1, path: &path, attrs }).status(), Status::FAILURE);
    assert_eq!(client.call(Request::Remove { id: 1, path: &path }).status(), Status::FAILURE);
    std::fs::write(dir.path().join("d/f"), "").unwrap();
    assert_eq!(client.call(Request::Rmdir { id: 1, path: &path }).status(), Status::FAILURE);
    assert_eq!(
        client.call(Request::Rmdir { id: 1, path: &at(dir.path(), b"d/f") }).status(),
        Status::NO_SUCH_FILE
    );
    assert_eq!(client.call(Request::Remove { id: 1, path: &at(dir.path(), b"d/f") }).status(), Status::OK);
    assert_eq!(client.call(Request::Rmdir { id: 1, path: &path }).status(), Status::OK);
    assert_eq!(client.opendir(&path), Err(Status::NO_SUCH_FILE));
}

#[test]
fn realpath_allows_a_missing_last_component_only() {
    let dir = dir();
    let dir_path = dir.path().canonicalize().unwrap();
    let mut client = Client::new();
    std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
    for (target, link) in [("a/b", "l"), ("loop", "loop"), ("nowhere", "dangling"), ("/", "root")] {
        std::os::unix::fs::symlink(target, dir.path().join(link)).unwrap();
    }
    let p = |name: &[u8]| at(&dir_path, name);
    for (asked, told) in [
        (&b"a/b"[..], Ok(p(b"a/b"))),
        (b"a//./b/", Ok(p(b"a/b"))),
        (b"l", Ok(p(b"a/b"))),
        (b"l/..", Ok(p(b"a"))),
        (b"l/new", Ok(p(b"a/b/new"))),
        (b"new", Ok(p(b"new"))),
        (b"dangling", Ok(p(b"nowhere"))),
        (b"new/more", Err(Status::NO_SUCH_FILE)),
        (b"new/", Err(Status::NO_SUCH_FILE)),
        (b"loop", Err(Status::NO_SUCH_FILE)),
        (b"root", Ok(b"/".to_vec())),
        (b"root/../..", Ok(b"/".to_vec())),
    ] {
        assert_eq!(client.realpath(&p(asked)), told, "{}", asked.escape_ascii());
    }
    let cwd = std::env::current_dir().unwrap().canonicalize().unwrap();
    let cwd = cwd.to_str().unwrap().as_bytes().to_vec();
    assert_eq!(client.realpath(b""), Ok(cwd.clone()));
    assert_eq!(client.realpath(b"."), Ok(cwd.clone()));
    let expand = |path| Request::Extended { id: 1, request: Extended::ExpandPath { path } };
    assert_eq!(client.name(expand(b"~")), Ok(cwd.clone()));
    assert_eq!(client.name(expand(b"~/x")), Ok([&cwd[..], b"/x"].concat()));
    assert_eq!(client.name(expand(b"x")), Ok([&cwd[..], b"/x"].concat()));
    let answer = client.call(expand(b"~nobody-here/x"));
    let Reply::Status { status, message, .. } = answer.reply() else { panic!() };
    assert_eq!((status, message), (Status::NO_SUCH_FILE, &b"no such user"[..]));
}

#[test]
fn the_version_names_every_extension_and_limits_are_told() {
    let mut client = Client::new();
    client.send(&[Request::Init { version: 3 }]);
    let answer = client.receive().unwrap();
    let Reply::Version { extensions, .. } = answer.reply() else { panic!() };
    let texts: Vec<String> = extensions.map(|t| String::from_utf8(t.to_vec()).unwrap()).collect();
    let pairs: Vec<(&str, &str)> = texts.chunks(2).map(|pair| (&*pair[0], &*pair[1])).collect();
    assert_eq!(
        pairs,
        [
            ("posix-rename@openssh.com", "1"),
            ("statvfs@openssh.com", "2"),
            ("fstatvfs@openssh.com", "2"),
            ("hardlink@openssh.com", "1"),
            ("fsync@openssh.com", "1"),
            ("lsetstat@openssh.com", "1"),
            ("limits@openssh.com", "1"),
            ("expand-path@openssh.com", "1"),
            ("copy-data", "1"),
            ("home-directory", "1"),
            ("users-groups-by-id@openssh.com", "1"),
        ]
    );
    let answer = client.extended(Extended::Limits);
    let Reply::Extended { body, .. } = answer.reply() else { panic!() };
    let limits = Limits::decode(body).unwrap();
    assert_eq!((limits.packet, limits.read, limits.write), (262_144, 261_120, 261_120));
    let answer = client.extended(Extended::Statvfs { path: b"/" });
    let Reply::Extended { body, .. } = answer.reply() else { panic!() };
    let stat = FsStat::decode(body).unwrap();
    assert!(stat.bsize > 0 && stat.blocks >= stat.bfree && stat.namemax >= 255);
}

#[test]
fn handles_run_out_at_the_limit_that_is_told_and_come_back() {
    let config = Config { max_handles: 3, ..Config::default() };
    let mut client = Client::with(config, Arc::new(OsVfs::new()));
    let answer = client.extended(Extended::Limits);
    let Reply::Extended { body, .. } = answer.reply() else { panic!() };
    assert_eq!(Limits::decode(body).unwrap().handles, 3);
    let handles: Vec<Vec<u8>> = (0..3).map(|_| client.opendir(b"/").unwrap()).collect();
    assert_eq!(client.opendir(b"/"), Err(Status::FAILURE));
    assert_eq!(client.open(b"/etc/passwd", READ), Err(Status::FAILURE));
    assert_eq!(client.close(&handles[1]), Status::OK);
    assert!(client.open(b"/etc/passwd", READ).is_ok());
}

#[test]
fn what_is_no_request_is_answered_and_the_session_goes_on() {
    let mut client = Client::new();
    client.send_bytes(b"\0\0\0\x05\x99\0\0\0\x07");
    assert_eq!(client.receive().unwrap().status(), Status::OP_UNSUPPORTED);
    client.send_bytes(b"\0\0\0\x0c\x11\0\0\0\x08\0\0\0\x03a\0b");
    assert_eq!(client.receive().unwrap().status(), Status::BAD_MESSAGE);
    let unknown = Extended::Unknown { name: b"nothing@example", body: b"xyz" };
    assert_eq!(client.extended(unknown).status(), Status::OP_UNSUPPORTED);
    assert!(client.realpath(b"/").is_ok());
    client.end().unwrap();
}

#[test]
fn a_request_before_init_ends_the_session() {
    let (input, mut to) = std::io::pipe().unwrap();
    let (_from, output) = std::io::pipe().unwrap();
    let mut bytes = Vec::new();
    Request::Realpath { id: 1, path: b"/" }.encode(&mut bytes);
    std::io::Write::write_all(&mut to, &bytes).unwrap();
    let audit = Box::new(Record::default());
    let result = sandgate_sftp::serve(Config::default(), Arc::new(OsVfs::new()), audit, input, output);
    assert!(matches!(result, Err(ServeError::NotBegun)));
}

#[test]
fn a_read_only_session_changes_nothing() {
    let dir = dir();
    std::fs::write(dir.path().join("f"), "x").unwrap();
    let path = at(dir.path(), b"f");
    let other = at(dir.path(), b"g");
    // Once by the requests that are served, once by a file system that refuses.
    let by_request = Config { permitted: Permitted::default().read_only(), ..Config::default() };
    for mut client in [
        Client::with(by_request, Arc::new(OsVfs::new())),
        Client::with(Config::default(), Arc::new(ReadOnly(OsVfs::new()))),
    ] {
        for flags in [WRITE, NEW, READ.with(WRITE), OpenFlags::CREATE, READ.with(OpenFlags::TRUNCATE)] {
            assert_eq!(client.open(&path, flags), Err(Status::PERMISSION_DENIED));
        }
        let handle = client.open(&path, READ).unwrap();
        assert_eq!(client.read(&handle, 0, 9), Ok(b"x".to_vec()));
        let attrs = Attrs { mode: Some(0), size: Some(0), ..Attrs::default() };
        for request in [
            Request::Write { id: 1, handle: &handle, offset: 0, data: b"y" },
            Request::Setstat { id: 1, path: &path, attrs },
            Request::Fsetstat { id: 1, handle: &handle, attrs },
            Request::Remove { id: 1, path: &path },
            Request::Mkdir { id: 1, path: &other, attrs },
            Request::Rmdir { id: 1, path: &at(dir.path(), b"") },
            Request::Rename { id: 1, from: &path, to: &other },
            Request::Symlink { id: 1, target: &path, link: &other },
        ] {
            assert_eq!(client.call(request).status(), Status::PERMISSION_DENIED, "{request:?}");
        }
        let attrs = Attrs { mode: Some(0), ..Attrs::default() };
        for request in [
            Extended::PosixRename { from: &path, to: &other },
            Extended::Hardlink { from: &path, to: &other },
            Extended::Lsetstat { path: &path, attrs },
            Extended::Fsync { handle: &handle },
        ] {
            assert_eq!(client.extended(request).status(), Status::PERMISSION_DENIED, "{request:?}");
        }
        assert!(client.list(&at(dir.path(), b"")).len() == 3);
        assert!(client.recorded().is_empty());
    }
    assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"x");
}

#[test]
fn every_change_is_recorded_with_absolute_paths() {
    let dir = dir();
    let root = Client::rooted(dir.path());
    let mut client = root;
    let none = Attrs::default();
    client.call(Request::Mkdir { id: 1, path: b"d", attrs: none });
    let handle = client.open(b"d/f", NEW).unwrap();
    assert_eq!(client.write(&handle, 3, b"hello"), Status::OK);
    client.call(Request::Symlink { id: 1, target: b"../x", link: b"l" });
    client.extended(Extended::Hardlink { from: b"d/f", to: b"h" });
    client.call(Request::Rename { id: 1, from: b"h", to: b"i" });
    client.extended(Extended::PosixRename { from: b"i", to: b"a b" });
    client.call(Request::Remove { id: 1, path: b"l" });
    client.call(Request::Remove { id: 1, path: b"a b" });
    client.call(Request::Rmdir { id: 1, path: b"d" });
    client.call(Request::Remove { id: 1, path: b"none" });
    client.end().unwrap();
    assert_eq!(
        client.recorded(),
        [
            "made-dir 0 /d",
            "opened 0 /d/f",
            "symlinked 0 ../x /l",
            "linked 0 /d/f /h",
            "renamed 0 /h /i 8",
            "renamed 0 /i /a%20b 8",
            // A link is no file and has no size.
            "removed 0 /l",
            "removed 0 /a%20b 8",
            // Still open when the client went.
            "wrote 5 /d/f 8",
        ]
    );
}

/// Whatever was said to be open is said to be closed, or the trail would show a transfer that was cut.
#[test]
fn an_open_for_reading_that_changes_a_file_is_recorded_to_its_end() {
    let dir = dir();
    std::fs::write(dir.path().join("f"), "x").unwrap();
    let mut client = Client::rooted(dir.path());
    for (path, flags) in [(&b"f"[..], OpenFlags::TRUNCATE), (b"new", OpenFlags::CREATE)] {
        let handle = client.open(path, READ.with(flags)).unwrap();
        assert_eq!(client.close(&handle), Status::OK);
    }
    let handle = client.open(b"f", READ).unwrap();
    assert_eq!(client.close(&handle), Status::OK);
    assert_eq!(client.recorded(), ["opened 0 /f", "wrote 0 /f 0", "opened 0 /new", "wrote 0 /new 0"]);
}
