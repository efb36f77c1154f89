//! Real containers. Needs root, /bin/busybox from Debian's busybox-static, and Debian's containerd and runc.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod containerd;
mod isolation;
mod kit;
mod life;
mod recovery;
mod registry;
mod sessions;
