//! Manifests that are refused, and what their authors are told.

use std::fmt::Write;

use crate::kit::create;

#[test]
fn bad_manifests_are_refused_with_a_message_that_names_the_place() {
    let mut said = String::new();
    for (name, manifest) in MANIFESTS {
        let status = create(manifest).expect_err(name);
        writeln!(said, "{name}\n  {} {}", status.code, status.message).unwrap();
    }
    insta::assert_snapshot!(said);
}

/// What is wrong, and the manifest.
const MANIFESTS: &[(&str, &str)] = &[
    ("a pod without containers", r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {}}"#),
    (
        "a container without name and image",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{}]}}"#,
    ),
    (
        "a container with an upper-case name",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: Web, image: b}]}}"#,
    ),
    (
        "two containers of one name",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b}, {name: a, image: b}]}}"#,
    ),
    (
        "a name with an underscore",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: my_pod}, spec: {containers: [{name: a, image: b}]}}"#,
    ),
    ("no name", r#"{apiVersion: v1, kind: Pod, metadata: {}, spec: {containers: [{name: a, image: b}]}}"#),
    (
        "a label value with a space",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x, labels: {app: 'my app'}}, spec: {containers: [{name: a, image: b}]}}"#,
    ),
    (
        "a label key with two slashes",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x, labels: {a/b/c: d}}, spec: {containers: [{name: a, image: b}]}}"#,
    ),
    (
        "an annotation key that is no name",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x, annotations: {'a b': d}}, spec: {containers: [{name: a, image: b}]}}"#,
    ),
    (
        "an unknown field in the spec",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b}], foo: bar}}"#,
    ),
    (
        "a misspelled field in a container",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, imagePullPolice: Always}]}}"#,
    ),
    (
        "a number where a text belongs",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: 5}]}}"#,
    ),
    (
        "a text where a list belongs",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: a}}"#,
    ),
    (
        "labels that are no texts",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x, labels: {app: 5}}, spec: {containers: [{name: a, image: b}]}}"#,
    ),
    (
        "an unknown restart policy",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b}], restartPolicy: Sometimes}}"#,
    ),
    (
        "an unknown DNS policy",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b}], dnsPolicy: Mine}}"#,
    ),
    (
        "DNS policy None without nameservers",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b}], dnsPolicy: None}}"#,
    ),
    (
        "an unknown pull policy",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, imagePullPolicy: Maybe}]}}"#,
    ),
    (
        "a port that is too high",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, ports: [{containerPort: 70000}]}]}}"#,
    ),
    (
        "a port without number",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, ports: [{name: http}]}]}}"#,
    ),
    (
        "a port with a bad name",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, ports: [{containerPort: 80, name: This_Is_Long_And_Bad}]}]}}"#,
    ),
    (
        "an unknown protocol",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, ports: [{containerPort: 80, protocol: HTTP}]}]}}"#,
    ),
    (
        "one host port twice",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, ports: [{containerPort: 80, hostPort: 80}, {containerPort: 81, hostPort: 80}]}]}}"#,
    ),
    (
        "an environment variable without name",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, env: [{value: x}]}]}}"#,
    ),
    (
        "an environment variable with an equals sign",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, env: [{name: A=B, value: x}]}]}}"#,
    ),
    (
        "an environment variable from two sources",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}, secretKeyRef: {name: s, key: k}}}]}]}}"#,
    ),
    (
        "an environment variable from no source",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, env: [{name: A, valueFrom: {}}]}]}}"#,
    ),
    (
        "a field that cannot be shown",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.foo}}}]}]}}"#,
    ),
    (
        "a mount of no volume",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /x}]}]}}"#,
    ),
    (
        "two mounts at one place",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {volumes: [{name: v}], containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /x}, {name: v, mountPath: /x}]}]}}"#,
    ),
    (
        "a volume of two types",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {volumes: [{name: v, emptyDir: {}, hostPath: {path: /x}}], containers: [{name: a, image: b}]}}"#,
    ),
    (
        "a secret volume without name",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {volumes: [{name: v, secret: {}}], containers: [{name: a, image: b}]}}"#,
    ),
    (
        "a file mode beyond 0777",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {volumes: [{name: v, configMap: {name: c, defaultMode: 1000}}], containers: [{name: a, image: b}]}}"#,
    ),
    (
        "a host path that climbs",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {volumes: [{name: v, hostPath: {path: /a/../b}}], containers: [{name: a, image: b}]}}"#,
    ),
    (
        "a probe without handler",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, livenessProbe: {periodSeconds: 5}}]}}"#,
    ),
    (
        "a probe with two handlers",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, livenessProbe: {exec: {command: [a]}, tcpSocket: {port: 80}}}]}}"#,
    ),
    (
        "a liveness probe with two successes",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, livenessProbe: {exec: {command: [a]}, successThreshold: 2}}]}}"#,
    ),
    (
        "a probe in an init container",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b}], initContainers: [{name: i, image: b, readinessProbe: {exec: {command: [a]}}}]}}"#,
    ),
    (
        "requests beyond limits",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, resources: {requests: {cpu: 2}, limits: {cpu: 500m}}}]}}"#,
    ),
    (
        "a negative limit",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, resources: {limits: {memory: -1Gi}}}]}}"#,
    ),
    (
        "an amount that is no quantity",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, resources: {limits: {memory: 1GB}}}]}}"#,
    ),
    (
        "a resource that containers do not have",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, resources: {limits: {gpu: 1}}}]}}"#,
    ),
    (
        "a toleration with a value for Exists",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b}], tolerations: [{key: a, operator: Exists, value: b}]}}"#,
    ),
    (
        "an unknown taint effect",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b}], tolerations: [{key: a, effect: Never}]}}"#,
    ),
    (
        "node affinity without terms",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b}], affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}}}"#,
    ),
    (
        "a negative grace period",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b}], terminationGracePeriodSeconds: -1}}"#,
    ),
    (
        "a host alias that is no address",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b}], hostAliases: [{ip: x, hostnames: [a]}]}}"#,
    ),
    (
        "privileged without escalation",
        r#"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, securityContext: {privileged: true, allowPrivilegeEscalation: false}}]}}"#,
    ),
    (
        "a replication controller without template",
        r#"{apiVersion: v1, kind: ReplicationController, metadata: {name: x}, spec: {replicas: 1, selector: {a: b}}}"#,
    ),
    (
        "a replication controller whose selector misses its pods",
        r#"{apiVersion: v1, kind: ReplicationController, metadata: {name: x}, spec: {selector: {app: db}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: b}]}}}}"#,
    ),
    (
        "a replication controller with negative replicas",
        r#"{apiVersion: v1, kind: ReplicationController, metadata: {name: x}, spec: {replicas: -1, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: b}]}}}}"#,
    ),
    (
        "a deployment without selector",
        r#"{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: b}]}}}}"#,
    ),
    (
        "a deployment with an empty selector",
        r#"{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {selector: {}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: b}]}}}}"#,
    ),
    (
        "a deployment whose selector misses its pods",
        r#"{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: b}]}}}}"#,
    ),
    (
        "a deployment of pods that end",
        r#"{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {restartPolicy: Never, containers: [{name: a, image: b}]}}}}"#,
    ),
    (
        "a deployment that can never move",
        r#"{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {selector: {matchLabels: {app: web}}, strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: b}]}}}}"#,
    ),
    (
        "a deployment that surges by a word",
        r#"{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {selector: {matchLabels: {app: web}}, strategy: {rollingUpdate: {maxSurge: many}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: b}]}}}}"#,
    ),
    (
        "a deployment with an unknown strategy",
        r#"{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {selector: {matchLabels: {app: web}}, strategy: {type: Blue}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: b}]}}}}"#,
    ),
    (
        "a deployment whose replicas are a text",
        r#"{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {replicas: '3', selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: b}]}}}}"#,
    ),
    (
        "a deployment with an unknown selector operator",
        r#"{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {selector: {matchLabels: {app: web}, matchExpressions: [{key: a, operator: Is}]}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: b}]}}}}"#,
    ),
    (
        "a daemon set that surges and drains",
        r#"{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: x}, spec: {selector: {matchLabels: {app: web}}, updateStrategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 1}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: b}]}}}}"#,
    ),
    (
        "a stateful set with an unknown policy",
        r#"{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: x}, spec: {podManagementPolicy: Fast, serviceName: s, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: b}]}}}}"#,
    ),
    (
        "a job of pods that are restarted always",
        r#"{apiVersion: batch/v1, kind: Job, metadata: {name: x}, spec: {template: {spec: {containers: [{name: a, image: b}]}}}}"#,
    ),
    (
        "an indexed job without completions",
        r#"{apiVersion: batch/v1, kind: Job, metadata: {name: x}, spec: {parallelism: 2, completionMode: Indexed, template: {spec: {restartPolicy: Never, containers: [{name: a, image: b}]}}}}"#,
    ),
    (
        "a cron job with a bad schedule",
        r#"{apiVersion: batch/v1, kind: CronJob, metadata: {name: x}, spec: {schedule: '* * * *', jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: b}]}}}}}}"#,
    ),
    (
        "a service without ports",
        r#"{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {selector: {a: b}}}"#,
    ),
    (
        "a service whose name begins with a digit",
        r#"{apiVersion: v1, kind: Service, metadata: {name: 1x}, spec: {ports: [{port: 80}]}}"#,
    ),
    (
        "a service with two ports without names",
        r#"{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {ports: [{port: 80}, {port: 81}]}}"#,
    ),
    (
        "a service with one port twice",
        r#"{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {ports: [{port: 80, name: a}, {port: 80, name: b}]}}"#,
    ),
    (
        "a node port on a ClusterIP service",
        r#"{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {ports: [{port: 80, nodePort: 30080}]}}"#,
    ),
    (
        "an ExternalName service without name",
        r#"{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {type: ExternalName}}"#,
    ),
    (
        "a service of an unknown type",
        r#"{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {type: Proxy, ports: [{port: 80}]}}"#,
    ),
    (
        "a cluster IP that is no address",
        r#"{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {clusterIP: 10.3.0, ports: [{port: 80}]}}"#,
    ),
    (
        "a load balancer without a cluster IP",
        r#"{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {type: LoadBalancer, clusterIP: None, ports: [{port: 80}]}}"#,
    ),
    (
        "an external IP of the loopback",
        r#"{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {externalIPs: [127.0.0.1], ports: [{port: 80}]}}"#,
    ),
    (
        "a session affinity that is unknown",
        r#"{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {sessionAffinity: Cookie, ports: [{port: 80}]}}"#,
    ),
    (
        "endpoints without addresses",
        r#"{apiVersion: v1, kind: Endpoints, metadata: {name: x}, subsets: [{ports: [{port: 80}]}]}"#,
    ),
    (
        "an endpoint slice without addresses",
        r#"{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x}, addressType: IPv4, endpoints: [{addresses: []}]}"#,
    ),
    (
        "an endpoint slice of the other family",
        r#"{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x}, addressType: IPv4, endpoints: [{addresses: ['fd00::1']}]}"#,
    ),
    (
        "a config map with a bad key",
        r#"{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {'a/b': c}}"#,
    ),
    ("a config map with a number", r#"{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {a: 5}}"#),
    (
        "a secret that is no base64",
        r#"{apiVersion: v1, kind: Secret, metadata: {name: x}, data: {a: '***'}}"#,
    ),
    (
        "a TLS secret without its key",
        r#"{apiVersion: v1, kind: Secret, metadata: {name: x}, type: kubernetes.io/tls, data: {tls.crt: eA==}}"#,
    ),
    (
        "a token secret without an account",
        r#"{apiVersion: v1, kind: Secret, metadata: {name: x}, type: kubernetes.io/service-account-token}"#,
    ),
    ("a namespace with a dot", r#"{apiVersion: v1, kind: Namespace, metadata: {name: a.b}}"#),
    (
        "a cluster-scoped object in a namespace",
        r#"{apiVersion: v1, kind: Namespace, metadata: {name: a, namespace: b}}"#,
    ),
    (
        "a node with a bad taint",
        r#"{apiVersion: v1, kind: Node, metadata: {name: x}, spec: {taints: [{key: a, effect: Maybe}, {effect: NoSchedule}]}}"#,
    ),
    (
        "an ingress without path type",
        r#"{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: x}, spec: {rules: [{http: {paths: [{path: /, backend: {service: {name: s, port: {number: 80}}}}]}}]}}"#,
    ),
    (
        "an ingress without rules",
        r#"{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: x}, spec: {}}"#,
    ),
    (
        "an ingress of the old form",
        r#"{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: x}, spec: {backend: {serviceName: s, servicePort: 80}}}"#,
    ),
    (
        "a network policy with a bad range",
        r#"{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: x}, spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}, {}]}]}}"#,
    ),
    (
        "a budget with both limits",
        r#"{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: x}, spec: {minAvailable: 1, maxUnavailable: 50%, selector: {}}}"#,
    ),
    (
        "a role without verbs",
        r#"{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: x}, rules: [{apiGroups: [''], resources: [pods]}]}"#,
    ),
    (
        "a binding of an unknown subject",
        r#"{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: x}, roleRef: {kind: Role, name: r}, subjects: [{kind: Person, name: p}, {kind: ServiceAccount, name: s}]}"#,
    ),
    (
        "a cluster binding of a role",
        r#"{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: x}, roleRef: {kind: Role, name: r}}"#,
    ),
    (
        "a priority class above the highest",
        r#"{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: x}, value: 2000000000}"#,
    ),
    (
        "a priority class of the system",
        r#"{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: system-x}, value: 1}"#,
    ),
    (
        "an autoscaler whose least is above its most",
        r#"{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: x}, spec: {minReplicas: 5, maxReplicas: 3, scaleTargetRef: {kind: Deployment, name: d}}}"#,
    ),
    (
        "an autoscaler of nothing",
        r#"{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: x}, spec: {maxReplicas: 0, scaleTargetRef: {}}}"#,
    ),
    (
        "a claim without size",
        r#"{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: x}, spec: {accessModes: [ReadWriteOnce]}}"#,
    ),
    (
        "a claim without access mode",
        r#"{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: x}, spec: {resources: {requests: {storage: 1Gi}}}}"#,
    ),
    (
        "a volume without source",
        r#"{apiVersion: v1, kind: PersistentVolume, metadata: {name: x}, spec: {accessModes: [ReadWrite], capacity: {storage: 1Gi}}}"#,
    ),
    (
        "a limit range whose least is above its most",
        r#"{apiVersion: v1, kind: LimitRange, metadata: {name: x}, spec: {limits: [{type: Container, min: {cpu: 2}, max: {cpu: 1}}]}}"#,
    ),
    (
        "a quota of nothing countable",
        r#"{apiVersion: v1, kind: ResourceQuota, metadata: {name: x}, spec: {hard: {pods: 1500m}, scopes: [Often]}}"#,
    ),
    (
        "a lease without duration",
        r#"{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: x}, spec: {leaseDurationSeconds: 0}}"#,
    ),
    (
        "an event about another namespace",
        r#"{apiVersion: v1, kind: Event, metadata: {name: x}, involvedObject: {kind: Pod, name: p, namespace: other}}"#,
    ),
    (
        "two owners that control",
        r#"{apiVersion: v1, kind: ConfigMap, metadata: {name: x, ownerReferences: [{apiVersion: v1, kind: A, name: a, uid: u, controller: true}, {apiVersion: v1, kind: B, name: b, uid: w, controller: true}]}}"#,
    ),
    (
        "a custom definition whose name does not fit",
        r#"{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: x}, spec: {group: a.b, scope: Namespaced, names: {plural: cs, kind: C}, versions: [{name: v1, served: true, storage: true}]}}"#,
    ),
];
