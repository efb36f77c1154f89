//! Downloads that go on where they were cut off.
//!
//! Beside the file `partial/KEY` lies `partial/KEY.json` with what the server said the file was (its entity tag,
//! or when it was last changed): a download goes on only when the server says that it still has the same.

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use machinery::clock::SystemClock;
use machinery::files::{PRIVATE, replace};
use machinery::names::Random;
use machinery::retry::{Attempt, Backoff, WaitError, until};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::{Response, StatusCode};
use rustls::ClientConfig;
use rustls_platform_verifier::Verifier;
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt, BufWriter};
use url::Url;

use super::{Progress, Source, Transport, checksum};
use crate::error::{Error, Result};

/// How often in a row an attempt may bring nothing.
const BARREN: u32 = 6;
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(200), most: Duration::from_secs(10), factor: 2.0, jitter: 0.2 };
/// The most that one download may take, on the slowest line on which it still makes sense.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
const CONNECT: Duration = Duration::from_secs(20);
/// How long a server may be silent in the middle.
const SILENCE: Duration = Duration::from_secs(30);
/// How many bytes come between two words about the progress.
const STEP: u64 = 1 << 20;
/// No signature is longer.
const MOST_SMALL: usize = 64 * 1024;

/// An HTTP client that is set up when it is first needed: a file of this machine needs none.
pub(super) struct Client {
    transport: Transport,
    ready: OnceLock<reqwest::Client>,
}

/// What was being downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct State {
    /// The address, as its SHA-256: there may be a password in it.
    address: String,
    /// The server's word for the file's present state.
    validator: String,
    total: Option<u64>,
}

/// Why an attempt did not end the download.
enum Failure {
    /// It may go better next time.
    Again(String),
    /// It will not.
    Fatal(Error),
}

impl Client {
    pub(super) fn new(transport: &Transport) -> Self {
        Self { transport: transport.clone(), ready: OnceLock::new() }
    }

    fn get(&self, url: &Url) -> Result<&reqwest::Client> {
        if let Some(client) = self.ready.get() {
            return Ok(client);
        }
        let fail =
            |reason: String| Error::image(&Source::Url(url.clone()), format!("setting up HTTPS: {reason}"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let authorities = self.transport.authorities.iter().cloned();
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| fail(error.to_string()))?;
        let config = match (url.scheme(), Verifier::new_with_extra_roots(authorities, provider)) {
            (_, Ok(verifier)) => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
            }
            // A machine without authorities can still fetch by plain HTTP, and go wrong at a redirection.
            ("http", Err(_)) => {
                builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
            }
            (_, Err(error)) => {
                return Err(fail(format!(
                    "{error}: install the package ca-certificates, or give the authority"
                )));
            }
        };
        let mut client = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .user_agent(concat!("cluster/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            // Nobody on the way may lead a safe download to an unsafe place.
            .https_only(url.scheme() == "https");
        if let Some(proxy) = &self.transport.proxy {
            let proxy = reqwest::Proxy::all(proxy.clone()).map_err(|error| fail(say(&error)))?;
            client = client.proxy(proxy);
        }
        let client = client.build().map_err(|error| fail(say(&error)))?;
        Ok(self.ready.get_or_init(|| client))
    }
}

/// Forgets a download, whole or not.
pub(super) fn forget(partial: &Path) -> Result<()> {
    for path in [partial.to_owned(), state_path(partial)] {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(format!("removing {}", path.display()))(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reads a small file from a web server.
pub(super) async fn small(client: &Client, url: &Url) -> Result<Vec<u8>> {
    let source = Source::Url(url.clone());
    let attempt = async || -> Result<Vec<u8>, Failure> {
        let request = client.get(url).map_err(Failure::Fatal)?.get(url.clone()).send();
        let response = accepted(&source, request.await.map_err(|error| Failure::Again(say(&error)))?)?;
        let mut bytes = Vec::new();
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            bytes.extend(chunk.map_err(|error| Failure::Again(say(&error)))?);
            if bytes.len() > MOST_SMALL {
                return Err(Failure::Fatal(Error::image(&source, "it is far too long for a signature")));
            }
        }
        Ok(bytes)
    };
    persist(&source, 0, async || attempt().await.map_err(|failure| (failure, 0))).await
}

/// Downloads into `partial`, going on where an earlier run ended.
pub(super) async fn download(
    client: &Client,
    url: &Url,
    partial: &Path,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<()> {
    let source = Source::Url(url.clone());
    let there = length(partial).map_err(Error::io("looking for an earlier download"))?;
    persist(&source, there, async || {
        let done = attempt(client, url, &source, partial, progress).await;
        match done {
            Ok(()) => Ok(()),
            Err(failure) => Err((failure, length(partial).unwrap_or_default())),
        }
    })
    .await
}

/// Tries until it is done, or several attempts in a row have brought nothing more.
async fn persist<T>(
    source: &Source,
    there: u64,
    mut attempt: impl AsyncFnMut() -> Result<T, (Failure, u64)>,
) -> Result<T> {
    let (what, random) = (source.to_string(), Random::from_os());
    let (mut there, mut barren) = (there, 0);
    let outcome = until(&what, LONGEST, BACKOFF, &SystemClock, &random, async || match attempt().await {
        Ok(done) => Attempt::Done(done),
        Err((Failure::Fatal(error), _)) => Attempt::Fatal(error),
        Err((Failure::Again(reason), now)) => {
            barren = if now > there { 0 } else { barren + 1 };
            there = now;
            if barren < BARREN {
                tracing::debug!(%source, reason, there, "the download is tried again");
                return Attempt::Again(reason);
            }
            let kept =
                if now > 0 { format!("; the next run goes on after {now} bytes") } else { String::new() };
            Attempt::Fatal(Error::image(
                source,
                format!("{reason}; tried {BARREN} times without a byte more{kept}"),
            ))
        }
    });
    outcome.await.map_err(|error| match error {
        WaitError::Fatal { error, .. } => error,
        deadline @ WaitError::Deadline { .. } => Error::image(source, deadline.to_string()),
    })
}

async fn attempt(
    client: &Client,
    url: &Url,
    source: &Source,
    partial: &Path,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(), Failure> {
    let disk = |error: io::Error| Failure::Fatal(writing(partial, error));
    let earlier =
        read_state(partial).filter(|state| state.address == checksum::of_bytes(url.as_str().as_bytes()));
    let have = if earlier.is_some() { length(partial).map_err(disk)? } else { 0 };
    // Compressed on the way, its length and ranges would mean something else.
    let mut request =
        client.get(url).map_err(Failure::Fatal)?.get(url.clone()).header(ACCEPT_ENCODING, "identity");
    if let Some(state) = earlier.as_ref().filter(|_| have > 0) {
        request = request.header(RANGE, format!("bytes={have}-")).header(IF_RANGE, &state.validator);
    }
    let response = request.send().await.map_err(|error| Failure::Again(say(&error)))?;
    let mut file = open(partial).await.map_err(disk)?;
    if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        // Nothing comes after what is there: it is whole, or it is not what the server has.
        let (_, total) = range(response.headers()).unwrap_or((None, None));
        if have > 0 && total == Some(have) {
            return Ok(());
        }
        file.set_len(0).await.map_err(disk)?;
        return Err(Failure::Again("the server has another file than before".into()));
    }
    let response = accepted(source, response)?;
    let length = response.content_length();
    let (from, total) = if response.status() == StatusCode::PARTIAL_CONTENT {
        let (from, total) = range(response.headers()).unwrap_or((None, None));
        let known = earlier.as_ref().and_then(|state| state.total);
        if from != Some(have) || (known.is_some() && total != known) {
            file.set_len(0).await.map_err(disk)?;
            return Err(Failure::Again("the server sent another part than was asked for".into()));
        }
        (have, total.or(length.map(|length| have + length)))
    } else {
        (0, length)
    };
    if from == 0 {
        file.set_len(0).await.map_err(disk)?;
        note_state(partial, url, response.headers(), total).map_err(disk)?;
    }
    if let Some(total) = total {
        room(partial, total.saturating_sub(from))?;
    }
    file.seek(SeekFrom::Start(from)).await.map_err(disk)?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let (mut done, mut told) = (from, from);
    progress(Progress::Downloading { done, total });
    let mut body = response.bytes_stream();
    let cut = loop {
        match body.next().await {
            None => break None,
            Some(Err(error)) => break Some(say(&error)),
            Some(Ok(chunk)) => {
                file.write_all(&chunk).await.map_err(disk)?;
                done += chunk.len() as u64;
                if done - told >= STEP {
                    told = done;
                    progress(Progress::Downloading { done, total });
                }
            }
        }
    };
    file.flush().await.map_err(disk)?;
    progress(Progress::Downloading { done, total });
    match (cut, total) {
        (Some(reason), _) => Err(Failure::Again(format!("it was cut off after {done} bytes: {reason}"))),
        (None, Some(total)) if done != total => {
            Err(Failure::Again(format!("it ended after {done} of {total} bytes")))
        }
        (None, _) => Ok(()),
    }
}

/// Judges the status of an answer.
fn accepted(source: &Source, response: Response) -> Result<Response, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let reason = format!("the server answered {status}");
    let again = status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    if again {
        return Err(Failure::Again(reason));
    }
    let hint = match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            ": check the address; a release may have been taken away, choose a newer one"
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            ": it wants credentials, or your network may not reach it"
        }
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            ": the proxy wants credentials (http://user:password@proxy:port)"
        }
        _ => "",
    };
    Err(Failure::Fatal(Error::image(source, format!("{reason}{hint}"))))
}

/// Reads `bytes FROM-TO/TOTAL` or `bytes */TOTAL`.
fn range(headers: &HeaderMap) -> Option<(Option<u64>, Option<u64>)> {
    let (span, total) = text(headers, &CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
    let from = span.split_once('-').and_then(|(from, _)| from.parse().ok());
    Some((from, total.parse().ok()))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Notes what the server has. Without a strong validator there is no way to know it again.
fn note_state(partial: &Path, url: &Url, headers: &HeaderMap, total: Option<u64>) -> io::Result<()> {
    let strong = text(headers, &ETAG).filter(|tag| !tag.starts_with("W/"));
    let validator = strong.or_else(|| text(headers, &LAST_MODIFIED));
    let path = state_path(partial);
    match validator {
        Some(validator) => {
            let state = State {
                address: checksum::of_bytes(url.as_str().as_bytes()),
                validator: validator.into(),
                total,
            };
            replace(&path, &serde_json::to_vec(&state)?, PRIVATE)
        }
        None => match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

fn read_state(partial: &Path) -> Option<State> {
    serde_json::from_slice(&std::fs::read(state_path(partial)).ok()?).ok()
}

fn state_path(partial: &Path) -> PathBuf {
    partial.with_added_extension("json")
}

fn length(partial: &Path) -> io::Result<u64> {
    match std::fs::metadata(partial) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

async fn open(partial: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(PRIVATE);
    options.open(partial).await
}

/// Says before the first byte what a full disk would say after the last one.
fn room(partial: &Path, needed: u64) -> Result<(), Failure> {
    let directory = partial.parent().unwrap_or(Path::new("/"));
    let Ok(system) = rustix::fs::statvfs(directory) else { return Ok(()) };
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    if free >= needed {
        return Ok(());
    }
    let reason = format!("{needed} more bytes are needed and {free} are free: make room, and run it again");
    Err(Failure::Fatal(Error::io(format!("downloading to {}", directory.display()))(io::Error::new(
        io::ErrorKind::StorageFull,
        reason,
    ))))
}

fn writing(partial: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (what is there is kept: make room, and run it again)"
        }
        _ => "",
    };
    Error::io(format!("downloading to {}{hint}", partial.display()))(error)
}

/// The client's errors say what went wrong only in their causes.
fn say(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = inner.source();
    }
    text
}
