//! The texts that `kubectl explain` prints: from the schemas of the `k8s-openapi` crate.

use std::collections::HashMap;

use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::Value;

/// The texts of definitions, by their name with `io.k8s.`.
pub(super) struct Texts(HashMap<String, Value>);

/// Calls the generator for every type of a list.
macro_rules! add {
    ($generator:ident: $($kind:ty),* $(,)?) => {{ $( let _: schemars::Schema = $generator.subschema_for::<$kind>(); )* }};
}

impl Texts {
    /// Returns the texts of everything that a group and version speaks of.
    pub(super) fn of(group: &str, version: &str) -> Self {
        let mut generator = SchemaSettings::draft07().into_generator();
        add(&mut generator, group, version);
        Self(generator.take_definitions(false).into_iter().collect())
    }

    /// Returns the text of a definition; empty when there is none.
    pub(super) fn definition(&self, name: &str) -> &str {
        self.0.get(name).map_or("", description)
    }

    /// Returns the text of a definition's field; empty when there is none.
    pub(super) fn field(&self, name: &str, field: &str) -> &str {
        self.0
            .get(name)
            .and_then(|definition| definition.get("properties")?.get(field))
            .map_or("", description)
    }
}

fn description(value: &Value) -> &str {
    value.get("description").and_then(Value::as_str).unwrap_or_default()
}

fn add(generator: &mut SchemaGenerator, group: &str, version: &str) {
    add!(generator: k8s_openapi::apimachinery::pkg::apis::meta::v1::Status,
        k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions,
        k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta,
    );
    match (group, version) {
        ("", "v1") => {
            add!(generator: k8s_openapi::api::core::v1::Binding, k8s_openapi::api::core::v1::Namespace, k8s_openapi::api::core::v1::Node, k8s_openapi::api::core::v1::PersistentVolume, k8s_openapi::api::core::v1::PersistentVolumeClaim, k8s_openapi::api::core::v1::Pod, k8s_openapi::api::core::v1::ReplicationController, k8s_openapi::api::core::v1::ResourceQuota, k8s_openapi::api::core::v1::Service, k8s_openapi::api::authentication::v1::TokenRequest, k8s_openapi::api::autoscaling::v1::Scale, k8s_openapi::api::policy::v1::Eviction, k8s_openapi::api::core::v1::ComponentStatus, k8s_openapi::api::core::v1::ConfigMap, k8s_openapi::api::core::v1::Endpoints, k8s_openapi::api::core::v1::Event, k8s_openapi::api::core::v1::LimitRange, k8s_openapi::api::core::v1::PodTemplate, k8s_openapi::api::core::v1::Secret, k8s_openapi::api::core::v1::ServiceAccount);
        }
        ("admissionregistration.k8s.io", "v1") => {
            add!(generator: k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy, k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicy, k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicyBinding, k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration, k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding, k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration);
        }
        ("apiextensions.k8s.io", "v1") => {
            add!(generator: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition);
        }
        ("apiregistration.k8s.io", "v1") => {
            add!(generator: k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService);
        }
        ("apps", "v1") => {
            add!(generator: k8s_openapi::api::apps::v1::DaemonSet, k8s_openapi::api::apps::v1::Deployment, k8s_openapi::api::apps::v1::ReplicaSet, k8s_openapi::api::apps::v1::StatefulSet, k8s_openapi::api::autoscaling::v1::Scale, k8s_openapi::api::apps::v1::ControllerRevision);
        }
        ("authentication.k8s.io", "v1") => {
            add!(generator: k8s_openapi::api::authentication::v1::SelfSubjectReview, k8s_openapi::api::authentication::v1::TokenReview);
        }
        ("authorization.k8s.io", "v1") => {
            add!(generator: k8s_openapi::api::authorization::v1::LocalSubjectAccessReview, k8s_openapi::api::authorization::v1::SelfSubjectAccessReview, k8s_openapi::api::authorization::v1::SelfSubjectRulesReview, k8s_openapi::api::authorization::v1::SubjectAccessReview);
        }
        ("autoscaling", "v1") => {
            add!(generator: k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler);
        }
        ("autoscaling", "v2") => {
            add!(generator: k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler);
        }
        ("batch", "v1") => {
            add!(generator: k8s_openapi::api::batch::v1::CronJob, k8s_openapi::api::batch::v1::Job);
        }
        ("certificates.k8s.io", "v1") => {
            add!(generator: k8s_openapi::api::certificates::v1::CertificateSigningRequest);
        }
        ("coordination.k8s.io", "v1") => {
            add!(generator: k8s_openapi::api::coordination::v1::Lease);
        }
        ("discovery.k8s.io", "v1") => {
            add!(generator: k8s_openapi::api::discovery::v1::EndpointSlice);
        }
        ("events.k8s.io", "v1") => {
            add!(generator: k8s_openapi::api::events::v1::Event);
        }
        ("flowcontrol.apiserver.k8s.io", "v1") => {
            add!(generator: k8s_openapi::api::flowcontrol::v1::FlowSchema, k8s_openapi::api::flowcontrol::v1::PriorityLevelConfiguration);
        }
        ("networking.k8s.io", "v1") => {
            add!(generator: k8s_openapi::api::networking::v1::Ingress, k8s_openapi::api::networking::v1::ServiceCIDR, k8s_openapi::api::networking::v1::IPAddress, k8s_openapi::api::networking::v1::IngressClass, k8s_openapi::api::networking::v1::NetworkPolicy);
        }
        ("node.k8s.io", "v1") => {
            add!(generator: k8s_openapi::api::node::v1::RuntimeClass);
        }
        ("policy", "v1") => {
            add!(generator: k8s_openapi::api::policy::v1::PodDisruptionBudget);
        }
        ("rbac.authorization.k8s.io", "v1") => {
            add!(generator: k8s_openapi::api::rbac::v1::ClusterRole, k8s_openapi::api::rbac::v1::ClusterRoleBinding, k8s_openapi::api::rbac::v1::Role, k8s_openapi::api::rbac::v1::RoleBinding);
        }
        ("resource.k8s.io", "v1") => {
            add!(generator: k8s_openapi::api::resource::v1::ResourceClaim, k8s_openapi::api::resource::v1::DeviceClass, k8s_openapi::api::resource::v1::ResourceClaimTemplate, k8s_openapi::api::resource::v1::ResourceSlice);
        }
        ("scheduling.k8s.io", "v1") => {
            add!(generator: k8s_openapi::api::scheduling::v1::PriorityClass);
        }
        ("storage.k8s.io", "v1") => {
            add!(generator: k8s_openapi::api::storage::v1::VolumeAttachment, k8s_openapi::api::storage::v1::CSIDriver, k8s_openapi::api::storage::v1::CSINode, k8s_openapi::api::storage::v1::CSIStorageCapacity, k8s_openapi::api::storage::v1::StorageClass, k8s_openapi::api::storage::v1::VolumeAttributesClass);
        }
        _ => {}
    }
}
