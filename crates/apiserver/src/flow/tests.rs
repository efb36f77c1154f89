use std::time::Duration;

use machinery::clock;
use serde_json::json;

use super::*;
use crate::path::Query;

fn flow() -> Flow {
    let flow = Flow::new(clock::system());
    for (resource, mut object) in default_objects() {
        object["metadata"]["uid"] = object["metadata"]["name"].clone();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        flow.observe(&format!("{resource}.flowcontrol.apiserver.k8s.io"), &name, Some(object));
    }
    flow
}

fn info(request: &str) -> RequestInfo {
    let (method, path) = request.split_once(' ').unwrap();
    RequestInfo::parse(&method.parse().unwrap(), path, &Query::default())
}

#[test]
fn requests_belong_where_upstream_puts_them() {
    let flow = flow();
    let node = UserInfo::new("system:node:n", &["system:nodes"]);
    let account = UserInfo::service_account("app", "a", "u");
    let system_account = UserInfo::service_account("kube-system", "a", "u");
    let manager = UserInfo::new("system:kube-controller-manager", &[]);
    for (user, request, schema, level) in [
        (&UserInfo::new("admin", &["system:masters"]), "GET /api/v1/pods", "exempt", "exempt"),
        (&UserInfo::anonymous(), "GET /readyz", "probes", "exempt"),
        (&UserInfo::anonymous(), "GET /version", "global-default", "global-default"),
        (&node, "PATCH /api/v1/nodes/n/status", "system-node-high", "node-high"),
        (
            &node,
            "PUT /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n",
            "system-node-high",
            "node-high",
        ),
        (&node, "GET /api/v1/pods", "system-nodes", "system"),
        (
            &manager,
            "PUT /apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x",
            "system-leader-election",
            "leader-election",
        ),
        (&manager, "PUT /api/v1/namespaces/x/endpoints/e", "endpoint-controller", "workload-high"),
        (&manager, "GET /api/v1/pods", "kube-controller-manager", "workload-high"),
        (&system_account, "GET /api/v1/pods", "kube-system-service-accounts", "workload-high"),
        (&account, "GET /api/v1/namespaces/app/pods", "service-accounts", "workload-low"),
        (&UserInfo::new("somebody", &[]), "GET /api/v1/pods", "global-default", "global-default"),
    ] {
        let class = flow.classify(user, &info(request)).unwrap();
        assert_eq!((&*class.schema, class.level()), (schema, level), "{} {request}", user.name);
    }
}

/// A level with `seats` seats and a flow schema for everybody.
fn small(queues: u64, longest: u64) -> Flow {
    let flow = Flow::new(clock::system());
    let response = if queues == 0 {
        json!({"type": "Reject"})
    } else {
        json!({"type": "Queue", "queuing": {"queues": queues, "handSize": 1, "queueLengthLimit": longest}})
    };
    // Of 600 seats a share of 1 in 300 is two.
    for (name, shares) in [("small", 1), ("rest", 299)] {
        let level = json!({"metadata": {"uid": name}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": shares, "limitResponse": response}}});
        flow.observe(OBSERVED[1], name, Some(level));
    }
    let everything = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true});
    let schema = json!({"metadata": {"name": "s", "uid": "s"}, "spec": {"priorityLevelConfiguration": {"name": "small"},
        "distinguisherMethod": {"type": "ByUser"}, "rules": [{"subjects": [{"kind": "Group", "group": {"name": "*"}}], "resourceRules": [everything]}]}});
    flow.observe(OBSERVED[0], "s", Some(schema));
    flow
}

#[tokio::test]
async fn a_greedy_client_does_not_keep_others_out() {
    let flow = Arc::new(small(64, 50));
    let pods = info("GET /api/v1/pods");
    let class = |name: &str| flow.classify(&UserInfo::new(name, &[]), &pods).unwrap();
    let held = [flow.admit(&class("greedy")).await.unwrap(), flow.admit(&class("greedy")).await.unwrap()];
    let order: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut tasks = tokio::task::JoinSet::new();
    let mut wait = |name: &str| {
        let (flow, order, class, name) = (flow.clone(), order.clone(), class(name), name.to_owned());
        tasks.spawn(async move {
            let permit = flow.admit(&class).await.unwrap();
            order.lock().push(name);
            drop(permit);
        });
    };
    for _ in 0..40 {
        wait("greedy");
    }
    tokio::task::yield_now().await;
    wait("modest");
    tokio::task::yield_now().await;
    drop(held);
    while tasks.join_next().await.is_some() {}
    let order = order.lock();
    let place = order.iter().position(|name| name == "modest").unwrap();
    assert!(place <= 3, "the modest client came {place}. of {}", order.len());
}

#[tokio::test]
async fn what_finds_no_place_is_refused() {
    let pods = info("GET /api/v1/pods");
    for (flow, waiting) in [(small(0, 1), 0), (small(1, 2), 2)] {
        let flow = Arc::new(flow);
        let class = flow.classify(&UserInfo::new("a", &[]), &pods).unwrap();
        let held = [flow.admit(&class).await.unwrap(), flow.admit(&class).await.unwrap()];
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..waiting {
            let (flow, class) = (flow.clone(), class.clone());
            tasks.spawn(async move { flow.admit(&class).await.map(drop) });
        }
        tokio::task::yield_now().await;
        let refused = flow.admit(&class).await.unwrap_err();
        assert_eq!((refused.code, refused.details.unwrap().retry_after_seconds), (429, 1));
        drop(held);
        while let Some(result) = tasks.join_next().await {
            result.unwrap().unwrap();
        }
        flow.admit(&class).await.unwrap();
    }
}

#[tokio::test]
async fn who_gives_up_takes_no_seat() {
    let flow = small(1, 5);
    let class = flow.classify(&UserInfo::new("a", &[]), &info("GET /api/v1/pods")).unwrap();
    let held = [flow.admit(&class).await.unwrap(), flow.admit(&class).await.unwrap()];
    let gone = tokio::time::timeout(Duration::from_millis(1), flow.admit(&class)).await;
    assert!(gone.is_err());
    drop(held);
    let both = [flow.admit(&class).await.unwrap(), flow.admit(&class).await.unwrap()];
    drop(both);
}
