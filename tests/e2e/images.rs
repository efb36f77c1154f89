//! The images that `tests/run` built.

use std::path::PathBuf;

use crate::lab::fixtures;

/// Returns the docker-archive of an image: busybox, nginx, redis or guestbook.
pub(crate) fn archive(name: &str) -> PathBuf {
    let path = fixtures().join("images").join(format!("{name}.tar"));
    assert!(path.is_file(), "{} is not there: run tests/run, which builds it", path.display());
    path
}
