//! What can be done to images, by the tool itself where all machines share one store, and on each machine by the
//! hidden subcommand `node-images REQUEST` where each has its own. The same code in both places.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use runtime::Image as Stored;
use runtime::images::{self, Store};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// Where a machine says which store its node agent reads.
const CONFIG: &str = "/etc/kubernetes/node-agent.yaml";

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Request {
    /// Load the images of an archive or a layout.
    Load {
        /// The file or directory.
        path: PathBuf,
        /// The image's name, where the file gives none.
        tag: Option<String>,
    },
    /// Make an image of an executable.
    Executable {
        /// The executable.
        path: PathBuf,
        /// The image's name.
        name: String,
    },
    /// List them.
    List,
    /// Remove an image.
    Remove {
        /// Its name or id.
        image: String,
    },
}

/// Does what is asked for in a store; returns the images that it is about.
///
/// # Errors
/// A file that holds no image, an image that is not there, a store that cannot be written.
pub(crate) fn perform(store: &Store, request: &Request) -> Result<Vec<Stored>> {
    match request {
        Request::Load { path, tag } => {
            let loaded = images::load(store, path).context(format!("loading {}", path.display()))?;
            let Some(tag) = tag else { return Ok(loaded) };
            let [image] = loaded.as_slice() else {
                return Err(Error::user(format!("{} holds {} images", path.display(), loaded.len()))
                    .hint("--tag names one image; give it a file with one"));
            };
            store.tag(&image.id, tag).context(format!("naming the image {tag}"))?;
            Ok(vec![Stored { tags: vec![tag.clone()], ..image.clone() }])
        }
        Request::Executable { path, name } => {
            if let Some(image) = store.find(name).context(format!("looking for the image {name}"))? {
                return Ok(vec![image]);
            }
            let image = images::from_executable(store, name, path, &[])
                .context(format!("making the image {name}"))?;
            Ok(vec![image])
        }
        Request::List => store.list().context("listing images"),
        Request::Remove { image } => {
            let Some(found) = store.find(image).context(format!("looking for the image {image}"))? else {
                return Err(
                    Error::user(format!("there is no image {image}")).hint("`cluster image ls` lists them")
                );
            };
            store.remove(image).context(format!("removing {image}"))?;
            Ok(vec![found])
        }
    }
}

/// Opens an image store.
pub(crate) fn open(directory: &Path) -> Result<Store> {
    Store::open(directory).context("opening the image store")
}

/// Serves one request on a machine: prints the images as JSON.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "its answer is what it prints")]
pub(crate) fn main(arguments: &[OsString]) -> ExitCode {
    match serve(arguments) {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", error.line());
            ExitCode::from(error.code())
        }
    }
}

fn serve(arguments: &[OsString]) -> Result<String> {
    let [request] = arguments else { return Err(Error::usage("usage: cluster node-images REQUEST")) };
    let request: Request = serde_json::from_str(&request.to_string_lossy()).context("reading the request")?;
    let text = fs_err::read_to_string(CONFIG)?;
    let config: node_agent::Config = serde_yaml::from_str(&text).map_err(|error| {
        Error::user(error.without_snippet().to_string()).within(format!("reading {CONFIG}"))
    })?;
    match config.runtime {
        node_agent::RuntimeChoice::Builtin => {
            let images = perform(&open(&config.image_directory)?, &request)?;
            serde_json::to_string(&images).context("writing the answer")
        }
        node_agent::RuntimeChoice::Cri => {
            Err(Error::user("images cannot be brought to a machine whose containers run by CRI yet")
                .hint("use `runtime: builtin` in the spec, or a registry"))
        }
    }
}
