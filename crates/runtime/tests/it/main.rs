//! Real containers. Needs root, and /bin/busybox from Debian's busybox-static.

mod isolation;
mod kit;
mod life;
mod recovery;
mod registry;
mod sessions;
