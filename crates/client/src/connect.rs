//! Clients for the API over HTTPS. The in-process client comes from the API server itself.

use std::path::{Path, PathBuf};

use kube::config::{KubeConfigOptions, Kubeconfig};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error("connecting with kubeconfig {}: {cause}", path.display())]
pub struct Error {
    path: PathBuf,
    cause: Box<dyn std::error::Error + Send + Sync>,
}

/// Returns a client for the current context of the kubeconfig at `path`.
///
/// # Errors
/// When the file cannot be read, or its certificates and keys are not usable. Nothing is sent yet.
pub async fn from_kubeconfig(path: &Path) -> Result<kube::Client, Error> {
    let fail = |cause: Box<dyn std::error::Error + Send + Sync>| Error { path: path.to_owned(), cause };
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| fail(error.into()))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| fail(error.into()))?;
    kube::Client::try_from(config).map_err(|error| fail(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named_in_the_error() {
        let Err(error) = from_kubeconfig(Path::new("/does/not/exist")).await else {
            panic!("there is no such file");
        };
        assert!(error.to_string().starts_with("connecting with kubeconfig /does/not/exist: "), "{error}");
    }
}
