//! The log of a long-running process: lines on standard error, filtered by `CLUSTER_LOG`.

use tracing_subscriber::EnvFilter;

/// The crates of this project, as their log lines name them.
const OWN: [&str; 12] = [
    "api",
    "apiserver",
    "client",
    "cluster",
    "control_plane",
    "controllers",
    "machinery",
    "network",
    "node_agent",
    "runtime",
    "scheduler",
    "store",
];

/// Starts logging. The filter is `CLUSTER_LOG` (the syntax of `RUST_LOG`). Without it the project's own crates
/// log from `level` on, and libraries warnings only: they say much that concerns nobody, such as every DNS query.
/// A second call does nothing.
pub fn init(level: &str) {
    let filter = EnvFilter::try_from_env("CLUSTER_LOG").unwrap_or_else(|_| EnvFilter::new(directives(level)));
    let _already_started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
}

fn directives(level: &str) -> String {
    OWN.iter().fold("warn".to_owned(), |all, name| format!("{all},{name}={level}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_lines_are_logged_from_the_level_on_and_those_of_libraries_from_warnings_on() {
        let filter = directives("info");
        assert!(filter.starts_with("warn,api=info,"), "{filter}");
        EnvFilter::builder().parse(&filter).unwrap();
    }
}
