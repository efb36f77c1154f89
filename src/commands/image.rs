//! `cluster image`: the image store that all machines of a cluster share.

use runtime::Image as Stored;
use runtime::images::{self, Store};
use serde_json::json;

use super::Session;
use crate::cli::Image;
use crate::error::{Context, Error, Result};
use crate::state::State;
use crate::ui::table;

/// The store's directory within the cluster's state.
pub(crate) const STORE: &str = "images";

/// Opens the image store of a cluster.
pub(crate) fn open(state: &State) -> Result<Store> {
    Store::open(&state.path(STORE)).context("opening the image store")
}

/// Runs `cluster image`.
pub(super) fn run(session: &Session<'_>, action: &Image) -> Result<()> {
    let (_, state) = session.existing()?;
    let store = open(&state)?;
    match action {
        Image::Load { path, tag } => {
            let loaded = images::load(&store, path).context(format!("loading {}", path.display()))?;
            if let Some(tag) = tag {
                let [image] = loaded.as_slice() else {
                    return Err(Error::user(format!("{} holds {} images", path.display(), loaded.len()))
                        .hint("--tag names one image; give it a file with one"));
                };
                store.tag(&image.id, tag).context(format!("naming the image {tag}"))?;
            }
            for image in &loaded {
                let names = if image.tags.is_empty() { image.id.clone() } else { image.tags.join(", ") };
                let names = tag.clone().unwrap_or(names);
                session.ui.note(&format!("loaded {names}"));
            }
        }
        Image::Ls => {
            let all = store.list().context("listing images")?;
            show(session, &all);
        }
        Image::Rm { image } => {
            if store.find(image).context("looking for the image")?.is_none() {
                return Err(
                    Error::user(format!("there is no image {image}")).hint("`cluster image ls` lists them")
                );
            }
            store.remove(image).context(format!("removing {image}"))?;
            session.ui.note(&format!("removed {image}"));
        }
    }
    Ok(())
}

fn show(session: &Session<'_>, all: &[Stored]) {
    let mut rows = Vec::new();
    for image in all {
        let short = image.id.strip_prefix("sha256:").unwrap_or(&image.id).get(..12).unwrap_or(&image.id);
        let names = if image.tags.is_empty() { vec!["<none>".to_owned()] } else { image.tags.clone() };
        for name in names {
            rows.push(vec![name, short.to_owned(), mebibytes(image.size)]);
        }
    }
    let text = if rows.is_empty() { "no images".to_owned() } else { table(&["IMAGE", "ID", "SIZE"], &rows) };
    session.ui.answer(&text, &json!(all));
}

fn mebibytes(bytes: u64) -> String {
    let tenths = bytes * 10 / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
