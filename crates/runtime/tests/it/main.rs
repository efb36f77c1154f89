//! Real containers. Needs root, and /bin/busybox from Debian's busybox-static.

mod kit;
mod life;
