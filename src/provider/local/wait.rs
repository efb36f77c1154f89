//! Waits for a process's end by its pidfd: an event, not a look every now and then.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Context, Error, Result};

/// Waits until process `pid` has ended, for `deadline` at most. A process that is gone already has ended.
/// Blocks its thread: nothing else is to be done meanwhile.
pub(super) fn until_gone(pid: i32, deadline: Duration) -> Result<()> {
    let doing = || format!("waiting for process {pid} to end");
    let number = Pid::from_raw(pid).context(doing())?;
    let process = match pidfd_open(number, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(Error::from(error).within(doing())),
    };
    let limit = Timespec::try_from(deadline).context(doing())?;
    match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)) {
        Ok(0) => Err(Error::user(doing()).because(format!("it still runs after {deadline:?}"))),
        Ok(_) => Ok(()),
        Err(error) => Err(Error::from(error).within(doing())),
    }
}
