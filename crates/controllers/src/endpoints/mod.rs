//! Where a service's traffic goes: Endpoints and EndpointSlices from pods, slices from hand-made Endpoints.

mod legacy;
mod mirror;
mod model;
mod selected;
mod slices;

use crate::frame::Context;

/// Starts the controllers.
pub(crate) fn start(context: &Context) {
    selected::start(context);
    mirror::start(context);
}
