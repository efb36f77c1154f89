//! Manifests as users write them, through decoding, defaulting, preparation and validation.

mod bad_manifests;
mod bad_updates;
mod good_manifests;
mod kit;
