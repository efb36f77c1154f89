//! `cluster image`: the images of the machines, in one store that they share or in one of each.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use runtime::Image as Stored;
use serde_json::json;

use super::{PATIENCE, Session};
use crate::cli::Image;
use crate::error::{Context, Error, Result};
use crate::images::{self, Request};
use crate::plan::Plan;
use crate::provider::{self, EXECUTABLE, Host, Provider};
use crate::ui::{Ui, table};

/// Where a machine keeps an archive while it is loaded.
const PARKED: &str = "/var/tmp/cluster-image.tar";

/// Runs `cluster image`.
pub(super) async fn run(session: &Session<'_>, action: &Image) -> Result<()> {
    let (plan, state) = session.existing()?;
    let provider = provider::of(&plan, &state)?;
    let ui = session.ui;
    match action {
        Image::Load { path, tag } => {
            let request = Request::Load { path: path.clone(), tag: tag.clone() };
            for image in distinct(&perform(&*provider, &plan, &request, ui).await?) {
                ui.note(&format!("loaded {}", names(&image)));
            }
        }
        Image::Ls => show(ui, &perform(&*provider, &plan, &Request::List, ui).await?),
        Image::Rm { image } => {
            perform(&*provider, &plan, &Request::Remove { image: image.clone() }, ui).await?;
            ui.note(&format!("removed {image}"));
        }
    }
    Ok(())
}

/// Does what is asked for in every store of the cluster; returns for each the machine, where it is one's own,
/// and the images.
pub(crate) async fn perform(
    provider: &dyn Provider,
    plan: &Plan,
    request: &Request,
    ui: &Ui,
) -> Result<Vec<(Option<String>, Vec<Stored>)>> {
    if let Some(directory) = provider.shared_images() {
        return Ok(vec![(None, images::perform(&images::open(&directory)?, request)?)]);
    }
    let each = plan.machines.iter().map(async |machine| {
        let host = provider.reach(machine, Instant::now() + PATIENCE, ui).await?;
        let images = on_machine(&*host, request, ui)
            .await
            .map_err(|error| error.within(format!("{} ({})", machine.name, machine.address)))?;
        Ok((Some(machine.name.clone()), images))
    });
    futures::future::join_all(each).await.into_iter().collect()
}

/// Does what is asked for on a machine that has a store of its own.
async fn on_machine(host: &dyn Host, request: &Request, ui: &Ui) -> Result<Vec<Stored>> {
    let parked = match request {
        Request::Load { path, tag } => {
            let archive = archive(path)?;
            host.upload(archive.as_ref().map_or(path, |file| file.path()), PARKED, ui).await?;
            Some(Request::Load { path: PARKED.into(), tag: tag.clone() })
        }
        Request::Executable { name, .. } => {
            Some(Request::Executable { path: EXECUTABLE.into(), name: name.clone() })
        }
        Request::List | Request::Remove { .. } => None,
    };
    let request = parked.as_ref().unwrap_or(request);
    let text = serde_json::to_string(request).context("describing the request")?;
    let output = host.run(&[EXECUTABLE.into(), "node-images".into(), text]).await?;
    if matches!(request, Request::Load { .. }) {
        host.run(&["rm".into(), "-f".into(), PARKED.into()]).await?;
    }
    if output.code != 0 {
        return Err(Error::user(output.stderr.trim()));
    }
    serde_json::from_str(&output.stdout).context("reading the machine's answer")
}

/// Packs a layout that is a directory; a file crosses as it is.
fn archive(path: &Path) -> Result<Option<tempfile::NamedTempFile>> {
    if !fs_err::metadata(path)?.is_dir() {
        return Ok(None);
    }
    let file = tempfile::NamedTempFile::new().context("making a temporary file")?;
    let mut builder = tar::Builder::new(file.as_file());
    builder.append_dir_all(".", path).context(format!("packing {}", path.display()))?;
    builder.finish().context(format!("packing {}", path.display()))?;
    drop(builder);
    Ok(Some(file))
}

fn names(image: &Stored) -> String {
    if image.tags.is_empty() { image.id.clone() } else { image.tags.join(", ") }
}

/// Returns each image once, however many machines have it.
fn distinct(all: &[(Option<String>, Vec<Stored>)]) -> Vec<Stored> {
    let by_id: BTreeMap<&str, &Stored> =
        all.iter().flat_map(|(_, images)| images).map(|image| (image.id.as_str(), image)).collect();
    by_id.into_values().cloned().collect()
}

fn show(ui: &Ui, all: &[(Option<String>, Vec<Stored>)]) {
    let own = all.iter().any(|(machine, _)| machine.is_some());
    let mut rows: BTreeMap<(String, String, String), Vec<&str>> = BTreeMap::new();
    for (machine, images) in all {
        for image in images {
            let short = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
            let short = short.get(..12).unwrap_or(short).to_owned();
            let names = if image.tags.is_empty() { vec!["<none>".to_owned()] } else { image.tags.clone() };
            for name in names {
                let row = (name, short.clone(), mebibytes(image.size));
                rows.entry(row).or_default().extend(machine.as_deref());
            }
        }
    }
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|((name, id, size), machines)| {
            let mut row = vec![name, id, size];
            row.extend(own.then(|| machines.join(",")));
            row
        })
        .collect();
    let header = ["IMAGE", "ID", "SIZE", "MACHINES"];
    let header = if own { &header[..] } else { &header[..3] };
    let text = if rows.is_empty() { "no images".to_owned() } else { table(header, &rows) };
    let value = if own {
        all.iter()
            .map(|(machine, images)| json!({ "machine": machine, "images": images }))
            .collect::<serde_json::Value>()
    } else {
        json!(all.first().map(|(_, images)| images).cloned().unwrap_or_default())
    };
    ui.answer(&text, &value);
}

fn mebibytes(bytes: u64) -> String {
    let tenths = bytes * 10 / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
