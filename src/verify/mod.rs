//! `cluster verify`: proves that a cluster works, as a user would.

use crate::cli::Verify;
use crate::commands::Session;
use crate::error::{Error, Result};

/// Runs `cluster verify`.
pub(crate) async fn run(_session: &Session<'_>, _arguments: &Verify) -> Result<u8> {
    Err(Error::user("verify is not built yet"))
}
