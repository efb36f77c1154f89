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
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")?;
            let images = runtime.block_on(async {
                let scratch = config.data_directory.join("engine");
                let (clock, random) = (machinery::clock::system(), machinery::names::Random::from_os());
                let images =
                    runtime::cri::Images::open(config.runtime_endpoint.clone(), scratch, clock, random)
                        .await
                        .context("connecting to containerd")?;
                perform_by_cri(&images, &request).await
            })?;
            serde_json::to_string(&images).context("writing the answer")
        }
    }
}

/// As [`perform`], where containerd keeps the images.
async fn perform_by_cri(images: &runtime::cri::Images, request: &Request) -> Result<Vec<Stored>> {
    match request {
        Request::Load { path, tag } => {
            let loaded = images.load(path).await.context(format!("loading {}", path.display()))?;
            let Some(tag) = tag else { return Ok(loaded) };
            let [image] = loaded.as_slice() else {
                return Err(Error::user(format!("{} holds {} images", path.display(), loaded.len()))
                    .hint("--tag names one image; give it a file with one"));
            };
            images.tag(&image.id, tag).await.context(format!("naming the image {tag}"))?;
            Ok(vec![Stored { tags: vec![tag.clone()], ..image.clone() }])
        }
        Request::Executable { path, name } => {
            if let Some(image) = images.find(name).await.context(format!("looking for the image {name}"))? {
                return Ok(vec![image]);
            }
            let made = images.from_executable(name, path).await;
            Ok(vec![made.context(format!("making the image {name}"))?])
        }
        Request::List => images.list().await.context("listing images"),
        Request::Remove { image } => {
            let found = images.find(image).await.context(format!("looking for the image {image}"))?;
            let Some(found) = found else {
                return Err(
                    Error::user(format!("there is no image {image}")).hint("`cluster image ls` lists them")
                );
            };
            images.remove(image).await.context(format!("removing {image}"))?;
            Ok(vec![found])
        }
    }
}
