//! What is accepted in a pod spec but will not do what its author thinks.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::{Path, quote};
use crate::meta;
use crate::quantity::Quantity;
use crate::value::{list, text};

/// Labels of nodes that have other names by now.
const RENAMED: &[(&str, &str, &str)] = &[
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];

/// Warns about a pod.
pub(super) fn pod(pod: &Value) -> Vec<String> {
    let mut warnings = spec(&pod["spec"], &Path::new("spec"));
    let wrong = meta::dns_label_errors(meta::name(pod));
    if !wrong.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS \
             label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
    warnings
}

/// Warns about the pods of a workload.
pub(in crate::kinds) fn workload(object: &Value) -> Vec<String> {
    spec(&object["spec"]["template"]["spec"], &Path::new("spec").child("template").child("spec"))
}

fn spec(spec: &Value, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    for (old, since, new) in RENAMED {
        if !spec["nodeSelector"][*old].is_null() {
            let at = path.child("nodeSelector").key(old);
            warnings.push(format!("{at}: deprecated since {since}; use {} instead", quote(new)));
        }
    }
    for key in ["initContainers", "containers"] {
        for (index, container) in list(spec, key).iter().enumerate() {
            one_container(container, &path.child(key).index(index), &mut warnings);
        }
    }
    warnings
}

fn one_container(container: &Value, path: &Path, warnings: &mut Vec<String>) {
    let mut names = BTreeSet::new();
    for (index, variable) in list(container, "env").iter().enumerate() {
        let name = text(variable, "name");
        if !names.insert(name) {
            let at = path.child("env").index(index);
            warnings.push(format!(
                "{at}: hides previous definition of {}, which may be dropped when using apply",
                quote(name)
            ));
        }
    }
    for side in ["limits", "requests"] {
        for name in ["memory", "ephemeral-storage"] {
            let amount = Quantity::read(&container["resources"][side][name]);
            if let Some(amount) = amount.filter(|amount| !amount.is_whole()) {
                let at = path.child("resources").child(side).key(name);
                let amount = quote(&amount.to_string());
                warnings.push(format!("{at}: fractional byte value {amount} is invalid, must be an integer"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_unwise_is_told() {
        let object = json!({"metadata": {"name": "a.b"}, "spec": {
            "nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "containers": [{"env": [{"name": "A"}, {"name": "A"}], "resources": {"limits": {"memory": "100m"}}}],
        }});
        assert_eq!(
            pod(&object),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS \
                 label is recommended: [must not contain dots]",
            ]
        );
        let fine = json!({"metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": [{"env": [{"name": "A"}]}]}}}});
        assert_eq!(workload(&fine), Vec::<String>::new());
    }
}
