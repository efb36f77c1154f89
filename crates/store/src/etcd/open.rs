//! What has to be true before the store is used: the version is known, all endpoints are of one cluster, it is
//! the one that was used before, and the prefix is this cluster's.

use std::fmt;
use std::time::Duration;

use machinery::retry::{Backoff, Tries};
use machinery::tls::{self, Identity};

use super::layout::Layout;
use super::proto::{
    Compare, MemberListRequest, MemberListResponse, PutRequest, RangeRequest, Request, RequestOp,
    StatusRequest, StatusResponse, Target, TargetValue, TxnRequest, TxnResponse,
};
use super::wire::{Failed, Kind, Wire, unsigned};
use super::{EtcdOptions, EtcdTls, TXN_PATH, first_range};
use crate::{Error, Member, Result};

const STATUS_PATH: &str = "/etcdserverpb.Maintenance/Status";
const MEMBERS_PATH: &str = "/etcdserverpb.Cluster/MemberList";
/// How long etcd may take to be there: it may start at the same time.
const PATIENCE: Duration = Duration::from_secs(20);
/// The oldest version that has what this engine uses: `hasleader` for streams, cut watch answers, MOVED leases.
const OLDEST: Version = Version([3, 4, 0]);

/// etcd's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version([u32; 3]);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let plain = text.split(['-', '+']).next()?;
        let mut parts = plain.split('.').map(|part| part.parse::<u32>().ok());
        let version = Self([parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?]);
        parts.next().is_none().then_some(version)
    }

    /// Whether a progress report means that every change up to its revision was delivered. Before, etcd might
    /// report a revision whose changes it was yet to send (etcd-io/etcd#15220).
    pub(super) fn reports_progress(self) -> bool {
        let line = Self([3, 5, 0]);
        if self < line { self >= Self([3, 4, 31]) } else { self >= Self([3, 5, 13]) }
    }
}

pub(super) fn tls(files: &EtcdTls) -> Result<rustls::ClientConfig> {
    let refused =
        |error: tls::Error| Error::Refused(format!("the certificates for etcd are not usable: {error}"));
    let authorities = tls::certificates(&files.ca).map_err(refused)?;
    let identity = Identity::read(&files.cert, &files.key).map_err(refused)?;
    tls::client(&authorities, Some(identity)).map_err(refused)
}

/// Waits for etcd and checks it; returns the lowest version among the members that answered.
pub(super) async fn check(wire: &Wire, layout: &Layout, options: &EtcdOptions) -> Result<Version> {
    let mut tries = Tries::new("etcd", PATIENCE, Backoff::QUICK, &*wire.clock, &wire.random);
    let version = loop {
        match versions(wire).await {
            Ok(version) => break version,
            Err(Error::Unavailable(seen)) => {
                tries.again(seen).await.map_err(|late| Error::Unavailable(late.to_string()))?;
            }
            Err(error) => return Err(error),
        }
    };
    remember(wire, options)?;
    own(wire, layout, options).await?;
    Ok(version)
}

/// Asks every member for its version; one answer is enough.
async fn versions(wire: &Wire) -> Result<Version> {
    let mut lowest: Option<Version> = None;
    let mut troubles = Vec::new();
    for (member, status) in statuses(wire).await.into_iter().enumerate() {
        let endpoint = wire.endpoint(member);
        match status {
            Ok(status) => {
                let version = Version::parse(&status.version).filter(|version| *version >= OLDEST);
                let version = version.ok_or_else(|| {
                    Error::Refused(format!(
                        "{endpoint} runs etcd {}; this engine needs {OLDEST} or newer: upgrade it",
                        status.version
                    ))
                })?;
                lowest = Some(lowest.map_or(version, |lowest| lowest.min(version)));
            }
            Err(failed) if !failed.again => return Err(failed.error),
            // Such a member may only be down at present, or misconfigured alone.
            Err(failed) => troubles.push(wire.turned_down(member).await.unwrap_or(failed.error)),
        }
    }
    if let Some(lowest) = lowest {
        return Ok(lowest);
    }
    let hopeless = troubles.iter().all(|trouble| matches!(trouble, Error::Refused(_)));
    let troubles: Vec<String> = troubles.iter().map(Error::detail).collect();
    let text = format!("no member of etcd can be used: {}", troubles.join("; "));
    Err(if hopeless { Error::Refused(text) } else { Error::Unavailable(text) })
}

async fn statuses(wire: &Wire) -> Vec<Result<StatusResponse, Failed>> {
    let asking = (0..wire.len()).map(|member| wire.ask(Kind::Read, member, STATUS_PATH, StatusRequest {}));
    futures::future::join_all(asking).await
}

/// Compares etcd's cluster id with the one that this machine used last, and notes it when there was none.
fn remember(wire: &Wire, options: &EtcdOptions) -> Result<()> {
    let Some(path) = &options.memory else { return Ok(()) };
    let unavailable = |error: std::io::Error| Error::Unavailable(format!("{}: {error}", path.display()));
    let now = format!("{:x}\n", wire.cluster());
    match std::fs::read_to_string(path) {
        Ok(before) if before == now => Ok(()),
        Ok(before) => Err(Error::Refused(format!(
            "the endpoints lead to the etcd cluster {}, but this master used the etcd cluster {}: correct the endpoints; \
             if etcd was set up anew or restored from a snapshot on purpose, delete {} and start again",
            now.trim(),
            before.trim(),
            path.display()
        ))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(unavailable)?;
            }
            machinery::files::write_atomic(path, now.as_bytes(), 0o600)
                .map_err(|error| Error::Unavailable(format!("{}: {error}", path.display())))
        }
        Err(error) => Err(unavailable(error)),
    }
}

/// Makes the prefix this cluster's, or refuses it when it is another's.
async fn own(wire: &Wire, layout: &Layout, options: &EtcdOptions) -> Result<()> {
    let key = layout.owner();
    let free =
        Compare { target: Target::Mod as i32, key: key.clone(), value: Some(TargetValue::ModRevision(0)) };
    let take = PutRequest { key: key.clone(), value: options.owner.clone().into(), lease: 0 };
    let look = RangeRequest { key, ..RangeRequest::default() };
    let request = TxnRequest {
        compare: vec![free],
        success: vec![RequestOp { request: Some(Request::Put(take)) }],
        failure: vec![RequestOp { request: Some(Request::Range(look)) }],
    };
    // Done twice, it finds what it wrote itself.
    let answer: TxnResponse = wire.call(Kind::Read, TXN_PATH, request).await?;
    let owner = first_range(answer.responses).map(|kv| kv.value);
    match owner {
        _ if answer.succeeded => Ok(()),
        Some(owner) if owner == options.owner.as_bytes() => Ok(()),
        other => Err(Error::Refused(format!(
            "the etcd prefix {} belongs to another cluster (its owner is {:?}, this cluster is {:?}); \
             give every cluster a prefix of its own",
            options.prefix,
            String::from_utf8_lossy(&other.unwrap_or_default()),
            options.owner
        ))),
    }
}

/// Returns bytes on disk, bytes in use and the members, as far as they answer.
pub(super) async fn members(wire: &Wire) -> (u64, u64, Vec<Member>) {
    let names: MemberListResponse =
        wire.call(Kind::Read, MEMBERS_PATH, MemberListRequest {}).await.unwrap_or_default();
    let (mut size, mut used) = (0, 0);
    let mut members = Vec::new();
    for (index, status) in statuses(wire).await.into_iter().enumerate() {
        let endpoint = wire.endpoint(index).to_owned();
        members.push(match status {
            Err(failed) => {
                let trouble = Some(failed.error.detail());
                Member { name: endpoint.clone(), endpoint, leader: false, trouble }
            }
            Ok(status) => {
                if size == 0 {
                    (size, used) = (unsigned(status.db_size), unsigned(status.db_size_in_use));
                }
                let id = status.header.map_or(0, |header| header.member_id);
                let name =
                    names.members.iter().find(|member| member.id == id).map(|member| member.name.clone());
                let trouble = match (status.leader, status.errors.join("; ")) {
                    (0, errors) if errors.is_empty() => Some("it has no leader".into()),
                    (_, errors) if errors.is_empty() => None,
                    (_, errors) => Some(errors),
                };
                Member {
                    name: name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("{id:x}")),
                    endpoint,
                    leader: status.leader == id,
                    trouble,
                }
            }
        });
    }
    (size, used, members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_told_apart() {
        for (text, version, reports) in [
            ("3.4.23", Some([3, 4, 23]), false),
            ("3.4.31", Some([3, 4, 31]), true),
            ("3.5.12", Some([3, 5, 12]), false),
            ("3.5.13", Some([3, 5, 13]), true),
            ("3.6.0-rc.1", Some([3, 6, 0]), true),
            ("3.3.27", Some([3, 3, 27]), false),
            ("3.x", None, false),
            ("", None, false),
        ] {
            let read = Version::parse(text);
            assert_eq!(read, version.map(Version), "{text}");
            assert_eq!(read.is_some_and(Version::reports_progress), reports, "{text}");
        }
    }
}
