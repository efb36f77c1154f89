//! The cluster roles of the controllers, one each.

use super::{EVENTS, Row, allow};

const READ: &str = "get list watch";

/// Roles with their rules.
pub(super) const ROLES: &[(&str, &[Row])] = &[
    (
        "system:controller:attachdetach-controller",
        &[
            allow("list watch", "-", "persistentvolumeclaims persistentvolumes"),
            allow(READ, "-", "nodes"),
            allow("patch update", "-", "nodes/status"),
            allow("list watch", "-", "pods"),
            EVENTS,
            allow("create delete get list watch", "storage.k8s.io", "volumeattachments"),
            allow(READ, "storage.k8s.io", "csidrivers"),
            allow(READ, "storage.k8s.io", "csinodes"),
        ],
    ),
    (
        "system:controller:certificate-controller",
        &[
            allow("delete get list watch", "certificates.k8s.io", "certificatesigningrequests"),
            allow(
                "update",
                "certificates.k8s.io",
                "certificatesigningrequests/approval certificatesigningrequests/status",
            ),
            Row {
                verbs: "approve",
                groups: "certificates.k8s.io",
                resources: "signers",
                names: "kubernetes.io/kube-apiserver-client-kubelet",
            },
            Row {
                verbs: "sign",
                groups: "certificates.k8s.io",
                resources: "signers",
                names: "kubernetes.io/kube-apiserver-client kubernetes.io/kube-apiserver-client-kubelet \
                        kubernetes.io/kubelet-serving kubernetes.io/legacy-unknown",
            },
            allow("create", "authorization.k8s.io", "subjectaccessreviews"),
            EVENTS,
        ],
    ),
    (
        "system:controller:clusterrole-aggregation-controller",
        &[allow("escalate get list patch update watch", "rbac.authorization.k8s.io", "clusterroles")],
    ),
    (
        "system:controller:cronjob-controller",
        &[
            allow("get list update watch", "batch", "cronjobs"),
            allow("create delete get list patch update watch", "batch", "jobs"),
            allow("update", "batch", "cronjobs/status"),
            allow("update", "batch", "cronjobs/finalizers"),
            allow("delete list", "-", "pods"),
            EVENTS,
        ],
    ),
    (
        "system:controller:daemon-set-controller",
        &[
            allow(READ, "apps extensions", "daemonsets"),
            allow("update", "apps extensions", "daemonsets/status"),
            allow("update", "apps extensions", "daemonsets/finalizers"),
            allow("list watch", "-", "nodes"),
            allow("create delete list patch watch", "-", "pods"),
            allow("create", "-", "pods/binding"),
            allow("create delete get list patch update watch", "apps", "controllerrevisions"),
            EVENTS,
        ],
    ),
    (
        "system:controller:deployment-controller",
        &[
            allow("get list update watch", "apps extensions", "deployments"),
            allow("update", "apps extensions", "deployments/status"),
            allow("update", "apps extensions", "deployments/finalizers"),
            allow("create delete get list patch update watch", "apps extensions", "replicasets"),
            allow("get list update watch", "-", "pods"),
            EVENTS,
        ],
    ),
    (
        "system:controller:disruption-controller",
        &[
            allow(READ, "apps extensions", "deployments"),
            allow(READ, "apps extensions", "replicasets"),
            allow(READ, "-", "replicationcontrollers"),
            allow(READ, "policy", "poddisruptionbudgets"),
            allow(READ, "apps", "statefulsets"),
            allow("update", "policy", "poddisruptionbudgets/status"),
            allow("get", "*", "*/scale"),
            allow(READ, "-", "pods"),
            allow("patch update", "-", "pods/status"),
            EVENTS,
        ],
    ),
    (
        "system:controller:endpoint-controller",
        &[
            allow(READ, "-", "pods services"),
            allow("create delete get list update", "-", "endpoints"),
            allow("create", "-", "endpoints/restricted"),
            EVENTS,
        ],
    ),
    (
        "system:controller:endpointslice-controller",
        &[
            allow(READ, "-", "nodes pods services"),
            allow("update", "-", "services/finalizers"),
            allow("create delete get list update", "discovery.k8s.io", "endpointslices"),
            allow("create", "discovery.k8s.io", "endpointslices/restricted"),
            EVENTS,
        ],
    ),
    (
        "system:controller:endpointslicemirroring-controller",
        &[
            allow(READ, "-", "endpoints services"),
            allow("update", "-", "services/finalizers"),
            allow("update", "-", "endpoints/finalizers"),
            allow("create delete get list update", "discovery.k8s.io", "endpointslices"),
            allow("create", "discovery.k8s.io", "endpointslices/restricted"),
            EVENTS,
        ],
    ),
    (
        "system:controller:ephemeral-volume-controller",
        &[
            allow("update", "-", "pods/finalizers"),
            allow(READ, "-", "pods"),
            allow("create get list watch", "-", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    (
        "system:controller:expand-controller",
        &[
            allow("get list patch update watch", "-", "persistentvolumes"),
            allow("patch update", "-", "persistentvolumeclaims/status"),
            allow(READ, "-", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    (
        "system:controller:generic-garbage-collector",
        &[allow("delete get list patch update watch", "*", "*"), EVENTS],
    ),
    (
        "system:controller:horizontal-pod-autoscaler",
        &[
            allow(READ, "autoscaling", "horizontalpodautoscalers"),
            allow("update", "autoscaling", "horizontalpodautoscalers/status"),
            allow("get update", "*", "*/scale"),
            allow("list", "-", "pods"),
            allow("list", "metrics.k8s.io", "pods"),
            allow("get list", "custom.metrics.k8s.io", "*"),
            allow("get list", "external.metrics.k8s.io", "*"),
            EVENTS,
        ],
    ),
    (
        "system:controller:job-controller",
        &[
            allow("get list patch update watch", "batch", "jobs"),
            allow("patch update", "batch", "jobs/status"),
            allow("update", "batch", "jobs/finalizers"),
            allow("create delete list patch watch", "-", "pods"),
            EVENTS,
        ],
    ),
    (
        "system:controller:legacy-service-account-token-cleaner",
        &[allow("get", "-", "configmaps"), allow("delete patch", "-", "secrets")],
    ),
    (
        "system:controller:namespace-controller",
        &[
            allow("delete get list watch", "-", "namespaces"),
            allow("update", "-", "namespaces/finalize namespaces/status"),
            allow("delete deletecollection get list", "*", "*"),
        ],
    ),
    (
        "system:controller:node-controller",
        &[
            allow("delete get list patch update watch", "-", "nodes"),
            allow("patch update", "-", "nodes/status"),
            allow("patch update", "-", "pods/status"),
            allow("delete get list", "-", "pods"),
            EVENTS,
        ],
    ),
    (
        "system:controller:persistent-volume-binder",
        &[
            allow("create delete get list update watch", "-", "persistentvolumes"),
            allow("update", "-", "persistentvolumes/status"),
            allow("get list update watch", "-", "persistentvolumeclaims"),
            allow("update", "-", "persistentvolumeclaims/status"),
            allow("create delete get list watch", "-", "pods"),
            allow(READ, "storage.k8s.io", "storageclasses"),
            allow("create delete get", "-", "endpoints services"),
            allow("get list", "-", "secrets"),
            allow("get list", "-", "nodes"),
            allow("watch", "-", "events"),
            EVENTS,
        ],
    ),
    (
        "system:controller:pod-garbage-collector",
        &[
            allow("delete list watch", "-", "pods"),
            allow("get list watch", "-", "nodes"),
            allow("patch", "-", "pods/status"),
        ],
    ),
    (
        "system:controller:pv-protection-controller",
        &[allow("get list update watch", "-", "persistentvolumes"), EVENTS],
    ),
    (
        "system:controller:pvc-protection-controller",
        &[
            allow("get list update watch", "-", "persistentvolumeclaims"),
            allow("get list watch", "-", "pods"),
            EVENTS,
        ],
    ),
    (
        "system:controller:replicaset-controller",
        &[
            allow("get list update watch", "apps extensions", "replicasets"),
            allow("update", "apps extensions", "replicasets/status"),
            allow("update", "apps extensions", "replicasets/finalizers"),
            allow("create delete list patch watch", "-", "pods"),
            EVENTS,
        ],
    ),
    (
        "system:controller:replication-controller",
        &[
            allow("get list update watch", "-", "replicationcontrollers"),
            allow("update", "-", "replicationcontrollers/status"),
            allow("update", "-", "replicationcontrollers/finalizers"),
            allow("create delete list patch watch", "-", "pods"),
            EVENTS,
        ],
    ),
    (
        "system:controller:resourcequota-controller",
        &[allow("list watch", "*", "*"), allow("update", "-", "resourcequotas/status"), EVENTS],
    ),
    ("system:controller:root-ca-cert-publisher", &[allow("create update", "-", "configmaps"), EVENTS]),
    (
        "system:controller:route-controller",
        &[allow("list watch", "-", "nodes"), allow("patch", "-", "nodes/status"), EVENTS],
    ),
    ("system:controller:service-account-controller", &[allow("create", "-", "serviceaccounts"), EVENTS]),
    (
        "system:controller:selinux-warning-controller",
        &[
            allow(READ, "-", "persistentvolumeclaims persistentvolumes pods"),
            allow(READ, "storage.k8s.io", "csidrivers"),
            EVENTS,
        ],
    ),
    (
        "system:controller:service-cidrs-controller",
        &[
            allow("get list patch update watch", "networking.k8s.io", "servicecidrs"),
            allow("patch update", "networking.k8s.io", "servicecidrs/finalizers servicecidrs/status"),
            allow(READ, "networking.k8s.io", "ipaddresses"),
            EVENTS,
        ],
    ),
    (
        "system:controller:service-controller",
        &[
            allow(READ, "-", "services"),
            allow("patch update", "-", "services/status"),
            allow("list watch", "-", "nodes"),
            EVENTS,
        ],
    ),
    (
        "system:controller:statefulset-controller",
        &[
            allow("list watch", "-", "pods"),
            allow(READ, "apps", "statefulsets"),
            allow("update", "apps", "statefulsets/status"),
            allow("update", "apps", "statefulsets/finalizers"),
            allow("create delete get patch update", "-", "pods"),
            allow("create delete get list patch update watch", "apps", "controllerrevisions"),
            allow("create get", "-", "persistentvolumeclaims"),
            allow("delete update", "-", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    (
        "system:controller:taint-eviction-controller",
        &[
            allow("get list watch", "-", "nodes"),
            allow("delete get list watch", "-", "pods"),
            allow("patch", "-", "pods/status"),
            EVENTS,
        ],
    ),
    (
        "system:controller:ttl-after-finished-controller",
        &[allow("delete get list watch", "batch", "jobs"), EVENTS],
    ),
    ("system:controller:ttl-controller", &[allow("list patch update watch", "-", "nodes"), EVENTS]),
    (
        "system:controller:validatingadmissionpolicy-status-controller",
        &[
            allow(READ, "admissionregistration.k8s.io", "validatingadmissionpolicies"),
            allow("get patch update", "admissionregistration.k8s.io", "validatingadmissionpolicies/status"),
            EVENTS,
        ],
    ),
];
