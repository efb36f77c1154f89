//! Fetching images.

use super::Inner;
use crate::images::Reference;
use crate::{Error, RegistryAuth, Result};

impl Inner {
    pub(super) async fn pull_image(&self, image: &str, _auth: Option<RegistryAuth>) -> Result<String> {
        let reference = Reference::parse(image)?;
        Err(Error::Pull {
            image: reference.to_string(),
            reason: "pulling from registries is not built yet; load the image from a file".to_owned(),
        })
    }
}
