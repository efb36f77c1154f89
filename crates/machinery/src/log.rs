//! The log of a long-running process: lines on standard error, filtered by `CLUSTER_LOG`.

use tracing_subscriber::EnvFilter;

/// Starts logging. The filter is `CLUSTER_LOG` (the syntax of `RUST_LOG`), or `fallback`.
/// A second call does nothing.
pub fn init(fallback: &str) {
    let filter = EnvFilter::try_from_env("CLUSTER_LOG").unwrap_or_else(|_| EnvFilter::new(fallback));
    let _already_started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
}
