//! Links the executable at a fixed address where its C runtime is static.
//!
//! The default there is a position-independent executable, which rewrites megabytes of its own tables each time it
//! starts. It starts once for every container, as its shim: those pages would be each shim's own, and their
//! rewriting part of every container's start. Stack, heap and mappings stay at random addresses.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let is_static = variable("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "crt-static");
    if is_static && variable("CARGO_CFG_TARGET_OS") == "linux" && variable("CARGO_CFG_TARGET_ENV") == "gnu" {
        println!("cargo::rustc-link-arg-bins=-static");
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
