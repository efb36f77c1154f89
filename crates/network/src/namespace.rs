//! Work in another network namespace, on a thread of its own that ends with the work.

use std::path::Path;

use nix::sched::{CloneFlags, setns};

use crate::{Error, Result};

/// Runs `work` in the network namespace at `path`. The calling thread stays where it is; the new one has
/// the calling task's tokio runtime entered, so that sockets made in it belong to that runtime.
pub(crate) async fn run<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let context = format!("entering the network namespace {}", path.display());
    let file = fs_err::File::open(path).map_err(Error::io(context.clone()))?;
    let runtime = tokio::runtime::Handle::current();
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(move || {
            let _entered = runtime.enter();
            let outcome = setns(&file, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::Io { context, source: errno.into() })
                .and_then(|()| work());
            // The receiver is gone only when its caller was cancelled, who then wants no result.
            drop(done.send(outcome));
        })
        .map_err(Error::io("starting a thread for a network namespace"))?;
    result.await.map_err(|_| Error::Kernel {
        context: format!("working in the network namespace {}", path.display()),
        reason: "the thread ended early".into(),
    })?
}
