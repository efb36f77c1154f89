//! The cluster roles for people, nodes and the parts of the control plane, and who has them.

use super::{EVENTS, Row, allow, named, paths};

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const ALL: &str = "create delete deletecollection get list patch update watch";

/// Roles with their rules.
pub(super) const ROLES: &[(&str, &[Row])] = &[
    ("cluster-admin", &[allow("*", "*", "*"), Row { verbs: "*", groups: "", resources: "*", names: "" }]),
    ("admin", &[]),
    ("edit", &[]),
    ("view", &[]),
    (
        "system:aggregate-to-admin",
        &[
            allow("create", "authorization.k8s.io", "localsubjectaccessreviews"),
            allow(ALL, "rbac.authorization.k8s.io", "rolebindings roles"),
        ],
    ),
    (
        "system:aggregate-to-edit",
        &[
            allow(READ, "-", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
            allow("impersonate", "-", "serviceaccounts"),
            allow(WRITE, "-", "pods pods/attach pods/exec pods/portforward pods/proxy"),
            allow("create", "-", "pods/eviction"),
            allow(
                WRITE,
                "-",
                "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale \
                 secrets serviceaccounts services services/proxy",
            ),
            allow("create", "-", "serviceaccounts/token"),
            allow(
                WRITE,
                "apps",
                "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale \
                 statefulsets statefulsets/scale",
            ),
            allow(WRITE, "autoscaling", "horizontalpodautoscalers"),
            allow(WRITE, "batch", "cronjobs jobs"),
            allow(
                WRITE,
                "extensions",
                "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies \
                 replicasets replicasets/scale replicationcontrollers/scale",
            ),
            allow(WRITE, "policy", "poddisruptionbudgets"),
            allow(WRITE, "networking.k8s.io", "ingresses networkpolicies"),
            allow(ALL, "coordination.k8s.io", "leases"),
        ],
    ),
    (
        "system:aggregate-to-view",
        &[
            allow(
                READ,
                "-",
                "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods \
                 replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status",
            ),
            allow(
                READ,
                "-",
                "bindings events limitranges namespaces/status pods/log pods/status \
                 replicationcontrollers/status resourcequotas resourcequotas/status",
            ),
            allow(READ, "-", "namespaces"),
            allow(READ, "discovery.k8s.io", "endpointslices"),
            allow(
                READ,
                "apps",
                "controllerrevisions daemonsets daemonsets/status deployments deployments/scale \
                 deployments/status replicasets replicasets/scale replicasets/status statefulsets \
                 statefulsets/scale statefulsets/status",
            ),
            allow(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
            allow(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
            allow(
                READ,
                "extensions",
                "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses \
                 ingresses/status networkpolicies replicasets replicasets/scale replicasets/status \
                 replicationcontrollers/scale",
            ),
            allow(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
            allow(READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
        ],
    ),
    (
        "system:discovery",
        &[paths("/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")],
    ),
    ("system:public-info-viewer", &[paths("/healthz /livez /readyz /version /version/")]),
    (
        "system:basic-user",
        &[
            allow("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            allow("create", "authentication.k8s.io", "selfsubjectreviews"),
        ],
    ),
    (
        "system:monitoring",
        &[paths("/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*")],
    ),
    (
        "system:service-account-issuer-discovery",
        &[paths("/.well-known/openid-configuration /openid/v1/jwks")],
    ),
    (
        "system:auth-delegator",
        &[
            allow("create", "authentication.k8s.io", "tokenreviews"),
            allow("create", "authorization.k8s.io", "subjectaccessreviews"),
        ],
    ),
    (
        "system:heapster",
        &[allow(READ, "-", "events namespaces nodes pods"), allow(READ, "extensions", "deployments")],
    ),
    ("system:kube-aggregator", &[allow(READ, "-", "endpoints services")]),
    ("system:kube-dns", &[allow("list watch", "-", "endpoints services")]),
    (
        "system:kube-controller-manager",
        &[
            EVENTS,
            allow("create", "coordination.k8s.io", "leases"),
            named("get update", "coordination.k8s.io", "leases", "kube-controller-manager"),
            allow("create", "-", "secrets serviceaccounts"),
            allow("delete", "-", "secrets"),
            allow("get", "-", "configmaps namespaces secrets serviceaccounts"),
            allow("update", "-", "secrets serviceaccounts"),
            allow("create", "authentication.k8s.io", "tokenreviews"),
            allow("create", "authorization.k8s.io", "subjectaccessreviews"),
            allow("list watch", "*", "*"),
            allow("create", "-", "serviceaccounts/token"),
        ],
    ),
    (
        "system:kube-scheduler",
        &[
            EVENTS,
            allow("create", "coordination.k8s.io", "leases"),
            named("get update", "coordination.k8s.io", "leases", "kube-scheduler"),
            allow(READ, "-", "nodes"),
            allow("delete get list watch", "-", "pods"),
            allow("create", "-", "bindings pods/binding"),
            allow("patch update", "-", "pods/status"),
            allow(READ, "-", "replicationcontrollers services"),
            allow(READ, "apps extensions", "replicasets"),
            allow(READ, "apps", "statefulsets"),
            allow(READ, "policy", "poddisruptionbudgets"),
            allow(READ, "-", "persistentvolumeclaims persistentvolumes"),
            allow("create", "authentication.k8s.io", "tokenreviews"),
            allow("create", "authorization.k8s.io", "subjectaccessreviews"),
            allow(READ, "storage.k8s.io", "csinodes"),
            allow(READ, "-", "namespaces"),
            allow(READ, "storage.k8s.io", "csidrivers"),
            allow(READ, "storage.k8s.io", "csistoragecapacities"),
        ],
    ),
    (
        "system:volume-scheduler",
        &[
            allow("get list patch update watch", "-", "persistentvolumes"),
            allow(READ, "storage.k8s.io", "storageclasses"),
            allow("get list patch update watch", "-", "persistentvolumeclaims"),
        ],
    ),
    (
        "system:kubelet-api-admin",
        &[
            allow(READ, "-", "nodes"),
            allow("proxy", "-", "nodes"),
            allow(
                "*",
                "-",
                "nodes/configz nodes/healthz nodes/log nodes/metrics nodes/pods nodes/proxy nodes/stats",
            ),
        ],
    ),
    (
        "system:node",
        &[
            allow("create", "authentication.k8s.io", "tokenreviews"),
            allow("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
            allow(READ, "-", "services"),
            allow("create get list watch", "-", "nodes"),
            allow("patch update", "-", "nodes/status"),
            allow("patch update", "-", "nodes"),
            allow("create patch update", "-", "events"),
            allow(READ, "-", "pods"),
            allow("create delete", "-", "pods"),
            allow("patch update", "-", "pods/status"),
            allow("create", "-", "pods/eviction"),
            allow(READ, "-", "configmaps secrets"),
            allow("get", "-", "persistentvolumeclaims persistentvolumes"),
            allow("get", "-", "endpoints"),
            allow("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
            allow("create delete get patch update", "coordination.k8s.io", "leases"),
            allow("get", "storage.k8s.io", "volumeattachments"),
            allow("create", "-", "serviceaccounts/token"),
            allow("get patch update", "-", "persistentvolumeclaims/status"),
            allow(READ, "storage.k8s.io", "csidrivers"),
            allow("create delete get patch update", "storage.k8s.io", "csinodes"),
            allow(READ, "node.k8s.io", "runtimeclasses"),
        ],
    ),
    (
        "system:node-bootstrapper",
        &[allow("create get list watch", "certificates.k8s.io", "certificatesigningrequests")],
    ),
    (
        "system:node-problem-detector",
        &[allow("get", "-", "nodes"), allow("patch", "-", "nodes/status"), EVENTS],
    ),
    (
        "system:node-proxier",
        &[
            allow("list watch", "-", "endpoints services"),
            allow(READ, "-", "nodes"),
            EVENTS,
            allow("list watch", "discovery.k8s.io", "endpointslices"),
        ],
    ),
    // Not upstream's: what the DNS server needs that upstream runs as a deployment with a role of its own.
    (
        "system:node-dns",
        &[
            allow("list watch", "-", "endpoints namespaces services"),
            allow("list watch", "discovery.k8s.io", "endpointslices"),
        ],
    ),
    (
        "system:persistent-volume-provisioner",
        &[
            allow("create delete get list watch", "-", "persistentvolumes"),
            allow("get list update watch", "-", "persistentvolumeclaims"),
            allow(READ, "storage.k8s.io", "storageclasses"),
            allow("watch", "-", "events"),
            EVENTS,
        ],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[allow("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[allow("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client")],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet")],
    ),
    (
        "system:certificates.k8s.io:kubelet-serving-approver",
        &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kubelet-serving")],
    ),
    (
        "system:certificates.k8s.io:legacy-unknown-approver",
        &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/legacy-unknown")],
    ),
];

/// Which roles carry the label `aggregate-to-…`.
pub(super) const AGGREGATES: &[(&str, &str)] = &[
    ("system:aggregate-to-admin", "admin"),
    ("system:aggregate-to-edit", "edit"),
    ("system:aggregate-to-view", "view"),
    ("edit", "admin"),
    ("view", "edit"),
];

/// Which roles collect others, and what that comes to.
pub(super) const AGGREGATED: &[(&str, &[&str])] = &[
    ("admin", &["system:aggregate-to-edit", "system:aggregate-to-view", "system:aggregate-to-admin"]),
    ("edit", &["system:aggregate-to-edit", "system:aggregate-to-view"]),
    ("view", &["system:aggregate-to-view"]),
];

/// Cluster role bindings: name, role, subjects.
pub(super) const BINDINGS: &[(&str, &str, &str)] = &[
    ("cluster-admin", "cluster-admin", "group=system:masters"),
    ("system:monitoring", "system:monitoring", "group=system:monitoring"),
    ("system:discovery", "system:discovery", "group=system:authenticated"),
    ("system:basic-user", "system:basic-user", "group=system:authenticated"),
    (
        "system:public-info-viewer",
        "system:public-info-viewer",
        "group=system:authenticated group=system:unauthenticated",
    ),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        "group=system:serviceaccounts",
    ),
    (
        "system:kube-controller-manager",
        "system:kube-controller-manager",
        "user=system:kube-controller-manager",
    ),
    ("system:kube-scheduler", "system:kube-scheduler", "user=system:kube-scheduler"),
    ("system:volume-scheduler", "system:volume-scheduler", "user=system:kube-scheduler"),
    ("system:kube-dns", "system:kube-dns", "account=kube-system/kube-dns"),
    // The node authorizer speaks for nodes; upstream keeps this binding without subjects.
    ("system:node", "system:node", ""),
    // The node agent is also the proxy and the DNS server of its node.
    ("system:node-proxier", "system:node-proxier", "user=system:kube-proxy"),
    ("system:nodes:node-proxier", "system:node-proxier", "group=system:nodes"),
    ("system:nodes:node-dns", "system:node-dns", "group=system:nodes"),
];

/// Roles in namespaces: namespace, name, rules.
pub(super) const NAMESPACED: &[(&str, &str, &[Row])] = &[
    (
        "kube-system",
        "extension-apiserver-authentication-reader",
        &[named(READ, "-", "configmaps", "extension-apiserver-authentication")],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        &[
            allow("watch", "-", "configmaps"),
            named("get update", "-", "configmaps", "kube-controller-manager"),
        ],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        &[allow("watch", "-", "configmaps"), named("get update", "-", "configmaps", "kube-scheduler")],
    ),
];

/// Role bindings in namespaces: namespace, name, role, subjects.
pub(super) const NAMESPACED_BINDINGS: &[(&str, &str, &str, &str)] = &[
    (
        "kube-system",
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        "user=system:kube-controller-manager user=system:kube-scheduler",
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        "user=system:kube-controller-manager",
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        "user=system:kube-scheduler",
    ),
];
