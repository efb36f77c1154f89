//! What the server counts, in the Prometheus text form and under upstream's names.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::path::RequestInfo;
use crate::server::ApiServer;

/// The upper bounds of the duration buckets, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// The counters of one server.
#[derive(Default)]
pub(crate) struct Metrics {
    hasher: RandomState,
    /// By the hash of their labels, so that counting a request allocates nothing.
    requests: Mutex<HashMap<u64, Series>>,
    inflight: AtomicI64,
}

struct Series {
    labels: String,
    code: u16,
    count: u64,
    seconds: f64,
    buckets: [u64; BUCKETS.len()],
}

/// A request that is being worked on; counted until it is dropped.
pub(crate) struct Inflight<'a>(&'a Metrics);

impl Drop for Inflight<'_> {
    fn drop(&mut self) {
        self.0.inflight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(crate) fn begin(&self) -> Inflight<'_> {
        self.inflight.fetch_add(1, Ordering::Relaxed);
        Inflight(self)
    }

    /// Counts an answered request.
    pub(crate) fn count(&self, info: &RequestInfo, code: u16, took: Duration) {
        let key = match &info.resource {
            Some(target) => self.hasher.hash_one((
                &info.verb,
                &target.group,
                &target.version,
                &target.resource,
                &target.subresource,
                code,
            )),
            // Paths are not told apart: there is no bound to how many a client asks for.
            None => self.hasher.hash_one((&info.verb, code)),
        };
        let seconds = took.as_secs_f64();
        let mut requests = self.requests.lock();
        let series = requests.entry(key).or_insert_with(|| Series {
            labels: labels(info),
            code,
            count: 0,
            seconds: 0.0,
            buckets: [0; BUCKETS.len()],
        });
        series.count += 1;
        series.seconds += seconds;
        if let Some(bucket) = BUCKETS.iter().position(|bound| seconds <= *bound) {
            series.buckets[bucket] += 1;
        }
    }
}

fn labels(info: &RequestInfo) -> String {
    let verb = match info.verb.as_str() {
        "create" => "POST".to_owned(),
        "update" => "PUT".to_owned(),
        other => other.to_uppercase(),
    };
    // What a client may choose freely is cut to what labels may hold.
    let clean = |text: &str| {
        text.chars().filter(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c)).take(64).collect::<String>()
    };
    match &info.resource {
        Some(target) => {
            let scope = match (target.name.is_empty(), target.namespace.is_empty()) {
                (false, _) => "resource",
                (true, false) => "namespace",
                (true, true) => "cluster",
            };
            format!(
                r#"verb="{verb}",group="{}",version="{}",resource="{}",subresource="{}",scope="{scope}",component="apiserver""#,
                clean(&target.group),
                clean(&target.version),
                clean(&target.resource),
                clean(&target.subresource),
            )
        }
        None => format!(
            r#"verb="{}",group="",version="",resource="",subresource="",scope="",component="apiserver""#,
            clean(&verb)
        ),
    }
}

/// Returns everything in the text form.
pub(crate) fn render(server: &ApiServer) -> String {
    let mut text = String::with_capacity(16 << 10);
    let metrics = &server.metrics;
    let mut put = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("memory takes it");
    put(format_args!("# TYPE apiserver_request_total counter"));
    let requests = metrics.requests.lock();
    for series in requests.values() {
        put(format_args!(
            "apiserver_request_total{{{},code=\"{}\"}} {}",
            series.labels, series.code, series.count
        ));
    }
    put(format_args!("# TYPE apiserver_request_duration_seconds histogram"));
    // Codes are no label of the durations: their series are added up.
    let mut durations: HashMap<&str, (u64, f64, [u64; BUCKETS.len()])> = HashMap::new();
    for series in requests.values().filter(|series| !series.labels.starts_with("verb=\"WATCH\"")) {
        let sum = durations.entry(&series.labels).or_default();
        sum.0 += series.count;
        sum.1 += series.seconds;
        for (total, count) in sum.2.iter_mut().zip(series.buckets) {
            *total += count;
        }
    }
    for (labels, (count, seconds, buckets)) in durations {
        let mut below = 0;
        for (bound, inside) in BUCKETS.iter().zip(buckets) {
            below += inside;
            put(format_args!("apiserver_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {below}"));
        }
        put(format_args!("apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {count}"));
        put(format_args!("apiserver_request_duration_seconds_sum{{{labels}}} {seconds}"));
        put(format_args!("apiserver_request_duration_seconds_count{{{labels}}} {count}"));
    }
    drop(requests);
    put(format_args!("# TYPE apiserver_current_inflight_requests gauge"));
    let inflight = metrics.inflight.load(Ordering::Relaxed);
    put(format_args!("apiserver_current_inflight_requests{{request_kind=\"any\"}} {inflight}"));
    put(format_args!("# TYPE apiserver_storage_objects gauge"));
    for kind in server.cache.kinds() {
        put(format_args!("apiserver_storage_objects{{resource=\"{}\"}} {}", kind.id, kind.count()));
    }
    put(format_args!("# TYPE apiserver_storage_revision gauge"));
    put(format_args!("apiserver_storage_revision {}", server.cache.revision()));
    put(format_args!("# TYPE kubernetes_build_info gauge"));
    let version = crate::paths::GIT_VERSION;
    put(format_args!("kubernetes_build_info{{major=\"1\",minor=\"36\",git_version=\"{version}\"}} 1"));
    text
}
