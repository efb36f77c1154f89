//! Endpoints, slices, load balancers, the cluster's own services.

use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Node, Pod, ReplicationController, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::DeleteParams;
use machinery::retry::Attempt;
use serde_json::json;

use crate::kit;

fn addresses(endpoints: &Endpoints) -> Vec<String> {
    let subsets = endpoints.subsets.iter().flatten();
    subsets.flat_map(|subset| subset.addresses.iter().flatten()).map(|address| address.ip.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_made_before_its_pods_finds_them() {
    let kit = kit::start().await;
    kit.create::<Service>(json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"},
        "ports": [{"port": 8000, "targetPort": 80}]}}))
        .await;
    kit.wait_object::<Endpoints>("empty endpoints", "web", |found| addresses(found).is_empty()).await;
    kit.wait_list::<EndpointSlice>("an empty slice", "kubernetes.io/service-name=web", |slices| {
        slices.len() == 1 && slices[0].endpoints.as_ref().is_none_or(Vec::is_empty)
    })
    .await;
    kit.create::<ReplicationController>(json!({"metadata": {"name": "web"}, "spec": {"replicas": 2,
        "selector": {"app": "web"}, "template": {"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "a", "image": "a"}]}}}}))
        .await;
    let found =
        kit.wait_object::<Endpoints>("two addresses", "web", |found| addresses(found).len() == 2).await;
    assert_eq!(found.subsets.as_ref().unwrap()[0].ports.as_ref().unwrap()[0].port, 80);
    let mut ips: Vec<_> = kit
        .api::<Pod>()
        .list(&Default::default())
        .await
        .unwrap()
        .into_iter()
        .map(|pod| pod.status.unwrap().pod_ip.unwrap())
        .collect();
    let mut listed = addresses(&found);
    ips.sort();
    listed.sort();
    assert_eq!(listed, ips);
    let slices = kit
        .wait_list::<EndpointSlice>("two endpoints", "kubernetes.io/service-name=web", |slices| {
            slices.len() == 1 && slices[0].endpoints.as_ref().is_some_and(|found| found.len() == 2)
        })
        .await;
    assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(80));
    kit.api::<Service>().delete("web", &DeleteParams::default()).await.unwrap();
    kit.wait_list::<EndpointSlice>("the slice to go", "kubernetes.io/service-name=web", |slices| {
        slices.is_empty()
    })
    .await;
    kit.wait_list::<Endpoints>("the endpoints to go", "", |all| {
        all.iter().all(|one| one.metadata.name.as_deref() != Some("web"))
    })
    .await;
    assert_eq!(kit.api::<Pod>().list(&Default::default()).await.unwrap().items.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_balancers_get_different_addresses() {
    let kit = kit::start().await;
    for name in ["a", "b"] {
        kit.create::<Service>(json!({"metadata": {"name": name}, "spec": {"type": "LoadBalancer",
            "selector": {"app": name}, "ports": [{"port": 80}]}}))
            .await;
    }
    let address = |service: &Service| {
        let balancer = service.status.clone().unwrap_or_default().load_balancer.unwrap_or_default();
        balancer.ingress.unwrap_or_default().first().and_then(|ingress| ingress.ip.clone())
    };
    let a = kit.wait_object::<Service>("an address", "a", |service| address(service).is_some()).await;
    let b = kit.wait_object::<Service>("an address", "b", |service| address(service).is_some()).await;
    let mut both = [address(&a).unwrap(), address(&b).unwrap()];
    both.sort();
    assert_eq!(both, ["172.17.4.240", "172.17.4.241"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_starts_with_its_own_services_and_every_namespace_with_an_account() {
    let kit = kit::start().await;
    let system = |name: &'static str| {
        let api = Api::<Service>::namespaced(kit.client.clone(), "kube-system");
        async move {
            kit::wait(name, async || match api.get_opt(name).await.unwrap() {
                Some(found) => Attempt::Done(found),
                None => Attempt::Again("not there".to_owned()),
            })
            .await
        }
    };
    let dns = system("kube-dns").await;
    assert_eq!(dns.spec.unwrap().cluster_ip.as_deref(), Some("10.3.0.10"));
    let labels = system("metrics-server").await.metadata.labels.unwrap();
    assert_eq!(labels["kubernetes.io/name"], "Metrics-server");
    let endpoints = Api::<Endpoints>::namespaced(kit.client.clone(), "kube-system");
    kit::wait("DNS on both nodes", async || match endpoints.get_opt("kube-dns").await.unwrap() {
        Some(found) if addresses(&found) == ["172.17.4.101", "172.17.4.201"] => Attempt::Done(()),
        other => Attempt::Again(format!("{other:?}")),
    })
    .await;
    kit.wait_object::<ServiceAccount>("the account", "default", |_| true).await;
    let map = kit.wait_object::<ConfigMap>("the authority", "kube-root-ca.crt", |_| true).await;
    assert_eq!(map.data.unwrap()["ca.crt"], "the authority");
    let nodes = Api::<Node>::all(kit.client.clone());
    let node = kit::wait("a network", async || {
        let node = nodes.get("172.17.4.201").await.unwrap();
        match node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone()) {
            Some(network) => Attempt::Done(network),
            None => Attempt::Again(format!("{:?}", node.spec)),
        }
    })
    .await;
    assert_eq!(node, "10.2.201.0/24");
}
