//! Devices that come after the kernel has looked for them.
//!
//! A template is saved without any device but its console. Each slot of the machine (a virtio-mmio transport) can have one in a copy, whose
//! kernel does not know: nothing tells it. So it is asked to look again, slot by slot, until one has a device; then the copy runs and
//! all the others are there too.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Failed, doing};

const DRIVER: &str = "/sys/bus/platform/drivers/virtio-mmio";
const DEVICES: &str = "/sys/bus/platform/devices";
/// The ACPI name of a virtio-mmio transport.
const TRANSPORT: &str = "LNRO0005";
/// Makes the kernel look for devices on its PCI buses.
const RESCAN: &str = "/sys/bus/pci/rescan";
/// Between two looks: it is added to each start.
const PAUSE: Duration = Duration::from_millis(1);

/// Returns when this machine has its devices. In a template that is never.
pub(super) fn wait_for_disks() -> Result<(), Failed> {
    let mut slots: Vec<PathBuf> = fs::read_dir(DEVICES)
        .map_err(doing("list the slots"))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TRANSPORT)))
        .collect();
    slots.sort();
    if slots.is_empty() {
        return Err(Failed("this machine has no slots for devices".into()));
    }
    // All devices come at once, so what finds one finds all, but for those that the look had passed by.
    while !bind_all(&slots) {
        std::thread::sleep(PAUSE);
    }
    bind_all(&slots);
    // A machine without PCI has all its devices in slots.
    let _ = fs::write(RESCAN, "1");
    Ok(())
}

/// Whether there was one.
fn bind_all(slots: &[PathBuf]) -> bool {
    slots.iter().filter(|slot| bind(slot)).count() > 0
}

/// Whether there is a device now.
fn bind(slot: &Path) -> bool {
    let Some(name) = slot.file_name() else { return false };
    fs::write(Path::new(DRIVER).join("bind"), name.as_encoded_bytes()).is_ok()
}
