//! Real containers. Needs root, and /bin/busybox from Debian's busybox-static.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod isolation;
mod kit;
mod life;
mod recovery;
mod registry;
mod sessions;
