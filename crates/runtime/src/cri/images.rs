//! Images: listed, fetched and removed through the CRI; the sandboxes' own image; registry mirrors.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::tasks::Tasks;
use tokio_util::sync::CancellationToken;

use super::grpc::{Channel, Code};
use super::node::Node;
use super::proto::cri::{
    AuthConfig, ByImage, Container, ImageFsInfoResponse, ImageSpec, ImageStatusResponse,
    ListContainersResponse, ListImagesResponse, PullImageRequest, PullImageResponse,
};
use super::{Inner, PATIENCE, failure, status};
use crate::{Error, Image, RegistryAuth, Result};

/// How long fetching an image may take: containerd gives up by itself when nothing arrives.
const PULL: Duration = Duration::from_secs(60 * 60);
/// The first line of the files about registries that are written here; others' files are left alone.
const OURS: &str = "# Written by the node agent from its configuration's registryMirrors.";

fn spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.to_owned(), user_specified_image: String::new() }
}

/// The images that containerd keeps for its containers. Works without an engine, beside the one of a running agent.
pub struct Images {
    pub(super) channel: Arc<Channel>,
    /// The image of every sandbox, which is never removed.
    pub(super) sandbox_image: Option<String>,
    /// Where images are while they are imported.
    pub(super) scratch: PathBuf,
    pub(super) clock: SharedClock,
    pub(super) random: Random,
}

impl Images {
    /// Connects to containerd at `socket`. Images are unpacked below `scratch` while they are imported.
    ///
    /// # Errors
    /// containerd does not answer.
    pub async fn open(socket: PathBuf, scratch: PathBuf, clock: SharedClock, random: Random) -> Result<Self> {
        let tasks = Tasks::new(CancellationToken::new());
        let channel = Arc::new(Channel::new(socket, tasks, clock.clone()));
        let node = Node::read(&channel, clock.as_ref(), &random).await?;
        Ok(Self { channel, sandbox_image: node.sandbox_image, scratch, clock, random })
    }

    /// Returns every image.
    ///
    /// # Errors
    /// containerd does not answer, as of every call.
    pub async fn list(&self) -> Result<Vec<Image>> {
        let answer: ListImagesResponse = self
            .channel
            .call("/runtime.v1.ImageService/ListImages", &(), PATIENCE)
            .await
            .map_err(failure::of("listing images", PATIENCE))?;
        let pause = self.sandbox_image.as_deref();
        Ok(answer.images.into_iter().map(|image| status::image(image, pause)).collect())
    }

    /// Returns the image with this name or id.
    ///
    /// # Errors
    /// As [`Images::list`].
    pub async fn find(&self, image: &str) -> Result<Option<Image>> {
        let request = ByImage { image: Some(spec(image)) };
        let answer: ImageStatusResponse = self
            .channel
            .call("/runtime.v1.ImageService/ImageStatus", &request, PATIENCE)
            .await
            .map_err(failure::of(&format!("asking for image {image:?}"), PATIENCE))?;
        Ok(answer.image.map(|found| status::image(found, self.sandbox_image.as_deref())))
    }

    pub(super) async fn pull(&self, image: &str, auth: Option<RegistryAuth>) -> Result<String> {
        let request = PullImageRequest {
            image: Some(spec(image)),
            auth: auth.map(|auth| AuthConfig { username: auth.username, password: auth.password }),
        };
        let answer: PullImageResponse =
            self.channel.call("/runtime.v1.ImageService/PullImage", &request, PULL).await.map_err(
                |status| Error::Pull {
                    image: image.to_owned(),
                    reason: failure::tidy(&status.message).to_owned(),
                },
            )?;
        Ok(answer.image_ref)
    }

    /// Removes an image with all its names. Succeeds when there is none.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a container uses it.
    pub async fn remove(&self, image: &str) -> Result<()> {
        let Some(found) = self.find(image).await? else { return Ok(()) };
        // containerd would take it from under its containers, which cannot be made again then.
        let answer: ListContainersResponse = self
            .channel
            .call("/runtime.v1.RuntimeService/ListContainers", &(), PATIENCE)
            .await
            .map_err(failure::of("listing containers", PATIENCE))?;
        let uses = |container: &&Container| {
            status::note(&container.annotations).is_some_and(|note| note.image_id == found.id)
        };
        if let Some(user) = answer.containers.iter().find(uses) {
            return Err(Error::Invalid(format!(
                "image {image:?} is in use by container {}; remove the container first",
                user.id
            )));
        }
        let request = ByImage { image: Some(spec(&found.id)) };
        match self.channel.call::<_, ()>("/runtime.v1.ImageService/RemoveImage", &request, PATIENCE).await {
            Ok(()) => Ok(()),
            Err(status) if status.code == Code::NotFound => Ok(()),
            Err(status) => Err(failure::of(&format!("removing image {image:?}"), PATIENCE)(status)),
        }
    }

    pub(super) async fn bytes(&self) -> Result<u64> {
        let answer: ImageFsInfoResponse = self
            .channel
            .call("/runtime.v1.ImageService/ImageFsInfo", &(), PATIENCE)
            .await
            .map_err(failure::of("asking for the space that images use", PATIENCE))?;
        let used = answer.image_filesystems.iter().filter_map(|one| one.used_bytes.as_ref());
        Ok(used.map(|bytes| bytes.value).sum())
    }

    /// Makes the image of sandboxes unless it is there: no registry must be needed to run a pod.
    pub(super) async fn ensure_sandbox_image(&self, executable: &Path) -> Result<()> {
        let Some(name) = self.sandbox_image.clone() else { return Ok(()) };
        if self.find(&name).await?.is_some() {
            return Ok(());
        }
        self.make_sandbox_image(&name, executable).await
    }
}

impl Inner {
    /// Tells containerd about mirrors, in the form that it reads at each pull.
    pub(super) fn write_mirrors(&self) -> Result<()> {
        if self.config.registry_mirrors.is_empty() {
            return Ok(());
        }
        let Some(directory) = &self.node.registries else {
            return Err(Error::Invalid(
                "registry mirrors are configured, but containerd reads no files about registries: set \
                 config_path = \"/etc/containerd/certs.d\" in the section about registries of \
                 /etc/containerd/config.toml, restart containerd, and start the node agent again"
                    .to_owned(),
            ));
        };
        for (registry, mirrors) in &self.config.registry_mirrors {
            let path = directory.join(registry).join("hosts.toml");
            let text = hosts(registry, mirrors);
            let failed = |error: std::io::Error| Error::system(format!("writing {}", path.display()), error);
            match std::fs::read_to_string(&path) {
                Ok(there) if there == text => continue,
                Ok(there) if !there.starts_with(OURS) => {
                    tracing::warn!(file = %path.display(), "left alone: somebody else wrote it");
                    continue;
                }
                _ => {}
            }
            std::fs::create_dir_all(directory.join(registry)).map_err(failed)?;
            machinery::files::write_atomic(&path, text.as_bytes(), 0o644).map_err(failed)?;
        }
        Ok(())
    }
}

/// Returns the text of a registry's `hosts.toml`.
fn hosts(registry: &str, mirrors: &[String]) -> String {
    // Docker's registry answers at another name than the one in references.
    let server = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    let quote = |text: &str| serde_json::Value::from(text).to_string();
    let mut text = format!("{OURS}\nserver = {}\n", quote(&format!("https://{server}")));
    for mirror in mirrors {
        text.push_str(&format!("\n[host.{}]\ncapabilities = [\"pull\", \"resolve\"]\n", quote(mirror)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_written_as_containerd_reads_them() {
        let text = hosts("docker.io", &["http://172.17.4.1:5000".to_owned()]);
        assert_eq!(
            text,
            format!(
                "{OURS}\nserver = \"https://registry-1.docker.io\"\n\n\
                 [host.\"http://172.17.4.1:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
            )
        );
    }
}
