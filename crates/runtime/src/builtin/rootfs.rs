//! What a container's root file system is made of.

use std::path::Path;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use crate::helper::bundle::Rootfs;
use crate::images::Store;
use crate::{Error, Result};

/// Prepares the writable part of a container in `data` over the layers of its image, lowest first.
pub(super) fn prepare(store: &Store, layers: &[String], data: &Path, overlays: bool) -> Result<Rootfs> {
    let mut lower = layers.iter().map(|layer| store.layer(layer)).collect::<Result<Vec<String>>>()?;
    let make = |name: &str| {
        let path = data.join(name);
        std::fs::create_dir_all(&path)
            .map_err(|error| Error::system(format!("making {}", path.display()), error))?;
        Ok(path)
    };
    if !overlays {
        let root = make("root")?;
        for layer in &lower {
            crate::images::copy_layer(&store.layers().join(layer), &root)
                .map_err(|error| Error::system(format!("copying a layer to {}", root.display()), error))?;
        }
        return Ok(Rootfs::Directory(root));
    }
    let (upper, work) = (make("upper")?, make("work")?);
    // The first one named is the highest.
    lower.reverse();
    // An image of one layer twice the same is legal, a mount is not.
    let mut seen = std::collections::BTreeSet::new();
    lower.retain(|layer| seen.insert(layer.clone()));
    if lower.is_empty() {
        lower.push(store.empty_layer()?);
    }
    Ok(Rootfs::Overlay { layers: store.layers(), lower, upper, work })
}

/// Tries whether an overlay can be written to `directory`. It cannot where that is on an overlay itself.
pub(super) fn overlays_work(directory: &Path) -> Result<bool> {
    let trial = tempfile::tempdir_in(directory)
        .map_err(|error| Error::system(format!("making a directory in {}", directory.display()), error))?;
    let parts = ["lower", "upper", "work"].map(|name| trial.path().join(name));
    for part in &parts {
        std::fs::create_dir(part)
            .map_err(|error| Error::system(format!("making {}", part.display()), error))?;
    }
    // Mounted nowhere, so there is nothing to take away again.
    let mounted = || -> rustix::io::Result<()> {
        let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, path) in ["lowerdir", "upperdir", "workdir"].into_iter().zip(&parts) {
            fsconfig_set_string(&overlay, key, path.as_path())?;
        }
        fsconfig_create(&overlay)?;
        fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map(drop)
    };
    match mounted() {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => {
            Err(Error::system("mounting an overlay", "permission denied; the engine must run as root"))
        }
        Err(error) => {
            tracing::debug!(%error, directory = %directory.display(), "an overlay cannot be mounted");
            Ok(false)
        }
    }
}
