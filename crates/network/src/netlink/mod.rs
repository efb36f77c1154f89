//! What netfilter's netlink needs and no library in the tree has: messages with nested attributes, and a
//! socket that sends a batch and collects its answers. Links, addresses and routes go through `rtnetlink`.

mod message;
mod socket;

pub(crate) use message::{Attributes, Messages, attributes};
pub(crate) use socket::{Reply, Socket};
