//! Who makes the machines. To add a provider, add its module here and its arms to the commands.

#[cfg(target_os = "linux")]
pub(crate) mod local;
