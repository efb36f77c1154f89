//! The connections to etcd's members and calls that go on at another member when one fails.
//!
//! A read is tried again until its deadline. A write is tried again only when it certainly was not received:
//! anything else would risk doing it twice, or taking another's write for one's own.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::client::legacy::connect::HttpConnector;
use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::retry::{Backoff, Tries};
use prost::Message;
use rustls::CertificateError;
use tokio::io::AsyncReadExt;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::proto::{Answer, ResponseHeader};
use crate::{Error, Result, Revision};

/// How long one member may take to connect.
const CONNECT: Duration = Duration::from_secs(2);
/// How long one member may take to answer a read before the next one is asked. An election takes about 1 s.
const READ: Duration = Duration::from_secs(2);
/// How long a write may take. A member that lost its leader says so sooner.
const WRITE: Duration = Duration::from_secs(3);
/// How long a member may take to tidy up.
const UPKEEP: Duration = Duration::from_secs(60);
/// By when a call has to have found a member that serves it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may be silent before the member is asked for a sign of life, and how long that may take.
const SILENCE: Duration = Duration::from_secs(2);
/// The largest answer that is read: one page of a range, or one batch of a watch.
const ANSWER_BYTES: usize = 64 << 20;

/// Whether a call may be made twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It changes nothing, or doing it again changes nothing more.
    Read,
    /// It must happen at most once.
    Write,
    /// It may be made twice, and may take its time.
    Upkeep,
}

/// The members, and which of them is asked first.
pub(super) struct Wire {
    members: Vec<Member>,
    current: AtomicUsize,
    /// The id of the cluster that first answered; every answer has to come from it.
    cluster: OnceLock<u64>,
    /// The highest revision that any answer carried.
    newest: AtomicU64,
    pub(super) clock: SharedClock,
    pub(super) random: Random,
}

struct Member {
    endpoint: String,
    channel: Channel,
    uri: http::Uri,
    tls: Option<rustls::ClientConfig>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let endpoints: Vec<&str> = self.members.iter().map(|member| &*member.endpoint).collect();
        f.debug_struct("Wire").field("endpoints", &endpoints).finish_non_exhaustive()
    }
}

impl Wire {
    pub(super) fn new(
        endpoints: &[String],
        tls: Option<rustls::ClientConfig>,
        clock: SharedClock,
        random: Random,
    ) -> Result<Self> {
        let members = endpoints
            .iter()
            .map(|endpoint| {
                let refused = |why: String| {
                    Error::Refused(format!("the etcd endpoint {endpoint:?} is not usable: {why}"))
                };
                let built =
                    Endpoint::from_shared(endpoint.clone()).map_err(|error| refused(error.to_string()))?;
                match (built.uri().scheme_str(), &tls) {
                    (Some("https"), Some(_)) | (Some("http"), None) => {}
                    (Some("https"), None) => return Err(refused("https needs ca, cert and key".into())),
                    (Some("http"), Some(_)) => {
                        return Err(refused(
                            "ca, cert and key are given, so it has to begin with https".into(),
                        ));
                    }
                    _ => return Err(refused("it has the form https://HOST:PORT".into())),
                }
                Ok(Member {
                    endpoint: endpoint.clone(),
                    channel: connect(&built, tls.clone()),
                    uri: built.uri().clone(),
                    tls: tls.clone(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        if members.is_empty() {
            return Err(Error::Refused("no etcd endpoint is given; name at least one".into()));
        }
        Ok(Self {
            members,
            current: AtomicUsize::new(0),
            cluster: OnceLock::new(),
            newest: AtomicU64::new(0),
            clock,
            random,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn endpoint(&self, member: usize) -> &str {
        &self.members[member % self.members.len()].endpoint
    }

    /// Returns the highest revision that was seen so far.
    pub(super) fn newest(&self) -> Revision {
        self.newest.load(Ordering::Acquire)
    }

    /// Returns which member is asked first, and its channel.
    pub(super) fn current(&self) -> (usize, Channel) {
        let member = self.current.load(Ordering::Relaxed) % self.members.len();
        (member, self.members[member].channel.clone())
    }

    /// Asks another member from now on, if `member` is still the one that is asked first.
    pub(super) fn leave(&self, member: usize) {
        let next = (member + 1) % self.members.len();
        // Whoever lost the race has nothing to do: somebody moved on already.
        let _moved = self.current.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Makes a call at whichever member serves it.
    pub(super) async fn call<Q, A>(&self, kind: Kind, path: &'static str, request: Q) -> Result<A>
    where
        Q: Message + Clone + 'static,
        A: Message + Answer + Default + 'static,
    {
        let mut tries = Tries::new("etcd", PATIENCE, Backoff::QUICK, &*self.clock, &self.random);
        loop {
            let (member, channel) = self.current();
            match self.once(kind, member, channel, path, request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(Failed { error, again: false }) => return Err(error),
                Err(Failed { error, again: true }) => {
                    self.leave(member);
                    tries.again(error.detail()).await.map_err(|late| Error::Unavailable(late.to_string()))?;
                }
            }
        }
    }

    /// Makes a call at one member and nowhere else.
    pub(super) async fn ask<Q, A>(
        &self,
        kind: Kind,
        member: usize,
        path: &'static str,
        request: Q,
    ) -> Result<A, Failed>
    where
        Q: Message + 'static,
        A: Message + Answer + Default + 'static,
    {
        let channel = self.members[member].channel.clone();
        self.once(kind, member, channel, path, request).await
    }

    async fn once<Q, A>(
        &self,
        kind: Kind,
        member: usize,
        channel: Channel,
        path: &'static str,
        request: Q,
    ) -> Result<A, Failed>
    where
        Q: Message + 'static,
        A: Message + Answer + Default + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES);
        let endpoint = self.endpoint(member);
        grpc.ready().await.map_err(|error| Failed {
            error: Error::Unavailable(format!("{endpoint}: {}", chain(&error))),
            again: true,
        })?;
        let limit = match kind {
            Kind::Read => READ,
            Kind::Write => WRITE,
            Kind::Upkeep => UPKEEP,
        };
        let call =
            grpc.unary(with_leader(request), PathAndQuery::from_static(path), ProstCodec::<Q, A>::default());
        let answer = tokio::select! {
            answer = call => answer.map_err(|status| judge(kind, endpoint, &status))?.into_inner(),
            () = self.clock.after(limit) => {
                // The member may be cut off from the others: the next call begins elsewhere.
                self.leave(member);
                return Err(Failed {
                    error: Error::Unavailable(format!("{endpoint} has not answered within {limit:?}")),
                    again: kind != Kind::Write,
                });
            }
        };
        self.check(member, answer.header()).map_err(|error| Failed { error, again: false })?;
        Ok(answer)
    }

    /// Notes the revision of an answer and makes sure that it comes from the one cluster.
    pub(super) fn check(&self, member: usize, header: Option<&ResponseHeader>) -> Result<()> {
        let endpoint = self.endpoint(member);
        // Defragmentation is answered without one.
        let Some(header) = header else { return Ok(()) };
        let known = *self.cluster.get_or_init(|| header.cluster_id);
        if known != header.cluster_id {
            return Err(Error::Refused(format!(
                "{endpoint} belongs to the etcd cluster {:x}, but this store is in the etcd cluster {known:x}; \
                 correct the endpoints, or start again if etcd was set up anew on purpose",
                header.cluster_id
            )));
        }
        self.newest.fetch_max(unsigned(header.revision), Ordering::AcqRel);
        Ok(())
    }

    /// Looks whether a member turns down the certificate that it is shown. It says so only after the handshake,
    /// when the client may be about to send already and finds just a closed connection.
    pub(super) async fn turned_down(&self, member: usize) -> Option<Error> {
        let Member { endpoint, uri, tls, .. } = &self.members[member];
        let (host, port) = (uri.host()?.trim_matches(['[', ']']), uri.port_u16().unwrap_or(443));
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls.clone()?));
        let name = rustls::pki_types::ServerName::try_from(host.to_owned()).ok()?;
        let looking = async {
            let tcp = tokio::net::TcpStream::connect((host, port)).await?;
            // A member that is content begins to speak HTTP/2.
            connector.connect(name, tcp).await?.read_u8().await
        };
        let seen = tokio::select! {
            seen = looking => seen,
            () = self.clock.after(CONNECT) => return None,
        };
        let error = seen.err()?;
        let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        Some(Error::Refused(format!("{endpoint}: {tls}; {}", advice(tls)?)))
    }

    pub(super) fn cluster(&self) -> u64 {
        self.cluster.get().copied().unwrap_or_default()
    }
}

/// Why a call failed, and whether it may be made again.
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) again: bool,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

/// Decides what a failure of a call at `endpoint` means.
fn judge(kind: Kind, endpoint: &str, status: &Status) -> Failed {
    let text = status.message();
    let never_sent = source::<tonic::ConnectError>(status).is_some()
        // etcd refuses these before anything is proposed to the members.
        || text.contains("etcdserver: no leader")
        || text.contains("etcdserver: not capable")
        || text.contains("etcdserver: server stopped")
        || text.contains("etcdserver: rpc not supported for learner");
    let passing = matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded
    );
    let error = if text.contains("database space exceeded") {
        Error::Unavailable(format!(
            "{endpoint}: etcd's space quota is used up; compact and defragment it, then disarm its alarm"
        ))
    } else if status.code() == Code::InvalidArgument && text.contains("too large") {
        Error::Refused(format!("{endpoint}: {text}"))
    } else if let Some(advice) = source(status).and_then(advice) {
        Error::Refused(format!("{endpoint}: {}; {advice}", chain(status)))
    } else {
        Error::Unavailable(format!("{endpoint}: {}", chain(status)))
    };
    Failed { error, again: never_sent || (passing && kind != Kind::Write) }
}

/// Says whether etcd has forgotten the revision that was asked for.
pub(super) fn is_compacted(error: &Error) -> bool {
    matches!(error, Error::Unavailable(text) if text.contains("required revision has been compacted"))
}

/// Says whether the revision that was asked for is not there yet.
pub(super) fn is_future(error: &Error) -> bool {
    matches!(error, Error::Unavailable(text) if text.contains("required revision is a future revision"))
}

/// Says what to do about a failure of TLS that an operator can mend.
fn advice(error: &rustls::Error) -> Option<&'static str> {
    Some(match error {
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "the CA that is configured has not signed that member's certificate: correct `ca`",
        rustls::Error::InvalidCertificate(_) => {
            "that member's certificate is not good for this endpoint: issue it with the endpoint's host among its names"
        }
        rustls::Error::AlertReceived(_) => {
            "that member does not accept the client certificate: correct `cert` and `key`, or etcd's trusted CA"
        }
        _ => return None,
    })
}

/// Looks for an error of type `E` among the causes of `status`.
fn source<E: std::error::Error + 'static>(status: &Status) -> Option<&E> {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        // The source of an io::Error is that of the error in it: that one itself would be left out.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Joins what the causes of an error say, each once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = match error.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => error.to_string(),
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// A member without a leader is to say so at once instead of waiting for one.
pub(super) fn with_leader<Q>(request: Q) -> tonic::Request<Q> {
    let mut request = tonic::Request::new(request);
    request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
    request
}

/// etcd's numbers are signed; none that it sends is negative.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// A revision as etcd takes it.
pub(super) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn connect(endpoint: &Endpoint, tls: Option<rustls::ClientConfig>) -> Channel {
    let endpoint = endpoint
        .clone()
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(SILENCE)
        .keep_alive_timeout(SILENCE)
        .keep_alive_while_idle(true);
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    match tls {
        None => endpoint.connect_with_connector_lazy(tcp),
        Some(tls) => {
            let connector = hyper_rustls::HttpsConnectorBuilder::new()
                .with_tls_config(tls)
                .https_only()
                .enable_http2()
                .wrap_connector(tcp);
            endpoint.connect_with_connector_lazy(connector)
        }
    }
}
