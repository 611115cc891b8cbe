//! How long a sandbox takes from `sandbox start` to the end of the first command in it: machines that boot and copies of one that has, containers, and
//! `docker run` beside them. For machines it is split by what their shim and their guest say themselves.
//!
//! The guest counts from the start of its kernel, which nobody outside sees. A look at its clock afterwards says when that was.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::docker::Engine;
use crate::report::{Budget, Report, cell};
use crate::side::{Kind, Side};
use crate::stats::Series;

/// Milliseconds that a booted machine may take under KVM, and a copy in any case.
const COLD_UNDER_KVM: f64 = 300.0;
const WARM: f64 = 150.0;
/// Milliseconds from QEMU to our init under emulation: the best that was found by hand.
const EMULATED_KERNEL: f64 = 2500.0;
/// How long what the guest prints may take to its log; and after which nothing at all means that it prints nothing.
const LOG_PATIENCE: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(500);

/// Root's account, busybox and nothing else: the image of all that is measured here.
pub const TREE: &str = r#"
    set -e
    mkdir -p bin etc tmp root dev proc sys
    chmod 1777 tmp
    cp /bin/busybox bin/busybox
    for name in $(bin/busybox --list); do [ $name = busybox ] || ln -s busybox bin/$name; done
    echo 'root:x:0:0:root:/root:/bin/sh' > etc/passwd
    echo 'root:x:0:' > etc/group
"#;

/// Measures all of it with a gateway of its own. What the machine lacks is left out, and a note says so.
pub fn lines(root: &Path, work: &Path, binary: &Path, rounds: u32, report: &mut Report) -> Result<()> {
    // Not below `work`, which is closed to the ids of containers.
    let image = tempfile::Builder::new().prefix("sgb-").tempdir_in("/tmp")?;
    fs::set_permissions(image.path(), fs::Permissions::from_mode(0o755))?;
    let made = Command::new("sh").args(["-c", TREE]).current_dir(image.path()).output()?;
    if !made.status.success() {
        report.note(format!("boot: skipped, {}", String::from_utf8_lossy(&made.stderr).trim()));
        return Ok(());
    }
    let docker = match docker(image.path(), rounds * 2) {
        Ok(times) => Some(times),
        Err(reason) => {
            report.note(format!("`docker run`: skipped, {reason:#}"));
            None
        }
    };
    let beside = docker.as_ref().map_or_else(|| "none".to_owned(), |times| cell(times, "ms", 0));
    let mut side = Side::prepare("boot", Kind::Sandgate, work, work, binary)?;
    side.start()?;
    let path = image.path().display().to_string();
    let containers = measure(&side, "oci", &["--image", &path], rounds * 2)?;
    containers.lines("a container (oci)", &beside, Budget::None, report);
    match machine_settings(root) {
        Ok(settings) => {
            let words = ["--driver", "qemu", "--memory", "256M", "--image", &path];
            for (start, name, rounds) in
                [("cold", "a machine that boots", rounds), ("warm", "a copy of a booted machine", rounds * 2)]
            {
                side.stop();
                side.configure(&format!("[qemu]\nstart = \"{start}\"\n{settings}"))?;
                side.start()?;
                let times = measure(&side, start, &words, rounds)?;
                let budget = match (start, times.accel.as_str()) {
                    ("warm", _) => Budget::AtMost(WARM),
                    (_, "kvm") => Budget::AtMost(COLD_UNDER_KVM),
                    _ => Budget::None,
                };
                let name = format!("{name} (qemu, {})", times.accel);
                times.lines(&name, &beside, budget, report);
            }
        }
        Err(reason) => report.note(format!("machines: skipped, {reason}")),
    }
    side.stop();
    report.note(
        "boot: from `sandgate sandbox start` to the end of `sandgate exec … true`, beside `docker run --rm --network none IMAGE true`; the image is busybox for all. \
         `kernel` is from the start of QEMU to the first line of our init, `init` the modules, disks and root file system, `link` until `sandbox start` has its answer",
    );
    Ok(())
}

/// Milliseconds of one way to start, in all and by part.
struct Times {
    total: Series,
    parts: Vec<(&'static str, Series)>,
    /// Who runs a machine's processors; empty for a container.
    accel: String,
}

impl Times {
    fn lines(&self, name: &str, beside: &str, budget: Budget, report: &mut Report) {
        let row = |report: &mut Report, what: String, series: &Series, theirs: &str, budget| {
            report.figure(&what, cell(series, "ms", 0), theirs.to_owned(), (series.median(), " ms"), budget);
        };
        let what = format!("start to first exec, {name}; right: `docker run`");
        row(report, what, &self.total, beside, budget);
        for (part, series) in &self.parts {
            let budget = match (*part, self.accel.as_str()) {
                ("kernel", "tcg") => Budget::AtMost(EMULATED_KERNEL),
                _ => Budget::None,
            };
            row(report, format!("the same, {name}: {part}"), series, "none", budget);
        }
    }
}

/// Makes a sandbox, starts it so often, and removes it.
fn measure(side: &Side, name: &str, words: &[&str], rounds: u32) -> Result<Times> {
    side.admin(&[&["sandbox", "create", name], words].concat())?;
    let times = starts(side, name, rounds);
    // Also after a failure: a machine outlives its gateway.
    side.admin(&["sandbox", "rm", "--force", name])?;
    times
}

fn starts(side: &Side, name: &str, rounds: u32) -> Result<Times> {
    // The first start makes what all later ones find: disks, an initramfs, a template, a verdict on KVM.
    once(side, name)?;
    let mut times =
        Times { total: Series::default(), parts: Vec::new(), accel: inspect(side, name, "accel")? };
    for _ in 0..rounds {
        side.admin(&["sandbox", "stop", name])?;
        let (total, parts) = once(side, name)?;
        times.total.push(total);
        for (part, took) in parts {
            match times.parts.iter_mut().find(|(name, _)| *name == part) {
                Some((_, series)) => series.push(took),
                None => {
                    let mut series = Series::default();
                    series.push(took);
                    times.parts.push((part, series));
                }
            }
        }
    }
    Ok(times)
}

/// One start: milliseconds in all, and of its parts in their order.
fn once(side: &Side, name: &str) -> Result<(f64, Vec<(&'static str, f64)>)> {
    let asked = now();
    side.admin(&["sandbox", "start", name])?;
    let answered = now();
    side.admin(&["exec", name, "--", "true"])?;
    let done = now();
    let mut at = vec![("", asked)];
    if inspect(side, name, "driver")? == "qemu" {
        let dir = side.path("data").join("sandboxes").join(inspect(side, name, "id")?);
        let shim = last(&read(&dir.join("shim.log")), "times: shim=")
            .context("the shim's log has no line with times")?;
        at.push(("gateway and shim, until QEMU is started", number(&shim, "exec")?));
        match guest(side, name, &dir.join("agent.log"))? {
            Some(steps) => at.extend(steps),
            // A copy prints nothing.
            None => at.push(("restore", number(&shim, "up")?)),
        }
        at.push(("link", answered));
    } else {
        at.push(("start", answered));
    }
    at.push(("exec", done));
    let parts = at.windows(2).filter_map(|pair| match pair {
        [(_, from), (part, to)] => Some((*part, (to - from) * 1000.0)),
        _ => None,
    });
    Ok(((done - asked) * 1000.0, parts.collect()))
}

/// When a guest that has booted was so far, in seconds since 1970. `None` for a copy.
fn guest(side: &Side, name: &str, log: &Path) -> Result<Option<Vec<(&'static str, f64)>>> {
    // What the answer takes to come is in each of these; the smallest has least of it.
    let mut born = f64::INFINITY;
    for _ in 0..5 {
        let uptime = side.admin(&["exec", name, "--", "cat", "/proc/uptime"])?;
        let seconds: f64 =
            uptime.split(' ').next().unwrap_or_default().parse().context("reading /proc/uptime")?;
        born = born.min(now() - seconds);
    }
    let began = Instant::now();
    loop {
        let text = read(log);
        if text.trim().is_empty() && began.elapsed() >= SILENCE {
            return Ok(None);
        }
        let line = |key: &str| last(&text, &format!("kernel's start: {key}="));
        if let (Some(init), Some(agent)) = (line("init"), line("agent")) {
            return Ok(Some(vec![
                ("kernel", born + number(&init, "init")?),
                ("init", born + number(&init, "root")?),
                ("agent", born + number(&agent, "agent")?),
            ]));
        }
        if began.elapsed() >= LOG_PATIENCE {
            bail!("the guest did not say when it was so far: {text}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The last line that has these words.
fn last(text: &str, words: &str) -> Option<String> {
    text.lines().rev().find(|line| line.contains(words)).map(str::to_owned)
}

/// The number of `key=NUMBER` in a line.
fn number(line: &str, key: &str) -> Result<f64> {
    let words = line.split_whitespace().filter_map(|word| word.split_once('='));
    let mut values = words.filter(|(name, _)| *name == key).filter_map(|(_, value)| value.parse().ok());
    values.next().with_context(|| format!("no {key} in: {line}"))
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn inspect(side: &Side, name: &str, key: &str) -> Result<String> {
    let value: Value = serde_json::from_str(&side.admin(&["sandbox", "inspect", name, "--json"])?)?;
    Ok(value[key].as_str().unwrap_or_default().to_owned())
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn docker(image: &Path, rounds: u32) -> Result<Series> {
    let engine = Engine::start(image)?;
    let mut series = Series::default();
    engine.run_true()?;
    for _ in 0..rounds {
        let began = Instant::now();
        engine.run_true()?;
        series.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(series)
}

/// The rest of the table `[qemu]`: what `tests/setup.sh` has put into `target`, or what the host has.
fn machine_settings(root: &Path) -> Result<String, String> {
    for program in ["qemu-system-x86_64", "mkfs.erofs", "mke2fs"] {
        if which(program).is_none() {
            return Err(format!("{program} is not installed"));
        }
    }
    let device = Some(root.join("target/tools/bin/vhost-device-vsock")).filter(|path| path.exists());
    let device = device.or_else(|| which("vhost-device-vsock"));
    let device = device.ok_or("vhost-device-vsock is not installed; tests/setup.sh builds it")?;
    let kernels = [root.join("target/kernel/boot"), PathBuf::from("/boot")];
    let kernel = kernels.iter().find_map(|dir| newest(dir));
    let kernel = kernel.ok_or("there is no kernel in target/kernel or /boot; tests/setup.sh unpacks one")?;
    Ok(format!("kernel = {kernel:?}\nvhost_device_vsock = {device:?}\n"))
}

fn newest(dir: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("vmlinuz-") && name.contains("cloud")
    };
    files.filter(named).max()
}

/// A program of the search path.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_the_last_line_that_has_them() -> Result<()> {
        let log =
            "times: shim=1.000 exec=2.5 up=3\nother\ntimes: shim=10.000 exec=12.5 up=13.25\nstopped: x\n";
        let line = last(log, "times: shim=").context("no line")?;
        assert_eq!((number(&line, "exec")?, number(&line, "up")?), (12.5, 13.25));
        assert!(number(&line, "shi").is_err());
        let console = "sandgate: times since the kernel's start: init=0.812 modules=1.2 root=1.345\r\n\
                       sandgate: times since the kernel's start: agent=1.402\r\n";
        let line = last(console, "kernel's start: init=").context("no line")?;
        assert_eq!((number(&line, "init")?, number(&line, "root")?), (0.812, 1.345));
        let line = last(console, "kernel's start: agent=").context("no line")?;
        assert_eq!(number(&line, "agent")?, 1.402);
        assert!(last(console, "kernel's start: other=").is_none());
        Ok(())
    }
}
