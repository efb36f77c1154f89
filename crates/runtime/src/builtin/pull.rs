//! Fetching images, each only once at a time.

use futures::FutureExt;
use futures::future::{BoxFuture, WeakShared};

use super::Inner;
use crate::images::{self, Reference};
use crate::{RegistryAuth, Result};

/// A pull that others may wait for, too.
pub(super) type Pull = WeakShared<BoxFuture<'static, Result<String>>>;

impl Inner {
    pub(super) async fn pull_image(&self, image: &str, auth: Option<RegistryAuth>) -> Result<String> {
        let reference = Reference::parse(image)?;
        let mirrors = self.config.registry_mirrors.get(&reference.registry).cloned().unwrap_or_default();
        let user = auth.as_ref().map(|auth| auth.username.clone()).unwrap_or_default();
        let key = (reference.to_string(), user);
        let shared = {
            let mut pulls = self.pulls.lock();
            // Those whose callers have all gone are no use to anybody.
            pulls.retain(|_, pull| pull.upgrade().is_some());
            match pulls.get(&key).and_then(WeakShared::upgrade) {
                Some(running) => running,
                None => {
                    let (store, image) = (self.store.clone(), image.to_owned());
                    let pull = async move { images::pull(&store, &image, &mirrors, auth.as_ref()).await };
                    let shared = pull.boxed().shared();
                    if let Some(weak) = shared.downgrade() {
                        pulls.insert(key.clone(), weak);
                    }
                    shared
                }
            }
        };
        let result = shared.await;
        self.pulls.lock().remove(&key);
        result
    }
}
