//! Who belongs to an etcd cluster, and how that is changed: for the provisioner. A store does not need it.

use machinery::clock::SharedClock;
use machinery::names::Random;

use super::proto::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberRemoveRequest,
};
use super::wire::{Kind, Wire};
use super::{EtcdTls, open};
use crate::{Error, Member, Result};

const LIST: &str = "/etcdserverpb.Cluster/MemberList";
const ADD: &str = "/etcdserverpb.Cluster/MemberAdd";
const REMOVE: &str = "/etcdserverpb.Cluster/MemberRemove";
const PROMOTE: &str = "/etcdserverpb.Cluster/MemberPromote";

/// The members of an etcd cluster.
#[derive(Debug)]
pub struct EtcdMembers {
    wire: Wire,
}

/// A member as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdMember {
    /// What the cluster calls it.
    pub id: u64,
    /// Its name; empty as long as it has not started once.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Whether it only follows and has no vote yet.
    pub learner: bool,
}

impl EtcdMembers {
    /// Reaches a cluster by the members at `endpoints`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Refused`] when endpoints or certificates cannot be used.
    pub fn new(endpoints: &[String], tls: &EtcdTls, clock: SharedClock, random: Random) -> Result<Self> {
        Ok(Self { wire: Wire::new(endpoints, Some(open::tls(tls)?), clock, random)? })
    }

    /// Asks each endpoint how its member is.
    pub async fn health(&self) -> Vec<Member> {
        open::members(&self.wire).await.2
    }

    /// Returns who belongs to the cluster.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no member answers in time.
    pub async fn list(&self) -> Result<Vec<EtcdMember>> {
        let answer: MemberListResponse = self.wire.call(Kind::Read, LIST, MemberListRequest {}).await?;
        let member = |member: super::proto::ClusterMember| EtcdMember {
            id: member.id,
            name: member.name,
            peer_urls: member.peer_urls,
            learner: member.learner,
        };
        Ok(answer.members.into_iter().map(member).collect())
    }

    /// Lets the member at `peer_url` join as one without a vote. Nothing is done where it belongs to the cluster.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the cluster has no leader, or refuses.
    pub async fn add_learner(&self, peer_url: &str) -> Result<()> {
        if self.find(peer_url).await?.is_some() {
            return Ok(());
        }
        let request = MemberAddRequest { peer_urls: vec![peer_url.to_owned()], learner: true };
        self.wire.call::<_, MemberAddResponse>(Kind::Write, ADD, request).await.map(drop)
    }

    /// Gives the member at `peer_url` a vote. Nothing is done where it has one.
    ///
    /// # Errors
    /// [`Error::Unavailable`] as long as it has not caught up with the leader: try again.
    pub async fn promote(&self, peer_url: &str) -> Result<()> {
        let member = self.find(peer_url).await?;
        let member =
            member.ok_or_else(|| Error::Unavailable(format!("no member of etcd is at {peer_url}")))?;
        if !member.learner {
            return Ok(());
        }
        let request = MemberPromoteRequest { id: member.id };
        self.wire.call::<_, MemberListResponse>(Kind::Write, PROMOTE, request).await.map(drop)
    }

    /// Takes the member at `peer_url` out of the cluster. Nothing is done where there is none.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the cluster has no leader, or would lose its quorum.
    pub async fn remove(&self, peer_url: &str) -> Result<()> {
        let Some(member) = self.find(peer_url).await? else { return Ok(()) };
        let request = MemberRemoveRequest { id: member.id };
        self.wire.call::<_, MemberListResponse>(Kind::Write, REMOVE, request).await.map(drop)
    }

    async fn find(&self, peer_url: &str) -> Result<Option<EtcdMember>> {
        let all = self.list().await?;
        Ok(all.into_iter().find(|member| member.peer_urls.iter().any(|url| url == peer_url)))
    }
}
