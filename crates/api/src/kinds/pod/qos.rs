//! The quality of service class of a pod.

use serde_json::Value;

use crate::quantity::Quantity;
use crate::value::list;

/// Returns `Guaranteed`, `Burstable` or `BestEffort`, from the cpu and memory of all containers.
pub(crate) fn class(pod: &Value) -> &'static str {
    let spec = &pod["spec"];
    let containers = || list(spec, "containers").iter().chain(list(spec, "initContainers"));
    let amount = |container: &Value, side: &str, name: &str| {
        Quantity::read(&container["resources"][side][name]).filter(|amount| amount.signum() > 0)
    };
    let mut any = false;
    let mut guaranteed = true;
    for container in containers() {
        for name in ["cpu", "memory"] {
            let request = amount(container, "requests", name);
            let limit = amount(container, "limits", name);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_class_follows_requests_and_limits() {
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}});
        for (resources, expect) in [
            (vec![json!({})], "BestEffort"),
            (vec![json!({"requests": {"cpu": "0"}})], "BestEffort"),
            (vec![json!({"requests": {"cpu": "1"}})], "Burstable"),
            (vec![full.clone()], "Guaranteed"),
            (vec![full.clone(), json!({})], "Burstable"),
            (vec![json!({"limits": {"cpu": "1", "memory": "1Gi"}})], "Guaranteed"),
            (vec![json!({"limits": {"cpu": "1"}})], "Burstable"),
            (
                vec![json!({"limits": {"cpu": "2", "memory": "1"}, "requests": {"cpu": "1", "memory": "1"}})],
                "Burstable",
            ),
        ] {
            let containers: Vec<Value> =
                resources.iter().map(|resources| json!({"resources": resources})).collect();
            assert_eq!(class(&json!({"spec": {"containers": containers}})), expect, "{resources:?}");
        }
    }
}
