//! The sink against clients written out byte by byte.

use super::*;
use crate::command::Command;
use crate::testing::{Memory, Nobody};
use crate::{Status, serve};

struct Log(Vec<String>);

impl Audit for Log {
    fn record(&mut self, event: &Event<'_>) -> std::io::Result<()> {
        self.0.push(String::from_utf8(event.format()).unwrap());
        Ok(())
    }
}

/// Runs `command` with everything that the client says, and gives the answers, how it ended, and the audit.
fn talk(memory: &Memory, command: &str, client: &[u8]) -> (String, Status, Vec<String>) {
    let (mut answers, mut log) = (Vec::new(), Log(Vec::new()));
    let context = Context { vfs: memory, audit: &mut log, homes: &Nobody, umask: 0o022 };
    let status = serve(&Command::parse(command.as_bytes()).unwrap(), context, client, &mut answers);
    (answers.escape_ascii().to_string(), status, log.0)
}

fn with_dir() -> Memory {
    let memory = Memory::new();
    memory.make_dir(b"/d", 0o755).unwrap();
    memory
}

fn mode(memory: &Memory, path: &str) -> u32 {
    memory.stat(path.as_bytes(), Follow::Yes).unwrap().mode & 0o7777
}

#[test]
fn a_file_goes_into_a_directory_or_becomes_the_target() {
    let memory = with_dir();
    let (answers, status, log) = talk(&memory, "scp -t d", b"C0640 5 x\nhello\0C0644 0 empty\n\0");
    assert_eq!((&answers[..], status), ("\\x00\\x00\\x00\\x00\\x00", Status::Done));
    assert_eq!(memory.get(b"/d/x").unwrap(), b"hello");
    assert_eq!(memory.get(b"/d/empty").unwrap(), b"");
    assert_eq!(log, ["opened 0 /d/x", "wrote 5 /d/x 5", "opened 0 /d/empty", "wrote 0 /d/empty 0"]);
    assert_eq!(talk(&memory, "scp -t /new", b"C0640 2 x\nhi\0").1, Status::Done);
    assert_eq!(memory.get(b"/new").unwrap(), b"hi");
}

#[test]
fn an_existing_file_is_overwritten_in_place_and_cut() {
    let memory = with_dir();
    memory.put(b"/d/x", b"something longer");
    assert_eq!(talk(&memory, "scp -t d", b"C0600 5 x\nhello\0").1, Status::Done);
    assert_eq!(memory.get(b"/d/x").unwrap(), b"hello");
    memory.put(b"/d/x", b"something longer");
    let (.., log) = talk(&memory, "scp -t d", b"C0600 5 x\nhel");
    assert_eq!(log, ["opened 0 /d/x", "wrote 0 /d/x 16"], "what was there is there");
    assert_eq!(talk(&memory, "scp -t d", b"C0600 5 x\nhello\0").2, ["opened 0 /d/x", "wrote 5 /d/x 5"]);
    // Without -p it keeps its mode.
    assert_eq!(mode(&memory, "/d/x"), 0o644);
    assert_eq!(talk(&memory, "scp -p -t d", b"T7 1 8 2\nC0400 0 x\n\0").1, Status::Done);
    let meta = memory.stat(b"/d/x", Follow::Yes).unwrap();
    assert_eq!(
        (meta.mode & 0o7777, meta.mtime, meta.mtime_nsec, meta.atime, meta.atime_nsec),
        (0o400, 7, 1000, 8, 2000)
    );
}

#[test]
fn special_bits_and_the_umask_count_as_asked() {
    let memory = with_dir();
    assert_eq!(talk(&memory, "scp -r -t d", b"C4577 0 x\n\0D2577 0 y\nE\n").1, Status::Done);
    assert_eq!((mode(&memory, "/d/x"), mode(&memory, "/d/y")), (0o555, 0o555));
    assert_eq!(talk(&memory, "scp -rp -t d", b"C4577 0 a\n\0D2577 0 b\nE\n").1, Status::Done);
    assert_eq!((mode(&memory, "/d/a"), mode(&memory, "/d/b")), (0o4577, 0o2577));
}

#[test]
fn directories_nest_and_get_times_and_mode_when_they_are_full() {
    let memory = with_dir();
    let client = b"T1 0 2 0\nD0500 0 a\nT3 0 4 0\nD0755 0 b\nC0644 1 f\nf\0E\nC0644 1 g\ng\0E\nE\n";
    let (_, status, log) = talk(&memory, "scp -r -p -t d", client);
    assert_eq!(status, Status::Done);
    let meta = memory.stat(b"/d/a", Follow::Yes).unwrap();
    assert_eq!((meta.mode & 0o7777, meta.mtime, meta.atime), (0o500, 1, 2));
    assert_eq!(memory.stat(b"/d/a/b", Follow::Yes).unwrap().mtime, 3);
    assert_eq!(memory.get(b"/d/a/b/f").unwrap(), b"f");
    assert_eq!(memory.get(b"/d/a/g").unwrap(), b"g");
    assert_eq!(&log[..2], ["made-dir 0 /d/a", "made-dir 0 /d/a/b"]);
}

#[test]
fn directories_go_as_deep_as_a_path_is_long_and_no_deeper() {
    let memory = with_dir();
    let (answers, status, _) = talk(&memory, "scp -r -t d", "D0755 0 x\n".repeat(3000).as_bytes());
    assert_eq!(status, Status::Failed);
    assert!(answers.contains("File name too long"));
    assert_eq!(memory.paths().len(), 2 + (MAX_PATH - 1) / 2);
}

#[test]
fn a_name_that_would_leave_the_target_ends_the_session() {
    for name in ["..", ".", "", "/etc", "../x", "a/b"] {
        for record in [format!("C0644 1 {name}\nx\0"), format!("D0755 0 {name}\nC0644 1 y\nx\0")] {
            let memory = with_dir();
            let (answers, status, log) = talk(&memory, "scp -r -t d", record.as_bytes());
            assert_eq!(answers, format!("\\x00\\x01scp: error: unexpected filename: {name}\\n"));
            assert_eq!((status, log.len(), memory.paths().len()), (Status::Failed, 0, 2));
        }
    }
}

#[test]
fn the_target_is_checked_before_anything_is_taken() {
    let memory = with_dir();
    memory.put(b"/f", b"");
    for (command, message) in [
        ("scp -d -t /f", "/f: Not a directory"),
        ("scp -d -t /none", "/none: No such file or directory"),
        ("scp -t", "ambiguous target"),
        ("scp -t a b", "ambiguous target"),
    ] {
        let (answers, status, _) = talk(&memory, command, b"C0644 1 x\nx\0");
        assert_eq!((answers, status), (format!("\\x01scp: {message}\\n"), Status::Failed), "{command}");
    }
}

#[test]
fn what_cannot_be_made_is_reported_and_the_rest_goes_on() {
    let memory = with_dir();
    memory.put(b"/d/f", b"");
    let (answers, status, _) = talk(&memory, "scp -r -t d", b"D0755 0 f\nC0644 1 x\nx\0");
    assert_eq!(answers, "\\x00\\x01scp: d/f: Not a directory\\n\\x00\\x00");
    assert_eq!(status, Status::Failed);
    let (answers, ..) = talk(&memory, "scp -t /none/x", b"C0644 1 x\n");
    assert_eq!(answers, "\\x00\\x01scp: /none/x: No such file or directory\\n");
}

#[test]
fn a_full_disk_is_told_at_the_end_of_the_file_and_the_next_one_fits() {
    let memory = Memory::with_capacity(3);
    // Longer than one piece: what comes after the error must be read and dropped.
    let content = [b'x'; 600_000];
    let client = [b"T1 0 1 0\nC0644 600000 x\n", &content[..], b"\0C0644 3 y\nyes\0"].concat();
    let (answers, status, log) = talk(&memory, "scp -p -t /", &client);
    assert_eq!(answers, "\\x00\\x00\\x00\\x01scp: /x: No space left on device\\n\\x00\\x00");
    assert_eq!(status, Status::Failed);
    assert_eq!(memory.get(b"/y").unwrap(), b"yes");
    assert_eq!(log[1], "wrote 3 /x 3");
    // No time is set on a file that is not whole.
    assert_eq!(memory.stat(b"/x", Follow::Yes).unwrap().mtime, 0);
}

#[test]
fn a_client_that_vanishes_leaves_what_came_and_an_audit_of_it() {
    let memory = with_dir();
    let (answers, status, log) = talk(&memory, "scp -t d", b"C0644 5368709120 x\nhello");
    assert_eq!(answers, "\\x00\\x00\\x01scp: dropped connection\\n");
    assert_eq!((status, &log[1][..]), (Status::Failed, "wrote 0 /d/x 0"));
    // At the end of a record it has simply finished; the directory is put right.
    assert_eq!(talk(&memory, "scp -r -t d", b"D0555 0 y\n").1, Status::Done);
    assert_eq!(mode(&memory, "/d/y"), 0o555);
}

#[test]
fn what_the_source_could_not_read_makes_the_exit_status() {
    let memory = with_dir();
    assert_eq!(talk(&memory, "scp -t d", b"\x01scp: no\nC0644 1 x\nx\0").1, Status::Failed);
    assert_eq!(memory.get(b"/d/x").unwrap(), b"x");
    assert_eq!(talk(&memory, "scp -t d", b"\x02\nC0644 1 z\nx\0").1, Status::Failed);
    assert_eq!(memory.get(b"/d/z"), None);
    // It sent the announced bytes, but says that they are not right.
    let (answers, status, _) = talk(&memory, "scp -t d", b"C0644 1 w\nx\x01scp: w: gone\n");
    assert_eq!((&answers[..], status), ("\\x00\\x00\\x00", Status::Failed));
}

#[test]
fn a_stream_out_of_step_ends_with_a_reason() {
    for (client, message) in [
        (&b"\n"[..], "protocol error: unexpected <newline>"),
        (b"hello\n", "hello"),
        (b"T1 0 1 0\nhello\n", "protocol error: expected control record"),
        (b"C0644 1", "protocol error: lost connection"),
        (b"D0755 0 x\n", "protocol error: received directory without -r"),
        (&[b'C'; 3000], "protocol error: record too long"),
    ] {
        let (answers, status, _) = talk(&with_dir(), "scp -t d", client);
        assert!(answers.ends_with(&format!("\\x01scp: {message}\\n")), "{answers}");
        assert_eq!(status, Status::Failed);
    }
}

#[test]
fn without_an_audit_nothing_is_written() {
    struct Broken;
    impl Audit for Broken {
        fn record(&mut self, _: &Event<'_>) -> std::io::Result<()> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
    }
    let memory = with_dir();
    let context = Context { vfs: &memory, audit: &mut Broken, homes: &Nobody, umask: 0 };
    let command = Command::parse(b"scp -t d").unwrap();
    assert_eq!(serve(&command, context, &b"C0644 1 x\nx\0"[..], Vec::new()), Status::Failed);
    assert_eq!(memory.get(b"/d/x").unwrap(), b"");
}
