//! Root file systems from directories, tar files and OCI layouts.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::digest;
use common::{Rig, rig};
use sandgate_driver::{Driver, DriverError, ImageSource, NoProgress, SandboxSpec};

/// A root file system with a static busybox and nothing else, or `None` where there is none.
fn busybox_root(at: &Path) -> Option<PathBuf> {
    let root = at.join("tree");
    for dir in ["bin", "etc", "tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    if fs::copy("/bin/busybox", root.join("bin/busybox")).is_err() {
        common::skip("no static busybox");
        return None;
    }
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
    fs::write(root.join("etc/marker"), "from the image\n").unwrap();
    fs::write(root.join("etc/old"), "old\n").unwrap();
    Some(root)
}

fn tar(dir: &Path, file: &Path, flags: &[&str]) {
    let made =
        Command::new("tar").arg("-C").arg(dir).arg("-cf").arg(file).args(flags).arg(".").status().unwrap();
    assert!(made.success());
}

fn with_image(rig: &Rig, id: &str, image: &Path) -> SandboxSpec {
    let mut spec = rig.spec(id);
    spec.image = ImageSource::Path(image.to_owned());
    spec
}

async fn works(rig: &Rig, spec: &SandboxSpec) {
    rig.up(spec).await;
    let output = rig
        .sh(&spec.id, "/bin/busybox cat /etc/marker; /bin/busybox stat -c %u /etc/marker; echo new > /etc/marker; /bin/busybox rm /etc/old")
        .await;
    assert_eq!(output.stdout, "from the image\n0\n", "{output:?}");
    assert_eq!(output.stderr, "");
}

#[tokio::test]
async fn a_directory_and_a_tar_of_it() {
    let Some(rig) = rig() else { return };
    let Some(root) = busybox_root(rig.home.path()) else { return };
    let spec = with_image(&rig, "dir", &root);
    works(&rig, &spec).await;
    assert_eq!(
        fs::read_to_string(root.join("etc/marker")).unwrap(),
        "from the image\n",
        "the image was changed"
    );
    rig.driver.remove(&spec.id).await.unwrap();
    assert!(root.join("etc/old").exists());

    for (id, flags) in [("plain", &[][..]), ("gzip", &["-z"][..])] {
        let file = rig.home.path().join(format!("{id}.tar"));
        tar(&root, &file, flags);
        let spec = with_image(&rig, id, &file);
        works(&rig, &spec).await;
        rig.driver.remove(&spec.id).await.unwrap();
    }
    // Unpacked once: the second sandbox finds it made.
    let images = rig.home.path().join("data/images");
    assert_eq!(fs::read_dir(&images).unwrap().count(), 2);
    let again = with_image(&rig, "again", &rig.home.path().join("plain.tar"));
    works(&rig, &again).await;
    assert_eq!(fs::read_dir(&images).unwrap().count(), 2);
    rig.driver.remove(&again.id).await.unwrap();
}

#[tokio::test]
async fn an_empty_image_runs_the_agent() {
    let Some(rig) = rig() else { return };
    let root = rig.home.path().join("empty");
    fs::create_dir(&root).unwrap();
    let spec = with_image(&rig, "empty", &root);
    rig.up(&spec).await;
    assert!(rig.is_running(&spec.id).await);
    rig.driver.remove(&spec.id).await.unwrap();
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "mount points were made in the image itself");
}

/// Adds a blob and returns its descriptor as JSON.
fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    fs::write(layout.join("blobs/sha256").join(&hex), bytes).unwrap();
    format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{hex}","size":{}}}"#, bytes.len())
}

/// An OCI layout of two layers, the second of which hides a file of the first.
fn layout(at: &Path, root: &Path) -> PathBuf {
    let layout = at.join("layout");
    fs::create_dir_all(&layout).unwrap();
    let (first, second, upper) = (at.join("first.tar"), at.join("second.tar"), at.join("upper"));
    fs::write(root.join("etc/hidden"), "x").unwrap();
    tar(root, &first, &["-z"]);
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/.wh.hidden"), "").unwrap();
    fs::write(upper.join("etc/second"), "2").unwrap();
    tar(&upper, &second, &[]);
    let kind = "application/vnd.oci.image";
    let layers = [
        blob(&layout, &format!("{kind}.layer.v1.tar+gzip"), &fs::read(first).unwrap()),
        blob(&layout, &format!("{kind}.layer.v1.tar"), &fs::read(second).unwrap()),
    ];
    let config = r#"{"architecture":"amd64","os":"linux","config":{"User":"7:8","Env":["FROM=image"],"WorkingDir":"/tmp"},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let config = blob(&layout, &format!("{kind}.config.v1+json"), config.as_bytes());
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","));
    let manifest = blob(&layout, &format!("{kind}.manifest.v1+json"), manifest.as_bytes());
    fs::write(layout.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#))
        .unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    layout
}

#[tokio::test]
async fn an_oci_layout_as_a_directory_and_as_a_tar() {
    let Some(rig) = rig() else { return };
    let Some(root) = busybox_root(rig.home.path()) else { return };
    let layout = layout(rig.home.path(), &root);
    let file = rig.home.path().join("layout.tar");
    tar(&layout, &file, &[]);
    for (id, image) in [("layout", &layout), ("archive", &file)] {
        let spec = with_image(&rig, id, image);
        works(&rig, &spec).await;
        let output = rig.sh(&spec.id, "/bin/busybox ls /etc/hidden /etc/second; echo $FROM").await;
        assert_eq!(output.stdout, "/etc/second\nimage\n", "{output:?}");
        assert_eq!(rig.driver.login_user(&spec.id).await.unwrap().as_deref(), Some("7:8"));
        rig.driver.remove(&spec.id).await.unwrap();
    }
    assert_eq!(fs::read_dir(rig.home.path().join("data/images")).unwrap().count(), 1);

    // One changed byte in a layer.
    let blobs: Vec<PathBuf> =
        fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|e| e.unwrap().path()).collect();
    let largest = blobs.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(largest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(largest, bytes).unwrap();
    fs::remove_dir_all(rig.home.path().join("data/images")).unwrap();
    let spec = with_image(&rig, "broken", &layout);
    let error = rig.driver.create(&spec, &NoProgress).await.unwrap_err();
    assert!(error.to_string().contains("digest"), "{error}");
}

#[tokio::test]
async fn images_that_cannot_be_used_leave_nothing() {
    let Some(rig) = rig() else { return };
    let garbage = rig.home.path().join("garbage");
    fs::write(&garbage, vec![0x55; 10_000]).unwrap();
    let empty = rig.home.path().join("empty.tar");
    fs::write(&empty, vec![0; 10_240]).unwrap();
    for (id, image) in [
        ("missing", Path::new("/nonexistent")),
        ("garbage", &garbage),
        ("none", &empty),
        ("dev", Path::new("/dev/null")),
    ] {
        let error = rig.driver.create(&with_image(&rig, id, image), &NoProgress).await.unwrap_err();
        assert!(matches!(error, DriverError::Image { .. }), "{error}");
        assert!(!rig.dir(&id.parse().unwrap()).exists(), "{id}");
    }
}

#[tokio::test]
async fn shared_directories_obey_their_access() {
    let Some(rig) = rig() else { return };
    let shared = rig.home.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    fs::write(shared.join("from-host"), "hello\n").unwrap();
    let mut spec = rig.spec("mounts");
    spec.mounts = vec![
        format!("{}:/data/rw", shared.display()).parse().unwrap(),
        format!("{}:/data/ro:ro", shared.display()).parse().unwrap(),
    ];
    rig.up(&spec).await;
    let output = rig
        .sh(
            &spec.id,
            "cat /data/ro/from-host; echo x > /data/rw/from-guest; touch /data/ro/y || echo refused",
        )
        .await;
    assert_eq!(output.stdout, "hello\nrefused\n", "{output:?}");
    assert_eq!(fs::read_to_string(shared.join("from-guest")).unwrap(), "x\n");
    rig.driver.remove(&spec.id).await.unwrap();
    assert!(shared.join("from-host").exists());
}
