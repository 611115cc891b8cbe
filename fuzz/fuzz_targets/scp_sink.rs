//! The remote side of scp on arbitrary bytes: a command line, and what a client then says. No panic, no endless memory, an answer for
//! everything, and nothing made or changed outside the target.
#![no_main]

use std::io;

use libfuzzer_sys::fuzz_target;
use sandgate_scp::command::{Command, Direction};
use sandgate_scp::pattern::Pattern;
use sandgate_scp::record;
use sandgate_scp::testing::{Memory, Nobody};
use sandgate_scp::words::split;
use sandgate_scp::{Context, serve};
use sandgate_sftp::audit::{Audit, Event};
use sandgate_sftp::vfs::{Follow, Vfs};

const TARGET: &[u8] = b"/safe/target";

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    let _ = record::parse(data);
    if let Some(words) = split(data) {
        for word in &words {
            if let Some(pattern) = Pattern::compile(&word.0) {
                let _ = pattern.matches(b"some name.txt");
                let _ = pattern.matches(data);
            }
        }
    }
    // Either a command line of its own making up to the first newline, or a sink with flags from one byte.
    let (line, client) = match choice & 1 {
        0 => {
            let end = data.iter().position(|b| *b == b'\n').unwrap_or(data.len());
            (data[..end].to_vec(), data.get(end + 1..).unwrap_or_default())
        }
        _ => {
            let flag = |bit, flag| if choice & bit != 0 { flag } else { "" };
            let flags = [flag(2, "-r"), flag(4, "-p"), flag(8, "-d")].join(" ");
            (format!("scp {flags} -t /safe/target").into_bytes(), data)
        }
    };
    let Some(command) = Command::parse(&line) else { return };
    let memory = Memory::with_capacity(100_000);
    for dir in [&b"/safe"[..], TARGET, b"/safe/target/sub", b"/other"] {
        memory.make_dir(dir, 0o755).expect("its parent is there");
    }
    for file in [&b"/file"[..], b"/safe/file", b"/safe/target/file", b"/other/*"] {
        memory.put(file, b"content");
    }
    let before = outside(&memory);
    let fixed = choice & 1 == 1;
    let mut events = Events { inside: fixed, count: 0 };
    let mut output = Count::default();
    let context = Context { vfs: &memory, audit: &mut events, homes: &Nobody, umask: 0o022 };
    let _ = serve(&command, context, client, &mut output);
    if fixed || command.direction == Direction::From {
        assert_eq!(outside(&memory), before);
    }
    if command.direction == Direction::From {
        assert_eq!(events.count, 0);
    }
    // Each answer belongs to something the client said: nobody can make us talk without talking.
    if command.direction == Direction::To {
        assert!(output.0 <= 3000 * (client.len() + 2));
    }
});

/// All that lies outside the target, with mode and content.
fn outside(memory: &Memory) -> Vec<(Vec<u8>, u32, Option<Vec<u8>>)> {
    let paths = memory.paths().into_iter().filter(|path| !path.starts_with(b"/safe/target/"));
    let node = |path: Vec<u8>| {
        let mode = memory.stat(&path, Follow::No).expect("it was listed").mode;
        let content = memory.get(&path);
        (path, mode, content)
    };
    paths.map(node).collect()
}

struct Events {
    inside: bool,
    count: usize,
}

impl Audit for Events {
    fn record(&mut self, event: &Event<'_>) -> io::Result<()> {
        self.count += 1;
        assert!(event.path.starts_with(b"/"));
        assert!(!self.inside || event.path.starts_with(b"/safe/target/"));
        assert!(Event::parse(&event.format()).is_ok());
        Ok(())
    }
}

#[derive(Default)]
struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
