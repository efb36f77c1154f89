//! Objects of custom kinds in another version: by a webhook where the definition names one, else by their
//! `apiVersion` alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::registry::Kind;
use api::status::Status;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::access::{list, text};
use crate::admission::webhook::call::{Client, Network, Place};

/// How long a webhook may take; upstream's time.
const WITHIN: Duration = Duration::from_secs(30);
/// The name under which webhooks are called.
const AGENT: &str = "kube-apiserver";
/// Above so many webhooks' clients, all are made anew.
const CLIENTS: usize = 256;

/// Converts objects.
pub(crate) struct Converter {
    network: Network,
    /// By the `clientConfig`, so that a changed one gets a client of its own.
    clients: Mutex<HashMap<String, Arc<Client>>>,
}

impl Converter {
    pub(crate) fn new(network: Network) -> Self {
        Self { network, clients: Mutex::default() }
    }

    /// Returns the objects, which are of `kind` in any of its versions, with `wanted` as their `apiVersion`.
    ///
    /// # Errors
    /// 500 when the webhook fails or its answer cannot be used.
    pub(crate) async fn convert(
        &self,
        kind: &Kind,
        wanted: &str,
        mut objects: Vec<Value>,
    ) -> Result<Vec<Value>, Status> {
        let Some(conversion) = api::custom::conversion_of(kind) else { return Ok(objects) };
        let other: Vec<usize> = (0..objects.len())
            .filter(|&index| objects[index].is_object() && objects[index]["apiVersion"] != wanted)
            .collect();
        if other.is_empty() {
            return Ok(objects);
        }
        let Some(webhook) = &conversion.webhook else {
            for index in other {
                objects[index]["apiVersion"] = wanted.into();
            }
            return Ok(objects);
        };
        let asked: Vec<Value> = other.iter().map(|&index| objects[index].clone()).collect();
        let failed = |why: &dyn std::fmt::Display| {
            let from = text(&asked[0], "/apiVersion");
            Status::internal(format!("conversion webhook for {from}, Kind={} failed: {why}", kind.kind))
        };
        let converted = self.ask(webhook, wanted, &asked).await.map_err(|why| failed(&why))?;
        for ((index, before), mut after) in other.into_iter().zip(&asked).zip(converted) {
            restore(&mut after, before).map_err(|why| failed(&why))?;
            objects[index] = after;
        }
        Ok(objects)
    }

    async fn ask(&self, webhook: &Value, wanted: &str, objects: &[Value]) -> Result<Vec<Value>, String> {
        let versions = list(webhook, "/conversionReviewVersions");
        let version = ["v1", "v1beta1"].into_iter().find(|known| versions.iter().any(|one| one == known));
        let Some(version) = version else {
            return Err("the webhook speaks neither v1 nor v1beta1 of ConversionReview".into());
        };
        let client = self.client(&webhook["clientConfig"])?;
        let uid = self.network.random.uid();
        let question = json!({
            "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{version}"),
            "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects},
        });
        let review = client.post(AGENT, &question, WITHIN, WITHIN).await?;
        answer(&review, (version, &uid), wanted, objects.len())
    }

    fn client(&self, config: &Value) -> Result<Arc<Client>, String> {
        let key = config.to_string();
        if let Some(client) = self.clients.lock().get(&key) {
            return Ok(client.clone());
        }
        let client = Arc::new(Client::new(&Place::read(config)?, self.network.clone())?);
        let mut clients = self.clients.lock();
        if clients.len() >= CLIENTS {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// Reads the answer to the review `uid`, in upstream's words where it cannot be used.
fn answer(
    review: &Value,
    (version, uid): (&str, &str),
    wanted: &str,
    count: usize,
) -> Result<Vec<Value>, String> {
    let api_version = text(review, "/apiVersion");
    if api_version != format!("apiextensions.k8s.io/{version}") || review["kind"] != "ConversionReview" {
        return Err(format!(
            "invalid response: expected webhook response of apiextensions.k8s.io/{version}, Kind=ConversionReview, got {api_version}, Kind={}",
            text(review, "/kind")
        ));
    }
    let response = &review["response"];
    if !response.is_object() {
        return Err("no response provided".into());
    }
    let found = text(response, "/uid");
    if found != uid {
        return Err(format!("expected response.uid={uid:?}, got {found:?}"));
    }
    if response["result"]["status"] != "Success" {
        let message = match text(response, "/result/message") {
            "" => "response.result.message was empty",
            message => message,
        };
        return Err(message.to_owned());
    }
    let objects = list(response, "/convertedObjects");
    if objects.len() != count {
        return Err(format!("webhook returned {} objects, expected {count}", objects.len()));
    }
    for (index, object) in objects.iter().enumerate() {
        let found = text(object, "/apiVersion");
        if found != wanted {
            return Err(format!(
                "invalid converted object at index {index}: invalid groupVersion (expected {wanted}, received {found})"
            ));
        }
    }
    Ok(objects.to_vec())
}

/// Gives a converted object the metadata that it had: a webhook may change labels and annotations only.
fn restore(after: &mut Value, before: &Value) -> Result<(), String> {
    for key in ["name", "namespace", "uid"] {
        if after["metadata"][key] != before["metadata"][key] {
            return Err(format!(
                "invalid metadata: must be the same {key}: {} != {}",
                after["metadata"][key], before["metadata"][key]
            ));
        }
    }
    if after["kind"] != before["kind"] {
        return Err(format!("invalid kind: {} != {}", after["kind"], before["kind"]));
    }
    let mut metadata = before["metadata"].clone();
    for key in ["labels", "annotations"] {
        match after["metadata"].get(key) {
            Some(value) if !value.is_null() => metadata[key] = value.clone(),
            _ => {
                if let Some(metadata) = metadata.as_object_mut() {
                    metadata.remove(key);
                }
            }
        }
    }
    after["metadata"] = metadata;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked() {
        let review = |response: Value| json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response});
        let good = json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{"apiVersion": "a/v2"}]});
        let with = |pointer: &str, value: Value| {
            let mut response = good.clone();
            *response.pointer_mut(pointer).unwrap() = value;
            review(response)
        };
        for (review, expect) in [
            (review(good.clone()), ""),
            (review(Value::Null), "no response provided"),
            (with("/uid", json!("x")), "expected response.uid=\"u\", got \"x\""),
            (with("/result", json!({"status": "Failure", "message": "no"})), "no"),
            (with("/result", json!({"status": "Failure"})), "response.result.message was empty"),
            (with("/convertedObjects", json!([])), "webhook returned 0 objects, expected 1"),
            (
                with("/convertedObjects", json!([{"apiVersion": "a/v1"}])),
                "invalid converted object at index 0: invalid groupVersion (expected a/v2, received a/v1)",
            ),
        ] {
            assert_eq!(answer(&review, ("v1", "u"), "a/v2", 1).err().unwrap_or_default(), expect, "{review}");
        }
    }

    #[test]
    fn metadata_stays_but_for_labels_and_annotations() {
        let before = json!({"kind": "K", "metadata": {"name": "n", "uid": "u", "labels": {"a": "b"}, "generation": 3}});
        let mut after = json!({"kind": "K", "metadata": {"name": "n", "uid": "u", "annotations": {"x": "y"}, "generation": 9}});
        restore(&mut after, &before).unwrap();
        assert_eq!(
            after["metadata"],
            json!({"name": "n", "uid": "u", "annotations": {"x": "y"}, "generation": 3})
        );
        let mut renamed = json!({"kind": "K", "metadata": {"name": "m", "uid": "u"}});
        assert!(
            restore(&mut renamed, &before)
                .unwrap_err()
                .starts_with("invalid metadata: must be the same name")
        );
    }
}
