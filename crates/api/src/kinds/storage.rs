//! Persistent volumes, claims on them, and what provisions them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{cells, check, pod};
use crate::field::{Errors, Path};
use crate::meta;
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::value::{default, flag, keep, list, object, same, set, text};

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Completes the descriptors of the storage kinds.
pub(super) fn describe(kind: &mut Kind) {
    match kind.kind.as_ref() {
        "PersistentVolume" => volume(kind),
        "PersistentVolumeClaim" => claim(kind),
        "StorageClass" => class(kind),
        "VolumeAttachment" => {
            kind.table = Table::new(
                vec![
                    NAME,
                    Column::text("Attacher", "Who attaches the volume."),
                    Column::text("PV", "The volume."),
                    Column::text("Node", "The node that it is attached to."),
                    Column::of("Attached", "boolean", "", "Whether it is attached.", 0),
                    AGE,
                ],
                |object, now| {
                    let volume = text(object, "spec.source.persistentVolumeName");
                    vec![
                        cells::name(object),
                        text(object, "spec.attacher").into(),
                        volume.into(),
                        text(object, "spec.nodeName").into(),
                        flag(object, "status.attached").into(),
                        cells::age(object, now),
                    ]
                },
            );
        }
        "CSINode" => {
            kind.table = Table::new(
                vec![NAME, Column::number("Drivers", "How many drivers the node has."), AGE],
                |object, now| {
                    vec![
                        cells::name(object),
                        list(object, "spec.drivers").len().into(),
                        cells::age(object, now),
                    ]
                },
            );
        }
        "CSIDriver" => driver(kind),
        "CSIStorageCapacity" => {
            kind.table = Table::new(
                vec![
                    NAME,
                    Column::text("StorageClassName", "The class of the storage."),
                    Column::text("Capacity", "How much there is."),
                ],
                |object, _| {
                    let capacity = cells::or(text(object, "capacity"), cells::UNSET);
                    vec![cells::name(object), text(object, "storageClassName").into(), capacity.into()]
                },
            );
        }
        _ => {
            kind.table = Table::new(
                vec![NAME, Column::text("DriverName", "The driver that the class is for."), AGE],
                |object, now| {
                    vec![cells::name(object), text(object, "driverName").into(), cells::age(object, now)]
                },
            );
        }
    }
}

fn volume(kind: &mut Kind) {
    kind.strategy = Strategy {
        default: |_, volume| {
            let Some(spec) = object(volume, "spec") else { return };
            default(spec, "persistentVolumeReclaimPolicy", "Retain");
            default(spec, "volumeMode", "Filesystem");
            if let Some(path) = spec.get_mut("hostPath")
                && path["type"].is_null()
            {
                set(path, "type", "");
            }
        },
        prepare_create: |_, volume| set(volume, "status", json!({"phase": "Pending"})),
        validate: |_, volume, errors| validate_volume(volume, errors),
        validate_update: |_, new, old, part, errors| {
            if part != Part::Main {
                return;
            }
            validate_volume(new, errors);
            let sources = |spec: &Value| {
                let mut spec = spec.clone();
                if let Some(map) = spec.as_object_mut() {
                    map.retain(|key, _| !SPEC.contains(&key.as_str()));
                }
                spec
            };
            if !same(&sources(&new["spec"]), &sources(&old["spec"])) {
                let why = "spec.persistentvolumesource is immutable after creation";
                errors.forbidden(&Path::new("spec").child("persistentvolumesource"), why);
            }
            check::immutable(&new["spec"], &old["spec"], "volumeMode", &Path::new("spec"), errors);
        },
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Capacity", "How large the volume is."),
            Column::text("Access Modes", "How the volume may be mounted."),
            Column::text("Reclaim Policy", "What becomes of the volume when its claim goes."),
            Column::text("Status", "Whether the volume is free, bound or released."),
            Column::text("Claim", "The claim that it is bound to."),
            Column::text("StorageClass", "The class of the volume."),
            Column::text("VolumeAttributesClass", "The class of the volume's attributes."),
            Column::text("Reason", "Why the volume is in its state."),
            AGE,
            Column::wide("VolumeMode", "Whether it is a file system or a block device."),
        ],
        volume_row,
    );
}

/// The fields of a volume's spec that are not its source.
const SPEC: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn validate_volume(volume: &Value, errors: &mut Errors) {
    let (spec, path) = (&volume["spec"], Path::new("spec"));
    modes(spec, &path, errors);
    let capacity = path.child("capacity");
    if spec["capacity"].as_object().is_none_or(serde_json::Map::is_empty) {
        errors.required(&capacity, "");
    } else if spec["capacity"]["storage"].is_null()
        || spec["capacity"].as_object().is_some_and(|map| map.len() > 1)
    {
        errors.not_supported(&capacity, spec["capacity"].clone(), &["storage"]);
    }
    pod::resource_list(&spec["capacity"], &capacity, errors);
    let policies = &["Delete", "Recycle", "Retain"];
    check::one_of_or_unset(spec, "persistentVolumeReclaimPolicy", policies, &path, errors);
    check::one_of_or_unset(spec, "volumeMode", &["Block", "Filesystem"], &path, errors);
    let sources = spec.as_object().into_iter().flatten().filter(|(key, _)| !SPEC.contains(&key.as_str()));
    let mut found = 0;
    for (key, source) in sources {
        found += 1;
        let at = path.child(key);
        if found > 1 {
            errors.forbidden(&at, "may not specify more than 1 volume type");
        }
        match key.as_str() {
            "hostPath" | "local" => {
                check::required(source, "path", &at, errors);
            }
            "nfs" => {
                check::required(source, "server", &at, errors);
                check::required(source, "path", &at, errors);
            }
            "csi" => {
                check::required(source, "driver", &at, errors);
                check::required(source, "volumeHandle", &at, errors);
            }
            _ => {}
        }
    }
    if found == 0 {
        errors.required(&path, "must specify a volume type");
    }
    if spec["local"].is_object() && spec["nodeAffinity"].is_null() {
        errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
    }
}

fn modes(spec: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("accessModes");
    let modes = list(spec, "accessModes");
    if modes.is_empty() {
        errors.required(&at, "");
    }
    for mode in modes {
        let mode = mode.as_str().unwrap_or_default();
        if !MODES.contains(&mode) {
            errors.not_supported(&at, mode, MODES);
        }
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        errors.forbidden(&at, "may not use ReadWriteOncePod with other access modes");
    }
}

/// Access modes in their short form: `RWO,ROX`.
fn short_modes(modes: &[Value]) -> String {
    [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .into_iter()
    .filter(|(mode, _)| modes.iter().any(|found| found == mode))
    .map(|(_, short)| short)
    .collect::<Vec<_>>()
    .join(",")
}

fn storage_class(object: &Value) -> String {
    match object["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str() {
        Some(class) => class.to_owned(),
        None => text(object, "spec.storageClassName").to_owned(),
    }
}

fn phase(object: &Value) -> &str {
    if meta::is_deleting(object) { "Terminating" } else { text(object, "status.phase") }
}

fn volume_row(volume: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match text(volume, "spec.claimRef.name") {
        "" => String::new(),
        name => format!("{}/{name}", text(volume, "spec.claimRef.namespace")),
    };
    vec![
        cells::name(volume),
        text(volume, "spec.capacity.storage").into(),
        short_modes(list(volume, "spec.accessModes")).into(),
        text(volume, "spec.persistentVolumeReclaimPolicy").into(),
        phase(volume).into(),
        claim.into(),
        storage_class(volume).into(),
        cells::or(text(volume, "spec.volumeAttributesClassName"), cells::UNSET).into(),
        text(volume, "status.reason").into(),
        cells::age(volume, now),
        cells::or(text(volume, "spec.volumeMode"), cells::UNSET).into(),
    ]
}

fn claim(kind: &mut Kind) {
    kind.strategy = Strategy {
        default: |_, claim| {
            if let Some(spec) = object(claim, "spec") {
                default(spec, "volumeMode", "Filesystem");
            }
            if let Some(status) = claim.get_mut("status") {
                default(status, "phase", "Pending");
            }
        },
        prepare_create: |_, claim| set(claim, "status", json!({"phase": "Pending"})),
        validate: |_, claim, errors| validate_claim(claim, errors),
        validate_update: validate_claim_update,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Status", "Whether the claim is bound."),
            Column::text("Volume", "The volume that it is bound to."),
            Column::text("Capacity", "How large the volume is."),
            Column::text("Access Modes", "How the volume may be mounted."),
            Column::text("StorageClass", "The class of the claim."),
            Column::text("VolumeAttributesClass", "The class of the volume's attributes."),
            AGE,
            Column::wide("VolumeMode", "Whether it is a file system or a block device."),
        ],
        |claim, now| {
            let bound = !text(claim, "spec.volumeName").is_empty();
            let capacity = if bound { text(claim, "status.capacity.storage") } else { "" };
            let modes = if bound { short_modes(list(claim, "status.accessModes")) } else { String::new() };
            vec![
                cells::name(claim),
                phase(claim).into(),
                text(claim, "spec.volumeName").into(),
                capacity.into(),
                modes.into(),
                storage_class(claim).into(),
                cells::or(text(claim, "spec.volumeAttributesClassName"), cells::UNSET).into(),
                cells::age(claim, now),
                cells::or(text(claim, "spec.volumeMode"), cells::UNSET).into(),
            ]
        },
    );
}

fn validate_claim(claim: &Value, errors: &mut Errors) {
    let (spec, path) = (&claim["spec"], Path::new("spec"));
    if list(spec, "accessModes").is_empty() {
        errors.required(&path.child("accessModes"), "at least 1 access mode is required");
    } else {
        modes(spec, &path, errors);
    }
    if spec["selector"].is_object() {
        meta::validate_selector(&spec["selector"], &path.child("selector"), errors);
    }
    let storage = &spec["resources"]["requests"]["storage"];
    if storage.is_null() {
        errors.required(&path.child("resources").key("storage"), "");
    } else if let Some(quantity) = crate::quantity::Quantity::read(storage)
        && quantity.signum() <= 0
    {
        let at = path.child("resources").key("storage");
        errors.invalid(&at, quantity.to_string(), "must be greater than zero");
    }
    check::one_of_or_unset(spec, "volumeMode", &["Block", "Filesystem"], &path, errors);
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        check::named(class, meta::dns_subdomain_errors, &path.child("storageClassName"), errors);
    }
}

fn validate_claim_update(_: &Kind, new: &Value, old: &Value, part: Part<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    if part != Part::Main {
        return;
    }
    validate_claim(new, errors);
    let mut munged = new["spec"].clone();
    let was = &old["spec"];
    if text(was, "volumeName").is_empty() {
        // Binding sets it once.
        keep(&mut munged, was, "volumeName");
    }
    if was["storageClassName"].is_null() {
        keep(&mut munged, was, "storageClassName");
    }
    keep(&mut munged, was, "volumeAttributesClassName");
    if text(old, "status.phase") == "Bound" {
        let read = |spec: &Value| crate::quantity::Quantity::read(&spec["resources"]["requests"]["storage"]);
        if read(&munged) < read(was)
            && read(&munged) < crate::quantity::Quantity::read(&old["status"]["capacity"]["storage"])
        {
            let why = "field can not be less than status.capacity";
            errors.forbidden(&path.child("resources").child("requests").child("storage"), why);
        }
        if let Some(resources) = munged.get_mut("resources") {
            keep(resources, &was["resources"], "requests");
        }
    }
    if !same(&munged, was) {
        errors.forbidden(
            &path,
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
}

fn class(kind: &mut Kind) {
    kind.strategy = Strategy {
        default: |_, class| {
            default(class, "reclaimPolicy", "Delete");
            default(class, "volumeBindingMode", "Immediate");
        },
        validate: |_, class, errors| validate_class(class, errors),
        validate_update: |_, new, old, part, errors| {
            if part != Part::Main {
                return;
            }
            validate_class(new, errors);
            if !same(&new["parameters"], &old["parameters"]) {
                errors.forbidden(&Path::new("parameters"), "updates to parameters are forbidden.");
            }
            if !same(&new["provisioner"], &old["provisioner"]) {
                errors.forbidden(&Path::new("provisioner"), "updates to provisioner are forbidden.");
            }
            if !same(&new["reclaimPolicy"], &old["reclaimPolicy"]) {
                errors.forbidden(&Path::new("reclaimPolicy"), "updates to reclaimPolicy are forbidden.");
            }
            check::immutable(new, old, "volumeBindingMode", &Path::default(), errors);
        },
        create_on_update: true,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Provisioner", "What makes volumes of the class."),
            Column::text("ReclaimPolicy", "What becomes of a volume when its claim goes."),
            Column::text("VolumeBindingMode", "When a volume is made and bound."),
            Column::of("AllowVolumeExpansion", "boolean", "", "Whether volumes can grow.", 0),
            AGE,
        ],
        |class, now| {
            let annotations = &class["metadata"]["annotations"];
            let is_default = [
                "storageclass.kubernetes.io/is-default-class",
                "storageclass.beta.kubernetes.io/is-default-class",
            ]
            .into_iter()
            .any(|key| annotations[key] == "true");
            let name = meta::name(class).to_owned() + if is_default { " (default)" } else { "" };
            vec![
                name.into(),
                text(class, "provisioner").into(),
                cells::or(text(class, "reclaimPolicy"), "Delete").into(),
                cells::or(text(class, "volumeBindingMode"), "Immediate").into(),
                flag(class, "allowVolumeExpansion").into(),
                cells::age(class, now),
            ]
        },
    );
}

fn validate_class(class: &Value, errors: &mut Errors) {
    let path = Path::default();
    if let Some(name) = check::required(class, "provisioner", &path, errors) {
        check::named(&name.to_lowercase(), meta::qualified_name_errors, &Path::new("provisioner"), errors);
    }
    check::one_of_or_unset(class, "reclaimPolicy", &["Delete", "Retain"], &path, errors);
    check::one_of(class, "volumeBindingMode", &["Immediate", "WaitForFirstConsumer"], &path, errors);
}

fn driver(kind: &mut Kind) {
    kind.strategy = Strategy {
        default: |_, driver| {
            let Some(spec) = object(driver, "spec") else { return };
            for (key, value) in [
                ("attachRequired", json!(true)),
                ("podInfoOnMount", json!(false)),
                ("storageCapacity", json!(false)),
                ("requiresRepublish", json!(false)),
                ("seLinuxMount", json!(false)),
                ("fsGroupPolicy", json!("ReadWriteOnceWithFSType")),
                ("volumeLifecycleModes", json!(["Persistent"])),
            ] {
                if spec[key].is_null() {
                    set(spec, key, value);
                }
            }
        },
        unconditional_update: false,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::of("AttachRequired", "boolean", "", "Whether volumes are attached to nodes.", 0),
            Column::of("PodInfoOnMount", "boolean", "", "Whether the driver is told about pods.", 0),
            Column::of("StorageCapacity", "boolean", "", "Whether the driver tells its capacity.", 0),
            Column::text("TokenRequests", "The audiences of the tokens that the driver gets."),
            Column::of("RequiresRepublish", "boolean", "", "Whether mounts are repeated.", 0),
            Column::text("Modes", "The kinds of volumes of the driver."),
            AGE,
        ],
        |driver, now| {
            let joined = |path: &str, key: Option<&str>| {
                let items = list(driver, path).iter();
                let texts: Vec<&str> =
                    items.filter_map(|item| key.map_or(item, |key| &item[key]).as_str()).collect();
                texts.join(",")
            };
            vec![
                cells::name(driver),
                flag(driver, "spec.attachRequired").into(),
                flag(driver, "spec.podInfoOnMount").into(),
                flag(driver, "spec.storageCapacity").into(),
                cells::or(joined("spec.tokenRequests", Some("audience")), cells::UNSET).into(),
                flag(driver, "spec.requiresRepublish").into(),
                cells::or_none(joined("spec.volumeLifecycleModes", None)).into(),
                cells::age(driver, now),
            ]
        },
    );
}
