//! A tap: a network interface whose other end is a file descriptor, here one that QEMU holds.
//!
//! It is not persistent: the kernel takes it away with the last process that has it open, so that nothing is
//! left of it however a machine ends.

#![expect(unsafe_code, reason = "a tap is made by an ioctl")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use futures::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkUnspec};

use crate::error::{Error, Result};

mod ioctl {
    nix::ioctl_write_int!(tunsetiff, b'T', 202);
}

/// Makes the tap `name` and puts it into `bridge`, both up. The tap is there until the descriptor is closed.
///
/// # Errors
/// [`Error::Interface`]: no right to, no such bridge, or the name is in use.
pub async fn open(name: &str, bridge: &str) -> Result<OwnedFd> {
    let fail = |reason: String| Error::Interface { interface: name.into(), reason };
    let Some(bridge_index) = index(bridge)? else {
        return Err(fail(format!("there is no bridge {bridge} to put it into")));
    };
    let tap = make(name).map_err(|error| {
        fail(match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
            Errno::EBUSY => "it is in use: another process has it open".into(),
            Errno::EPERM | Errno::EACCES => {
                format!("making a tap needs root (CAP_NET_ADMIN): {error}")
            }
            Errno::ENOENT | Errno::ENODEV => {
                format!("this kernel has no taps (/dev/net/tun): load the module tun: {error}")
            }
            Errno::EINVAL => "there is an interface of that name that is no tap".into(),
            _ => format!("making the tap: {error}"),
        })
    })?;
    let Some(tap_index) = index(name)? else {
        return Err(fail("it was made and is not there: removed by somebody else".into()));
    };
    let kernel = Kernel::open(name)?;
    let message = LinkUnspec::new_with_index(tap_index).controller(bridge_index).up().build();
    let attached = kernel.handle.link().set(message).execute().await;
    attached.map_err(|error| fail(format!("putting it into {bridge}: {error}; is that a bridge?")))?;
    Ok(tap)
}

/// Removes the tap `name`; succeeds when there is none.
///
/// # Errors
/// [`Error::Interface`] when the kernel refuses, or when the interface of that name is no tap.
pub async fn remove(name: &str) -> Result<()> {
    let Some(index) = index(name)? else { return Ok(()) };
    let kernel = Kernel::open(name)?;
    let mut found = kernel.handle.link().get().match_index(index).execute();
    match found.try_next().await {
        Ok(Some(link)) if is_tap(&link) => {}
        Ok(Some(_)) => {
            let reason = "it is no tap, and is left alone".into();
            return Err(Error::Interface { interface: name.into(), reason });
        }
        // It went away by itself: its machine has just ended.
        Ok(None) => return Ok(()),
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::ENODEV => return Ok(()),
        Err(error) => {
            let reason = format!("looking at it: {error}");
            return Err(Error::Interface { interface: name.into(), reason });
        }
    }
    match kernel.handle.link().del(index).execute().await {
        Ok(()) => Ok(()),
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::ENODEV => Ok(()),
        Err(error) => {
            Err(Error::Interface { interface: name.into(), reason: format!("removing it: {error}") })
        }
    }
}

fn is_tap(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(info) => info.contains(&LinkInfo::Kind(InfoKind::Tun)),
        _ => false,
    })
}

fn make(name: &str) -> io::Result<OwnedFd> {
    let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // Whole frames, without a header before them but the one in which virtio says what is left to compute.
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    // SAFETY: TUNSETIFF takes the address of an ifreq, which lives until the call returns.
    unsafe { ioctl::tunsetiff(file.as_raw_fd(), (&raw mut request) as nix::sys::ioctl::ioctl_param_type) }?;
    Ok(file.into())
}

fn index(name: &str) -> Result<Option<u32>> {
    match nix::net::if_::if_nametoindex(name) {
        Ok(index) => Ok(Some(index)),
        Err(Errno::ENODEV) => Ok(None),
        Err(error) => {
            Err(Error::Interface { interface: name.into(), reason: format!("looking for it: {error}") })
        }
    }
}

/// A connection to the kernel's network configuration.
struct Kernel {
    handle: Handle,
    driver: tokio::task::JoinHandle<()>,
}

impl Kernel {
    fn open(interface: &str) -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| Error::Interface {
            interface: interface.into(),
            reason: format!("opening a netlink socket: {error}"),
        })?;
        Ok(Self { handle, driver: tokio::spawn(connection) })
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
