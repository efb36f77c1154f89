//! Work on the repository itself.
//!
//!     cargo xtask facts DIRECTORY      writes crates/api/src/facts/*.txt from a directory with upstream's swagger.json
//!                                   and protobuf-fields.json
//!
//! What is written are facts (names, verbs, types, merge keys), no text of upstream's documents.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

mod kinds;
mod protobuf;
mod schema;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["facts", directory] => facts(Path::new(directory)),
        _ => bail!("usage: cargo xtask facts DIRECTORY (one that holds upstream's swagger.json)"),
    }
}

fn facts(directory: &Path) -> Result<()> {
    let source = directory.join("swagger.json");
    let swagger: serde_json::Value = serde_json::from_slice(&fs_err::read(&source)?)
        .with_context(|| format!("parsing {}", source.display()))?;
    let target = target();
    fs_err::create_dir_all(&target)?;
    let kinds = kinds::extract(&swagger)?;
    fs_err::write(target.join("kinds.txt"), kinds::render(&kinds))?;
    fs_err::write(target.join("schema.txt"), schema::render(&swagger)?)?;
    let source = directory.join("protobuf-fields.json");
    let messages: serde_json::Value = serde_json::from_slice(&fs_err::read(&source)?)
        .with_context(|| format!("parsing {}", source.display()))?;
    fs_err::write(target.join("protobuf.txt"), protobuf::render(&messages, &swagger)?)?;
    Ok(())
}

/// Returns the directory of the committed facts.
fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/src/facts")
}
