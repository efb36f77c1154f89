//! The schemas and levels that every cluster has, as upstream has them.

use serde_json::{Value, json};

/// Returns them: the resource, then the object. Levels come first.
pub(crate) fn objects() -> Vec<(&'static str, Value)> {
    let mut all = Vec::new();
    let mut level = |name: &str, spec: Value| {
        all.push(("prioritylevelconfigurations", object(name, spec)));
    };
    level(
        "exempt",
        json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
    );
    let reject = json!({"type": "Reject"});
    level(
        "catch-all",
        json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": reject}}),
    );
    for (name, shares, lendable, queues, hand) in [
        ("system", 30, 33, 64, 6),
        ("node-high", 40, 25, 64, 6),
        ("leader-election", 10, 0, 16, 4),
        ("workload-high", 40, 50, 128, 6),
        ("workload-low", 100, 90, 128, 6),
        ("global-default", 20, 50, 128, 6),
    ] {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
        level(
            name,
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": shares, "lendablePercent": lendable,
                "limitResponse": {"type": "Queue", "queuing": queuing}}}),
        );
    }

    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    let user = |name: &str| json!({"kind": "User", "user": {"name": name}});
    let account = |name: &str| json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}});
    let resources = |verbs: &[&str],
                     groups: &[&str],
                     resources: &[&str],
                     namespaces: &[&str],
                     cluster: bool| {
        let mut rule =
            json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": namespaces});
        if cluster {
            rule["clusterScope"] = true.into();
        }
        rule
    };
    let every = || resources(&["*"], &["*"], &["*"], &["*"], true);
    let paths = json!({"verbs": ["*"], "nonResourceURLs": ["*"]});
    let rule = |subjects: Vec<Value>, resources: Vec<Value>, paths: &[Value]| {
        let mut rule = json!({"subjects": subjects});
        if !resources.is_empty() {
            rule["resourceRules"] = resources.into();
        }
        if !paths.is_empty() {
            rule["nonResourceRules"] = paths.to_vec().into();
        }
        rule
    };
    let all_paths = std::slice::from_ref(&paths);
    let probes = json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]});
    let elections = |namespaces: &[&str]| {
        let verbs = ["get", "create", "update"];
        vec![
            resources(&verbs, &[""], &["endpoints", "configmaps"], namespaces, false),
            resources(&["get", "create", "update"], &["coordination.k8s.io"], &["leases"], namespaces, false),
        ]
    };
    let controllers = || vec![user("system:kube-controller-manager"), user("system:kube-scheduler")];
    let mut schema = |name: &str, level: &str, precedence: u32, by: &str, rules: Vec<Value>| {
        let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": rules});
        if !by.is_empty() {
            spec["distinguisherMethod"] = json!({"type": by});
        }
        all.push(("flowschemas", object(name, spec)));
    };
    let nodes = || vec![group("system:nodes")];
    let everybody = || vec![group("system:unauthenticated"), group("system:authenticated")];
    schema("exempt", "exempt", 1, "", vec![rule(vec![group("system:masters")], vec![every()], all_paths)]);
    schema("probes", "exempt", 2, "", vec![rule(everybody(), vec![], &[probes])]);
    schema(
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        vec![rule(controllers(), elections(&["kube-system"]), &[])],
    );
    schema(
        "endpoint-controller",
        "workload-high",
        150,
        "ByUser",
        vec![rule(
            vec![
                user("system:kube-controller-manager"),
                account("endpoint-controller"),
                account("endpointslicemirroring-controller"),
            ],
            vec![resources(&["get", "create", "update"], &[""], &["endpoints"], &["*"], false)],
            &[],
        )],
    );
    schema(
        "workload-leader-election",
        "leader-election",
        200,
        "ByUser",
        vec![rule(
            vec![
                json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}}),
            ],
            elections(&["*"]),
            &[],
        )],
    );
    schema(
        "system-node-high",
        "node-high",
        400,
        "ByUser",
        vec![rule(
            nodes(),
            vec![
                resources(&["*"], &[""], &["nodes", "nodes/status"], &["*"], true),
                resources(&["*"], &["coordination.k8s.io"], &["leases"], &["*"], false),
            ],
            &[],
        )],
    );
    schema("system-nodes", "system", 500, "ByUser", vec![rule(nodes(), vec![every()], all_paths)]);
    for name in ["kube-controller-manager", "kube-scheduler"] {
        let subjects = vec![user(&format!("system:{name}"))];
        schema(name, "workload-high", 800, "ByNamespace", vec![rule(subjects, vec![every()], all_paths)]);
    }
    schema(
        "kube-system-service-accounts",
        "workload-high",
        900,
        "ByNamespace",
        vec![rule(
            vec![
                json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}}),
            ],
            vec![every()],
            all_paths,
        )],
    );
    schema(
        "service-accounts",
        "workload-low",
        9000,
        "ByUser",
        vec![rule(vec![group("system:serviceaccounts")], vec![every()], all_paths)],
    );
    schema(
        "global-default",
        "global-default",
        9900,
        "ByUser",
        vec![rule(everybody(), vec![every()], all_paths)],
    );
    schema("catch-all", "catch-all", 10000, "ByUser", vec![rule(everybody(), vec![every()], all_paths)]);
    all
}

fn object(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}}, "spec": spec})
}
