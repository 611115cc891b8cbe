//! OCI image layouts (image specification, "Image Layout"), as a directory or inside a tar file.
//!
//! Every blob is checked against the digest it is named by before anything of it is believed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use serde::de::DeserializeOwned;

use super::meter::{Meter, Metered};
use super::unpack::{Unpacker, decompress};
use super::{hex, sha256};
use crate::shim::message::Failure;

/// Largest JSON document, in bytes.
const MAX_DOCUMENT: u64 = 4 << 20;

/// How deep an index may point to indexes.
const MAX_INDEX_DEPTH: usize = 4;

/// Most layers of an image; Docker's own limit is 127.
const MAX_LAYERS: usize = 512;

/// Most members that a tar file with a layout may have.
const MAX_MEMBERS: usize = 100_000;

/// Where blobs come from.
pub(crate) trait Blobs {
    /// A file of the layout by its path in it, for example `index.json`.
    fn open(&mut self, path: &str) -> Result<Box<dyn Read + '_>, Failure>;
}

/// A layout in a directory.
#[derive(Debug)]
pub(crate) struct DirBlobs {
    root: OwnedFd,
}

impl DirBlobs {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: open(path, flags, Mode::empty()).map_err(Failure::io("open the image"))? })
    }
}

impl Blobs for DirBlobs {
    fn open(&mut self, path: &str) -> Result<Box<dyn Read + '_>, Failure> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = openat2(
            &self.root,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        )
        .map_err(|error| Failure::image(format!("{path} cannot be opened: {error}")))?;
        Ok(Box::new(File::from(file)))
    }
}

/// A layout in an uncompressed tar file.
#[derive(Debug)]
pub(crate) struct TarBlobs {
    file: File,
    /// Offset and length of each member.
    members: HashMap<PathBuf, (u64, u64)>,
}

impl TarBlobs {
    /// Finds out what the file is.
    pub(crate) fn open(file: &File) -> Result<TarKind, Failure> {
        let file = file.try_clone().map_err(Failure::io("read the image"))?;
        let mut reader = &file;
        reader.seek(SeekFrom::Start(0)).map_err(Failure::io("read the image"))?;
        let mut start = [0u8; 512];
        let n = reader.read(&mut start).map_err(Failure::io("read the image"))?;
        // Compressed: then it is not a layout, whose blobs are compressed one by one.
        if n < start.len() || !start[257..].starts_with(b"ustar") {
            return Ok(TarKind::Other);
        }
        reader.seek(SeekFrom::Start(0)).map_err(Failure::io("read the image"))?;
        let mut members = HashMap::new();
        let mut foreign = 0;
        // Content is skipped by seeking, so only headers are read. Their number is bounded below.
        let meter = Rc::new(Meter::new(u64::MAX));
        let mut archive = tar::Archive::new(Metered::new(reader, meter.clone()));
        meter.expect(0);
        let entries = archive.entries_with_seek().map_err(super::unpack::malformed)?;
        for entry in entries {
            let entry = entry.map_err(super::unpack::malformed)?;
            meter.expect(0);
            let path = entry.path().map_err(super::unpack::malformed)?;
            let path: PathBuf =
                path.components().filter(|c| matches!(c, std::path::Component::Normal(_))).collect();
            if !is_of_an_image(&path) {
                foreign += 1;
            }
            // A root file system shows itself early; no need to read all of it.
            if foreign > 64 && !members.contains_key(Path::new("oci-layout")) {
                return Ok(TarKind::Other);
            }
            if members.len() >= MAX_MEMBERS {
                return Ok(TarKind::Other);
            }
            if entry.header().entry_type().is_file() {
                members.insert(path, (entry.raw_file_position(), entry.size()));
            }
        }
        let has = |name: &str| members.contains_key(Path::new(name));
        if has("index.json") && has("oci-layout") {
            return Ok(TarKind::Layout(Self { file, members }));
        }
        if has("manifest.json") {
            return Ok(TarKind::DockerSave(Self { file, members }));
        }
        Ok(TarKind::Other)
    }
}

/// What a tar file holds.
#[derive(Debug)]
pub(crate) enum TarKind {
    /// An OCI layout, also one of a new `docker save`, which is both.
    Layout(TarBlobs),
    /// The old format of `docker save`.
    DockerSave(TarBlobs),
    /// Something else: a root file system perhaps.
    Other,
}

/// Whether a file belongs to a layout or to `docker save`, whose layers are `<hex>/layer.tar` beside `<hex>.json`.
fn is_of_an_image(path: &Path) -> bool {
    let first = path.iter().next().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let plain = first.strip_suffix(".json").or(first.strip_suffix(".tar")).unwrap_or(&first);
    ["", "blobs", "index.json", "oci-layout", "manifest.json", "repositories"].contains(&first.as_str())
        || plain.len() == 64 && plain.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Blobs for TarBlobs {
    fn open(&mut self, path: &str) -> Result<Box<dyn Read + '_>, Failure> {
        let (offset, length) =
            *self.members.get(Path::new(path)).ok_or_else(|| Failure::image(format!("{path} is missing")))?;
        Ok(Box::new(Section { file: &self.file, offset, left: length }))
    }
}

/// A part of a file.
#[derive(Debug)]
struct Section<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.file.read_at(&mut buffer[..room], self.offset)?;
        self.offset += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

/// What a layout's image is made of.
#[derive(Debug)]
pub(crate) struct Image {
    /// The manifest's digest, `sha256:` and 64 digits.
    pub(crate) digest: String,
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) env: Vec<String>,
    pub(crate) user: Option<String>,
    pub(crate) working_dir: Option<String>,
}

/// Follows the index to the manifest for this machine, and reads its configuration.
pub(crate) fn resolve(blobs: &mut dyn Blobs) -> Result<Image, Failure> {
    let index: ImageIndex = parse("index.json", &read_document(blobs, "index.json")?)?;
    let manifest_at = choose(blobs, index, 0)?;
    describe(blobs, &manifest_at)
}

/// Reads a manifest, which is in an index, and its configuration.
pub(crate) fn describe(blobs: &mut dyn Blobs, manifest_at: &Descriptor) -> Result<Image, Failure> {
    let manifest: ImageManifest = document(blobs, manifest_at)?;
    if manifest.layers().len() > MAX_LAYERS {
        return Err(Failure::image(format!("it has more than {MAX_LAYERS} layers")));
    }
    let config: ImageConfiguration = document(blobs, manifest.config())?;
    let config = config.config().clone();
    let some = |text: Option<&String>| text.filter(|text| !text.is_empty()).cloned();
    Ok(Image {
        digest: manifest_at.digest().to_string(),
        layers: manifest.layers().clone(),
        env: config.as_ref().and_then(|c| c.env().clone()).unwrap_or_default(),
        user: some(config.as_ref().and_then(|c| c.user().as_ref())),
        working_dir: some(config.as_ref().and_then(|c| c.working_dir().as_ref())),
    })
}

fn choose(blobs: &mut dyn Blobs, index: ImageIndex, depth: usize) -> Result<Descriptor, Failure> {
    if depth > MAX_INDEX_DEPTH {
        return Err(Failure::image("its indexes point to indexes without end"));
    }
    let architecture = if cfg!(target_arch = "aarch64") { Arch::ARM64 } else { Arch::Amd64 };
    let fits = |d: &&Descriptor| {
        d.platform().as_ref().is_none_or(|p| *p.architecture() == architecture && *p.os() == Os::Linux)
    };
    let chosen = index.manifests().iter().find(fits).cloned();
    let chosen = chosen.ok_or_else(|| Failure::image("it has nothing for this machine's architecture"))?;
    if *chosen.media_type() == MediaType::ImageIndex
        || chosen.media_type().to_string() == "application/vnd.docker.distribution.manifest.list.v2+json"
    {
        let inner: ImageIndex = document(blobs, &chosen)?;
        return choose(blobs, inner, depth + 1);
    }
    Ok(chosen)
}

/// Checks a layer's digest, then unpacks it.
pub(crate) fn unpack_layer(
    blobs: &mut dyn Blobs,
    layer: &Descriptor,
    unpacker: &mut Unpacker,
) -> Result<(), Failure> {
    let (path, wanted) = place(layer)?;
    let found = sha256(&mut blobs.open(&path)?)?;
    if found != wanted {
        return Err(Failure::image(format!("the layer {wanted} does not match its digest")));
    }
    unpacker.layer(decompress(blobs.open(&path)?)?.0)
}

fn document<T: DeserializeOwned>(blobs: &mut dyn Blobs, descriptor: &Descriptor) -> Result<T, Failure> {
    let (path, wanted) = place(descriptor)?;
    let bytes = read_document(blobs, &path)?;
    let found = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    if hex(found.as_ref()) != wanted {
        return Err(Failure::image(format!("{path} does not match its digest")));
    }
    parse(&path, &bytes)
}

/// Path and hexadecimal SHA-256 of a blob. Nothing else is accepted, so the path holds only digits.
fn place(descriptor: &Descriptor) -> Result<(String, String), Failure> {
    let digest = descriptor.digest().to_string();
    let plain = digest.strip_prefix("sha256:").filter(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    });
    let plain = plain.ok_or_else(|| Failure::image(format!("{digest} is not a SHA-256 digest")))?;
    Ok((format!("blobs/sha256/{plain}"), plain.to_owned()))
}

fn read_document(blobs: &mut dyn Blobs, path: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let n = blobs
        .open(path)?
        .take(MAX_DOCUMENT + 1)
        .read_to_end(&mut bytes)
        .map_err(Failure::io("read the image"))?;
    if n as u64 > MAX_DOCUMENT {
        return Err(Failure::image(format!("{path} is too large")));
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure::image(format!("{path} is malformed: {error}")))
}
