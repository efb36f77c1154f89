//! The webhook configurations as they are now, read once for each change and not for each request.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;

use super::call::{Client, Place};
use super::rules::Matching;
use crate::access::{list, strings, text};
use crate::admission::expression::{self, Condition};

/// The resources that [`Configurations::observe`] wants to see.
pub(crate) const OBSERVED: [&str; 2] = [
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
];

/// A webhook.
#[derive(Debug)]
pub(crate) struct Hook {
    /// The configuration that it stands in.
    pub(crate) configuration: String,
    /// Its name.
    pub(crate) name: String,
    /// What it is for.
    pub(crate) matching: Matching,
    /// What must hold of a request beside.
    pub(crate) conditions: Vec<Condition>,
    /// Whether a request goes on when the webhook cannot be called.
    pub(crate) ignore_failure: bool,
    /// How long a call may take.
    pub(crate) timeout: Duration,
    /// Whether it wants to be called again after others have changed the object.
    pub(crate) reinvoke: bool,
    /// The versions of `AdmissionReview` that it speaks, the best one first.
    pub(crate) versions: Vec<String>,
    /// Where it is.
    pub(crate) place: Place,
    /// Made when it is first called; keeps its connections.
    pub(crate) client: OnceLock<Result<Client, String>>,
}

impl Hook {
    fn read(configuration: &str, webhook: &Value) -> Result<Self, String> {
        Ok(Self {
            configuration: configuration.to_owned(),
            name: text(webhook, "/name").to_owned(),
            matching: Matching::of_webhook(webhook)?,
            conditions: expression::conditions(webhook, &expression::VARIABLES)?,
            ignore_failure: text(webhook, "/failurePolicy") == "Ignore",
            timeout: Duration::from_secs(webhook["timeoutSeconds"].as_u64().unwrap_or(10)),
            reinvoke: text(webhook, "/reinvocationPolicy") == "IfNeeded",
            versions: strings(webhook, "/admissionReviewVersions"),
            place: Place::read(&webhook["clientConfig"])?,
            client: OnceLock::new(),
        })
    }
}

/// The webhooks of one type, in the order in which they are called: by configuration, then as they stand.
#[derive(Debug, Default)]
struct Source {
    configurations: Mutex<BTreeMap<String, Vec<Arc<Hook>>>>,
    hooks: ArcSwap<Vec<Arc<Hook>>>,
}

impl Source {
    fn observe(&self, name: &str, object: Option<&Value>) {
        let mut configurations = self.configurations.lock();
        match object {
            None => drop(configurations.remove(name)),
            Some(object) => {
                let mut hooks = Vec::new();
                for webhook in list(object, "/webhooks") {
                    match Hook::read(name, webhook) {
                        Ok(hook) => hooks.push(Arc::new(hook)),
                        Err(error) => {
                            tracing::error!(configuration = name, error, "a webhook cannot be used");
                        }
                    }
                }
                configurations.insert(name.to_owned(), hooks);
            }
        }
        self.hooks.store(Arc::new(configurations.values().flatten().cloned().collect()));
    }
}

/// All webhooks. The task that follows the store writes, requests read.
#[derive(Debug, Default)]
pub(crate) struct Configurations {
    mutating: Source,
    validating: Source,
}

impl Configurations {
    /// Takes note of a configuration: as it is now, or `None` when it is gone.
    pub(crate) fn observe(&self, resource: &str, name: &str, object: Option<&Value>) {
        let source = if resource == OBSERVED[0] { &self.mutating } else { &self.validating };
        source.observe(name, object);
    }

    /// Returns the mutating webhooks.
    pub(crate) fn mutating(&self) -> Arc<Vec<Arc<Hook>>> {
        self.mutating.hooks.load_full()
    }

    /// Returns the validating webhooks.
    pub(crate) fn validating(&self) -> Arc<Vec<Arc<Hook>>> {
        self.validating.hooks.load_full()
    }

    /// Says whether there is any webhook.
    pub(crate) fn any(&self) -> bool {
        !self.mutating.hooks.load().is_empty() || !self.validating.hooks.load().is_empty()
    }
}
