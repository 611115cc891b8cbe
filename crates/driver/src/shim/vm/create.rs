//! `shim vm-create`: user, image and disks of a new virtual machine.

use super::super::create::store_in_use;
use super::super::message::{Failure, Report};
use super::super::{Target, identity};
use super::kernel::{self, Choice};
use super::{disks, modules};
use crate::image;
use crate::state::{Identity, ImageMeta, Meta, read_json, write_json};
use crate::{ImageSource, SandboxSpec};

/// Ids inside a machine are its own; files are made with the owners that it is to see.
const INSIDE: Identity = Identity::Inherited { size: 65_536 };

/// Makes everything that the machine keeps until it is removed.
pub(crate) fn create(target: &Target, report: &mut Report) -> Result<(), Failure> {
    let spec: SandboxSpec = read_json(&target.dir.spec()).map_err(Failure::io("read the specification"))?;
    if let Some(path) = &spec.kernel {
        // Now, while somebody is there who can do something about it.
        modules::collect(&kernel::find(&target.data, Choice::Sandbox(path))?)?;
    }
    // The first of its ids is the user that QEMU runs as. Recorded at once, so that nobody else gets it.
    let identity = identity::decide(&target.data, report, |identity, _| {
        let meta = Meta { identity: identity.clone(), image: ImageMeta::default(), warnings: Vec::new() };
        write_json(&target.dir.meta(), &meta).map_err(Failure::io("record the ids"))?;
        Ok(identity)
    })?;
    rustix::process::umask(rustix::fs::Mode::empty());
    // Until what is used is recorded. The host's own directories become disks too.
    let _in_use = store_in_use(target)?;
    let image = match &spec.image {
        ImageSource::Host => image::host::prepare(target, &spec, &INSIDE, report)?,
        ImageSource::Path(path) => image::prepare(&target.data, path, report)?,
        ImageSource::Named(name) => image::named(&target.data, name, report)?,
    };
    let layers = image
        .layers
        .iter()
        .map(|layer| image::disk::prepare(&target.data, layer, report))
        .collect::<Result<Vec<_>, _>>()?;
    if layers.len() > super::machine::MAX_LAYERS {
        return Err(Failure::image(format!("it has more than {} parts", super::machine::MAX_LAYERS)));
    }
    write_json(&target.dir.disks(), &layers).map_err(Failure::io("record the disks"))?;
    disks::make_data(target, &spec)?;
    // What an ordinary user lacks of ids is nothing that a machine needs.
    let meta = Meta { identity, image, warnings: Vec::new() };
    write_json(&target.dir.meta(), &meta).map_err(Failure::io("record what was created"))
}
