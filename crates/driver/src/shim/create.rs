//! `shim create`: ids, image and layers of a new sandbox.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};

use super::message::{Failure, Report};
use super::{Target, identity, userns};
use crate::image;
use crate::images::USE_PATIENCE;
use crate::images::store::{BlobStore, InUse};
use crate::state::{Identity, ImageMeta, LayerOwner, Meta, read_json, write_json};
use crate::{ImageSource, SandboxSpec};

/// Makes everything that the sandbox keeps until it is removed.
pub(crate) fn create(target: &Target, report: &mut Report) -> Result<(), Failure> {
    let spec: SandboxSpec = read_json(&target.dir.spec()).map_err(Failure::io("read the specification"))?;
    // Recorded at once, before the image, so that nobody else gets the same ids and a failed creation can be removed.
    let identity = identity::decide(&target.data, report, |identity, report| {
        let meta = Meta {
            identity: identity.clone(),
            image: ImageMeta::default(),
            warnings: report.warnings().to_vec(),
        };
        write_json(&target.dir.meta(), &meta).map_err(Failure::io("record the ids"))?;
        Ok(identity)
    })?;
    userns::enter(&identity)?;
    // Exact modes below.
    rustix::process::umask(rustix::fs::Mode::empty());
    // Until what is used is recorded.
    let _in_use = image_in_use(target, &spec)?;
    let image = match &spec.image {
        ImageSource::Host => image::host::prepare(target, &spec, &identity, report)?,
        ImageSource::Path(path) => image::prepare(&target.data, path, report)?,
        ImageSource::Named(name) => image::named(&target.data, name, report)?,
    };
    make_layers(target, &identity, &image)?;
    let meta = Meta { identity, image, warnings: report.warnings().to_vec() };
    write_json(&target.dir.meta(), &meta).map_err(Failure::io("record what was created"))
}

/// Nobody removes an image that a sandbox is being made of.
pub(crate) fn image_in_use(target: &Target, spec: &SandboxSpec) -> Result<Option<InUse>, Failure> {
    if spec.image == ImageSource::Host {
        return Ok(None);
    }
    store_in_use(target).map(Some)
}

/// Nothing is removed from the image store, nor from the caches of what was made of images.
pub(crate) fn store_in_use(target: &Target) -> Result<InUse, Failure> {
    let store = BlobStore::new(target.data.image_store());
    let made = DirBuilder::new().recursive(true).mode(0o700).create(store.root());
    let taken =
        made.and_then(|()| store.in_use(USE_PATIENCE)).map_err(Failure::io("lock the image store"))?;
    taken.ok_or_else(|| Failure::other("the image store is busy: images are being removed from it"))
}

/// An upper and a work directory for each overlay. The upper directory's owner and mode are those of the merged directory.
fn make_layers(target: &Target, identity: &Identity, image: &ImageMeta) -> Result<(), Failure> {
    let fail = || Failure::io("make the layers");
    let private = |path: &std::path::Path| DirBuilder::new().mode(0o711).create(path);
    private(&target.dir.layers()).map_err(fail())?;
    for (n, layer) in image.layers.iter().enumerate() {
        let dir = target.dir.layers().join(n.to_string());
        private(&dir).map_err(fail())?;
        let below =
            fs::metadata(&layer.source).map_err(Failure::io(format!("read {}", layer.source.display())))?;
        let upper = dir.join("upper");
        let root = identity.root_outside();
        for path in [upper.clone(), dir.join("work")] {
            private(&path).map_err(fail())?;
            chown(&path, Some(root), Some(root)).map_err(fail())?;
        }
        // An image unpacked by hand is often 0700, which would lock everybody but root out of the whole sandbox.
        let mode = if layer.owner == LayerOwner::Literal { below.mode() & 0o1777 | 0o755 } else { 0o755 };
        fs::set_permissions(&upper, Permissions::from_mode(mode)).map_err(fail())?;
    }
    Ok(())
}
