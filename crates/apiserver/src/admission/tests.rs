use std::collections::BTreeMap;

use machinery::clock;
use serde_json::json;

use super::*;
use crate::access::{bootstrap, list};

#[derive(Default)]
struct Objects(BTreeMap<String, Arc<Value>>);

impl Objects {
    fn put(&mut self, key: &str, mut object: Value) {
        let mut parts = key.splitn(3, '/');
        let (_, namespace, name) = (parts.next(), parts.next().unwrap(), parts.next().unwrap());
        object["metadata"]["name"] = name.into();
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{name}").into();
        }
        self.0.insert(key.to_owned(), Arc::new(object));
    }
}

impl Lookup for Objects {
    fn lookup(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.0.get(&format!("{resource}/{namespace}/{name}")).cloned()
    }

    fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        let prefix =
            if namespace.is_empty() { format!("{resource}/") } else { format!("{resource}/{namespace}/") };
        self.0.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, value)| value.clone()).collect()
    }
}

#[async_trait::async_trait]
impl World for Objects {
    async fn appears(&self, resource: &str, namespace: &str, name: &str, _: Duration) -> Option<Arc<Value>> {
        self.lookup(resource, namespace, name)
    }
}

fn objects() -> Objects {
    let mut objects = Objects::default();
    objects.put("namespaces//ns", json!({}));
    objects.put("namespaces//gone", json!({"status": {"phase": "Terminating"}}));
    for level in ["baseline", "restricted"] {
        let labels = json!({"pod-security.kubernetes.io/enforce": level, "pod-security.kubernetes.io/warn": "restricted"});
        objects.put(&format!("namespaces//{level}"), json!({"metadata": {"labels": labels}}));
        objects.put(&format!("serviceaccounts/{level}/default"), json!({}));
    }
    objects.put("serviceaccounts/ns/default", json!({"imagePullSecrets": [{"name": "pull"}]}));
    objects.put("serviceaccounts/ns/quiet", json!({"automountServiceAccountToken": false}));
    objects.put(
        "serviceaccounts/ns/strict",
        json!({"metadata": {"annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}, "secrets": [{"name": "mine"}]}),
    );
    objects
        .put("priorityclasses.scheduling.k8s.io//high", json!({"value": 1000, "preemptionPolicy": "Never"}));
    objects.put("pods/ns/mine", json!({"spec": {"nodeName": "n1", "serviceAccountName": "default"}}));
    objects.put("pods/ns/other", json!({"spec": {"nodeName": "n2", "serviceAccountName": "default"}}));
    objects
}

/// A request in words: `create pods ns/name`, `update pods/status ns/name`.
struct Case<'a> {
    user: UserInfo,
    request: &'a str,
    object: Value,
    old: Option<Value>,
}

impl<'a> Case<'a> {
    fn new(request: &'a str, object: Value) -> Self {
        Self { user: UserInfo::new("alice", &[]), request, object, old: None }
    }

    fn by(mut self, user: &str) -> Self {
        let groups: &[&str] = if user.starts_with("system:node:") { &["system:nodes"] } else { &[] };
        self.user = UserInfo::new(user, groups);
        self
    }

    fn old(mut self, old: Value) -> Self {
        self.old = Some(old);
        self
    }

    /// Returns the object after admission and the warnings.
    fn run(&self, admission: &Admission, world: &Objects) -> Result<(Value, Vec<String>), Status> {
        let words: Vec<&str> = self.request.split(' ').collect();
        let [verb, what, place] = words[..] else { panic!("{}", self.request) };
        let (resource, group) = what.split_once('.').unwrap_or((what, ""));
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let (namespace, name) = place.split_once('/').unwrap_or(("", place));
        let mut object = self.object.clone();
        if object.is_object() && !name.is_empty() {
            object["metadata"]["name"] = name.into();
        }
        let mut request = Request {
            user: &self.user,
            operation: match verb {
                "create" => Operation::Create,
                "update" => Operation::Update,
                "delete" => Operation::Delete,
                _ => Operation::Connect,
            },
            group,
            version: "v1",
            kind: GroupVersionKind::default(),
            descriptor: None,
            resource,
            subresource,
            namespace,
            name,
            object: &mut object,
            old: self.old.as_ref(),
            options: Value::Null,
            generated: false,
            dry_run: false,
            warnings: Vec::new(),
            annotations: Vec::new(),
        };
        futures::executor::block_on(admission.mutate(&mut request, world))?;
        futures::executor::block_on(admission.validate(&mut request, world))?;
        let warnings = request.warnings;
        Ok((object, warnings))
    }
}

fn admission() -> Admission {
    static ACCESS: std::sync::LazyLock<Arc<Access>> = std::sync::LazyLock::new(|| {
        let access = Access::new();
        for it in bootstrap::objects() {
            let resource = format!("{}.rbac.authorization.k8s.io", it.resource);
            access.observe(&resource, it.namespace, &it.name, Some(&it.object));
        }
        Arc::new(access)
    });
    Admission::standard(ACCESS.clone(), Random::seeded(1), clock::system())
}

#[track_caller]
fn admit(case: Case<'_>) -> Value {
    case.run(&admission(), &objects()).unwrap_or_else(|error| panic!("{}: {error}", case.request)).0
}

#[track_caller]
fn refuse(case: Case<'_>, message: &str) {
    let error = case.run(&admission(), &objects()).expect_err(case.request);
    assert_eq!(error.message, message, "{}", case.request);
}

fn pod() -> Value {
    json!({"spec": {"containers": [{"name": "c", "image": "x"}]}})
}

fn pod_with(spec: Value) -> Value {
    let mut pod = pod();
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

#[test]
fn nothing_comes_into_a_namespace_that_is_not_there_or_ends() {
    refuse(Case::new("create configmaps nowhere/c", json!({})), "namespaces \"nowhere\" not found");
    refuse(
        Case::new("create configmaps gone/c", json!({})),
        "configmaps \"c\" is forbidden: unable to create new content in namespace gone because it is being terminated",
    );
    admit(Case::new("update configmaps gone/c", json!({})));
    admit(Case::new("delete configmaps gone/c", Value::Null));
    admit(Case::new("create configmaps ns/c", json!({})));
    for name in ["default", "kube-system", "kube-public"] {
        let request = format!("delete namespaces {name}");
        refuse(
            Case::new(&request, Value::Null),
            &format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted"),
        );
    }
    admit(Case::new("delete namespaces ns", Value::Null));
}

#[test]
fn a_pod_gets_its_account_and_token() {
    let pod = admit(Case::new("create pods ns/p", pod()));
    let spec = &pod["spec"];
    assert_eq!(spec.get("initContainers"), None);
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["serviceAccount"], "default");
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "pull"}]));
    let volume = &spec["volumes"][0];
    let name = volume["name"].as_str().unwrap();
    assert!(name.starts_with("kube-api-access-") && name.len() == 21, "{name}");
    let sources = &volume["projected"]["sources"];
    assert_eq!(sources[0], json!({"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}));
    assert_eq!(sources[1]["configMap"]["name"], "kube-root-ca.crt");
    assert_eq!(
        spec["containers"][0]["volumeMounts"],
        json!([{"name": name, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}])
    );
    for spec in [
        json!({"serviceAccountName": "quiet"}),
        json!({"automountServiceAccountToken": false}),
        json!({"containers": [{"name": "c", "volumeMounts": [{"name": "own", "mountPath": MOUNT}]}]}),
    ] {
        let pod = admit(Case::new("create pods ns/p", pod_with(spec.clone())));
        assert!(pod["spec"]["volumes"].is_null(), "{spec}");
    }
    let loud = admit(Case::new(
        "create pods ns/p",
        pod_with(json!({"serviceAccountName": "quiet", "automountServiceAccountToken": true})),
    ));
    assert!(loud["spec"]["volumes"].is_array());
    let old_field = admit(Case::new("create pods ns/p", pod_with(json!({"serviceAccount": "quiet"}))));
    assert_eq!(old_field["spec"]["serviceAccountName"], "quiet");
    refuse(
        Case::new("create pods ns/p", pod_with(json!({"serviceAccountName": "x"}))),
        "pods \"p\" is forbidden: error looking up service account ns/x: serviceaccount \"x\" not found",
    );
    refuse(
        Case::new(
            "create pods ns/p",
            pod_with(
                json!({"serviceAccountName": "strict", "volumes": [{"name": "v", "secret": {"secretName": "yours"}}]}),
            ),
        ),
        "pods \"p\" is forbidden: volume with secret.secretName=\"yours\" is not allowed because service account strict does not reference that secret",
    );
    admit(Case::new(
        "create pods ns/p",
        pod_with(
            json!({"serviceAccountName": "strict", "volumes": [{"name": "v", "secret": {"secretName": "mine"}}]}),
        ),
    ));
}

const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

#[test]
fn a_pod_tolerates_failing_nodes_for_a_while() {
    let keys = |pod: &Value| -> Vec<(String, i64)> {
        list(pod, "/spec/tolerations")
            .iter()
            .map(|it| (text(it, "/key").to_owned(), it["tolerationSeconds"].as_i64().unwrap_or(-1)))
            .collect()
    };
    let (ready, reach) =
        ("node.kubernetes.io/not-ready".to_owned(), "node.kubernetes.io/unreachable".to_owned());
    let pod = admit(Case::new("create pods ns/p", pod()));
    assert_eq!(keys(&pod), [(ready.clone(), 300), (reach.clone(), 300)]);
    let own = json!({"tolerations": [{"key": ready, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]});
    let pod = admit(Case::new("create pods ns/p", pod_with(own)));
    assert_eq!(keys(&pod), [(ready, 5), (reach, 300)]);
    let all =
        admit(Case::new("create pods ns/p", pod_with(json!({"tolerations": [{"operator": "Exists"}]}))));
    assert_eq!(keys(&all).len(), 1);
}

#[test]
fn a_new_node_is_tainted_until_it_is_ready() {
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let node = admit(Case::new("create nodes n1", json!({})));
    assert_eq!(node["spec"]["taints"], json!([taint]));
    let node = admit(Case::new("create nodes n1", json!({"spec": {"taints": [taint]}})));
    assert_eq!(node["spec"]["taints"], json!([taint]));
    assert!(admit(Case::new("update nodes n1", json!({})))["spec"].is_null());
}

#[test]
fn a_priority_class_becomes_a_number() {
    for (spec, priority, policy) in [
        (json!({}), 0, "PreemptLowerPriority"),
        (json!({"priorityClassName": "high"}), 1000, "Never"),
        (json!({"priorityClassName": "high", "priority": 1000}), 1000, "Never"),
        (json!({"priorityClassName": "system-node-critical"}), 2_000_001_000, "PreemptLowerPriority"),
        (json!({"priorityClassName": "system-cluster-critical"}), 2_000_000_000, "PreemptLowerPriority"),
    ] {
        let pod = admit(Case::new("create pods ns/p", pod_with(spec.clone())));
        assert_eq!(
            (&pod["spec"]["priority"], &pod["spec"]["preemptionPolicy"]),
            (&json!(priority), &json!(policy)),
            "{spec}"
        );
    }
    refuse(
        Case::new("create pods ns/p", pod_with(json!({"priorityClassName": "x"}))),
        "pods \"p\" is forbidden: no PriorityClass with name x was found",
    );
    refuse(
        Case::new("create pods ns/p", pod_with(json!({"priority": 5}))),
        "pods \"p\" is forbidden: the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name",
    );
    let mut objects = objects();
    objects.put("priorityclasses.scheduling.k8s.io//std", json!({"value": 7, "globalDefault": true}));
    let admitted = Case::new("create pods ns/p", pod()).run(&admission(), &objects).unwrap().0;
    assert_eq!(
        (&admitted["spec"]["priorityClassName"], &admitted["spec"]["priority"]),
        (&json!("std"), &json!(7))
    );
    let second = Case::new("create priorityclasses.scheduling.k8s.io x", json!({"globalDefault": true}));
    let error = second.run(&admission(), &objects).unwrap_err();
    assert!(
        error.message.ends_with("PriorityClass std is already marked as default. Only one default can exist")
    );
}

#[test]
fn limit_ranges_fill_in_and_bound() {
    let range = |limit: Value| {
        let mut objects = objects();
        objects.put("limitranges/ns/r", json!({"spec": {"limits": [limit]}}));
        objects
    };
    let container =
        |resources: Value| pod_with(json!({"containers": [{"name": "c", "resources": resources}]}));
    let defaults = range(
        json!({"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "500m", "memory": "1Mi"}}),
    );
    let filled = Case::new("create pods ns/p", pod()).run(&admission(), &defaults).unwrap().0;
    assert_eq!(
        filled["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "1"}, "requests": {"cpu": "500m", "memory": "1Mi"}})
    );
    assert_eq!(
        filled["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu, memory request for container c; cpu limit for container c"
    );
    let own = container(json!({"requests": {"cpu": "2", "memory": "2Mi"}, "limits": {"cpu": "3"}}));
    let kept = Case::new("create pods ns/p", own.clone()).run(&admission(), &defaults).unwrap().0;
    assert_eq!(kept["spec"]["containers"][0]["resources"], own["spec"]["containers"][0]["resources"]);
    for (limit, resources, why) in [
        (
            json!({"type": "Container", "max": {"cpu": "1"}}),
            json!({"limits": {"cpu": "2"}}),
            "maximum cpu usage per Container is 1, but limit is 2",
        ),
        (
            json!({"type": "Container", "max": {"cpu": "1"}}),
            json!({}),
            "maximum cpu usage per Container is 1. No limit is specified",
        ),
        (
            json!({"type": "Container", "min": {"memory": "1Gi"}}),
            json!({"requests": {"memory": "1Mi"}}),
            "minimum memory usage per Container is 1Gi, but request is 1Mi",
        ),
        (
            json!({"type": "Container", "min": {"cpu": "1"}}),
            json!({}),
            "minimum cpu usage per Container is 1. No request is specified",
        ),
        (
            json!({"type": "Pod", "max": {"cpu": "1500m"}}),
            json!({"limits": {"cpu": "1600m"}}),
            "maximum cpu usage per Pod is 1500m, but limit is 1600m",
        ),
        (
            json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}),
            json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}}),
            "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
        ),
        (
            json!({"type": "Container", "max": {"cpu": "1", "memory": "1Gi"}}),
            json!({"limits": {"cpu": "2", "memory": "2Gi"}}),
            "[maximum cpu usage per Container is 1, but limit is 2, maximum memory usage per Container is 1Gi, but limit is 2Gi]",
        ),
    ] {
        let error =
            Case::new("create pods ns/p", container(resources)).run(&admission(), &range(limit)).unwrap_err();
        assert_eq!(error.message, format!("pods \"p\" is forbidden: {why}"));
    }
    let claims = range(json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}));
    let claim = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let error =
        Case::new("create persistentvolumeclaims ns/c", claim).run(&admission(), &claims).unwrap_err();
    assert!(
        error.message.contains("maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi")
    );
}

#[test]
fn a_namespace_holds_no_more_than_its_quota() {
    let with = |hard: Value| {
        let mut objects = objects();
        objects.put("resourcequotas/ns/q", json!({"spec": {"hard": hard}}));
        objects
    };
    let container =
        |resources: Value| pod_with(json!({"containers": [{"name": "c", "resources": resources}]}));
    let asking = container(json!({"requests": {"cpu": "300m", "memory": "1Gi"}, "limits": {"cpu": "1"}}));
    for (hard, request, object, why) in [
        (
            json!({"pods": "2"}),
            "create pods ns/p",
            pod(),
            Some("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"),
        ),
        (json!({"pods": "3"}), "create pods ns/p", pod(), None),
        (json!({"requests.cpu": "1"}), "create pods ns/p", asking.clone(), None),
        (
            json!({"requests.cpu": "200m"}),
            "create pods ns/p",
            asking.clone(),
            Some(
                "exceeded quota: q, requested: requests.cpu=300m, used: requests.cpu=0, limited: requests.cpu=200m",
            ),
        ),
        (json!({"cpu": "1"}), "create pods ns/p", pod(), Some("failed quota: q: must specify cpu for: c")),
        (
            json!({"limits.cpu": "1", "limits.memory": "1Gi"}),
            "create pods ns/p",
            pod(),
            Some("failed quota: q: must specify limits.cpu for: c; limits.memory for: c"),
        ),
        (
            json!({"configmaps": "0"}),
            "create configmaps ns/c",
            json!({}),
            Some("exceeded quota: q, requested: configmaps=1, used: configmaps=0, limited: configmaps=0"),
        ),
        (
            json!({"count/deployments.apps": "0"}),
            "create deployments.apps ns/d",
            json!({}),
            Some(
                "exceeded quota: q, requested: count/deployments.apps=1, used: count/deployments.apps=0, limited: count/deployments.apps=0",
            ),
        ),
        (
            json!({"services.nodeports": "1"}),
            "create services ns/s",
            json!({"spec": {"type": "NodePort", "ports": [{}, {}]}}),
            Some(
                "exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1",
            ),
        ),
        (
            json!({"services.nodeports": "1"}),
            "create services ns/s",
            json!({"spec": {"type": "ClusterIP", "ports": [{}, {}]}}),
            None,
        ),
        (
            json!({"requests.storage": "1Gi"}),
            "create persistentvolumeclaims ns/c",
            json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}),
            Some(
                "exceeded quota: q, requested: requests.storage=2Gi, used: requests.storage=0, limited: requests.storage=1Gi",
            ),
        ),
    ] {
        let result = Case::new(request, object).run(&admission(), &with(hard.clone()));
        match (result, why) {
            (Ok(_), None) => {}
            (Err(error), Some(why)) => assert!(error.message.ends_with(why), "{hard}: {}", error.message),
            (result, _) => panic!("{hard} {request}: {result:?}"),
        }
    }
    let (admission, objects) = (admission(), with(json!({"configmaps": "1"})));
    assert!(Case::new("create configmaps ns/a", json!({})).run(&admission, &objects).is_ok());
    let second = Case::new("create configmaps ns/b", json!({})).run(&admission, &objects);
    assert!(second.is_err(), "the first is not in the cache yet, but counted");
    let mut scoped = self::objects();
    scoped.put("resourcequotas/ns/q", json!({"spec": {"hard": {"pods": "0"}, "scopes": ["Terminating"]}}));
    assert!(Case::new("create pods ns/p", pod()).run(&self::admission(), &scoped).is_ok());
    let ending = pod_with(json!({"activeDeadlineSeconds": 5}));
    assert!(Case::new("create pods ns/p", ending).run(&self::admission(), &scoped).is_err());
}

#[test]
fn pods_keep_to_the_standard_of_their_namespace() {
    let good = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
    admit(Case::new("create pods restricted/p", pod_with(good)));
    refuse(
        Case::new("create pods restricted/p", pod()),
        "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": \
         allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
    );
    admit(Case::new("create pods baseline/p", pod()));
    let context = |context: Value| json!({"containers": [{"name": "c", "securityContext": context}]});
    for (spec, why) in [
        (json!({"hostNetwork": true, "hostPID": true}), "host namespaces (hostNetwork=true, hostPID=true)"),
        (
            context(json!({"privileged": true})),
            "privileged (container \"c\" must not set securityContext.privileged=true)",
        ),
        (
            context(json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}})),
            "non-default capabilities (container \"c\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)",
        ),
        (json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), "hostPath volumes (volume \"v\")"),
        (
            json!({"containers": [{"name": "c", "ports": [{"hostPort": 80}]}]}),
            "hostPort (container \"c\" uses hostPort 80)",
        ),
        (
            context(json!({"seccompProfile": {"type": "Unconfined"}})),
            "seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            context(json!({"procMount": "Unmasked"})),
            "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
        ),
    ] {
        let message = format!("pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": {why}");
        refuse(Case::new("create pods baseline/p", pod_with(spec)), &message);
    }
    admit(Case::new("create pods ns/p", pod_with(json!({"hostNetwork": true}))));
    let template = json!({"spec": {"template": pod()}});
    let (_, warnings) =
        Case::new("create deployments.apps baseline/d", template).run(&admission(), &objects()).unwrap();
    assert!(
        warnings[0].starts_with("would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation")
    );
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "frob"}}});
    assert_eq!(Case::new("create namespaces x", labels).run(&admission(), &objects()).unwrap_err().code, 422);
}

#[test]
fn a_node_agent_keeps_to_its_own() {
    let mirror = |node: &str| {
        json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u"}]}, "spec": {"nodeName": node}})
    };
    let pod_on = |node: &str| json!({"metadata": {"labels": {"a": "b"}}, "spec": {"nodeName": node}});
    let token = |pod: &str, uid: &str| json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid}}});
    let labelled = |label: &str| json!({"metadata": {"labels": {label: "x"}}});
    for (request, object, old, allowed) in [
        ("create nodes n1", json!({}), None, true),
        ("create nodes n2", json!({}), None, false),
        ("create nodes n1", labelled("kubernetes.io/hostname"), None, true),
        ("create nodes n1", labelled("example.com/x"), None, true),
        ("create nodes n1", labelled("node.kubernetes.io/x"), None, true),
        ("create nodes n1", labelled("node-role.kubernetes.io/control-plane"), None, false),
        ("create nodes n1", labelled("node-restriction.kubernetes.io/x"), None, false),
        ("update nodes n1", labelled("x"), Some(json!({})), true),
        (
            "update nodes n1",
            json!({"spec": {"taints": []}}),
            Some(json!({"spec": {"taints": [{"key": "x"}]}})),
            false,
        ),
        ("update nodes/status n2", json!({}), Some(json!({})), false),
        ("create pods ns/m", mirror("n1"), None, true),
        ("create pods ns/m", mirror("n2"), None, false),
        ("create pods ns/m", pod_on("n1"), None, false),
        ("delete pods ns/mine", Value::Null, Some(pod_on("n1")), true),
        ("delete pods ns/other", Value::Null, Some(pod_on("n2")), false),
        ("update pods/status ns/mine", pod_on("n1"), Some(pod_on("n1")), true),
        ("update pods/status ns/other", pod_on("n2"), Some(pod_on("n2")), false),
        ("update pods/status ns/mine", json!({"spec": {"nodeName": "n1"}}), Some(pod_on("n1")), false),
        ("create pods/eviction ns/mine", json!({}), None, true),
        ("create pods/eviction ns/other", json!({}), None, false),
        ("create serviceaccounts/token ns/default", token("mine", "uid-mine"), None, true),
        ("create serviceaccounts/token ns/default", token("mine", ""), None, false),
        ("create serviceaccounts/token ns/default", token("mine", "x"), None, false),
        ("create serviceaccounts/token ns/default", token("other", "uid-other"), None, false),
        ("create serviceaccounts/token ns/default", json!({}), None, false),
        ("create leases.coordination.k8s.io ns/n1", json!({}), None, false),
        ("update leases.coordination.k8s.io kube-node-lease/n1", json!({}), Some(json!({})), true),
        ("update leases.coordination.k8s.io kube-node-lease/n2", json!({}), Some(json!({})), false),
    ] {
        let mut case = Case::new(request, object).by("system:node:n1");
        if let Some(old) = old {
            case = case.old(old);
        }
        let result = case.run(&admission(), &objects());
        assert_eq!(result.is_ok(), allowed, "{request} {}: {result:?}", case.object);
    }
    let error = Case::new("create nodes n1", labelled("node-role.kubernetes.io/x"))
        .by("system:node:n1")
        .run(&admission(), &objects())
        .unwrap_err();
    assert_eq!(
        error.message,
        "nodes \"n1\" is forbidden: is not allowed to set the following labels: node-role.kubernetes.io/x (node \"n1\")"
    );
}

#[test]
fn default_classes_are_filled_in() {
    let mut objects = objects();
    for (name, default, born) in [
        ("a", "true", "2020-01-01T00:00:00Z"),
        ("b", "true", "2021-01-01T00:00:00Z"),
        ("c", "false", "2022-01-01T00:00:00Z"),
    ] {
        for (resource, annotation) in [
            ("storageclasses.storage.k8s.io", "storageclass.kubernetes.io/is-default-class"),
            ("ingressclasses.networking.k8s.io", "ingressclass.kubernetes.io/is-default-class"),
        ] {
            let object =
                json!({"metadata": {"creationTimestamp": born, "annotations": {annotation: default}}});
            objects.put(&format!("{resource}//{name}"), object);
        }
    }
    for (request, object, pointer, expect) in [
        ("create persistentvolumeclaims ns/c", json!({}), "/spec/storageClassName", json!("b")),
        (
            "create persistentvolumeclaims ns/c",
            json!({"spec": {"storageClassName": ""}}),
            "/spec/storageClassName",
            json!(""),
        ),
        ("create ingresses.networking.k8s.io ns/i", json!({}), "/spec/ingressClassName", json!("b")),
        (
            "create ingresses.networking.k8s.io ns/i",
            json!({"spec": {"ingressClassName": "a"}}),
            "/spec/ingressClassName",
            json!("a"),
        ),
    ] {
        let admitted = Case::new(request, object).run(&admission(), &objects).unwrap().0;
        assert_eq!(admitted.pointer(pointer), Some(&expect), "{request}");
    }
}

#[test]
fn only_who_may_speak_for_a_signer_approves() {
    let csr = |certificate: &str| json!({"spec": {"signerName": "kubernetes.io/kube-apiserver-client-kubelet"}, "status": {"certificate": certificate}});
    for (request, user, expect) in [
        (
            "update certificatesigningrequests/approval.certificates.k8s.io c",
            "system:kube-controller-manager",
            true,
        ),
        ("update certificatesigningrequests/approval.certificates.k8s.io c", "alice", false),
        (
            "update certificatesigningrequests/status.certificates.k8s.io c",
            "system:kube-controller-manager",
            true,
        ),
        ("update certificatesigningrequests/status.certificates.k8s.io c", "alice", false),
    ] {
        let case = Case::new(request, csr("x")).by(user).old(csr(""));
        assert_eq!(case.run(&admission(), &objects()).is_ok(), expect, "{request} {user}");
    }
}

#[test]
fn who_blocks_a_deletion_must_be_allowed_to_finalize_the_owner() {
    let owned = |blocks: bool| {
        json!({"metadata": {"ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "blockOwnerDeletion": blocks}]}})
    };
    let controller = Case::new("create configmaps ns/c", owned(true)).by("system:kube-controller-manager");
    assert!(controller.run(&admission(), &objects()).is_ok());
    assert!(Case::new("create configmaps ns/c", owned(false)).run(&admission(), &objects()).is_ok());
    refuse(
        Case::new("create configmaps ns/c", owned(true)),
        "configmaps \"c\" is forbidden: cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on",
    );
    let kept = Case::new("update configmaps ns/c", owned(true)).old(owned(true));
    assert!(kept.run(&admission(), &objects()).is_ok());
}
