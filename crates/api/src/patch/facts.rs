//! What the schema facts of upstream's kinds say to a strategic merge.

use super::{Field, Schema};
use crate::schema::{self, Form, Type};

/// Returns what a strategic merge must know of a kind; `None` for kinds that are not upstream's, whose objects
/// take no strategic merge patch.
#[must_use]
pub fn schema_of(group: &str, version: &str, kind: &str) -> Option<Type> {
    schema::of_kind(group, version, kind)?.id().map(Type::Ref)
}

impl Schema for Type {
    fn field(&self, name: &str) -> Option<Field<Self>> {
        match self {
            Self::Ref(id) if id.get().form == Form::Object => {
                let property = id.get().property(name)?;
                Some(Field {
                    schema: Some(element(property.ty)),
                    merge: property.patch.merge,
                    merge_key: property.patch.merge_key,
                })
            }
            Self::Map(value) => Some(Field { schema: Some(element(**value)), merge: false, merge_key: None }),
            _ => None,
        }
    }
}

/// Returns the type of a list's elements, and any other type as it is.
fn element(ty: Type) -> Type {
    match ty {
        Type::List(inner) => *inner,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::strategic_merge;
    use super::*;

    #[test]
    fn a_deployment_is_patched_as_kubectl_does() {
        let schema = schema_of("apps", "v1", "Deployment").unwrap();
        let mut object = json!({"spec": {"replicas": 1, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
            "template": {"spec": {
                "containers": [{"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}], "args": ["x"]}],
                "volumes": [{"name": "v", "emptyDir": {}}],
                "tolerations": [{"key": "a"}]}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"},
            "template": {"spec": {
                "$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
                "containers": [
                    {"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}], "args": ["y"]},
                    {"name": "b", "image": "b"}],
                "volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}],
                "tolerations": [{"key": "b"}]}}}});
        strategic_merge(&mut object, &patch, &schema).unwrap();
        assert_eq!(
            object,
            json!({"spec": {"replicas": 1, "strategy": {"type": "Recreate"}, "template": {"spec": {
                "containers": [
                    {"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}], "args": ["y"]},
                    {"name": "b", "image": "b"}],
                "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
                "tolerations": [{"key": "b"}]}}}})
        );
    }

    #[test]
    fn lists_of_upstream_merge_by_upstreams_keys() {
        for (group, kind, path, key) in [
            ("", "Service", "spec.ports", Some("port")),
            ("", "Pod", "spec.containers", Some("name")),
            ("", "Pod", "spec.imagePullSecrets", Some("name")),
            ("", "Pod", "spec.hostAliases", Some("ip")),
            ("", "Pod", "metadata.ownerReferences", Some("uid")),
            ("", "Pod", "status.conditions", Some("type")),
            ("", "ServiceAccount", "secrets", Some("name")),
            ("", "Node", "spec.podCIDRs", None),
            ("", "Pod", "metadata.finalizers", None),
        ] {
            let mut schema = schema_of(group, "v1", kind).unwrap();
            let mut found = None;
            for name in path.split('.') {
                let field = schema.field(name).unwrap_or_else(|| panic!("{kind}.{path}"));
                schema = field.schema.unwrap();
                found = Some((field.merge, field.merge_key));
            }
            assert_eq!(found, Some((true, key)), "{kind}.{path}");
        }
        assert!(!schema_of("", "v1", "Pod").unwrap().field("spec").unwrap().merge);
        assert!(schema_of("example.com", "v1", "Frob").is_none());
    }
}
