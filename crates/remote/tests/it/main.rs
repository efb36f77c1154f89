//! Against a real sshd (Debian's openssh-server), started by hand on a port of the loopback.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail them")]

mod commands;
mod connecting;
mod faults;
mod files;
mod keys;
mod measure;
mod sshd;
mod terminal;
mod tunnels;
