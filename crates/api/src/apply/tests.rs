use proptest::prelude::*;
use serde_json::json;

use super::*;

fn manager(name: &str) -> Manager<'_> {
    Manager { name, api_version: "apps/v1", subresource: "", now: "2026-01-01T00:00:00Z" }
}

fn deployment() -> Node<'static> {
    Node::of_kind("apps", "v1", "Deployment")
}

/// A Deployment with a spec.
fn with(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
}

fn containers(list: Value) -> Value {
    with(json!({"template": {"spec": {"containers": list}}}))
}

fn do_apply(live: Option<&Value>, name: &str, config: &Value, force: bool) -> Result<Value, Error> {
    apply(live, config, &manager(name), force, &deployment())
}

fn update(live: Option<&Value>, name: &str, mut new: Value) -> Value {
    track(&mut new, live, &manager(name), &deployment(), &[]);
    new
}

/// The object without its managed fields.
fn bare(mut object: Value) -> Value {
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    object
}

fn owned(object: &Value, name: &str) -> Vec<String> {
    object["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|entry| entry["manager"] == name)
        .flat_map(|entry| Set::read(&entry["fieldsV1"]).paths())
        .collect()
}

#[test]
fn the_first_apply_creates_and_owns() {
    let object =
        do_apply(None, "a", &with(json!({"replicas": 2, "selector": {"matchLabels": {"x": "y"}}})), false)
            .unwrap();
    assert_eq!(object["spec"]["replicas"], 2);
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{"manager": "a", "operation": "Apply", "apiVersion": "apps/v1", "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}, "f:selector": {}}}}])
    );
}

#[test]
fn sets_are_written_as_upstream_writes_them() {
    let config = json!({"metadata": {"labels": {"app": "x"}, "finalizers": ["f"]}, "spec": {
        "template": {"spec": {"nodeSelector": {}, "containers": [
            {"name": "c", "image": "i", "ports": [{"containerPort": 80}], "args": ["1"], "env": [{"name": "E", "value": "1"}],
             "resources": {"limits": {"cpu": "1"}}}]}}}});
    assert_eq!(
        Set::of(&config, &deployment()).unwrap().write(),
        json!({"f:metadata": {"f:labels": {"f:app": {}}, "f:finalizers": {"v:\"f\"": {}}},
            "f:spec": {"f:template": {"f:spec": {"f:nodeSelector": {}, "f:containers": {"k:{\"name\":\"c\"}": {
                ".": {}, "f:name": {}, "f:image": {}, "f:args": {},
                "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                "f:env": {"k:{\"name\":\"E\"}": {".": {}, "f:name": {}, "f:value": {}}},
                "f:resources": {"f:limits": {"f:cpu": {}}}}}}}}})
    );
}

#[test]
fn a_set_survives_its_json() {
    for set in [
        json!({}),
        json!({"f:a": {}}),
        json!({"f:a": {".": {}, "f:b": {}}}),
        json!({"f:l": {"k:{\"name\":\"x\"}": {".": {}, "f:name": {}}, "v:1": {}, "i:3": {}}}),
    ] {
        assert_eq!(Set::read(&set).write(), set);
    }
    let spaced = json!({"f:l": {"k:{ \"b\": 1, \"a\": 2 }": {}}});
    assert_eq!(Set::read(&spaced).paths(), [".l[a=2,b=1]"]);
    assert!(Set::read(&json!({"x:a": {}, "nonsense": {}})).is_empty());
}

#[test]
fn a_conflict_names_manager_and_field() {
    let live = update(None, "kubectl", with(json!({"replicas": 1, "paused": true})));
    let error = do_apply(Some(&live), "a", &with(json!({"replicas": 5})), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl\" using apps/v1: .spec.replicas"
    );
    let error =
        do_apply(Some(&live), "a", &with(json!({"replicas": 5, "paused": false})), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl\" using apps/v1:\n- .spec.paused\n- .spec.replicas"
    );
    let Error::Conflict { causes, .. } = error else { panic!() };
    assert_eq!(causes[0], ("conflict with \"kubectl\" using apps/v1".to_owned(), ".spec.paused".to_owned()));
    let live = do_apply(None, "b", &containers(json!([{"name": "c", "image": "1"}])), false).unwrap();
    let error =
        do_apply(Some(&live), "a", &containers(json!([{"name": "c", "image": "2"}])), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"b\": .spec.template.spec.containers[name=\"c\"].image"
    );
}

#[test]
fn force_takes_over() {
    let live = update(None, "kubectl", with(json!({"replicas": 1, "paused": true})));
    let object = do_apply(Some(&live), "a", &with(json!({"replicas": 5})), true).unwrap();
    assert_eq!(object["spec"], json!({"replicas": 5, "paused": true}));
    assert_eq!(owned(&object, "kubectl"), [".spec.paused"]);
    assert_eq!(owned(&object, "a"), [".spec.replicas"]);
}

#[test]
fn the_same_value_is_shared_without_conflict() {
    let live = do_apply(None, "a", &with(json!({"replicas": 1})), false).unwrap();
    let object = do_apply(Some(&live), "b", &with(json!({"replicas": 1})), false).unwrap();
    assert_eq!(owned(&object, "a"), [".spec.replicas"]);
    assert_eq!(owned(&object, "b"), [".spec.replicas"]);
    // One lets go: the other keeps it.
    let object = do_apply(Some(&object), "a", &with(json!({})), false).unwrap();
    assert_eq!(object["spec"]["replicas"], 1);
    let object = do_apply(Some(&object), "b", &with(json!({})), false).unwrap();
    assert_eq!(object["spec"], json!({}));
}

#[test]
fn what_a_manager_no_longer_applies_goes_unless_others_own_it() {
    let one = json!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}]);
    let live = do_apply(None, "m", &containers(one), false).unwrap();
    let less = containers(json!([{"name": "a", "image": "1"}]));
    let object = do_apply(Some(&live), "m", &less, false).unwrap();
    assert_eq!(object["spec"]["template"]["spec"]["containers"], json!([{"name": "a", "image": "1"}]));
    // What the server filled in to an item goes with it; what another manager put there keeps it.
    let mut filled = live.clone();
    filled["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = "Always".into();
    let object = do_apply(Some(&filled), "m", &less, false).unwrap();
    assert_eq!(object["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 1);
    let other = update(Some(&live), "other", filled);
    let object = do_apply(Some(&other), "m", &less, false).unwrap();
    assert_eq!(
        object["spec"]["template"]["spec"]["containers"][1],
        json!({"name": "b", "imagePullPolicy": "Always"})
    );
    assert_eq!(object["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 2);
    let labels = |labels: Value| json!({"metadata": {"name": "d", "labels": labels}});
    let live = do_apply(None, "m", &labels(json!({"a": "1", "b": "2"})), false).unwrap();
    let object = do_apply(Some(&live), "m", &labels(json!({"b": "2"})), false).unwrap();
    assert_eq!(object["metadata"]["labels"], json!({"b": "2"}));
    let object = do_apply(Some(&live), "m", &json!({"metadata": {"name": "d"}}), false).unwrap();
    assert_eq!(bare(object), json!({"metadata": {"name": "d"}}));
}

#[test]
fn lists_merge_by_key_in_the_order_of_the_configuration() {
    let names = |object: &Value| -> Vec<String> {
        let list = object["spec"]["template"]["spec"]["containers"].as_array().unwrap().clone();
        list.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    let list = |names: &[&str]| containers(names.iter().map(|name| json!({"name": name})).collect());
    for (live, config, expect) in [
        (&["a", "b"][..], &["b", "a"][..], &["b", "a"][..]),
        (&["a", "b"], &["c"], &["a", "b", "c"]),
        (&["a", "s", "b"], &["a", "b"], &["a", "s", "b"]),
        (&["s", "a", "b"], &["b", "n", "a"], &["s", "b", "n", "a"]),
        (&[], &["x", "y"], &["x", "y"]),
        (&["x"], &[], &["x"]),
    ] {
        let live = list(live);
        let object = do_apply(Some(&live), "m", &list(config), true).unwrap();
        assert_eq!(names(&object), expect, "{live} + {config:?}");
    }
}

#[test]
fn ports_are_told_apart_by_their_default_protocol() {
    let port = |port: Value| containers(json!([{"name": "c", "ports": [port]}]));
    let live = do_apply(None, "m", &port(json!({"containerPort": 53, "protocol": "UDP"})), false).unwrap();
    let object = do_apply(Some(&live), "n", &port(json!({"containerPort": 53})), false).unwrap();
    let ports = &object["spec"]["template"]["spec"]["containers"][0]["ports"];
    assert_eq!(ports.as_array().unwrap().len(), 2, "{ports}");
    let object =
        do_apply(Some(&object), "n", &port(json!({"containerPort": 53, "protocol": "TCP"})), false).unwrap();
    assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["ports"].as_array().unwrap().len(), 2);
}

#[test]
fn atomic_values_are_replaced_and_owned_as_one() {
    let selector = |value: Value| with(json!({"selector": value}));
    let live = do_apply(None, "a", &selector(json!({"matchLabels": {"x": "1"}})), false).unwrap();
    assert_eq!(owned(&live, "a"), [".spec.selector"]);
    let error = do_apply(Some(&live), "b", &selector(json!({"matchLabels": {"y": "1"}})), false).unwrap_err();
    assert!(error.to_string().ends_with(": .spec.selector"));
    let object = do_apply(Some(&live), "b", &selector(json!({"matchLabels": {"y": "1"}})), true).unwrap();
    assert_eq!(object["spec"]["selector"], json!({"matchLabels": {"y": "1"}}));
    let args = |args: Value| containers(json!([{"name": "c", "args": args}]));
    let live = do_apply(None, "a", &args(json!(["1", "2"])), false).unwrap();
    let object = do_apply(Some(&live), "a", &args(json!(["2"])), false).unwrap();
    assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["args"], json!(["2"]));
}

#[test]
fn what_cannot_be_applied_is_refused() {
    let error = do_apply(None, "m", &containers(json!([{"image": "x"}])), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        ".spec.template.spec.containers: element 0: associative list with keys has an element that omits key field \"name\" (and doesn't have default value)"
    );
    let claimed = json!({"metadata": {"name": "d", "managedFields": [{"manager": "x"}]}});
    assert_eq!(
        do_apply(None, "m", &claimed, false).unwrap_err().to_string(),
        "metadata.managedFields must be nil"
    );
    assert!(do_apply(None, "m", &json!([]), false).is_err());
    assert!(do_apply(None, "m", &containers(json!(["x"])), false).is_err());
}

#[test]
fn updates_are_tracked() {
    let created = update(None, "kubectl-create", with(json!({"replicas": 1})));
    assert_eq!(owned(&created, "kubectl-create"), [".spec.replicas"]);
    let scaled = update(Some(&created), "kubectl", with(json!({"replicas": 2, "paused": true})));
    assert!(owned(&scaled, "kubectl-create").is_empty());
    assert_eq!(owned(&scaled, "kubectl"), [".spec.paused", ".spec.replicas"]);
    let resumed = update(Some(&scaled), "other", with(json!({"replicas": 2})));
    assert_eq!(owned(&resumed, "kubectl"), [".spec.replicas"]);
    assert!(owned(&resumed, "other").is_empty());
    let labelled = update(
        Some(&created),
        "kubectl-label",
        json!({"metadata": {"name": "d", "labels": {"a": "b"}}, "spec": {"replicas": 1}}),
    );
    assert_eq!(owned(&labelled, "kubectl-label"), [".metadata.labels", ".metadata.labels.a"]);
}

#[test]
fn a_created_pod_is_owned_as_upstream_has_it() {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"run": "p"}},
        "spec": {"containers": [{"name": "p", "image": "nginx", "resources": {}, "env": [{"name": "A", "value": "1"}]}],
            "dnsPolicy": "ClusterFirst", "securityContext": {}}});
    let manager =
        Manager { name: "kubectl-run", api_version: "v1", subresource: "", now: "2026-01-01T00:00:00Z" };
    track(&mut pod, None, &manager, &Node::of_kind("", "v1", "Pod"), &[]);
    assert_eq!(
        pod["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:metadata": {"f:labels": {".": {}, "f:run": {}}}, "f:spec": {
            "f:containers": {"k:{\"name\":\"p\"}": {".": {}, "f:env": {".": {}, "k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}},
                "f:image": {}, "f:name": {}, "f:resources": {}}},
            "f:dnsPolicy": {}, "f:securityContext": {}}})
    );
}

#[test]
fn a_status_is_tracked_and_applied_apart() {
    let live = update(None, "a", with(json!({"replicas": 1})));
    let mut new = live.clone();
    new["status"] = json!({"replicas": 1});
    let controller = Manager { subresource: "status", ..manager("controller") };
    track(&mut new, Some(&live), &controller, &deployment(), &[]);
    let entry = &new["metadata"]["managedFields"][1];
    assert_eq!((&entry["subresource"], &entry["manager"]), (&json!("status"), &json!("controller")));
    let config = json!({"metadata": {"name": "d"}, "spec": {"replicas": 9}, "status": {"replicas": 2}});
    let on_status = Manager { subresource: "status", ..manager("c2") };
    let error = apply(Some(&new), &config, &on_status, false, &deployment()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"controller\" with subresource \"status\" using apps/v1: .status.replicas"
    );
    let object = apply(Some(&new), &config, &on_status, true, &deployment()).unwrap();
    assert_eq!((&object["spec"]["replicas"], &object["status"]["replicas"]), (&json!(1), &json!(2)));
    let object = do_apply(Some(&new), "a", &config, true).unwrap();
    assert_eq!((&object["spec"]["replicas"], &object["status"]["replicas"]), (&json!(9), &json!(1)));
}

#[test]
fn untracked_objects_stay_so_until_somebody_applies() {
    let live = with(json!({"replicas": 1, "paused": true}));
    let updated = update(Some(&live), "kubectl", with(json!({"replicas": 2, "paused": true})));
    assert!(updated["metadata"].get("managedFields").is_none());
    let error = do_apply(Some(&live), "m", &with(json!({"replicas": 3})), false).unwrap_err();
    assert!(error.to_string().contains("\"before-first-apply\" using apps/v1: .spec.replicas"), "{error}");
    let object = do_apply(Some(&live), "m", &with(json!({"replicas": 1})), false).unwrap();
    assert_eq!(owned(&object, "before-first-apply"), [".spec.paused", ".spec.replicas"]);
    let mut reset = object.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    assert!(update(Some(&object), "x", reset)["metadata"].get("managedFields").is_none());
}

#[test]
fn what_kubectl_applied_by_itself_it_goes_on_to_apply() {
    let mut live = with(json!({"replicas": 1, "paused": true}));
    let noted =
        json!({"metadata": {"name": "d", "annotations": {}}, "spec": {"replicas": 1, "paused": true}});
    live["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] =
        noted.to_string().into();
    let config = with(json!({"replicas": 3}));
    let object = do_apply(Some(&live), "kubectl", &config, false).unwrap();
    assert_eq!(object["spec"], json!({"replicas": 3}), "what is no longer applied goes");
    assert!(do_apply(Some(&live), "argo", &config, false).is_err());
}

#[test]
fn a_client_may_edit_the_list_itself() {
    let live = update(None, "kubectl-client-side-apply", with(json!({"replicas": 1})));
    let mut new = live.clone();
    new["metadata"]["managedFields"][0]["manager"] = "kubectl".into();
    new["metadata"]["managedFields"][0]["operation"] = "Apply".into();
    let moved = update(Some(&live), "x", new);
    assert_eq!(moved["metadata"]["managedFields"].as_array().unwrap().len(), 1);
    let object = do_apply(Some(&moved), "kubectl", &with(json!({"replicas": 4})), false).unwrap();
    assert_eq!(object["spec"]["replicas"], 4);
}

#[test]
fn old_updates_are_put_together() {
    let mut object = update(None, "m0", with(json!({"replicas": 0})));
    for n in 1..30 {
        let mut new = bare(object.clone());
        new["metadata"]["annotations"][format!("a{n}")] = "x".into();
        let name = format!("m{n}");
        let time = format!("2026-01-01T00:00:{n:02}Z");
        let manager = Manager { now: &time, ..manager(&name) };
        track(&mut new, Some(&object), &manager, &deployment(), &[]);
        object = new;
    }
    let list = object["metadata"]["managedFields"].as_array().unwrap();
    assert!(list.len() <= 10, "{}", list.len());
    assert!(owned(&object, "ancient-changes").contains(&".metadata.annotations.a5".to_owned()));
    assert_eq!(owned(&object, "m29"), [".metadata.annotations.a29"]);
}

#[test]
fn a_second_apply_changes_neither_object_nor_time() {
    let config = containers(json!([{"name": "c", "image": "1", "ports": [{"containerPort": 1}]}]));
    let first = do_apply(None, "m", &config, false).unwrap();
    let later = Manager { now: "2027-01-01T00:00:00Z", ..manager("m") };
    assert_eq!(apply(Some(&first), &config, &later, false, &deployment()).unwrap(), first);
}

#[test]
fn custom_kinds_merge_by_their_schema_or_by_field() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
            "items": {"type": "object", "properties": {"id": {"type": "string"}, "v": {"type": "integer"}}}},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "plain": {"type": "array", "items": {"type": "string"}}}}}});
    let node = Node::Custom(&schema);
    let one = json!({"metadata": {"name": "x"}, "spec": {"items": [{"id": "a", "v": 1}], "tags": ["t"], "plain": ["p"]}});
    let two = json!({"metadata": {"name": "x"}, "spec": {"items": [{"id": "b", "v": 2}], "tags": ["u"]}});
    let live = apply(None, &one, &manager("m"), false, &node).unwrap();
    let both = apply(Some(&live), &two, &manager("n"), false, &node).unwrap();
    assert_eq!(both["spec"]["items"], json!([{"id": "a", "v": 1}, {"id": "b", "v": 2}]));
    assert_eq!(both["spec"]["tags"], json!(["t", "u"]));
    let live = apply(None, &one, &manager("m"), false, &Node::Deduced).unwrap();
    let error = apply(Some(&live), &two, &manager("n"), false, &Node::Deduced).unwrap_err();
    assert!(error.to_string().contains("- .spec.items\n- .spec.tags"), "{error}");
}

fn configs() -> impl Strategy<Value = Value> {
    let items = prop::sample::subsequence(vec!["a", "b", "c"], 0..=3).prop_shuffle().prop_map(|names| {
        names.into_iter().map(|name| json!({"name": name, "image": name})).collect::<Value>()
    });
    let labels = prop::sample::subsequence(vec!["x", "y", "z"], 0..=3).prop_map(|keys| {
        keys.into_iter().map(|key| (key.to_owned(), json!("1"))).collect::<serde_json::Map<_, _>>()
    });
    (prop::option::of(0..3i64), items, labels).prop_map(|(replicas, items, labels)| {
        let mut object = containers(items);
        if let Some(replicas) = replicas {
            object["spec"]["replicas"] = replicas.into();
        }
        object["metadata"]["labels"] = labels.into();
        object
    })
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(live in configs(), config in configs()) {
        let live = do_apply(None, "m", &live, false).unwrap();
        let once = do_apply(Some(&live), "m", &config, false).unwrap();
        let twice = do_apply(Some(&once), "m", &config, false).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn a_sole_manager_gets_what_it_applies(live in configs(), config in configs()) {
        let live = do_apply(None, "m", &live, false).unwrap();
        let object = do_apply(Some(&live), "m", &config, false).unwrap();
        for (place, default) in [("/spec/replicas", Value::Null), ("/spec/template/spec/containers", json!([]))] {
            let (got, wanted) = (object.pointer(place).unwrap_or(&default), config.pointer(place).unwrap_or(&default));
            prop_assert_eq!(got, wanted, "{}", place);
        }
    }

    #[test]
    fn forcing_never_conflicts_and_others_lose_what_changed(a in configs(), b in configs()) {
        let live = do_apply(None, "a", &a, false).unwrap();
        let object = do_apply(Some(&live), "b", &b, true).unwrap();
        if let (Some(old), Some(new)) = (a.pointer("/spec/replicas"), b.pointer("/spec/replicas")) {
            prop_assert_eq!(owned(&object, "a").contains(&".spec.replicas".to_owned()), old == new);
        }
        prop_assert!(do_apply(Some(&object), "b", &b, false).is_ok());
    }
}
