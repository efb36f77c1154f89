//! containerd's own services (`github.com/containerd/containerd/api`): what the CRI has no call for.

use std::collections::BTreeMap;

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    pub(in crate::cri) filters: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct Envelope {
    #[prost(string, tag = "3")]
    pub(in crate::cri) topic: String,
    #[prost(message, optional, tag = "4")]
    pub(in crate::cri) event: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct Any {
    #[prost(bytes = "vec", tag = "2")]
    pub(in crate::cri) value: Vec<u8>,
}

/// `containerd.events.TaskStart`, and the beginning of `TaskExit`.
#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct TaskEvent {
    #[prost(string, tag = "1")]
    pub(in crate::cri) container_id: String,
}

/// `containerd.events.TaskExit`.
#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct TaskExit {
    #[prost(string, tag = "1")]
    pub(in crate::cri) container_id: String,
    /// The process: the container's id for its first one, another for a command in it.
    #[prost(string, tag = "2")]
    pub(in crate::cri) id: String,
}

/// What is to be done with content.
pub(in crate::cri) mod action {
    pub(in crate::cri) const WRITE: i32 = 1;
    pub(in crate::cri) const COMMIT: i32 = 2;
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct WriteContentRequest {
    #[prost(int32, tag = "1")]
    pub(in crate::cri) action: i32,
    #[prost(string, tag = "2")]
    pub(in crate::cri) reference: String,
    #[prost(int64, tag = "3")]
    pub(in crate::cri) total: i64,
    /// The digest that the whole must have.
    #[prost(string, tag = "4")]
    pub(in crate::cri) expected: String,
    #[prost(int64, tag = "5")]
    pub(in crate::cri) offset: i64,
    #[prost(bytes = "bytes", tag = "6")]
    pub(in crate::cri) data: bytes::Bytes,
    #[prost(btree_map = "string, string", tag = "7")]
    pub(in crate::cri) labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct WriteContentResponse {
    #[prost(int32, tag = "1")]
    pub(in crate::cri) action: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct Descriptor {
    #[prost(string, tag = "1")]
    pub(in crate::cri) media_type: String,
    #[prost(string, tag = "2")]
    pub(in crate::cri) digest: String,
    #[prost(int64, tag = "3")]
    pub(in crate::cri) size: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct Image {
    #[prost(string, tag = "1")]
    pub(in crate::cri) name: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub(in crate::cri) labels: BTreeMap<String, String>,
    #[prost(message, optional, tag = "3")]
    pub(in crate::cri) target: Option<Descriptor>,
}

/// A request that carries an image, to be made or changed; and the answer to it.
#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ImageMessage {
    #[prost(message, optional, tag = "1")]
    pub(in crate::cri) image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct CreateLeaseRequest {
    #[prost(string, tag = "1")]
    pub(in crate::cri) id: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(in crate::cri) labels: BTreeMap<String, String>,
}
