//! Every kind goes from JSON to protobuf and back: objects generated from the schemas.

use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::json;

use super::*;
use crate::schema::{self, Definition, Form, Type as Schema};

/// Numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn text(&mut self) -> Value {
        const TEXTS: [&str; 6] =
            ["a", "x/y-z", "ünïcödé \u{1f980}", " ", "\"\\\n", "longer than one byte of length "];
        let text = TEXTS[usize::try_from(self.roll(6)).unwrap()];
        text.repeat(usize::try_from(self.roll(12)).unwrap() + 1).into()
    }

    /// Makes a value that says something: what says nothing is not on the wire.
    fn value(&mut self, ty: Schema, depth: u64) -> Option<Value> {
        Some(match ty {
            Schema::String => self.text(),
            Schema::Bytes => ["AA==", "/////w==", "eA=="][usize::try_from(self.roll(3)).unwrap()].into(),
            Schema::Int32 => [1, -1, 300, i32::MAX, i32::MIN][usize::try_from(self.roll(5)).unwrap()].into(),
            Schema::Int64 => [1, -1, i64::MAX, i64::MIN][usize::try_from(self.roll(4)).unwrap()].into(),
            Schema::Double => json!(0.5),
            Schema::Bool => true.into(),
            Schema::Object | Schema::Any => json!({"kind": "X", "n": [1, null, {"a": 1.5}]}),
            Schema::List(item) => {
                let list: Vec<Value> = (0..=self.roll(2)).filter_map(|_| self.value(*item, depth)).collect();
                (!list.is_empty()).then_some(list)?.into()
            }
            Schema::Map(item) => {
                let map: Map<String, Value> = (0..=self.roll(2))
                    .filter_map(|index| Some((format!("key{index}"), self.value(*item, depth)?)))
                    .collect();
                (!map.is_empty()).then_some(map)?.into()
            }
            Schema::Ref(id) => self.definition(id.get(), depth.checked_sub(1)?)?,
        })
    }

    fn definition(&mut self, definition: &Definition, depth: u64) -> Option<Value> {
        let short = definition.name.rsplit('.').next().unwrap();
        Some(match definition.form {
            Form::Quantity => "1500m".into(),
            Form::IntOrString if self.roll(2) == 0 => (self.roll(100_000)).into(),
            Form::IntOrString => "25%".into(),
            Form::Time => ["2026-11-24T10:00:00Z", "1969-12-31T23:59:59Z"]
                [usize::try_from(self.roll(2)).unwrap()]
            .into(),
            Form::MicroTime => "2026-11-24T10:00:00.123456Z".into(),
            Form::Raw | Form::Open => json!({"kind": "X", "f:a": {"b": [1, 2.5, "c"]}}),
            Form::Any => {
                let props = schema::find(&definition.name.replace(short, "JSONSchemaProps"));
                let mut schema = || self.value(Schema::Ref(props?), depth);
                match short {
                    "JSONSchemaPropsOrArray" => schema()?,
                    "JSONSchemaPropsOrStringArray" => match schema() {
                        Some(schema) => schema,
                        None => json!(["a", "b"]),
                    },
                    "JSONSchemaPropsOrBool" => schema().unwrap_or(Value::Bool(false)),
                    _ => json!({"any": [0, "", false]}),
                }
            }
            Form::Object => {
                let mut map = Map::new();
                for property in definition.properties() {
                    let name = property.name;
                    if self.roll(3) > 0 && !matches!(name, "apiVersion" | "kind") || name == "type" {
                        map.extend(self.value(property.ty, depth).map(|value| (name.to_owned(), value)));
                    }
                    // References to other objects have fields of these names; at the top the envelope has them.
                    if matches!(name, "apiVersion" | "kind") && definition.kinds.is_empty() {
                        map.insert(name.to_owned(), "v1".into());
                    }
                }
                map.into()
            }
        })
    }
}

proptest! {
    #![proptest_config(Config { cases: 8, failure_persistence: None, ..Config::default() })]

    #[test]
    fn every_kind_comes_back_as_it_went(seed in 1_u64..) {
        for kind in crate::registry::builtin().iter() {
            let definition = schema::of_kind(&kind.group, &kind.version, &kind.kind).unwrap();
            let mut object = Dice(seed).definition(definition, 9).unwrap();
            object["apiVersion"] = kind.api_version().into();
            object["kind"] = kind.kind.as_ref().into();
            let bytes = encode(&object).unwrap();
            prop_assert_eq!(decode(&bytes).unwrap(), object);
        }
    }
}

#[test]
fn every_list_is_encoded_item_by_item_as_it_is_as_a_whole() {
    for kind in crate::registry::builtin().iter().filter(|kind| kind.verbs.contains(&"list")) {
        let encoder = Encoder::of(&kind.api_version(), &kind.list_kind).unwrap();
        let items = [json!({"metadata": {"name": "a"}}), json!({"metadata": {"name": "b"}})];
        let meta = json!({"resourceVersion": "7", "remainingItemCount": 0});
        let list = encoder.list(&meta, items.clone()).unwrap();
        let whole = json!({"apiVersion": kind.api_version(), "kind": kind.list_kind, "metadata": meta, "items": items});
        assert_eq!(encoder.object(&whole).unwrap(), list);
        assert_eq!(decode(&list).unwrap(), whole);
    }
}

#[test]
fn a_watch_frame_has_its_length_type_and_object() {
    let object = encode(&json!({"apiVersion": "v1", "kind": "Status", "code": 410})).unwrap();
    let frame = watch_frame("ERROR", &object);
    assert_eq!(frame[..4], u32::try_from(frame.len() - 4).unwrap().to_be_bytes());
    let event = table::known("apimachinery.pkg.apis.meta.v1.WatchEvent").unwrap();
    let event = message_value(event, &frame[4..], DEPTH).unwrap();
    assert_eq!(
        event,
        json!({"type": "ERROR", "object": {"apiVersion": "v1", "kind": "Status", "code": 410}})
    );
}

#[test]
fn what_has_the_wrong_type_is_not_encoded() {
    for metadata in [json!({"name": 1}), json!({"labels": ["a"]}), json!([]), json!({"finalizers": [{}]})] {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata});
        assert!(encode(&object).is_err(), "{object}");
    }
    assert!(encode(&json!({"apiVersion": "example.com/v1", "kind": "Pod"})).is_err());
}
