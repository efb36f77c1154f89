//! From an address to a logged-in session: connect, compare the host key, show ours; again until it works.

use std::convert::Infallible;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use machinery::clock::Clock;
use machinery::names::Random;
use machinery::retry::{Backoff, Tries, WaitError};
use ssh2::{MethodType, Session};
use tokio::sync::oneshot;

use super::channel::{Connection, Shared};
use super::driver::{Fault, Patience, Wire, serve};
use super::{HostKey, Target};
use crate::error::{Error, Result};
use crate::key::{Fingerprint, PublicKey};

/// What one attempt came to.
enum Refusal {
    /// The machine is not there, or not ready.
    NotYet(String),
    /// It does not take our key.
    Key(String),
    /// It cannot go on.
    Fatal(Error),
}

/// Connects within `deadline`.
pub(super) async fn reach(
    target: &Arc<Target>,
    deadline: Duration,
    clock: &dyn Clock,
    random: &Random,
) -> Result<Arc<Connection>> {
    let backoff = Backoff { most: Duration::from_secs(2), ..Backoff::QUICK };
    let mut refused_since: Option<Timestamp> = None;
    let mut tries = Tries::new(&target.name, deadline, backoff, clock, random);
    loop {
        let seen =
            match tries.attempt(attempt(target, clock)).await.map_err(|error| unreachable(target, error))? {
                Ok(connection) => return Ok(connection),
                Err(Refusal::Fatal(error)) => return Err(error),
                Err(Refusal::NotYet(seen)) => seen,
                Err(Refusal::Key(why)) => {
                    let since = *refused_since.get_or_insert_with(|| clock.now());
                    let passed = Duration::try_from(clock.now().duration_since(since)).unwrap_or_default();
                    if passed >= target.timing.grace {
                        return Err(Error::Authentication {
                            machine: target.name.clone(),
                            address: target.address.to_string(),
                            user: target.user.clone(),
                            key: target.key.label(),
                            why,
                        });
                    }
                    format!("it refuses the key: {why}")
                }
            };
        tracing::debug!(machine = target.name, seen, "no connection yet");
        tries.again(seen).await.map_err(|error| unreachable(target, error))?;
    }
}

fn unreachable(target: &Target, error: WaitError<Infallible>) -> Error {
    match error {
        WaitError::Fatal { error, .. } => match error {},
        WaitError::Deadline { after, last, .. } => Error::Unreachable {
            machine: target.name.clone(),
            address: target.address.to_string(),
            after,
            last,
        },
    }
}

async fn attempt(target: &Arc<Target>, clock: &dyn Clock) -> Result<Arc<Connection>, Refusal> {
    let not_yet = |error: std::io::Error| Refusal::NotYet(format!("connecting: {error}"));
    let stream = tokio::select! {
        stream = tokio::net::TcpStream::connect(target.address) => stream.map_err(not_yet)?,
        () = clock.after(target.timing.attempt) => {
            return Err(Refusal::NotYet("connecting: no answer".into()));
        }
    };
    let stream = stream.into_std().map_err(not_yet)?;
    let local = |error: std::io::Error| {
        Refusal::Fatal(Error::Local {
            what: format!("starting the thread for {}", target.name),
            source: error,
        })
    };
    let (bell, heard) = UnixStream::pair().map_err(local)?;
    bell.set_nonblocking(true).map_err(local)?;
    let shared = Arc::new(Shared::new(bell));
    let (ready, answer) = oneshot::channel();
    let thread = Thread { target: target.clone(), stream, bell: heard, shared: shared.clone(), ready };
    // When this future is dropped, so is the connection, which stops the thread.
    let connection = Arc::new(Connection { shared });
    std::thread::Builder::new()
        .name(format!("ssh {}", target.name).chars().take(15).collect())
        .spawn(move || thread.run())
        .map_err(local)?;
    match answer.await {
        Ok(Ok(())) => Ok(connection),
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Err(Refusal::NotYet("its thread ended".into())),
    }
}

/// What the thread of a connection is given.
struct Thread {
    target: Arc<Target>,
    stream: TcpStream,
    bell: UnixStream,
    shared: Arc<Shared>,
    ready: oneshot::Sender<Result<(), Refusal>>,
}

impl Thread {
    fn run(self) {
        let Self { target, stream, bell, shared, ready } = self;
        let patience = Patience { keepalive: target.timing.keepalive, silence: target.timing.silence };
        let outcome = Wire::new(stream, bell, shared.clone(), patience)
            .map_err(|why| Refusal::NotYet(format!("making a session: {why}")))
            .and_then(|mut wire| log_in(&mut wire, &target).map(|()| wire));
        match outcome {
            Ok(wire) => {
                if ready.send(Ok(())).is_ok() {
                    let why = serve(wire);
                    tracing::debug!(machine = target.name, why, "connection ended");
                }
            }
            Err(refusal) => {
                shared.end("it was never made");
                let _ = ready.send(Err(refusal));
            }
        }
    }
}

fn log_in(wire: &mut Wire, target: &Target) -> Result<(), Refusal> {
    let deadline = Instant::now() + target.timing.attempt;
    let not_yet = |what: &str, fault: Fault| Refusal::NotYet(format!("{what}: {}", fault.text()));
    prefer(&wire.session, &target.host_keys).map_err(|fault| not_yet("choosing algorithms", fault))?;
    if !target.timing.keepalive.is_zero() {
        let seconds = u32::try_from(target.timing.keepalive.as_secs()).unwrap_or(u32::MAX).max(2);
        wire.session.set_keepalive(true, seconds);
    }
    let mut session = wire.session.clone();
    wire.finish(deadline, || session.handshake()).map_err(|fault| not_yet("the SSH handshake", fault))?;
    compare(&wire.session, target).map_err(Refusal::Fatal)?;
    let session = wire.session.clone();
    let mut local = None;
    let outcome = wire.finish(deadline, || {
        session.userauth_pubkey_memory(&target.user, None, target.key.pem(), None).inspect_err(|error| {
            // FILE and METHOD_NONE: libssh2 cannot read the key.
            if matches!(error.code(), ssh2::ErrorCode::Session(-16 | -17)) {
                local = Some(error.message().to_owned());
            }
        })
    });
    if let Some(why) = local {
        return Err(Refusal::Fatal(Error::Key {
            what: format!("the private key for {}", target.name),
            why: format!("{why}; use an ed25519 key in OpenSSH's format"),
        }));
    }
    match outcome {
        Ok(()) => Ok(()),
        Err(Fault::Refused(why)) => Err(Refusal::Key(why)),
        Err(fault) => Err(not_yet("logging in", fault)),
    }
}

/// Asks for a host key of a pinned kind first, and of any other after: so that an error can say what is shown.
fn prefer(session: &Session, pinned: &[HostKey]) -> Result<(), Fault> {
    let known = session.supported_algs(MethodType::HostKey).map_err(|error| Fault::of(&error))?;
    let wanted = |algorithm: &str| {
        pinned.iter().any(|key| match key {
            HostKey::Key(key) => {
                key.algorithm() == algorithm
                    || key.algorithm() == "ssh-rsa"
                        && algorithm.starts_with("rsa-sha2-")
                        && !algorithm.contains('@')
            }
            HostKey::Fingerprint(_) => false,
        })
    };
    let (mut first, rest): (Vec<&str>, Vec<&str>) =
        known.into_iter().filter(|algorithm| !algorithm.contains("-cert-")).partition(|one| wanted(one));
    first.extend(rest);
    session.method_pref(MethodType::HostKey, &first.join(",")).map_err(|error| Fault::of(&error))
}

fn compare(session: &Session, target: &Target) -> Result<()> {
    let shown = session.host_key().map(|(blob, _)| blob.to_owned()).unwrap_or_default();
    if target.host_keys.iter().any(|key| key.is(&shown)) {
        return Ok(());
    }
    let kind =
        PublicKey::from_blob(&shown, "").map(|key| format!("{} ", key.algorithm())).unwrap_or_default();
    let expected: Vec<String> = target.host_keys.iter().map(ToString::to_string).collect();
    Err(Error::HostKey {
        machine: target.name.clone(),
        address: target.address.to_string(),
        expected: if expected.is_empty() { "(none was pinned)".into() } else { expected.join(" or ") },
        shown: format!("{kind}{}", Fingerprint::of(&shown)),
    })
}
