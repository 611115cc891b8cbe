//! Disks that are full, slow or hang: they cost the recording, and its session only where that was asked for.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sandgate_tests::client::DEADLINE;
use sandgate_tests::gateway::Gateway;
use sandgate_tests::terminal::Terminal;
use sandgate_tests::{Feed, run, skip};

use super::{ended, files, id, recorded};

/// A small file system over the directory of recordings.
struct Small(PathBuf);

impl Small {
    fn mount(gateway: &Gateway) -> Option<Small> {
        let at = gateway.data_dir().join("recordings");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs"]).arg(&at);
        if run(&mut mount, Feed::Null, DEADLINE).code == 0 {
            return Some(Small(at));
        }
        skip::because("no small file system can be mounted here");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0 as &Path).status();
    }
}

#[test]
fn a_full_disk_ends_the_recording_and_not_the_session() {
    let Some(target) = recorded("") else { return };
    let Some(_small) = Small::mount(target.gateway()) else { return };
    let output = target.run_ssh(&["-tt", "box", "seq 1 100000; sleep 1; echo done."]);
    output.exits(0);
    assert!(output.text().ends_with("done.\r\n"));
    let recording = &ended(target.gateway(), "terminal", 1)[0];
    assert_eq!(recording["complete"], false);
    target.gateway().cli(&["recording", "verify", id(recording)]).exits(0);
    assert_eq!(target.log().matches("a recording ends before its session").count(), 1);
}

#[test]
fn a_full_disk_ends_the_session_where_recordings_are_required() {
    let Some(target) = recorded("required = true") else { return };
    let Some(small) = Small::mount(target.gateway()) else { return };
    let output = target.run_ssh(&["-tt", "box", "seq 1 100000; sleep 60; echo done."]);
    assert_eq!(output.code, 255);
    let said = format!("{}{}", output.text(), output.errors());
    assert!(said.contains("can no longer be recorded") && !said.contains("done."), "{said}");
    // And no other begins.
    std::fs::write(small.0.join("filler"), vec![0; 64 << 10]).unwrap_err();
    let output = target.run_ssh(&["box", "echo done."]);
    assert_eq!(output.code, 255);
    assert!(output.errors().contains("cannot be recorded"), "{}", output.errors());
}

#[test]
fn a_recording_ends_at_its_limit_and_its_session_goes_on() {
    let Some(target) = recorded("max_bytes = 65536") else { return };
    let output = target.run_ssh(&["-tt", "box", "seq 1 100000; sleep 1; echo done."]);
    output.exits(0);
    assert!(output.text().ends_with("done.\r\n"));
    let recording = &ended(target.gateway(), "terminal", 1)[0];
    assert_eq!(recording["complete"], false);
    assert!(files(target.gateway()).iter().all(|file| file.metadata().unwrap().len() <= 65536));
    target.gateway().cli(&["recording", "verify", id(recording)]).exits(0);
}

/// A small file system on a disk that can be made to hang.
struct Hanging(PathBuf);

impl Hanging {
    fn mount(gateway: &Gateway) -> Option<Hanging> {
        let at = gateway.data_dir().join("recordings");
        let image = gateway.data_dir().with_extension("img");
        std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let (image, place) = (image.display(), at.display());
        let script = format!("mkfs.ext4 -q {image} && mount -o loop {image} {place} && fsfreeze --help");
        if run(Command::new("sh").args(["-c", &script]), Feed::Null, DEADLINE).code == 0 {
            return Some(Hanging(at));
        }
        skip::because("no disk that can be made to hang can be mounted here");
        None
    }

    fn freeze(&self) {
        run(Command::new("fsfreeze").arg("-f").arg(&self.0), Feed::Null, DEADLINE).ok();
        // Whatever becomes of this test: what waits for a frozen disk cannot even be killed.
        let thaw = format!("sleep 60; fsfreeze -u {}", self.0.display());
        let mut later = Command::new("setsid");
        later.args(["--fork", "sh", "-c", &thaw]);
        later.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    }

    fn thaw(&self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0).stderr(Stdio::null()).status();
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.thaw();
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Neither one that runs nor one that begins, by terminal or without.
#[test]
fn a_disk_that_hangs_holds_up_no_session() {
    let Some(target) = recorded("") else { return };
    let Some(disk) = Hanging::mount(target.gateway()) else { return };
    let mut terminal = Terminal::spawn(&target.ssh(&["-tt", "box"]), 80, 24);
    terminal.send("PS1='> '; stty -echo; echo be''gun.\r");
    terminal.expect("begun.");
    // It is written down that it began.
    std::thread::sleep(Duration::from_millis(500));
    disk.freeze();
    let start = Instant::now();
    for round in 0..10 {
        terminal.send(format!("echo ro''und {round}.\r"));
        terminal.expect(&format!("round {round}."));
    }
    // Far more than may wait for the disk.
    terminal.send("seq 1 700000; echo do''ne.\r");
    terminal.expect("done.");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(8), "a session was held up for {took:?}");
    let start = Instant::now();
    let output = target.run_ssh(&["-tt", "box", "echo new."]);
    output.exits(0);
    assert!(output.text().ends_with("new.\r\n"), "{output:?}");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(9), "a session that begins was held up for {took:?}");
    disk.thaw();
    terminal.send("exit 6\r");
    assert_eq!(terminal.wait(), 6);
    // Both were given up, and say so; what they have is good up to there.
    for recording in ended(target.gateway(), "terminal", 2) {
        assert_eq!(recording["complete"], false, "{recording}");
        target.gateway().cli(&["recording", "verify", id(&recording)]).exits(0);
    }
    let log = target.log();
    assert_eq!(log.matches("a recording ends before its session").count(), 2);
    assert_eq!(log.matches("a session cannot be recorded").count(), 1);
}
