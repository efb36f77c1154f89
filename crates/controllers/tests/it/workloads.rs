//! Replication controllers, replica sets and deployments.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Event, Pod, ReplicationController};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::kit;

fn is_ready(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
}

fn controller(name: &str, replicas: i32) -> serde_json::Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"app": name},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "a", "image": "a"}]}}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_adopts_the_pod_that_is_there_and_takes_it_along_when_it_goes() {
    let kit = kit::start().await;
    kit.create::<Pod>(json!({"metadata": {"name": "nginx", "labels": {"app": "nginx"}},
        "spec": {"containers": [{"name": "a", "image": "a"}]}}))
        .await;
    kit.wait_list::<Pod>("the pod to run", "app=nginx", |pods| pods.len() == 1 && is_ready(&pods[0])).await;
    kit.create::<ReplicationController>(controller("nginx", 2)).await;
    let rc = kit
        .wait_object::<ReplicationController>("two ready replicas", "nginx", |rc| {
            rc.status.as_ref().is_some_and(|status| status.ready_replicas == Some(2))
        })
        .await;
    assert_eq!(rc.status.unwrap().replicas, 2);
    let pods = kit.wait_list::<Pod>("two pods", "app=nginx", |pods| pods.len() == 2).await;
    let made = pods.iter().find(|pod| pod.metadata.name.as_deref() != Some("nginx")).unwrap();
    assert!(made.metadata.name.as_deref().unwrap().starts_with("nginx-"));
    assert_eq!(made.spec.as_ref().unwrap().node_name.as_deref(), Some("172.17.4.201"));
    let name = made.metadata.name.clone().unwrap();
    kit.wait_list::<Event>("the events", "", |events| {
        let has = |reason: &str, message: &str| {
            events.iter().any(|event| {
                event.reason.as_deref() == Some(reason) && event.message.as_deref() == Some(message)
            })
        };
        has("SuccessfulCreate", &format!("Created pod: {name}"))
            && has("Scheduled", &format!("Successfully assigned default/{name} to 172.17.4.201"))
    })
    .await;
    kit.api::<ReplicationController>().delete("nginx", &DeleteParams::background()).await.unwrap();
    kit.wait_list::<Pod>("both pods to go", "app=nginx", |pods| pods.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_replicas_are_made_once_and_spread_evenly() {
    let kit = kit::start().await;
    for number in 202..210 {
        kit.add_node(&format!("172.17.4.{number}"), false).await;
    }
    kit.create::<ReplicationController>(controller("many", 99)).await;
    kit.wait_object::<ReplicationController>("every replica", "many", |rc| {
        rc.status.as_ref().is_some_and(|status| status.ready_replicas == Some(99))
    })
    .await;
    let pods = kit.api::<Pod>().list(&Default::default()).await.unwrap().items;
    assert_eq!(pods.len(), 99);
    let mut by_node = std::collections::BTreeMap::<String, usize>::new();
    for pod in &pods {
        *by_node.entry(pod.spec.as_ref().unwrap().node_name.clone().unwrap()).or_default() += 1;
    }
    assert!(by_node.len() == 9 && by_node.values().all(|count| *count == 11), "{by_node:?}");
    let patch = Patch::Merge(json!({"spec": {"replicas": 3}}));
    kit.api::<ReplicationController>().patch("many", &PatchParams::default(), &patch).await.unwrap();
    kit.wait_list::<Pod>("three to stay", "app=many", |pods| pods.len() == 3).await;
}

fn deployment(image: &str) -> serde_json::Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": image}]}}}})
}

fn is_rolled_out(deployment: &Deployment) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas == Some(3)
        && status.available_replicas == Some(3)
        && status.replicas == Some(3)
        && status
            .conditions
            .iter()
            .flatten()
            .any(|one| one.reason.as_deref() == Some("NewReplicaSetAvailable"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_forward_and_back() {
    let kit = kit::start().await;
    kit.create::<Deployment>(deployment("one")).await;
    kit.wait_object::<Deployment>("the first version", "web", is_rolled_out).await;
    let api = kit.api::<Deployment>();
    let image = |image: &str| {
        Patch::Strategic(
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": image}]}}}}),
        )
    };
    api.patch("web", &PatchParams::default(), &image("two")).await.unwrap();
    let second = kit.wait_object::<Deployment>("the second version", "web", is_rolled_out).await;
    let revision = |deployment: &Deployment| {
        deployment.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"].clone()
    };
    assert_eq!(revision(&second), "2");
    let sets = kit.wait_list::<ReplicaSet>("two sets", "app=web", |sets| sets.len() == 2).await;
    let mut sizes: Vec<_> = sets.iter().map(|set| set.spec.as_ref().unwrap().replicas.unwrap()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [0, 3]);
    // What `kubectl rollout undo` does.
    api.patch("web", &PatchParams::default(), &image("one")).await.unwrap();
    let third = kit.wait_object::<Deployment>("the first version again", "web", is_rolled_out).await;
    assert_eq!(revision(&third), "3");
    assert_eq!(kit.api::<ReplicaSet>().list(&Default::default()).await.unwrap().items.len(), 2);

    api.patch("web", &PatchParams::default(), &Patch::Merge(json!({"spec": {"paused": true}})))
        .await
        .unwrap();
    api.patch("web", &PatchParams::default(), &image("three")).await.unwrap();
    kit.wait_object::<Deployment>("the pause", "web", |deployment| {
        let status = deployment.status.clone().unwrap_or_default();
        status.observed_generation == deployment.metadata.generation
            && status.conditions.iter().flatten().any(|one| one.reason.as_deref() == Some("DeploymentPaused"))
    })
    .await;
    assert_eq!(kit.api::<ReplicaSet>().list(&Default::default()).await.unwrap().items.len(), 2);
    api.patch("web", &PatchParams::default(), &Patch::Merge(json!({"spec": {"paused": false}})))
        .await
        .unwrap();
    let fourth = kit.wait_object::<Deployment>("the third version", "web", is_rolled_out).await;
    assert_eq!(revision(&fourth), "4");

    api.delete("web", &DeleteParams::background()).await.unwrap();
    kit.wait_list::<ReplicaSet>("the sets to go", "", |sets| sets.is_empty()).await;
    kit.wait_list::<Pod>("the pods to go", "", |pods| pods.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why() {
    let kit = kit::start().await;
    kit.create::<Pod>(json!({"metadata": {"name": "big"}, "spec": {"containers": [
        {"name": "a", "image": "a", "resources": {"requests": {"cpu": "100"}}}]}}))
        .await;
    let expect = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption: \
                  0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    kit.wait_object::<Pod>("the reason", "big", |pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone());
        conditions.into_iter().flatten().any(|one| {
            one.type_ == "PodScheduled" && one.status == "False" && one.message.as_deref() == Some(expect)
        })
    })
    .await;
    kit.add_node("172.17.4.202", false).await;
    let patch = json!({"status": {"allocatable": {"cpu": "200"}}});
    let nodes = kube::Api::<k8s_openapi::api::core::v1::Node>::all(kit.client.clone());
    nodes.patch_status("172.17.4.202", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    kit.wait_object::<Pod>("the pod to run", "big", is_ready).await;
}
