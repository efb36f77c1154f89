//! `containerLogs`: which file, which lines of it, in which form.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use jiff::Timestamp;
use runtime::{ContainerState, ContainerStatus};

use super::{Body, Query, Refusal, find, follow};
use crate::agent::Agent;
use crate::pods::{Snapshot, find_container};

/// Which lines are wanted, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// Only the last lines.
    pub(super) tail: Option<u64>,
    /// Only lines from then on.
    pub(super) since: Option<Timestamp>,
    /// With the time before each line.
    pub(super) timestamps: bool,
    /// Not more bytes than this.
    pub(super) limit: Option<u64>,
    /// Only this stream: `stdout` or `stderr`.
    pub(super) stream: Option<String>,
    /// Go on until the container ends.
    pub(super) follow: bool,
}

/// What is read.
pub(super) struct Source {
    /// The file.
    pub(super) path: PathBuf,
    /// The container.
    pub(super) id: String,
    /// It has ended: nothing will be added.
    pub(super) ended: bool,
}

pub(super) async fn answer(
    agent: &Arc<Agent>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let snapshot = find(agent, namespace, pod)?;
    if find_container(&snapshot.pod, container).is_none() {
        return Err((StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {pod:?}")));
    }
    let options = options(query, agent.clock.now())?;
    let source = choose(&snapshot, pod, container, query.is_set(&["previous"]))?;
    Ok(Response::new(follow::body(agent, source, options)))
}

fn options(query: &Query, now: Timestamp) -> Result<Options, Refusal> {
    let bad = |text: String| (StatusCode::BAD_REQUEST, text);
    let seconds =
        query.number::<u32>("sinceSeconds")?.map(|seconds| now - Duration::from_secs(u64::from(seconds)));
    let time = match query.get("sinceTime") {
        Some(text) => Some(
            text.parse::<Timestamp>().map_err(|error| bad(format!("invalid sinceTime {text:?}: {error}")))?,
        ),
        None => None,
    };
    let stream = match query.get("stream") {
        None | Some("All") => None,
        Some("Stdout") => Some("stdout".to_owned()),
        Some("Stderr") => Some("stderr".to_owned()),
        Some(other) => return Err(bad(format!("invalid stream {other:?}"))),
    };
    Ok(Options {
        tail: query.number("tailLines")?,
        since: time.or(seconds),
        timestamps: query.is_set(&["timestamps"]),
        limit: query.number("limitBytes")?,
        stream,
        follow: query.is_set(&["follow"]),
    })
}

fn choose(snapshot: &Snapshot, pod: &str, container: &str, previous: bool) -> Result<Source, Refusal> {
    let bad = |text: String| Err((StatusCode::BAD_REQUEST, text));
    let source = |status: &ContainerStatus| Source {
        path: status.log_path.clone(),
        id: status.id.clone(),
        ended: status.state == ContainerState::Exited,
    };
    let latest = snapshot.view.latest(container).filter(|one| one.state != ContainerState::Created);
    if previous {
        // While a restart is awaited the last run is the previous one.
        let waiting = waiting_reason(snapshot, container).is_some();
        let found = if waiting { latest } else { snapshot.view.previous(container) };
        return match found.filter(|one| one.state == ContainerState::Exited) {
            Some(status) => Ok(source(status)),
            None => bad(format!("previous terminated container {container:?} in pod {pod:?} not found")),
        };
    }
    match latest {
        Some(status) => Ok(source(status)),
        None => match waiting_reason(snapshot, container) {
            Some((reason, message))
                if message.is_empty() || reason == "ContainerCreating" || reason == "PodInitializing" =>
            {
                bad(format!("container {container:?} in pod {pod:?} is waiting to start: {reason}"))
            }
            Some((reason, _)) if reason.contains("ImagePull") => bad(format!(
                "container {container:?} in pod {pod:?} is waiting to start: trying and failing to pull image"
            )),
            Some((_, message)) => {
                bad(format!("container {container:?} in pod {pod:?} is waiting to start: {message}"))
            }
            None => bad(format!("container {container:?} in pod {pod:?} is not available")),
        },
    }
}

fn waiting_reason(snapshot: &Snapshot, container: &str) -> Option<(String, String)> {
    let status = snapshot.pod.status.as_ref()?;
    let one = status
        .container_statuses
        .iter()
        .flatten()
        .chain(status.init_container_statuses.iter().flatten())
        .chain(status.ephemeral_container_statuses.iter().flatten())
        .find(|one| one.name == container)?;
    let waiting = one.state.as_ref()?.waiting.as_ref()?;
    Some((waiting.reason.clone().unwrap_or_default(), waiting.message.clone().unwrap_or_default()))
}

/// Turns lines of a log file into what the client sees. Pure.
#[derive(Debug)]
pub(super) struct Filter {
    options: Options,
    sent: u64,
}

impl Filter {
    pub(super) fn new(options: Options) -> Self {
        Self { options, sent: 0 }
    }

    /// Appends what the client sees of one line; returns false when it has all that it wanted.
    pub(super) fn line(&mut self, line: &[u8], into: &mut Vec<u8>) -> bool {
        let Some(Line { time, stream, partial, message }) = parse(line) else { return true };
        if self.options.stream.as_deref().is_some_and(|wanted| wanted.as_bytes() != stream) {
            return true;
        }
        if let Some(since) = self.options.since {
            let at = std::str::from_utf8(time).ok().and_then(|text| text.parse::<Timestamp>().ok());
            if at.is_none_or(|at| at < since) {
                return true;
            }
        }
        let before = into.len();
        if self.options.timestamps {
            into.extend_from_slice(time);
            into.push(b' ');
        }
        into.extend_from_slice(message);
        if !partial {
            into.push(b'\n');
        }
        let Some(limit) = self.options.limit else { return true };
        let room = usize::try_from(limit.saturating_sub(self.sent)).unwrap_or(usize::MAX);
        into.truncate(into.len().min(before.saturating_add(room)));
        self.sent += u64::try_from(into.len() - before).unwrap_or(0);
        self.sent < limit
    }
}

/// A line in CRI's format, taken apart.
struct Line<'a> {
    time: &'a [u8],
    stream: &'a [u8],
    /// The line goes on in the next one.
    partial: bool,
    message: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (time, stream, tags) = (parts.next()?, parts.next()?, parts.next()?);
    let message = parts.next().unwrap_or_default();
    (!time.is_empty()).then_some(Line { time, stream, partial: tags.starts_with(b"P"), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: Options, expected: &str) {
        let mut filter = Filter::new(options.clone());
        let mut out = Vec::new();
        for line in [
            "2026-01-01T00:00:00.5Z stdout F one",
            "broken",
            "2026-01-01T00:00:01Z stderr P two ",
            "2026-01-01T00:00:02Z stderr F words",
            "2026-01-01T00:00:03Z stdout F ",
        ] {
            if !filter.line(line.as_bytes(), &mut out) {
                break;
            }
        }
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{options:?}");
    }

    #[test]
    fn lines_are_chosen_and_shown_as_asked() {
        check(Options::default(), "one\ntwo words\n\n");
        check(Options { stream: Some("stdout".into()), ..Options::default() }, "one\n\n");
        check(
            Options { since: Some("2026-01-01T00:00:02Z".parse().unwrap()), ..Options::default() },
            "words\n\n",
        );
        check(Options { limit: Some(6), ..Options::default() }, "one\ntw");
        check(Options { limit: Some(0), ..Options::default() }, "");
        check(
            Options { timestamps: true, limit: Some(26), ..Options::default() },
            "2026-01-01T00:00:00.5Z one",
        );
    }
}
