//! Who runs a machine's processors: KVM, or QEMU in software.
//!
//! That `/dev/kvm` is there says little. On a host that is a virtual machine itself it may open, and the first kernel dies in it. So the kernel is
//! booted under KVM once, as far as our init, and what came of it is remembered for as long as nothing has changed that it depends on: the kernel,
//! QEMU, and this boot of the host.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};

use super::super::message::{Failure, Report};
use super::boot::{self, Plan, Stage};
use super::initramfs;
use super::jail::Jail;
use super::kernel::Kernel;
use super::probe::Finding;
use super::run::MIN_MEMORY;
use super::{machines, memo, probe};
use crate::image::hex;
use crate::qemu::{AccelMode, Accelerator};
use crate::state::DataDir;
use crate::state::lock::OpLock;
use crate::state::process::boot_id;

/// What KVM is used by.
pub(super) const DEVICE: &str = "/dev/kvm";
/// Mixed into what verdicts are remembered by; to be changed with how KVM is tried.
const FORMAT: &str = "2";
/// The list of verdicts, in the directory of machines.
const KNOWN: &str = "kvm.json";
/// Held while KVM is tried.
const LOCK: &str = "kvm.lock";
/// How long a verdict holds that something else than KVM may have brought about.
const DOUBTFUL: Duration = Duration::from_secs(600);
/// How long to wait for another machine that tries.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// KVM runs the kernel.
    Kvm,
    /// It does not, or is not to.
    Tcg {
        /// Why, without a final full stop.
        reason: String,
    },
}

impl Verdict {
    pub(super) fn tcg(reason: impl Into<String>) -> Self {
        Self::Tcg { reason: reason.into() }
    }

    pub(super) fn accelerator(&self) -> Accelerator {
        match self {
            Self::Kvm => Accelerator::Kvm,
            Self::Tcg { .. } => Accelerator::Tcg,
        }
    }

    /// What the machine's owner should know.
    pub(super) fn warning(&self) -> Option<String> {
        match self {
            Self::Kvm => None,
            Self::Tcg { reason } => {
                Some(format!("The machine's processor is emulated in software (TCG) and slow: {reason}."))
            }
        }
    }
}

/// A verdict as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Noted {
    verdict: Verdict,
    /// In seconds since 1970; for ever without it.
    until: Option<u64>,
}

impl Noted {
    fn of(finding: &Finding) -> Self {
        let until = (!finding.lasting).then(|| now().saturating_add(DOUBTFUL.as_secs()));
        Self { verdict: finding.verdict.clone(), until }
    }

    fn holds(&self) -> bool {
        self.until.is_none_or(|until| now() < until)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What KVM is tried with.
pub(super) struct Ground<'a> {
    pub(super) data: &'a DataDir,
    pub(super) kernel: &'a Kernel,
    pub(super) agent: &'a Path,
    pub(super) qemu: &'a Path,
    /// The machine's own.
    pub(super) jail: &'a Jail,
}

/// Decides for a machine.
pub(super) fn decide(mode: AccelMode, ground: &Ground<'_>, report: &mut Report) -> Result<Verdict, Failure> {
    match (mode, usable(Path::new(DEVICE), ground.jail.user)) {
        (AccelMode::Tcg, _) => Ok(Verdict::tcg("[qemu] accel says so")),
        (AccelMode::Kvm, Ok(())) => Ok(Verdict::Kvm),
        (AccelMode::Kvm, Err(reason)) => {
            Err(Failure::machine(format!("[qemu] accel asks for KVM, and {reason}")))
        }
        // Not remembered: it costs nothing to look again.
        (AccelMode::Auto, Err(reason)) => Ok(Verdict::tcg(reason)),
        (AccelMode::Auto, Ok(())) => {
            let key = key(ground.kernel, &boot::identity(ground.qemu)?, &Host::look());
            remembered(&machines(ground.data)?, &key, || try_it(ground, report))
        }
    }
}

/// Whether the device can be tried; or why not.
fn usable(device: &Path, user: Option<u32>) -> Result<(), String> {
    let name = device.display();
    let meta = fs::metadata(device).map_err(|_| format!("there is no {name}"))?;
    if !meta.file_type().is_char_device() {
        return Err(format!("{name} is no device"));
    }
    match user {
        // Whose jail gets one of its own.
        Some(_) => Ok(()),
        None => access(device, Access::READ_OK | Access::WRITE_OK)
            .map_err(|error| format!("{name} is closed to the gateway's user ({error})")),
    }
}

/// What of the host a verdict holds for.
struct Host {
    release: String,
    boot: String,
}

impl Host {
    fn look() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self { release: release.trim().to_owned(), boot: boot_id() }
    }
}

/// With the kernel's path: what lies there is opened again for the boot, so only those who name the same file rely on what came of it.
fn key(kernel: &Kernel, qemu: &str, host: &Host) -> String {
    let Host { release, boot } = host;
    let (digest, path) = (&kernel.digest, kernel.image.display());
    let text = format!("{FORMAT} {digest} {path} {qemu} {release} {boot}");
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hex(hash.as_ref().get(..16).unwrap_or_default())
}

/// The verdict as it was found before, or as it is found now: once, however many machines start at this moment.
fn remembered(
    home: &Path,
    key: &str,
    find_out: impl FnOnce() -> Result<Finding, Failure>,
) -> Result<Verdict, Failure> {
    let known = home.join(KNOWN);
    let recall = || memo::recall::<Noted>(&known, key).filter(Noted::holds).map(|noted| noted.verdict);
    if let Some(verdict) = recall() {
        return Ok(verdict);
    }
    let lock = OpLock::acquire(&home.join(LOCK), PATIENCE).map_err(Failure::io("lock the verdicts"))?;
    let Some(_lock) = lock else {
        return Ok(Verdict::tcg("another machine has been trying KVM for too long"));
    };
    if let Some(verdict) = recall() {
        return Ok(verdict);
    }
    // An error is no verdict on KVM, and not remembered.
    let finding = find_out()?;
    memo::note(&known, key, Noted::of(&finding));
    Ok(finding.verdict)
}

/// Boots the kernel under KVM, as far as our init.
fn try_it(ground: &Ground<'_>, report: &mut Report) -> Result<Finding, Failure> {
    report.step("trying whether KVM runs the kernel");
    let initramfs =
        initramfs::prepare(ground.data, ground.kernel, ground.agent, initramfs::Use::Boot, report)?;
    let plan = Plan {
        kernel: ground.kernel,
        initramfs: &initramfs,
        accel: Accelerator::Kvm,
        memory: MIN_MEMORY,
        processors: 1,
        stage: Stage::Probe,
        reads: Vec::new(),
        writes: Vec::new(),
    };
    // Not within this sandbox's limits, which may be narrow: the verdict is one for all.
    let jail = Jail { cgroups: Vec::new(), ..ground.jail.clone() };
    let mut command = boot::command(&plan, jail, ground.qemu.to_owned())?;
    let finding = probe::watch(&mut command, probe::PATIENCE)?;
    match &finding.verdict {
        Verdict::Kvm => eprintln!("KVM runs the kernel {}", ground.kernel.version),
        Verdict::Tcg { reason } => {
            eprintln!(
                "machines with the kernel {} are emulated in software: {reason}",
                ground.kernel.version
            );
        }
    }
    Ok(finding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_holds_for_a_kernel_a_qemu_and_a_boot_of_the_host() {
        let host = |release: &str, boot: &str| Host { release: release.into(), boot: boot.into() };
        let kernel = |digest: &str, image: &str| Kernel::known(digest, image);
        let first = key(&kernel("00", "/k"), "/q 1 2", &host("6.1", "a"));
        assert_eq!(first, key(&kernel("00", "/k"), "/q 1 2", &host("6.1", "a")));
        for other in [
            key(&kernel("01", "/k"), "/q 1 2", &host("6.1", "a")),
            key(&kernel("00", "/l"), "/q 1 2", &host("6.1", "a")),
            key(&kernel("00", "/k"), "/q 1 3", &host("6.1", "a")),
            key(&kernel("00", "/k"), "/q 1 2", &host("6.2", "a")),
            key(&kernel("00", "/k"), "/q 1 2", &host("6.1", "b")),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn it_is_found_out_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut asked = 0;
        let mut ask = |key: &str, answer: Result<Verdict, Failure>| {
            remembered(dir.path(), key, || {
                asked += 1;
                answer.map(|verdict| Finding { verdict, lasting: true })
            })
        };
        assert!(ask("a", Err(Failure::other("the disk is full"))).is_err());
        let tcg = Verdict::tcg("it died");
        assert_eq!(ask("a", Ok(tcg.clone())).unwrap(), tcg);
        assert_eq!(ask("a", Ok(Verdict::Kvm)).unwrap(), tcg);
        assert_eq!(ask("b", Ok(Verdict::Kvm)).unwrap(), Verdict::Kvm);
        assert_eq!(ask("b", Ok(tcg)).unwrap(), Verdict::Kvm);
        assert_eq!(asked, 3);
    }

    #[test]
    fn what_a_busy_host_may_have_brought_about_holds_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let finding = |verdict, lasting| Ok(Finding { verdict, lasting });
        let late = Verdict::tcg("it was late");
        assert_eq!(remembered(dir.path(), "a", || finding(late.clone(), false)).unwrap(), late);
        assert_eq!(remembered(dir.path(), "a", || finding(Verdict::Kvm, true)).unwrap(), late);
        let past = Noted { verdict: late, until: Some(now() - 1) };
        memo::note(&dir.path().join(KNOWN), "a", past);
        assert_eq!(remembered(dir.path(), "a", || finding(Verdict::Kvm, true)).unwrap(), Verdict::Kvm);
    }

    #[test]
    fn what_cannot_be_tried_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kvm");
        assert!(usable(&file, None).unwrap_err().contains("there is no"));
        fs::write(&file, "").unwrap();
        assert!(usable(&file, Some(1)).unwrap_err().contains("no device"));
        for user in [None, Some(1)] {
            assert_eq!(usable(Path::new("/dev/null"), user), Ok(()));
        }
    }

    #[test]
    fn emulation_is_said_with_its_reason() {
        assert_eq!(Verdict::Kvm.warning(), None);
        let warning = Verdict::tcg("there is no /dev/kvm").warning().unwrap();
        assert!(warning.ends_with("(TCG) and slow: there is no /dev/kvm."), "{warning}");
    }
}
