use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A type with one list of each sort, nested in itself through `pods`.
#[derive(Debug, Clone, Copy)]
enum Toy {
    Root,
    Item,
    Map,
}

impl Schema for Toy {
    fn field(&self, name: &str) -> Option<Field<Self>> {
        let plain = |schema| Some(Field { schema, merge: false, merge_key: None });
        match (self, name) {
            (Self::Map, _) => plain(None),
            (_, "items") => Some(Field { schema: Some(Self::Item), merge: true, merge_key: Some("name") }),
            (_, "ports") => Some(Field { schema: Some(Self::Item), merge: true, merge_key: Some("port") }),
            (_, "finalizers") => Some(Field { schema: None, merge: true, merge_key: None }),
            (_, "keyless") => Some(Field { schema: Some(Self::Item), merge: true, merge_key: None }),
            (_, "labels") => plain(Some(Self::Map)),
            (_, "spec" | "strategy") => plain(Some(Self::Root)),
            (_, "args" | "atomic") => plain(None),
            _ => None,
        }
    }
}

#[test]
fn maps_merge_and_nulls_delete() {
    check(json!({"a": 1}), json!({"b": 2}), json!({"a": 1, "b": 2}));
    check(json!({"a": 1}), json!({"a": 2}), json!({"a": 2}));
    check(json!({"a": 1}), json!({"a": null}), json!({}));
    check(json!({}), json!({"a": null}), json!({}));
    check(json!({"a": 1}), json!({}), json!({"a": 1}));
    check(json!({"spec": {"a": 1, "b": 2}}), json!({"spec": {"b": null}}), json!({"spec": {"a": 1}}));
    check(json!({"spec": {"a": 1}}), json!({"spec": null}), json!({}));
    check(json!({}), json!({"spec": {"a": null, "b": 1}}), json!({"spec": {"b": 1}}));
    check(json!({"spec": 1}), json!({"spec": {"a": null, "b": 1}}), json!({"spec": {"b": 1}}));
    check(json!({"spec": {"a": 1}}), json!({"spec": 7}), json!({"spec": 7}));
    check(
        json!({"labels": {"x": "1"}}),
        json!({"labels": {"y": "2"}}),
        json!({"labels": {"x": "1", "y": "2"}}),
    );
    check(json!({"labels": {"x": "1"}}), json!({"labels": {"x": null}}), json!({"labels": {}}));
    check(json!({"unknown": {"x": 1}}), json!({"unknown": {"y": 2}}), json!({"unknown": {"x": 1, "y": 2}}));
}

#[test]
fn a_list_without_a_strategy_is_replaced() {
    check(json!({"args": ["a", "b"]}), json!({"args": ["c"]}), json!({"args": ["c"]}));
    check(json!({"args": ["a"]}), json!({"args": []}), json!({"args": []}));
    check(json!({"args": ["a"]}), json!({"args": null}), json!({}));
    check(json!({}), json!({"args": ["x", "x"]}), json!({"args": ["x", "x"]}));
    check(json!({"unknown": [1]}), json!({"unknown": [2]}), json!({"unknown": [2]}));
    check(
        json!({"atomic": [{"name": "a", "v": 1}]}),
        json!({"atomic": [{"name": "a"}]}),
        json!({"atomic": [{"name": "a"}]}),
    );
}

#[test]
fn a_list_of_scalars_merges_as_a_set() {
    check(json!({"finalizers": ["a"]}), json!({"finalizers": ["b"]}), json!({"finalizers": ["b", "a"]}));
    check(json!({"finalizers": ["a", "b"]}), json!({"finalizers": ["b"]}), json!({"finalizers": ["a", "b"]}));
    check(
        json!({"finalizers": ["a", "b"]}),
        json!({"finalizers": ["b", "a"]}),
        json!({"finalizers": ["b", "a"]}),
    );
    check(json!({"finalizers": []}), json!({"finalizers": ["b"]}), json!({"finalizers": ["b"]}));
    check(json!({"finalizers": []}), json!({"finalizers": []}), json!({"finalizers": []}));
    check(json!({"finalizers": ["a"]}), json!({"finalizers": null}), json!({}));
    check(
        json!({"finalizers": ["a", "b", "c"]}),
        json!({"$deleteFromPrimitiveList/finalizers": ["b"]}),
        json!({"finalizers": ["a", "c"]}),
    );
    check(json!({}), json!({"$deleteFromPrimitiveList/finalizers": ["b"]}), json!({}));
    check(
        json!({"finalizers": ["a", "b"]}),
        json!({"$deleteFromPrimitiveList/finalizers": ["b"], "finalizers": ["c"],
               "$setElementOrder/finalizers": ["c", "a"]}),
        json!({"finalizers": ["c", "a"]}),
    );
    check(
        json!({"finalizers": ["a", "b"]}),
        json!({"$setElementOrder/finalizers": ["b", "a"]}),
        json!({"finalizers": ["b", "a"]}),
    );
}

#[test]
fn a_list_of_objects_merges_by_its_key() {
    check(
        json!({"items": [{"name": "a", "v": 1}]}),
        json!({"items": [{"name": "a", "w": 2}]}),
        json!({"items": [{"name": "a", "v": 1, "w": 2}]}),
    );
    check(
        json!({"items": [{"name": "a"}]}),
        json!({"items": [{"name": "b"}]}),
        json!({"items": [{"name": "b"}, {"name": "a"}]}),
    );
    check(json!({}), json!({"items": [{"name": "b", "x": null}]}), json!({"items": [{"name": "b"}]}));
    check(
        json!({"items": [{"name": "a", "v": 1}, {"name": "b"}]}),
        json!({"items": [{"name": "a", "v": null}]}),
        json!({"items": [{"name": "a"}, {"name": "b"}]}),
    );
    check(
        json!({"ports": [{"port": 80, "name": "http"}, {"port": 443}]}),
        json!({"ports": [{"port": 443, "name": "https"}]}),
        json!({"ports": [{"port": 80, "name": "http"}, {"port": 443, "name": "https"}]}),
    );
    check(
        json!({"items": [{"name": "a", "items": [{"name": "x", "v": 1}]}]}),
        json!({"items": [{"name": "a", "items": [{"name": "x", "w": 2}, {"name": "y"}]}]}),
        json!({"items": [{"name": "a", "items": [{"name": "x", "v": 1, "w": 2}, {"name": "y"}]}]}),
    );
    check(
        json!({"items": [{"name": "a", "args": ["1"]}]}),
        json!({"items": [{"name": "a", "args": ["2", "3"]}]}),
        json!({"items": [{"name": "a", "args": ["2", "3"]}]}),
    );
    check(json!({"items": [{"name": "a"}]}), json!({"items": []}), json!({"items": [{"name": "a"}]}));
    check(json!({"items": [{"name": "a"}]}), json!({"items": null}), json!({}));
}

#[test]
fn directives_replace_and_delete() {
    check(
        json!({"spec": {"a": 1}}),
        json!({"spec": {"$patch": "replace", "b": 2}}),
        json!({"spec": {"b": 2}}),
    );
    check(json!({"spec": {"a": 1}}), json!({"spec": {"$patch": "delete"}}), json!({"spec": {}}));
    check(
        json!({"spec": {"a": 1}}),
        json!({"spec": {"$patch": "merge", "b": 2}}),
        json!({"spec": {"a": 1, "b": 2}}),
    );
    check(json!({}), json!({"spec": {"$patch": "replace", "b": 2}}), json!({"spec": {"b": 2}}));
    check(json!({}), json!({"spec": {"$patch": "delete"}}), json!({}));
    check(json!({"a": 1}), json!({"$patch": "replace", "b": 1}), json!({"b": 1}));
    check(json!({"a": 1}), json!({"$patch": "delete"}), json!({}));
    check(
        json!({"items": [{"name": "a"}, {"name": "b"}]}),
        json!({"items": [{"name": "a", "$patch": "delete"}]}),
        json!({"items": [{"name": "b"}]}),
    );
    check(
        json!({"items": [{"name": "a"}, {"name": "b"}]}),
        json!({"items": [{"name": "zzz", "$patch": "delete"}]}),
        json!({"items": [{"name": "a"}, {"name": "b"}]}),
    );
    check(
        json!({"items": [{"name": "a"}, {"name": "b"}]}),
        json!({"items": [{"name": "c"}, {"$patch": "replace"}]}),
        json!({"items": [{"name": "c"}]}),
    );
    check(json!({"items": [{"name": "a"}]}), json!({"items": [{"$patch": "replace"}]}), json!({"items": []}));
    check(
        json!({}),
        json!({"items": [{"name": "a", "$patch": "delete"}, {"name": "b"}]}),
        json!({"items": [{"name": "b"}]}),
    );
    check(
        json!({}),
        json!({"items": [{"$patch": "replace"}, {"name": "b"}]}),
        json!({"items": [{"name": "b"}]}),
    );
}

#[test]
fn retain_keys_drops_what_it_does_not_list() {
    check(
        json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}),
        json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}),
        json!({"strategy": {"type": "Recreate"}}),
    );
    check(
        json!({"strategy": {"a": 1, "b": 2, "c": 3}}),
        json!({"strategy": {"$retainKeys": ["a", "b"], "b": 5}}),
        json!({"strategy": {"a": 1, "b": 5}}),
    );
    check(
        json!({}),
        json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}),
        json!({"strategy": {"type": "Recreate"}}),
    );
    check(
        json!({"items": [{"name": "v", "emptyDir": {}}]}),
        json!({"items": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}),
        json!({"items": [{"name": "v", "hostPath": {"path": "/"}}]}),
    );
    refuse(json!({}), json!({"$retainKeys": ["a"], "b": 1}), "the patch sets b");
    refuse(json!({}), json!({"$retainKeys": "a"}), "invalid patch format of retainKeys");
}

#[test]
fn set_element_order_arranges_the_list() {
    let order = |list: &[&str]| json!(list.iter().map(|name| json!({"name": name})).collect::<Vec<_>>());
    check(
        json!({"items": order(&["a", "b", "c"])}),
        json!({"$setElementOrder/items": order(&["c", "a", "b"])}),
        json!({"items": order(&["c", "a", "b"])}),
    );
    check(
        json!({"items": order(&["a", "b"])}),
        json!({"$setElementOrder/items": order(&["a", "n", "b"]), "items": [{"name": "n"}]}),
        json!({"items": order(&["a", "n", "b"])}),
    );
    check(
        json!({"items": order(&["a", "server", "b"])}),
        json!({"$setElementOrder/items": order(&["b", "a"])}),
        json!({"items": order(&["server", "b", "a"])}),
    );
    check(
        json!({"items": order(&["server", "a", "b"])}),
        json!({"$setElementOrder/items": order(&["a", "b", "n"]), "items": [{"name": "n"}]}),
        json!({"items": order(&["server", "a", "b", "n"])}),
    );
    check(
        json!({"items": order(&["a", "b"])}),
        json!({"$setElementOrder/items": order(&["b"]), "items": [{"name": "a", "$patch": "delete"}]}),
        json!({"items": order(&["b"])}),
    );
    check(
        json!({}),
        json!({"$setElementOrder/items": order(&["b", "a"]), "items": order(&["b", "a"])}),
        json!({"items": order(&["b", "a"])}),
    );
    check(json!({}), json!({"$setElementOrder/items": order(&["b"])}), json!({}));
    check(json!({"items": order(&["b"])}), json!({"$setElementOrder/items": [], "items": null}), json!({}));
    check(
        json!({"args": ["x"]}),
        json!({"$setElementOrder/args": ["y"], "args": ["y"]}),
        json!({"args": ["y"]}),
    );
    refuse(
        json!({"items": order(&["a"])}),
        json!({"$setElementOrder/items": order(&["a", "b"]), "items": order(&["b", "a"])}),
        "doesn't match",
    );
    refuse(json!({}), json!({"$setElementOrder/items": "b"}), "it is not a list");
    refuse(json!({}), json!({"$setElementOrder/items": [], "items": 4}), "is not a list in the patch");
}

#[test]
fn what_cannot_be_merged_is_refused() {
    refuse(
        json!({"items": [{"name": "a"}]}),
        json!({"items": [{"v": 1}]}),
        "does not contain declared merge key: name",
    );
    refuse(
        json!({"items": [{"name": "a"}]}),
        json!({"items": [{"$patch": "delete"}]}),
        "declared merge key: name",
    );
    refuse(json!({"items": [{"name": "a"}]}), json!({"items": [{"$patch": "frob"}]}), "unknown patch type");
    refuse(
        json!({"items": [{"name": "a"}]}),
        json!({"items": [{"$patch": "merge"}]}),
        "merging lists cannot yet",
    );
    refuse(
        json!({"items": [{"name": "a"}]}),
        json!({"items": ["x"]}),
        "list element types are not identical: items",
    );
    refuse(json!({"finalizers": [[1]]}), json!({"finalizers": [[2]]}), "lists of lists");
    refuse(json!({"keyless": [{"a": 1}]}), json!({"keyless": [{"a": 2}]}), "without merge key for keyless");
    refuse(json!({}), json!({"$patch": "frob"}), "unknown patch type");
    refuse(json!({}), json!({"$patch": 4}), "unknown patch type");
    refuse(json!({}), json!({"$deleteFromPrimitiveList/finalizers": 4}), "primitive list");
    refuse(json!({}), json!([]), "is itself an object");
    refuse(json!([]), json!({}), "not a JSON object");
}

#[track_caller]
fn check(target: Value, patch: Value, expect: Value) {
    let mut value = target.clone();
    strategic_merge(&mut value, &patch, &Toy::Root)
        .unwrap_or_else(|error| panic!("{target} + {patch}: {error}"));
    assert_eq!(value, expect, "{target} + {patch}");
}

#[track_caller]
fn refuse(target: Value, patch: Value, message: &str) {
    let error = strategic_merge(&mut target.clone(), &patch, &Toy::Root).expect_err("should be refused");
    assert!(error.to_string().contains(message), "{error}");
}

fn objects() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(json!(1)), Just(json!("x")), Just(json!(true))];
    let names = prop::sample::subsequence(vec!["a", "b", "c"], 0..=3);
    let items = names.prop_shuffle().prop_map(|names| {
        Value::from(names.into_iter().map(|name| json!({"name": name, "v": name})).collect::<Vec<_>>())
    });
    let scalars = prop::sample::subsequence(vec!["f", "g", "h"], 0..=3).prop_map(|list| json!(list));
    (prop::option::of(leaf), prop::option::of(items), prop::option::of(scalars)).prop_map(
        |(leaf, items, set)| {
            let mut map = Map::new();
            map.extend(leaf.map(|leaf| ("leaf".to_owned(), leaf)));
            map.extend(items.map(|items| ("items".to_owned(), items)));
            map.extend(set.map(|set| ("finalizers".to_owned(), set)));
            Value::Object(map)
        },
    )
}

proptest! {
    #[test]
    fn an_empty_patch_changes_nothing(target in objects()) {
        let mut value = target.clone();
        strategic_merge(&mut value, &json!({}), &Toy::Root).unwrap();
        prop_assert_eq!(value, target);
    }

    #[test]
    fn a_patch_without_directives_applies_twice_as_once(target in objects(), patch in objects()) {
        let mut once = target;
        strategic_merge(&mut once, &patch, &Toy::Root).unwrap();
        let mut twice = once.clone();
        strategic_merge(&mut twice, &patch, &Toy::Root).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn nothing_of_the_patch_is_lost(target in objects(), patch in objects()) {
        let mut merged = target;
        strategic_merge(&mut merged, &patch, &Toy::Root).unwrap();
        for list in ["items", "finalizers"] {
            let merged = merged[list].as_array().cloned().unwrap_or_default();
            for item in patch[list].as_array().into_iter().flatten() {
                prop_assert!(merged.contains(item));
            }
        }
    }
}
