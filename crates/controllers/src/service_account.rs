//! What every namespace starts with: the service account `default`, and the cluster's certificate authority.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Delta, Informer, Key};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::frame::{self, Context, Next, Result, code, is_deleting, name, namespace};

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";

struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
    maps: Informer<ConfigMap>,
}

pub(crate) fn start(context: &Context) {
    let controller = Arc::new(Controller {
        context: context.clone(),
        namespaces: context.informers.of(),
        accounts: context.informers.of(),
        maps: context.informers.start(
            kube::Api::all(context.client.clone()),
            client::Selection {
                fields: Some(format!("metadata.name={ROOT_CA}")),
                ..client::Selection::default()
            },
        ),
    });
    let queue = context.queue();
    frame::enqueue(&controller.namespaces, &queue);
    let account_queue = queue.clone();
    controller.accounts.observe(move |delta| {
        let account = delta.object();
        if matches!(delta, Delta::Deleted(_)) && name(&**account) == ACCOUNT {
            account_queue.add(Key::cluster(namespace(&**account)));
        }
    });
    let map_queue = queue.clone();
    controller.maps.observe(move |delta| map_queue.add(Key::cluster(namespace(&**delta.object()))));
    let ready = {
        let controller = controller.clone();
        async move {
            controller.namespaces.wait_synced().await;
            controller.accounts.wait_synced().await;
            controller.maps.wait_synced().await;
        }
    };
    context.work("service accounts", 2, &queue, ready, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), namespace: Some(namespace.into()), ..ObjectMeta::default() }
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(found) = self.namespaces.get(key) else { return Ok(Next::Done) };
        let phase = found.status.as_ref().and_then(|status| status.phase.as_deref());
        if is_deleting(&*found) || phase == Some("Terminating") {
            return Ok(Next::Done);
        }
        let namespace = &*key.name;
        if self.accounts.find(namespace, ACCOUNT).is_none() {
            let account = ServiceAccount { metadata: named(namespace, ACCOUNT), ..ServiceAccount::default() };
            let api = self.context.api::<ServiceAccount>(namespace);
            made_or_there(api.create(&PostParams::default(), &account).await)?;
        }
        let wanted = &self.context.config.ca_certificate;
        let current = self.maps.find(namespace, ROOT_CA);
        let data = BTreeMap::from([(FILE.to_owned(), wanted.clone())]);
        let api = self.context.api::<ConfigMap>(namespace);
        match current {
            None => {
                let mut metadata = named(namespace, ROOT_CA);
                let note = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                            endpoints such as the internal service IP or kubernetes.default.svc. No other usage \
                            is guaranteed across distributions of Kubernetes clusters.";
                metadata.annotations =
                    Some(BTreeMap::from([("kubernetes.io/description".to_owned(), note.to_owned())]));
                let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
                made_or_there(api.create(&PostParams::default(), &map).await)?;
            }
            Some(current) if current.data.as_ref() != Some(&data) => {
                let mut new = (*current).clone();
                new.data = Some(data);
                new.binary_data = None;
                api.replace(ROOT_CA, &PostParams::default(), &new).await?;
            }
            Some(_) => {}
        }
        // A namespace made before the label was known gets it, so that selectors by name work everywhere.
        if found
            .metadata
            .labels
            .as_ref()
            .is_none_or(|labels| !labels.contains_key("kubernetes.io/metadata.name"))
        {
            let patch = json!({ "metadata": { "labels": { "kubernetes.io/metadata.name": namespace } } });
            let api = self.context.cluster_api::<Namespace>();
            api.patch(namespace, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Ok(Next::Done)
    }
}

/// Someone else may have been faster, and a namespace on its way out takes nothing new.
fn made_or_there<T>(result: kube::Result<T>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if matches!(code(&error), 403 | 404 | 409) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
