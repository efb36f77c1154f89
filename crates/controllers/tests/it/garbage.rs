//! What goes when its owner goes, and namespaces.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use machinery::retry::Attempt;
use serde_json::{Value, json};

use crate::kit::{self, Kit};

async fn owned(kit: &Kit, name: &str, owner: &ConfigMap) -> Secret {
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner.metadata.name,
        "uid": owner.metadata.uid, "blockOwnerDeletion": true});
    kit.create(json!({"metadata": {"name": name, "ownerReferences": [owner]}})).await
}

async fn map(kit: &Kit, name: &str) -> ConfigMap {
    kit.create(json!({"metadata": {"name": name}})).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_go_with_their_owner_in_the_background_or_before_it_or_stay() {
    let kit = kit::start().await;
    for (name, params, stays) in [
        ("background", DeleteParams::background(), false),
        ("foreground", DeleteParams::foreground(), false),
        ("orphan", DeleteParams::orphan(), true),
    ] {
        let owner = map(&kit, name).await;
        owned(&kit, name, &owner).await;
        kit.api::<ConfigMap>().delete(name, &params).await.unwrap();
        let maps = kit.api::<ConfigMap>();
        kit::wait("the owner to go", async || match maps.get_opt(name).await.unwrap() {
            None => Attempt::Done(()),
            Some(found) => Attempt::Again(format!("{:?}", found.metadata)),
        })
        .await;
        let secrets = kit.api::<Secret>();
        kit::wait("what becomes of the dependent", async || match secrets.get_opt(name).await.unwrap() {
            None if !stays => Attempt::Done(()),
            Some(found) if stays && found.metadata.owner_references.is_none() => Attempt::Done(()),
            other => Attempt::Again(format!("{other:?}")),
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_whose_owner_never_was_goes_and_one_with_another_owner_stays() {
    let kit = kit::start().await;
    let real = map(&kit, "real").await;
    let ghost = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "ghost", "uid": "no-such-uid"});
    let solid = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "real", "uid": real.metadata.uid});
    let create = async |name: &str, owners: Value| {
        kit.create::<Secret>(json!({"metadata": {"name": name, "ownerReferences": owners}})).await
    };
    create("lost", json!([ghost])).await;
    create("half", json!([ghost, solid])).await;
    let secrets = kit.api::<Secret>();
    kit::wait("the lost one to go", async || match secrets.get_opt("lost").await.unwrap() {
        None => Attempt::Done(()),
        Some(_) => Attempt::Again("still there".to_owned()),
    })
    .await;
    kit.wait_object::<Secret>("only the real owner to be left", "half", |found| {
        found.metadata.owner_references.as_ref().is_some_and(|owners| owners.len() == 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_takes_everything_along() {
    let kit = kit::start().await;
    let namespaces = Api::<Namespace>::all(kit.client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "away"}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let pods = Api::<Pod>::namespaced(kit.client.clone(), "away");
    let accounts = Api::<k8s_openapi::api::core::v1::ServiceAccount>::namespaced(kit.client.clone(), "away");
    kit::wait("the account", async || match accounts.get_opt("default").await.unwrap() {
        Some(_) => Attempt::Done(()),
        None => Attempt::Again("not there".to_owned()),
    })
    .await;
    let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    namespaces.delete("away", &DeleteParams::default()).await.unwrap();
    kit::wait("the namespace to go", async || match namespaces.get_opt("away").await.unwrap() {
        None => Attempt::Done(()),
        Some(found) => Attempt::Again(serde_json::to_string(&found).unwrap()),
    })
    .await;
}
