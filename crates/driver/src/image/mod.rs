//! Images: where a sandbox's read-only files come from.
//!
//! A directory is used where it is. A tar file, and an OCI layout, is unpacked once into `<data-dir>/images/<digest>` and
//! shared by all sandboxes that name it.

pub(crate) mod compression;
pub(crate) mod disk;
pub(crate) mod host;
pub(crate) mod layout;
mod meter;
pub(crate) mod unpack;

use std::fs::{self, DirBuilder, File};
use std::io::{Read, Seek};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest;

use crate::ImageName;
use crate::images::store::BlobStore;
use crate::images::{ImageRef, Platform};
use crate::shim::message::{Failure, Report};
use crate::state::lock::OpLock;
use crate::state::{DataDir, ImageMeta, Layer, LayerOwner, read_json, write_json};
use layout::{DirBlobs, TarBlobs, TarKind};
use unpack::Unpacker;

/// How long to wait for another sandbox that is unpacking an image.
const PATIENCE: Duration = Duration::from_secs(600);

/// Finds out what `path` is and makes it usable.
pub(crate) fn prepare(data: &DataDir, path: &Path, report: &mut Report) -> Result<ImageMeta, Failure> {
    let kind = fs::metadata(path).map_err(|error| Failure::image(format!("it cannot be opened: {error}")))?;
    if kind.is_dir() {
        if path.join("index.json").is_file() && path.join("oci-layout").is_file() {
            let mut blobs = DirBlobs::open(path)?;
            return from_layout(data, &mut blobs, report);
        }
        return Ok(plain(fs::canonicalize(path).map_err(Failure::io("resolve the image"))?));
    }
    if !kind.is_file() {
        return Err(Failure::image("it is neither a directory nor a file"));
    }
    let mut file =
        File::open(path).map_err(|error| Failure::image(format!("it cannot be opened: {error}")))?;
    report.step("reading the image");
    match TarBlobs::open(&file)? {
        TarKind::Layout(mut blobs) => return from_layout(data, &mut blobs, report),
        TarKind::DockerSave(_) => {
            return Err(Failure::image(format!(
                "it is in the old format of \"docker save\"; take it in with: sandgate image import {}",
                path.display()
            )));
        }
        TarKind::Other => {}
    }
    file.rewind().map_err(Failure::io("rewind the image"))?;
    let name = format!("tar-{}", sha256(&mut file)?);
    file.rewind().map_err(Failure::io("rewind the image"))?;
    unpacked(data, &name, report, |unpacker| {
        unpacker.layer(unpack::decompress(file)?.0)?;
        Ok(ImageMeta::default())
    })
}

fn plain(source: PathBuf) -> ImageMeta {
    ImageMeta {
        layers: vec![Layer { source, target: String::new(), owner: LayerOwner::Literal }],
        ..ImageMeta::default()
    }
}

fn from_layout(
    data: &DataDir,
    blobs: &mut dyn layout::Blobs,
    report: &mut Report,
) -> Result<ImageMeta, Failure> {
    let image = layout::resolve(blobs)?;
    unpack_image(data, blobs, &image, report)
}

/// An image of the store, by name.
pub(crate) fn named(data: &DataDir, name: &ImageName, report: &mut Report) -> Result<ImageMeta, Failure> {
    let wanted: ImageRef =
        name.as_str().parse().map_err(|error: crate::ImageError| Failure::image(error.to_string()))?;
    let store = BlobStore::new(data.image_store());
    let entries = store.entries().map_err(|error| Failure::other(error.to_string()))?;
    let canonical = wanted.canonical();
    let Some(entry) = entries.into_iter().find(|entry| entry.name() == canonical) else {
        return Err(Failure::image(format!("no image {name}; get it with: sandgate image pull {name}")));
    };
    let host = Platform::host();
    if let Some(found) = entry.platform.as_ref().filter(|found| !host.fits(found)) {
        return Err(Failure::image(format!(
            "it is for {}/{} and this machine is {host}",
            found.os, found.architecture
        )));
    }
    // By way of JSON, the one form that both types have in common.
    let descriptor = serde_json::to_value(&entry).and_then(serde_json::from_value);
    let descriptor = descriptor.map_err(Failure::io("read the index of the image store"))?;
    let mut blobs = DirBlobs::open(store.root())?;
    let image = layout::describe(&mut blobs, &descriptor)?;
    unpack_image(data, &mut blobs, &image, report)
}

fn unpack_image(
    data: &DataDir,
    blobs: &mut dyn layout::Blobs,
    image: &layout::Image,
    report: &mut Report,
) -> Result<ImageMeta, Failure> {
    let name = image.digest.replace(':', "-");
    unpacked(data, &name, report, |unpacker| {
        for layer in &image.layers {
            layout::unpack_layer(blobs, layer, unpacker)?;
        }
        Ok(ImageMeta {
            layers: Vec::new(),
            env: image.env.clone(),
            user: image.user.clone(),
            working_dir: image.working_dir.clone(),
        })
    })
}

/// Unpacks unless that was done before, and describes the result.
fn unpacked(
    data: &DataDir,
    name: &str,
    report: &mut Report,
    fill: impl FnOnce(&mut Unpacker) -> Result<ImageMeta, Failure>,
) -> Result<ImageMeta, Failure> {
    let fail = || Failure::io("make the image's directory");
    let home = data.images().join(name);
    DirBuilder::new().recursive(true).mode(0o700).create(&home).map_err(fail())?;
    let lock = OpLock::acquire(&home.join("lock"), PATIENCE).map_err(Failure::io("lock the image"))?;
    let Some(_lock) = lock else {
        return Err(Failure::image("another sandbox has been unpacking it for too long"));
    };
    let record = home.join("image.json");
    if !record.exists() {
        report.step("unpacking the image");
        let root = home.join("rootfs");
        // From an attempt that was interrupted.
        if root.exists() {
            fs::remove_dir_all(&root).map_err(Failure::io("remove a half-made image"))?;
        }
        DirBuilder::new().mode(0o755).create(&root).map_err(fail())?;
        let mut unpacker = Unpacker::new(&root)?;
        let mut meta = fill(&mut unpacker)?;
        if unpacker.is_empty() {
            return Err(Failure::image("there are no files in it"));
        }
        for what in unpacker.remarks() {
            report.warn(what);
        }
        meta.layers = plain(root).layers;
        write_json(&record, &meta).map_err(Failure::io("record the image"))?;
    }
    read_json(&record).map_err(Failure::io("read the image's record"))
}

/// The SHA-256 of all that is left to read, in hexadecimal.
pub(crate) fn sha256(reader: &mut impl Read) -> Result<String, Failure> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0u8; 128 << 10];
    loop {
        let n = reader.read(&mut buffer).map_err(Failure::io("read the image"))?;
        if n == 0 {
            break;
        }
        context.update(&buffer[..n]);
    }
    Ok(hex(context.finish().as_ref()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
