//! Reads through `sshfs`: one after the other, and here and there. The kernel's cache holds nothing of them: each mount is new.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{Advice, fadvise};

use crate::files::{Plan, alternate, two_lines};
use crate::report::{Budget, Report};
use crate::side::Side;

/// Bytes of one read from front to back.
const SEQUENTIAL: usize = 1 << 20;
/// Bytes of one read here and there.
const RANDOM: usize = 4096;

/// Measures both and adds their lines, or says why not.
pub fn lines(sides: &[Side; 2], shared: &Path, plan: &Plan, report: &mut Report) -> Result<()> {
    if let Err(error) = can_mount(&sides[1], shared) {
        report.note(format!("sshfs: not measured here: {error:#}"));
        return Ok(());
    }
    let source = shared.join("mounted");
    fs::create_dir_all(&source)?;
    fs::write(source.join("file"), vec![0x5a; usize::try_from(plan.mib)? << 20])?;
    let size = u64::from(plan.mib) << 20;

    let costs = alternate(sides, plan, |side| {
        let mount = Mount::make(side, &source)?;
        let mut file = fs::File::open(mount.0.join("file"))?;
        let (mut block, began, mut read) = (vec![0; SEQUENTIAL], Instant::now(), 0);
        while let count @ 1.. = std::io::Read::read(&mut file, &mut block)? {
            read += count as u64;
        }
        if read != size {
            bail!("{}: sshfs gave {read} bytes of {size}", side.label);
        }
        Ok((began.elapsed(), f64::from(plan.mib)))
    })?;
    let what = format!("sshfs, {} MiB read from front to back", plan.mib);
    two_lines(report, &what, &costs, "MiB/s", Budget::None);

    let costs = alternate(sides, plan, |side| {
        let mount = Mount::make(side, &source)?;
        let file = fs::File::open(mount.0.join("file"))?;
        fadvise(&file, 0, None, Advice::Random)?;
        let (mut block, began) = ([0; RANDOM], Instant::now());
        for number in 0..u64::from(plan.random_reads) {
            // Multiplicative hashing spreads the places over the file; the same ones for both sides.
            let place = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (size / RANDOM as u64);
            file.read_exact_at(&mut block, place * RANDOM as u64)?;
        }
        Ok((began.elapsed(), f64::from(plan.random_reads)))
    })?;
    let what = format!("sshfs, {} reads of 4 KiB here and there", plan.random_reads);
    two_lines(report, &what, &costs, "reads/s", Budget::None);
    report.note("sshfs: its own defaults, a new mount each time; the time to mount does not count, its CPU seconds do");
    Ok(fs::remove_dir_all(&source)?)
}

/// Whether a file system can be mounted at all; the side only serves to try it.
fn can_mount(side: &Side, source: &Path) -> Result<()> {
    if !Path::new("/dev/fuse").exists() {
        bail!("there is no /dev/fuse");
    }
    Mount::make(side, source).map(drop)
}

/// A mounted directory; unmounted when dropped.
struct Mount(PathBuf, #[expect(dead_code, reason = "removes the mount point")] tempfile::TempDir);

impl Mount {
    fn make(side: &Side, source: &Path) -> Result<Self> {
        let point = tempfile::Builder::new().prefix("sgbm-").tempdir_in("/tmp")?;
        let out = Command::new("sshfs")
            .arg(format!("{}:{}", side.destination(), side.sees(source).display()))
            .arg(point.path())
            .args(["-o", &format!("ssh_command={}", side.ssh_program()?.display())])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()
            .context("sshfs is not installed")?;
        if !out.status.success() {
            bail!("{}: sshfs: {}", side.label, String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(Self(point.path().to_owned(), point))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        for _ in 0..40 {
            let done = Command::new("fusermount3").arg("-u").arg(&self.0).stderr(Stdio::null()).status();
            if done.is_ok_and(|it| it.success()) {
                return;
            }
            // Busy for the moment that the kernel needs to close the last file.
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("bench: {} is still mounted", self.0.display());
    }
}
