//! Clients of the file server that ask for much at once, read slowly, or vanish: they get what they asked for and hurt nobody else, and
//! nothing of them is left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandgate_tests::client::Master;
use sandgate_tests::process::resident;
use sandgate_tests::raw::codec::Writer;
use sandgate_tests::sftp::{Ground, Sftp, code, is_root, kind, open, read_body, write_body};
use sandgate_tests::wait::{scaled, until};
use sandgate_tests::{Kind, Options, data};

/// Others answer within this while one client misbehaves.
const PROMPT: Duration = Duration::from_secs(4);
/// What a client left behind is gone after this.
const GONE: Duration = Duration::from_secs(20);
const PIECE: usize = 4096;
const MIB: u64 = 1 << 20;

/// A file of so many random bytes in the ground's directory.
fn file(ground: &Ground, name: &str, len: usize) -> Vec<u8> {
    let content = data::random(len as u64, len);
    std::fs::write(ground.path().join(name), &content).unwrap();
    content
}

fn bytes(ground: &Ground, name: &str) -> Vec<u8> {
    ground.path().join(name).as_os_str().as_bytes().to_vec()
}

fn pipelines(outstanding: usize) {
    let ground = Ground::new();
    let content = data::random(7, outstanding * PIECE);
    let piece = |number: usize| &content[number * PIECE..][..PIECE];
    let offset = |number: usize| (number * PIECE) as u64;
    let mut sftp = ground.raw();
    let handle = sftp.open(&bytes(&ground, "piped"), open::READ | open::WRITE | open::CREAT).unwrap();

    // From back to front, so that no two of them can be taken for one.
    let writes = (0..outstanding)
        .rev()
        .map(|number| (kind::WRITE, write_body(&handle, offset(number), piece(number))));
    for reply in sftp.pipeline(writes) {
        assert_eq!(reply.status().code, code::OK);
    }
    assert!(std::fs::read(ground.path().join("piped")).unwrap() == content, "written differently");

    // From front to back, each followed by a read that must see it.
    let turned = |number: usize| piece(outstanding - 1 - number);
    let pairs = (0..outstanding / 2).flat_map(|number| {
        let write = write_body(&handle, offset(number), turned(number));
        [(kind::WRITE, write), (kind::READ, read_body(&handle, offset(number), PIECE as u32))]
    });
    for (number, pair) in sftp.pipeline(pairs).chunks(2).enumerate() {
        assert_eq!(pair[0].status().code, code::OK);
        assert!(pair[1].data().unwrap() == turned(number), "a read before its write");
    }

    let mixed = (0..outstanding).map(|number| match number % 4 {
        0 => (kind::STAT, Writer::default().string(bytes(&ground, "piped"))),
        1 => (kind::STAT, Writer::default().string(bytes(&ground, "missing"))),
        2 => (kind::READ, read_body(&handle, offset(outstanding), 1)),
        _ => (kind::READ, read_body(b"nonsense", 0, 1)),
    });
    for (number, reply) in sftp.pipeline(mixed).iter().enumerate() {
        match number % 4 {
            0 => assert_eq!(reply.kind, kind::ATTRS),
            1 => assert_eq!(reply.status().code, code::NO_SUCH_FILE),
            2 => assert_eq!(reply.status().code, code::EOF),
            _ => assert_eq!(reply.status().code, code::FAILURE),
        }
    }
    sftp.close(&handle).unwrap();
}

#[test]
fn sixty_four_requests_at_once_are_each_answered_once() {
    pipelines(64);
}

#[test]
fn four_thousand_requests_at_once_are_each_answered_once() {
    pipelines(4096);
}

#[test]
fn the_stock_client_may_have_four_thousand_requests_under_way() {
    let ground = Ground::new();
    let content = data::random(8, 20 << 20);
    std::fs::write(ground.target.dir().join("local"), &content).unwrap();
    let far = ground.path().display();
    for outstanding in ["1", "64", "4096"] {
        let batch = format!("put local {far}/{outstanding}\nget {far}/{outstanding} back\n");
        ground.sftp_with(&["-R", outstanding], batch).ok();
        assert!(std::fs::read(ground.target.dir().join("back")).unwrap() == content, "{outstanding} at once");
    }
}

/// A session and an SFTP session of the same connection, and of another one, answer promptly.
#[track_caller]
fn others_are_prompt(ground: &Ground, master: &Master) {
    let start = Instant::now();
    let mut near = ground.raw_over(master);
    let mut far = ground.raw();
    for sftp in [&mut near, &mut far] {
        sftp.list(ground.path().as_os_str().as_bytes(), |_| ()).unwrap();
    }
    assert_eq!(master.exec("echo here").ok(), "here");
    assert_eq!(ground.target.exec("echo there").ok(), "there");
    assert!(start.elapsed() < 2 * PROMPT, "two sessions and two SFTP sessions took {:?}", start.elapsed());
}

/// The READs that one who dawdles has under way: 128 MiB of replies, from front to back of a file and again.
#[derive(Clone, Copy)]
struct Reads {
    /// Bytes of each.
    size: usize,
    /// Pieces of the file.
    pieces: usize,
    /// READs.
    count: usize,
}

/// The server copies what it sends.
const COPIED: Reads = Reads { size: 32 << 10, pieces: 32, count: 4096 };
/// The longest, which the stock client asks for: the server lends pages of the file, from the second piece on.
const LENT: Reads = Reads { size: 255 << 10, pieces: 8, count: 514 };

impl Reads {
    /// The file that is read.
    fn file(self, ground: &Ground) -> Vec<u8> {
        file(ground, "read", self.size * self.pieces)
    }

    /// Where one of them begins.
    fn offset(self, number: usize) -> usize {
        number % self.pieces * self.size
    }

    /// Sends them and reads no reply; gives the number of the first.
    fn dawdle(self, ground: &Ground, sftp: &mut Sftp) -> u32 {
        let handle = sftp.open(&bytes(ground, "read"), open::READ).unwrap();
        let mut read =
            |number| sftp.send(kind::READ, read_body(&handle, self.offset(number) as u64, self.size as u32));
        let first = read(0);
        for number in 1..self.count {
            read(number);
        }
        first
    }

    /// Asserts that the file server has begun to work as it does for such reads: to lend, it has two pipes beside its three streams.
    #[track_caller]
    fn assert_way(self, ground: &Ground, server: u32) {
        // OpenSSH's server knows one way only, and an ordinary user may be given no pipes as large.
        if ground.target.kind() == Kind::Gateway && is_root() {
            let expected = if self.size < LENT.size { 3 } else { 5 };
            let pipes = || {
                let all = descriptors(server).into_iter().filter(|name| name.starts_with("pipe:"));
                all.collect::<HashSet<_>>().len()
            };
            assert!(until(PROMPT, || pipes() == expected), "not {expected} pipes: {:?}", descriptors(server));
        }
    }
}

/// The highest that a process's memory ever was, in bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).expect("a process") * 1024
}

fn dawdlers_hold_up_nobody(reads: Reads) {
    let ground = Ground::new();
    let content = reads.file(&ground);
    let master = ground.target.master();
    others_are_prompt(&ground, &master);
    let before = resident(ground.target.pid());
    let mut sessions = [ground.raw_over(&master), ground.raw()];
    let first = sessions.each_mut().map(|sftp| reads.dawdle(&ground, sftp));
    let servers = ground.servers();
    assert_eq!(servers.len(), 2, "the sessions that dawdle");
    for _ in 0..3 {
        others_are_prompt(&ground, &master);
    }
    let grown = resident(ground.target.pid()).saturating_sub(before);
    assert!(grown < 32 * MIB, "the server grew by {grown} bytes for two clients that do not read");
    for pid in servers {
        assert!(peak(pid) < 16 * MIB, "a file server took {} bytes", peak(pid));
        reads.assert_way(&ground, pid);
    }
    for (sftp, first) in sessions.iter_mut().zip(first) {
        for (number, reply) in sftp.collect(first, reads.count).iter().enumerate() {
            let expected = &content[reads.offset(number)..][..reads.size];
            assert!(reply.data().unwrap() == expected, "reply {number} is another");
        }
    }
}

#[test]
fn timed_a_client_that_does_not_read_holds_up_nobody() {
    dawdlers_hold_up_nobody(COPIED);
}

#[test]
fn timed_a_client_that_does_not_read_what_is_lent_holds_up_nobody() {
    dawdlers_hold_up_nobody(LENT);
}

/// What a process has open.
fn descriptors(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(entry.path().read_link().ok()?.display().to_string())).collect()
}

/// What gateway and agent have open, but for the connections to the gateway's own database, which come and go by themselves.
fn all_descriptors(ground: &Ground) -> Vec<String> {
    let mut open = descriptors(ground.target.pid());
    open.retain(|name| !name.contains(".db"));
    if ground.target.kind() == Kind::Gateway {
        let agent = descriptors(ground.root());
        assert!(!agent.is_empty(), "the agent's descriptors cannot be read");
        open.extend(agent.into_iter().map(|name| format!("agent: {name}")));
    }
    open
}

/// Asserts that no more is open than before.
#[track_caller]
fn nothing_is_left_open(ground: &Ground, before: &[String]) {
    let few = || all_descriptors(ground).len() <= before.len();
    assert!(until(GONE, few), "before: {before:?}\nnow: {:?}", all_descriptors(ground));
}

#[track_caller]
fn nothing_runs(ground: &Ground) {
    assert!(until(GONE, || ground.servers().is_empty()), "file servers are left: {:?}", ground.servers());
}

/// Sends WRITEs, and of the last only a part; then the client is killed.
fn vanish_in_a_write(ground: &Ground, mut sftp: Sftp, name: &str, content: &[u8]) {
    let handle = sftp.open(&bytes(ground, name), open::WRITE | open::CREAT | open::TRUNC).unwrap();
    let (mut first, mut count) = (0, 0);
    for (number, piece) in content.chunks(PIECE).enumerate() {
        let body = write_body(&handle, (number * PIECE) as u64, piece);
        if (number + 1) * PIECE < content.len() {
            let id = sftp.send(kind::WRITE, body);
            (first, count) = (if number == 0 { id } else { first }, count + 1);
        } else {
            let (_, packet) = sftp.pack(kind::WRITE, &body.done());
            sftp.write(&packet[..packet.len() / 2]).unwrap();
        }
    }
    // It is in the middle of the last one now, and all the others are done.
    assert!(sftp.collect(first, count).iter().all(|reply| reply.status().code == code::OK));
    assert!(!ground.servers().is_empty());
    drop(sftp);
}

#[test]
fn timed_a_client_that_vanishes_in_a_write_leaves_nothing() {
    let ground = Ground::new();
    let master = ground.target.master();
    let content = data::random(11, 100 * PIECE);
    others_are_prompt(&ground, &master);
    nothing_runs(&ground);
    let before = all_descriptors(&ground);
    for round in 0..10 {
        let sftp = if round % 2 == 0 { ground.raw_over(&master) } else { ground.raw() };
        vanish_in_a_write(&ground, sftp, &format!("cut{round}"), &content);
        if round < 2 {
            others_are_prompt(&ground, &master);
        }
    }
    nothing_runs(&ground);
    nothing_is_left_open(&ground, &before);
    // What was acknowledged is there, nothing of the rest, and no file but those that the clients named.
    let whole = &content[..content.len() - PIECE];
    for entry in std::fs::read_dir(ground.path()).unwrap() {
        let entry = entry.unwrap();
        assert!(entry.file_name().to_str().unwrap().starts_with("cut"), "{entry:?} is left");
        assert!(std::fs::read(entry.path()).unwrap() == whole, "{entry:?}");
    }
    assert_eq!(std::fs::read_dir(ground.path()).unwrap().count(), 10);
}

fn vanishes_without_reading(reads: Reads) {
    let ground = Ground::new();
    reads.file(&ground);
    let master = ground.target.master();
    others_are_prompt(&ground, &master);
    nothing_runs(&ground);
    let before = all_descriptors(&ground);
    let starts: [&dyn Fn() -> Sftp; 2] = [&|| ground.raw_over(&master), &|| ground.raw()];
    for start in starts {
        let mut sftp = start();
        reads.dawdle(&ground, &mut sftp);
        let servers = ground.servers();
        assert_eq!(servers.len(), 1);
        reads.assert_way(&ground, servers[0]);
        drop(sftp);
        nothing_runs(&ground);
    }
    nothing_is_left_open(&ground, &before);
    assert_eq!(master.exec("echo here").ok(), "here");
}

#[test]
fn a_client_that_vanishes_without_reading_leaves_nothing() {
    vanishes_without_reading(COPIED);
}

#[test]
fn a_client_that_vanishes_without_reading_what_is_lent_leaves_nothing() {
    vanishes_without_reading(LENT);
}

/// Its connection is there and nobody is at its other end.
#[test]
fn a_client_that_freezes_is_given_up_and_leaves_nothing() {
    let ground = Ground::with(Options { keepalive_seconds: Some(1), ..Options::default() });
    let mut sftp = ground.raw();
    let handle = sftp.open(&bytes(&ground, "frozen"), open::WRITE | open::CREAT).unwrap();
    let (_, packet) = sftp.pack(kind::WRITE, &write_body(&handle, 0, &[1; PIECE]).done());
    sftp.write(&packet[..PIECE / 2]).unwrap();
    assert_eq!(ground.servers().len(), 1);
    sftp.process().signal(Signal::STOP);
    nothing_runs(&ground);
    assert_eq!(std::fs::metadata(ground.path().join("frozen")).unwrap().len(), 0);
}

#[test]
fn closed_handles_leave_no_descriptor_and_open_ones_end_with_the_session() {
    let ground = Ground::new();
    file(&ground, "read", PIECE);
    let mut sftp = ground.raw();
    let server = ground.servers()[0];
    let open_both = |sftp: &mut Sftp| {
        let file = sftp.open(&bytes(&ground, "read"), open::READ).unwrap();
        let id = sftp.send(kind::OPENDIR, Writer::default().string(ground.path().as_os_str().as_bytes()));
        let reply = sftp.reply().unwrap();
        assert_eq!((reply.id, reply.kind), (id, kind::HANDLE));
        [file, reply.body[4..].to_vec()]
    };
    let before = descriptors(server).len();
    for _ in 0..1500 {
        for handle in open_both(&mut sftp) {
            sftp.close(&handle).unwrap();
        }
    }
    assert_eq!(descriptors(server).len(), before);
    for _ in 0..100 {
        open_both(&mut sftp);
    }
    assert_eq!(descriptors(server).len(), before + 200);
    // A client that ends without closing anything ends well.
    sftp.hang_up();
    assert_eq!(sftp.process().wait(GONE), Some(0));
    nothing_runs(&ground);
}

/// `count` directories with `count` empty files each.
fn tree(root: &Path, count: usize) {
    for dir in 0..count {
        let dir = root.join(format!("dir{dir:04}"));
        std::fs::create_dir(&dir).unwrap();
        for file in 0..count {
            std::fs::File::create(dir.join(format!("file{file:04}"))).unwrap();
        }
    }
}

#[test]
fn heavy_a_million_entries_are_listed_without_holding_them() {
    let ground = Ground::new();
    let count = scaled(1000);
    tree(ground.path(), count);
    let mut sftp = ground.raw();
    let server = ground.servers()[0];
    let list = |sftp: &mut Sftp, dir: usize| {
        let mut seen = HashSet::new();
        sftp.list(&bytes(&ground, &format!("dir{dir:04}")), |piece| {
            for entry in piece {
                assert!(entry.name.starts_with(b"file") || entry.name.starts_with(b"."), "{entry:?}");
                assert!(seen.insert(entry.name), "an entry came twice");
            }
        })
        .unwrap();
        // With . and .. as OpenSSH lists them.
        assert_eq!(seen.len(), count + 2);
    };
    list(&mut sftp, 0);
    let (server_before, gateway_before) = (peak(server), resident(ground.target.pid()));
    for dir in 0..count {
        list(&mut sftp, dir);
    }
    let grown = peak(server) - server_before;
    assert!(grown < MIB, "the file server grew by {grown} bytes");
    assert!(peak(server) < 16 * MIB, "the file server took {} bytes", peak(server));
    let grown = resident(ground.target.pid()).saturating_sub(gateway_before);
    assert!(grown < 16 * MIB, "the gateway grew by {grown} bytes");
    if ground.target.kind() == Kind::Gateway {
        println!(
            "the file server took {} KiB at most, the gateway grew by {} KiB",
            peak(server) >> 10,
            grown >> 10
        );
    }
}
