//! Manifests that must be taken: a validation that says no to these is broken.

use api::registry::builtin;
use serde_json::json;

use crate::kit::{create, kind_of};

const MANIFESTS: &[&str] = &[
    "{apiVersion: v1, kind: Pod, metadata: {name: nginx}, spec: {containers: [{name: nginx, image: nginx}]}}",
    "{apiVersion: v1, kind: Pod, metadata: {name: 'a.b-1', labels: {run: x, app.kubernetes.io/name: yy, empty: ''}}, spec: {containers: [{name: a, image: b, command: [sleep, '1'], env: [{name: A, value: ''}, {name: B, valueFrom: {configMapKeyRef: {name: c, key: k, optional: true}}}, {name: C, valueFrom: {fieldRef: {fieldPath: 'metadata.labels[''a'']'}}}, {name: D, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}], envFrom: [{secretRef: {name: s}}], ports: [{containerPort: 53, protocol: UDP, name: dns}, {containerPort: 53, protocol: TCP, name: dns-tcp}], readinessProbe: {httpGet: {port: http, path: /}}, lifecycle: {preStop: {sleep: {seconds: 3}}}, volumeMounts: [{name: v, mountPath: /v, subPath: a/b}], resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {memory: 64Mi, example.com/gpu: 1}}, securityContext: {runAsUser: 1000, capabilities: {drop: [ALL]}}}], initContainers: [{name: i, image: b}, {name: s, image: b, restartPolicy: Always, startupProbe: {tcpSocket: {port: 80}}}], volumes: [{name: v, emptyDir: {medium: Memory, sizeLimit: 1Mi}}, {name: t, projected: {sources: [{serviceAccountToken: {path: token}}, {configMap: {name: c, items: [{key: ca.crt, path: ca.crt}]}}, {downwardAPI: {items: [{path: ns, fieldRef: {fieldPath: metadata.namespace}}]}}]}}, {name: p, persistentVolumeClaim: {claimName: c}}], tolerations: [{operator: Exists}, {key: a, value: b, effect: NoExecute, tolerationSeconds: 300}], nodeSelector: {kubernetes.io/os: linux}, affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchExpressions: [{key: app, operator: In, values: [x]}]}}}]}}, topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}], hostAliases: [{ip: 10.0.0.1, hostnames: [a.b]}], dnsConfig: {nameservers: [1.1.1.1], options: [{name: ndots, value: '2'}]}, imagePullSecrets: [{name: r}], hostname: h, subdomain: s}}",
    "{apiVersion: v1, kind: Pod, metadata: {name: nn}, spec: {hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet, containers: [{name: a, image: b, ports: [{containerPort: 80}]}]}}",
    "{apiVersion: v1, kind: ReplicationController, metadata: {name: rc}, spec: {replicas: 2, selector: {run: nginx}, template: {metadata: {labels: {run: nginx}}, spec: {containers: [{name: nginx, image: nginx, ports: [{containerPort: 80}]}]}}}}",
    "{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: rs}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b, c: d}}, spec: {containers: [{name: a, image: b}]}}}}",
    "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {replicas: 0, strategy: {type: Recreate}, selector: {matchExpressions: [{key: a, operator: Exists}]}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: b}]}}}}",
    "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: d}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: b}]}}}}",
    "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: s}, spec: {serviceName: s, selector: {matchLabels: {a: b}}, volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}], template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: b, volumeMounts: [{name: data, mountPath: /data}]}]}}}}",
    "{apiVersion: batch/v1, kind: Job, metadata: {name: pi}, spec: {completions: 3, parallelism: 2, ttlSecondsAfterFinished: 0, template: {spec: {restartPolicy: OnFailure, containers: [{name: a, image: b}]}}}}",
    "{apiVersion: batch/v1, kind: CronJob, metadata: {name: c}, spec: {schedule: '*/5 * * * *', timeZone: Etc/UTC, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: b}]}}}}}}",
    "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {selector: {a: b}, ports: [{port: 80, targetPort: http}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: NodePort, ports: [{name: a, port: 80, nodePort: 30080}, {name: b, port: 80, protocol: UDP}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: LoadBalancer, externalTrafficPolicy: Local, sessionAffinity: ClientIP, loadBalancerSourceRanges: [10.0.0.0/8], ports: [{port: 80}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: ExternalName, externalName: example.com}}",
    "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {clusterIP: None, selector: {a: b}}}",
    "{apiVersion: v1, kind: Endpoints, metadata: {name: e}, subsets: [{addresses: [{ip: 10.2.0.1, targetRef: {kind: Pod, name: p}}], ports: [{port: 80}]}]}",
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e}, addressType: IPv4, endpoints: [{addresses: [10.2.0.1], conditions: {ready: true}}], ports: [{name: '', port: 80}]}",
    "{apiVersion: v1, kind: ConfigMap, metadata: {name: kube-root-ca.crt}, data: {ca.crt: x, A_b-c: ''}, binaryData: {b: eA==}}",
    "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {password: x}}",
    "{apiVersion: v1, kind: Secret, metadata: {name: s}, type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: '{}'}}",
    "{apiVersion: v1, kind: Namespace, metadata: {name: team-1}}",
    "{apiVersion: v1, kind: Node, metadata: {name: 172.17.4.201, labels: {node-role.kubernetes.io/worker: ''}}, spec: {podCIDR: 10.2.1.0/24, podCIDRs: [10.2.1.0/24], taints: [{key: node.kubernetes.io/unschedulable, effect: NoSchedule}]}, status: {capacity: {cpu: 2, memory: 4Gi, pods: 110}}}",
    "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default}}",
    "{apiVersion: v1, kind: Event, metadata: {name: p.17a}, involvedObject: {kind: Pod, name: p, namespace: default}, reason: Started, message: m, type: Normal, count: 1, firstTimestamp: '2026-01-01T00:00:00Z', source: {component: kubelet}}",
    "{apiVersion: v1, kind: Event, metadata: {name: n.17a}, involvedObject: {kind: Node, name: nn}, reason: Starting}",
    "{apiVersion: events.k8s.io/v1, kind: Event, metadata: {name: p.17b}, regarding: {kind: Pod, name: p, namespace: default}, reason: Scheduled, note: m, type: Normal, action: Binding, reportingController: default-scheduler, reportingInstance: a, eventTime: '2026-01-01T00:00:00.000000Z'}",
    "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i}, spec: {ingressClassName: nginx, tls: [{hosts: [a.b], secretName: s}], rules: [{host: '*.a.b', http: {paths: [{path: /x, pathType: Prefix, backend: {service: {name: s, port: {name: http}}}}]}}]}}",
    "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: nn}, spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {a: b}}, namespaceSelector: {}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 80, endPort: 90}, {port: http}]}], egress: [{}]}}",
    "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: p}, spec: {minAvailable: 50%, selector: {matchLabels: {a: b}}}}",
    "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: l}, spec: {holderIdentity: h, leaseDurationSeconds: 40, renewTime: '2026-01-01T00:00:00.123456Z'}}",
    "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: 'system:x'}, aggregationRule: {clusterRoleSelectors: [{matchLabels: {a: b}}]}, rules: [{verbs: ['*'], apiGroups: ['*'], resources: ['*']}, {verbs: [get], nonResourceURLs: ['/healthz']}]}",
    "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: 'system:x'}, roleRef: {kind: ClusterRole, name: 'system:x', apiGroup: rbac.authorization.k8s.io}, subjects: [{kind: Group, name: 'system:nodes'}, {kind: ServiceAccount, name: a, namespace: b}]}",
    "{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: system-node-critical}, value: 2000001000}",
    "{apiVersion: v1, kind: LimitRange, metadata: {name: l}, spec: {limits: [{type: Container, default: {cpu: 500m}, defaultRequest: {cpu: 100m}, max: {cpu: 1}}]}}",
    "{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {pods: 10, requests.cpu: 4, count/deployments.apps: 5}, scopes: [NotTerminating]}}",
    "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c}, spec: {accessModes: [ReadWriteOnce], storageClassName: '', resources: {requests: {storage: 1Gi}}}}",
    "{apiVersion: v1, kind: PersistentVolume, metadata: {name: v}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /data}}}",
    "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: s}, provisioner: example.com/x, volumeBindingMode: WaitForFirstConsumer}",
    "{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: h}, spec: {maxReplicas: 5, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}}}",
    "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: h}, spec: {maxReplicas: 5, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}, metrics: [{type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 1Gi}}}]}}",
    "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: crontabs.stable.example.com}, spec: {group: stable.example.com, scope: Namespaced, names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct]}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {replicas: {type: integer, default: 1}}}}}}}]}}",
    "{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1beta1.metrics.k8s.io}, spec: {group: metrics.k8s.io, version: v1beta1, groupPriorityMinimum: 100, versionPriority: 100, service: {name: m, namespace: kube-system}}}",
    "{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {name: c}, spec: {request: eA==, signerName: kubernetes.io/kube-apiserver-client, usages: [client auth]}}",
    "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: w}, webhooks: [{name: a.b.c, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {service: {name: s, namespace: nn}}, rules: [{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [pods]}]}]}",
];

#[test]
fn good_manifests_are_taken_and_defaulting_them_again_changes_nothing() {
    for manifest in MANIFESTS {
        let object = create(manifest).unwrap_or_else(|status| panic!("{}\n{manifest}", status.message));
        let kind = kind_of(&object);
        let mut again = object.clone();
        assert_eq!(kind.decode(&mut again).unwrap(), Vec::<String>::new(), "{manifest}");
        kind.default(&mut again);
        assert_eq!(again, object, "{manifest}");
        let mut stored = object.clone();
        kind.to_storage(&mut stored);
        kind.from_storage(&mut stored);
        assert_eq!(stored, object, "{manifest}");
    }
}

#[test]
fn every_table_has_a_cell_for_each_column() {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    for kind in builtin().iter() {
        // What a table is made of need not be valid, nor complete.
        for object in [
            json!({"metadata": {"name": "x"}}),
            json!({}),
            json!({"metadata": {"name": "x"}, "spec": {}, "status": {}}),
        ] {
            let row = kind.table.row(&object, now);
            assert_eq!(row.len(), kind.table.columns.len(), "{}/{}", kind.group, kind.kind);
        }
    }
}

#[test]
fn the_columns_are_the_ones_that_kubectl_has_always_shown() {
    let mut shown = String::new();
    for kind in builtin().iter().filter(|kind| kind.verbs.contains(&"list")) {
        let columns = kind.table.columns.iter();
        let names: Vec<String> = columns
            .map(
                |column| {
                    if column.priority > 0 { format!("({})", column.name) } else { column.name.to_string() }
                },
            )
            .collect();
        shown += &format!("{}/{} {}\n", kind.group, kind.plural, names.join(", "));
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn every_kind_has_a_definition_and_survives_an_empty_object() {
    for kind in builtin().iter() {
        assert!(kind.definition.is_some(), "{}/{}", kind.group, kind.kind);
        let mut object = json!({});
        kind.stamp(&mut object);
        kind.decode(&mut object).unwrap();
        kind.default(&mut object);
        kind.prepare_create(&mut object);
        let old = object.clone();
        kind.validate_create(&object).unwrap_err();
        kind.prepare_update(&mut object, &old, api::registry::Part::Main);
        kind.validate_update(&object, &old, api::registry::Part::Main).unwrap_err();
    }
}
