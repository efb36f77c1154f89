//! `cluster image`: the image store that all machines of a cluster share.

use super::Session;
use crate::cli::Image;
use crate::error::{Error, Result};

/// Runs `cluster image`.
pub(super) async fn run(session: &Session<'_>, action: &Image) -> Result<()> {
    let (_, _state) = session.existing()?;
    let what = match action {
        Image::Load { path, .. } => format!("loading {}", path.display()),
        Image::Ls => "listing images".into(),
        Image::Rm { image } => format!("removing {image}"),
    };
    Err(Error::user(what).because("the image store is not built yet"))
}
