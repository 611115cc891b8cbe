//! What a machine is from inside: its network, its devices, bulk data and a forwarded agent for long. What every driver does is in
//! `driver_contract.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use sandgate_tests::agent::Agent;
use sandgate_tests::client::DEADLINE;
use sandgate_tests::machine::{self, Needs};
use sandgate_tests::wait::scaled;
use sandgate_tests::{Feed, Options, Target, paths, rootfs, run};

/// Bytes through a machine and back; under emulation some 20 to 50 MiB a second.
const BULK: usize = 1 << 30;
/// For the longest of these.
const PATIENCE: Duration = Duration::from_secs(420);

#[test]
fn heavy_a_machine_has_a_disk_a_console_and_vsock() {
    let Some(needs) = Needs::find() else { return };
    let target = needs.start();
    let devices = target.exec("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; ls /sys/class/net").ok();
    assert_eq!(devices, "lo\nlo", "another interface than loopback");
    let routes = target.exec("tail -n +2 /proc/net/route").ok();
    assert_eq!(routes, "", "a route leads out");

    // By the numbers of the virtio specification: block, console, vsock. The kernel's own console is a serial port.
    let virtio = target.exec("cat /sys/bus/virtio/devices/*/device | sort -u").ok();
    let known = ["0x0002", "0x0003", "0x0013"];
    assert!(
        virtio.contains("0x0002") && virtio.lines().all(|id| known.contains(&id)),
        "virtio devices: {virtio}"
    );
    // A copy has its vsock device on a PCI bus: the host bridge, the port it is plugged into, and itself.
    let pci = target
        .exec("cat /sys/bus/pci/devices/*/vendor /sys/bus/pci/devices/*/device 2>/dev/null | sort; true")
        .ok();
    let known = ["0x1b36", "0x1af4", "0x0008", "0x000c", "0x1053"];
    assert!(pci.lines().all(|id| known.contains(&id)), "another PCI device: {pci}");
    for bus in ["usb", "scsi", "pcmcia", "hid"] {
        assert_eq!(
            target.exec(&format!("ls /sys/bus/{bus}/devices 2>/dev/null; true")).ok(),
            "",
            "on the bus {bus}"
        );
    }

    // Without a device for randomness: what the host hands in at the start seeds the kernel.
    let random = target.exec("head -c 1000000 /dev/random | wc -c").ok();
    assert_eq!(random, "1000000");

    let agent = Agent::start(&target);
    let fingerprint = agent.add_new_key("listed");
    let count = scaled(1000);
    let script = format!("i=0; while [ $i -lt {count} ]; do ssh-add -l || exit 1; i=$((i+1)); done");
    let text = run(&mut agent.ssh(&target, &["-A", "box", &script]), Feed::Null, PATIENCE).ok();
    assert_eq!(text.lines().filter(|line| line.contains(&fingerprint)).count(), count);
}

#[test]
fn heavy_a_gibibyte_goes_in_and_comes_out() {
    let Some(needs) = Needs::find() else { return };
    let target = needs.start();
    let bytes = scaled(BULK);
    // The bytes of a cipher without a file, so that only hashes are kept.
    let script = format!(
        "head -c {bytes} /dev/zero | openssl enc -aes-128-ctr -nosalt -K 0123456789abcdef0123456789abcdef -iv 0 2>/dev/null \
         | tee >(sha256sum >$DIR/sent) | $SSH box cat | sha256sum >$DIR/back; cat $DIR/sent $DIR/back"
    );
    let text = run(&mut target.script(&script), Feed::Null, PATIENCE).ok();
    let hashes: Vec<&str> = text.lines().collect();
    assert!(hashes.len() == 2 && hashes[0] == hashes[1], "{text}");
}

/// An OCI layout of the image of all drivers, with that configuration.
fn layout(target: &Target, config: &str) -> PathBuf {
    let dir = target.dir().join("layouts");
    fs::create_dir(&dir).unwrap();
    let mut command = Command::new("/usr/bin/python3");
    let script = paths::workspace().join("tests/images/layout.py");
    command.arg(script).args(["named", config]).arg(rootfs::image()).current_dir(&dir);
    run(&mut command, Feed::Null, DEADLINE).ok();
    dir.join("named")
}

#[test]
fn heavy_an_image_by_name_says_who_and_where() {
    let Some(needs) = Needs::find() else { return };
    // `box` is the same image as a directory, in a container: it boots nothing.
    let target = Target::start_with(&Options { extra_toml: needs.toml(""), ..Options::default() });
    let gateway = target.gateway();
    let config =
        r#"{"User": "dev", "WorkingDir": "/tmp", "Env": ["PATH=/usr/bin:/bin", "FROM_IMAGE=a b=c"]}"#;
    let layout = layout(&target, config);
    gateway.cli(&["image", "import", layout.to_str().unwrap(), "local/named:1"]).ok();
    let mut said = Vec::new();
    for driver in ["qemu", "oci"] {
        let create = ["--driver", driver, "--image", "local/named:1", "--env", "GIVEN=1"];
        gateway.create_sandbox(driver, &create);
        let ask = "id -un; pwd; echo $FROM_IMAGE; echo $GIVEN; echo $PATH; echo $HOME";
        said.push(gateway.cli(&["exec", driver, "--", "sh", "-c", ask]).ok());
        let token = gateway.token(driver, &[]).token;
        said.push(run(&mut target.ssh(&["-l", &token, "box", ask]), Feed::Null, DEADLINE).ok());
    }
    let lines: Vec<&str> = said[0].lines().collect();
    assert_eq!((lines[0], lines[2], lines[3]), ("dev", "a b=c", "1"), "{said:#?}");
    assert_eq!(said[..2], said[2..], "a machine differs from a container");
    // A sandbox of a name keeps the image; without it the image goes.
    let refused = gateway.cli(&["image", "rm", "local/named:1"]);
    assert_ne!(refused.code, 0, "an image in use was removed");
    for driver in ["qemu", "oci"] {
        gateway.cli(&["sandbox", "rm", "--force", driver]).ok();
    }
    gateway.cli(&["image", "rm", "local/named:1"]).ok();
    assert_eq!(machine::state(&target, "box"), "running");
}
