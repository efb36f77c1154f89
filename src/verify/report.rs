//! What `cluster verify` found, for people, programs and CI servers.

use std::time::Duration;

use serde_json::{Value, json};

/// What a check is about. The number is the exit code when it is the first one that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Nodes are missing or not ready.
    Nodes = 10,
    /// Namespaces or service accounts do not work.
    Namespaces = 11,
    /// Pods do not run, or cannot be seen.
    Pods = 12,
    /// Replication controllers or deployments do not do their work.
    Controllers = 13,
    /// A service cannot be reached.
    Services = 14,
    /// Names do not resolve.
    Dns = 15,
    /// Pods on different nodes cannot reach each other.
    Network = 16,
    /// What the checks made cannot be removed.
    Cleanup = 17,
}

/// A check that was made.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it is about.
    pub(crate) cause: Cause,
    /// How long it took.
    pub(crate) took: Duration,
    /// What was seen, or what was wrong with all evidence.
    pub(crate) outcome: Result<String, String>,
}

/// Returns the exit code: 0 when all is well.
pub(crate) fn code(checks: &[Checked]) -> u8 {
    checks.iter().find(|check| check.outcome.is_err()).map_or(0, |check| check.cause as u8)
}

/// Returns the report in one line and what failed with its evidence.
pub(crate) fn text(checks: &[Checked]) -> String {
    let failed: Vec<&Checked> = checks.iter().filter(|check| check.outcome.is_err()).collect();
    let seconds: f64 = checks.iter().map(|check| check.took.as_secs_f64()).sum();
    let mut text = String::new();
    for check in &failed {
        if let Err(evidence) = &check.outcome {
            text.push_str(&format!("\n{} failed:\n  {}\n", check.name, evidence.replace('\n', "\n  ")));
        }
    }
    if failed.is_empty() {
        text.push_str(&format!("{} checks passed in {seconds:.1} s", checks.len()));
    } else {
        text.push_str(&format!("\n{} of {} checks failed", failed.len(), checks.len()));
    }
    text
}

/// Returns the report as one value.
pub(crate) fn value(checks: &[Checked]) -> Value {
    let all: Vec<Value> = checks
        .iter()
        .map(|check| {
            json!({ "name": check.name, "passed": check.outcome.is_ok(), "seconds": check.took.as_secs_f64(),
                "outcome": check.outcome.as_ref().ok(), "evidence": check.outcome.as_ref().err() })
        })
        .collect();
    let failed = checks.iter().filter(|check| check.outcome.is_err()).count();
    json!({ "passed": checks.len() - failed, "failed": failed, "checks": all })
}

/// Returns the report in JUnit's XML, as CI servers read it.
pub(crate) fn junit(suite: &str, checks: &[Checked]) -> String {
    let failed = checks.iter().filter(|check| check.outcome.is_err()).count();
    let seconds: f64 = checks.iter().map(|check| check.took.as_secs_f64()).sum();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{failed}\" \
         errors=\"0\" skipped=\"0\" time=\"{seconds:.3}\">\n",
        escaped(suite),
        checks.len()
    );
    for check in checks {
        let head = format!(
            "  <testcase classname=\"cluster.verify\" name=\"{}\" time=\"{:.3}\">",
            escaped(check.name),
            check.took.as_secs_f64()
        );
        match &check.outcome {
            Ok(seen) => xml.push_str(&format!(
                "{head}\n    <system-out>{}</system-out>\n  </testcase>\n",
                escaped(seen)
            )),
            Err(evidence) => {
                let first = evidence.lines().next().unwrap_or_default();
                xml.push_str(&format!(
                    "{head}\n    <failure message=\"{}\">{}</failure>\n  </testcase>\n",
                    escaped(first),
                    escaped(evidence)
                ));
            }
        }
    }
    xml.push_str("</testsuite>\n");
    xml
}

/// Replaces the signs that XML has for itself, and takes out those that it cannot hold.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(letter),
            letter if letter.is_control() => out.push('\u{fffd}'),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Checked> {
        let took = Duration::from_millis(120);
        vec![
            Checked { name: "nodes", cause: Cause::Nodes, took, outcome: Ok("2 of 2 Ready".into()) },
            Checked {
                name: "dns",
                cause: Cause::Dns,
                took,
                outcome: Err("web has no address\n<none> & \"so on\"\u{7}".into()),
            },
        ]
    }

    #[test]
    fn the_first_failure_decides_the_exit_code() {
        assert_eq!(code(&checks()), 15);
        assert_eq!(code(&checks()[..1]), 0);
    }

    #[test]
    fn reports_say_the_same_in_every_form() {
        insta::assert_snapshot!("text", text(&checks()));
        insta::assert_snapshot!("junit", junit("lab", &checks()));
        insta::assert_json_snapshot!("json", value(&checks()));
    }
}
