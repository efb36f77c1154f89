//! A netfilter netlink socket. The kernel works on a request within `send`, so its answers are there when
//! `send` returns: this is blocking code without waiting.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};

use super::message::{Messages, split};

/// Type of an answer that is an error, or an acknowledgement when its code is zero.
const ERROR: u16 = 2;
/// Type of the answer that ends a dump.
const DONE: u16 = 3;

/// A socket of the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Socket {
    file: OwnedFd,
}

/// An answer of the kernel.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The message with this sequence number was refused.
    Refused(u32, Errno),
    /// It was carried out.
    Done,
    /// A part of a dump: what follows the header, without `nfgenmsg`.
    Part(Vec<u8>),
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let file = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        Ok(Self { file })
    }

    /// Sends `messages` in one go and returns every answer.
    pub(crate) fn exchange(&self, messages: &Messages) -> io::Result<Vec<Reply>> {
        // A batch must fit the send buffer, whose limit for ordinary users is about 200 KiB.
        let needed = messages.bytes().len() + 4096;
        if needed > 100 * 1024 {
            setsockopt(&self.file, sockopt::SndBufForce, &needed)?;
        }
        send(self.file.as_raw_fd(), messages.bytes(), MsgFlags::empty())?;
        let mut replies = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = match recv(self.file.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => return Ok(replies),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for (kind, sequence, body) in split(&buffer[..length]) {
                match kind {
                    ERROR => {
                        let code = body.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
                        replies.push(match code {
                            0 => Reply::Done,
                            code => Reply::Refused(sequence, Errno::from_raw(-code)),
                        });
                    }
                    DONE => replies.push(Reply::Done),
                    _ => replies.push(Reply::Part(body.get(4..).unwrap_or_default().to_vec())),
                }
            }
        }
    }
}
