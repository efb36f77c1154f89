//! Changes that are refused, and what is kept of an object when a part of it is written.

use std::fmt::Write;

use api::registry::Part;
use serde_json::{Value, json};

use crate::kit::{create, update};

const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {activeDeadlineSeconds: 10, tolerations: [{key: a, operator: Exists}], containers: [{name: a, image: b}]}}";
const DEPLOYMENT: &str = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: b}]}}}}";
const SERVICE: &str =
    "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {clusterIP: 10.3.0.9, ports: [{port: 80}]}}";
const JOB: &str = "{apiVersion: batch/v1, kind: Job, metadata: {name: x}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: b}]}}}}";
const CLAIM: &str = "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: x}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}";

#[test]
fn changes_of_what_is_immutable_are_refused() {
    let mut said = String::new();
    for (name, object, change) in [
        ("a pod moves", POD, "{spec: {nodeName: n2}}"),
        ("a pod gets another restart policy", POD, "{spec: {restartPolicy: Never}}"),
        (
            "a pod gets another container",
            POD,
            "{spec: {containers: [{name: a, image: b}, {name: c, image: d}]}}",
        ),
        ("a pod loses a toleration", POD, "{spec: {tolerations: []}}"),
        ("a pod's deadline grows", POD, "{spec: {activeDeadlineSeconds: 20}}"),
        ("a pod's deadline goes", POD, "{spec: {activeDeadlineSeconds: null}}"),
        (
            "a pod's container gets other ports",
            POD,
            "{spec: {containers: [{name: a, image: b, ports: [{containerPort: 80}]}]}}",
        ),
        ("an object gets another name", POD, "{metadata: {name: yy}}"),
        ("an object gets another uid", POD, "{metadata: {uid: u}}"),
        (
            "a deployment selects other pods",
            DEPLOYMENT,
            "{spec: {selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}}}}",
        ),
        ("a service gets another address", SERVICE, "{spec: {clusterIP: 10.3.0.10}}"),
        (
            "a job gets another template",
            JOB,
            "{spec: {template: {spec: {containers: [{name: a, image: c}]}}}}",
        ),
        ("a job needs more completions", JOB, "{spec: {completions: 5}}"),
        ("a claim gets another mode", CLAIM, "{spec: {accessModes: [ReadWriteMany]}}"),
        (
            "a secret gets another type",
            "{apiVersion: v1, kind: Secret, metadata: {name: x}}",
            "{type: other}",
        ),
        (
            "an immutable config map changes",
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, immutable: true, data: {a: b}}",
            "{data: {a: c}}",
        ),
        (
            "a binding grants another role",
            "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: x}, roleRef: {kind: Role, name: r}}",
            "{roleRef: {name: s}}",
        ),
        (
            "a priority class gets another value",
            "{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: x}, value: 5}",
            "{value: 6}",
        ),
        (
            "a stateful set gets another service",
            "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: x}, spec: {serviceName: s, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: b}]}}}}",
            "{spec: {serviceName: t}}",
        ),
    ] {
        let old = create(object).expect(name);
        let status = update(&old, change, Part::Main).expect_err(name);
        writeln!(said, "{name}\n  {} {}", status.code, status.message).unwrap();
    }
    insta::assert_snapshot!(said);
}

#[test]
fn changes_of_what_may_change_are_taken_and_counted() {
    for (name, object, change, generation) in [
        ("a pod's image", POD, "{spec: {containers: [{name: a, image: c}]}}", json!(2)),
        ("a pod's label", POD, "{metadata: {labels: {a: b}}}", json!(1)),
        (
            "a pod's further toleration",
            POD,
            "{spec: {tolerations: [{key: a, operator: Exists}, {key: b, operator: Exists}]}}",
            json!(2),
        ),
        ("a deployment's replicas", DEPLOYMENT, "{spec: {replicas: 3}}", json!(2)),
        ("a deployment's annotation", DEPLOYMENT, "{metadata: {annotations: {a: b}}}", json!(1)),
        ("a service's port", SERVICE, "{spec: {ports: [{port: 81}]}}", Value::Null),
        ("a job's parallelism", JOB, "{spec: {parallelism: 3}}", json!(2)),
    ] {
        let old = create(object).expect(name);
        let new = update(&old, change, Part::Main).expect(name);
        assert_eq!(new["metadata"]["generation"], generation, "{name}");
    }
}

#[test]
fn a_write_to_one_part_keeps_the_other() {
    let old = create(DEPLOYMENT).unwrap();
    let new = update(&old, "{spec: {replicas: 3}, status: {replicas: 9}}", Part::Main).unwrap();
    assert_eq!((&new["spec"]["replicas"], &new["status"]), (&json!(3), &Value::Null));
    let new = update(
        &old,
        "{metadata: {labels: {a: b}}, spec: {replicas: 3}, status: {replicas: 9}}",
        Part::Status,
    )
    .unwrap();
    assert_eq!((&new["spec"]["replicas"], &new["status"]), (&json!(1), &json!({"replicas": 9})));
    assert_eq!(new["metadata"]["labels"], Value::Null);
    assert_eq!(new["metadata"]["generation"], 1);
}
