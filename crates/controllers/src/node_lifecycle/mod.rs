//! Watches over nodes: says when one is silent, taints it, and takes its pods away as their tolerations say.

mod eviction;
mod health;
mod taints;

use crate::frame::Context;

/// Starts the controllers.
pub(crate) fn start(context: &Context) {
    health::start(context);
    eviction::start(context);
}
