use serde_json::json;

use super::*;

fn evaluate(source: &str, self_: &serde_json::Value) -> Result<serde_json::Value, String> {
    let program = Program::compile(source, &["self"])?;
    let known = Known(vec![("self", from_json(self_))]);
    let result = program.evaluate(&known, &mut Budget::default()).map_err(|error| error.to_string())?;
    to_json(&result).ok_or_else(|| format!("{result:?} has no JSON form"))
}

#[test]
fn expressions_are_evaluated() {
    let object = json!({"replicas": 3, "name": "web", "tags": ["a", "b"], "labels": {"x": "1", "y": "2"},
        "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}]});
    for (source, expect) in [
        ("self.replicas >= 1 && self.replicas < 5", json!(true)),
        ("self.tags.all(t, t.size() == 1)", json!(true)),
        ("self.ports.exists(p, p.name == 'http')", json!(true)),
        ("self.ports.exists_one(p, p.port > 100)", json!(true)),
        ("self.ports.map(p, p.port)", json!([80, 443])),
        ("self.ports.filter(p, p.port > 100).map(p, p.name)", json!(["https"])),
        ("has(self.replicas) && !has(self.other)", json!(true)),
        ("self.?other.orValue('none')", json!("none")),
        ("self.?labels.?x.orValue('none')", json!("1")),
        ("self.?other.deeper.orValue('none')", json!("none")),
        ("self.?other.hasValue()", json!(false)),
        ("self.?name.optMap(n, n + '!').orValue('')", json!("web!")),
        ("cel.bind(n, self.replicas * 2, n + n)", json!(12)),
        ("self.labels.all(k, v, k != v)", json!(true)),
        ("self.labels.exists(k, v, k == 'x' && v == '1')", json!(true)),
        ("self.tags.exists(i, t, i == 1 && t == 'b')", json!(true)),
        ("self.labels.transformList(k, v, k + v)", json!(["x1", "y2"])),
        ("self.labels.transformMap(k, v, k == 'x', v + v)", json!({"x": "11"})),
        ("self.labels.exists(k, k == 'y')", json!(true)),
        ("'a' in self.tags && 'x' in self.labels", json!(true)),
        ("self.labels['x']", json!("1")),
        ("self.name.matches('^w.b$') && self.name.startsWith('w')", json!(true)),
        ("quantity('1Gi').isGreaterThan(quantity('500Mi'))", json!(true)),
        ("self.name.upperAscii()", json!("WEB")),
        ("isIP('10.0.0.1') && cidr('10.0.0.0/8').containsIP('10.1.2.3')", json!(true)),
        ("url('https://a.b/c').getHost()", json!("a.b")),
        ("math.greatest(1, 5, 3)", json!(5)),
        ("sets.contains([1, 2, 3], [2])", json!(true)),
        ("duration('1h') > duration('30m')", json!(true)),
        ("timestamp('2026-01-01T00:00:00Z') < timestamp('2027-01-01T00:00:00Z')", json!(true)),
        ("type(self.name) == string && type(1) == int", json!(true)),
        ("self.replicas == 3 ? 'three' : 'other'", json!("three")),
        ("'%s has %d'.format([self.name, self.replicas])", json!("web has 3")),
        ("self.tags.join(',')", json!("a,b")),
        ("Object{spec: Object.spec{replicas: self.replicas + 1}}", json!({"spec": {"replicas": 4}})),
        (
            "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'c'}]",
            json!([{"op": "add", "path": "/metadata/labels/a~1b", "value": "c"}]),
        ),
        ("dyn(self.name) == 'web'", json!(true)),
        ("self.other == 1 || true", json!(true)),
    ] {
        assert_eq!(evaluate(source, &object), Ok(expect), "{source}");
    }
}

#[test]
fn what_goes_wrong_is_said_in_gos_words() {
    let object = json!({"a": 1, "list": [1]});
    for (source, expect) in [
        ("self.b == 1", "no such key: b"),
        ("self.a / 0 == 1", "division by zero"),
        ("self.a % 0 == 1", "modulus by zero"),
        ("9223372036854775807 + self.a > 0", "integer overflow"),
        ("self.a + 'x' == 'x'", "no such overload"),
        ("self.list[4] == 1", "index out of bounds: 4"),
        (
            "other.a",
            "ERROR: <input>:1:1: undeclared reference to 'other' (in container '')\n | other.a\n | ^",
        ),
        (
            "self.a > foo(1)",
            "ERROR: <input>:1:10: undeclared reference to 'foo' (in container '')\n | self.a > foo(1)\n | .........^",
        ),
    ] {
        assert_eq!(evaluate(source, &object), Err(expect.to_owned()), "{source}");
    }
    let syntax = evaluate("self.a >", &object).unwrap_err();
    assert!(syntax.starts_with("ERROR: <input>:1:9: Syntax error: mismatched input '<EOF>'"), "{syntax}");
    assert!(syntax.ends_with("\n | self.a >\n | ........^"), "{syntax}");
}

#[test]
fn fields_are_checked_against_the_schema() {
    let schema = json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "name": {"type": "string"}, "a-b": {"type": "boolean"},
        "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer"}}}},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
        "any": {"x-kubernetes-preserve-unknown-fields": true}, "either": {"x-kubernetes-int-or-string": true}}});
    for (source, expect) in [
        ("self.replicas > 1", ""),
        ("self.a__dash__b", ""),
        ("self.list.all(i, i.x > 1)", ""),
        ("self.map.key == 'x' && self.map['k'] == 'y'", ""),
        ("self.any.thing == 1", ""),
        ("self.either == 1", ""),
        ("self.foo > 1", "ERROR: <input>:1:5: undefined field 'foo'\n | self.foo > 1\n | ....^"),
        (
            "self.list.all(i, i.y > 1)",
            "ERROR: <input>:1:19: undefined field 'y'\n | self.list.all(i, i.y > 1)\n | ..................^",
        ),
        (
            "self.name.x == 1",
            "ERROR: <input>:1:10: type 'string' does not support field selection\n | self.name.x == 1\n | .........^",
        ),
        (
            "self.replicas == 'x'",
            "ERROR: <input>:1:15: found no matching overload for '_==_' applied to '(int, string)'\n | self.replicas == 'x'\n | ..............^",
        ),
        ("self.replicas + 1", "must evaluate to a bool"),
        ("self.name", "must evaluate to a bool"),
    ] {
        let program = Program::compile(source, &["self"]).unwrap();
        let found = check_fields(&program, &[("self", Type::Schema(&schema))], "bool");
        assert_eq!(found.err().unwrap_or_default(), expect, "{source}");
    }
}

#[test]
fn evaluation_ends_when_its_budget_does() {
    let list: Vec<i64> = (0..300).collect();
    let object = json!({"list": list});
    let cubed = "self.list.all(a, self.list.all(b, self.list.all(c, a + b + c >= 0)))";
    assert_eq!(evaluate(cubed, &object), Err("operation cancelled: actual cost limit exceeded".to_owned()));
    let hidden = format!("{cubed} || true");
    assert_eq!(evaluate(&hidden, &object), Err("operation cancelled: actual cost limit exceeded".to_owned()));
    let program = Program::compile("self.list.all(a, a >= 0)", &["self"]).unwrap();
    let known = Known(vec![("self", from_json(&object))]);
    let mut budget = Budget(1000);
    assert!(program.evaluate(&known, &mut budget).is_err());
    assert!(budget.is_spent());
}

#[test]
fn deep_and_long_expressions_are_refused_and_harm_nobody() {
    for source in [
        format!("{}1{} == 1", "(".repeat(2000), ")".repeat(2000)),
        vec!["1"; 4000].join("+"),
        "a".repeat(LONGEST + 1),
        vec!["self"; 1500].join("."),
    ] {
        assert!(Program::compile(&source, &["self"]).is_err(), "{}", &source[..20]);
    }
    // What is let through can be evaluated on the stack of a task.
    let deep = (0..45).fold("1".to_owned(), |inner, _| format!("[{inner}].map(x, x)[0]"));
    let sum = vec!["1"; 95].join("+");
    let on_a_small_stack = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
        for source in [deep, sum] {
            if let Ok(program) = Program::compile(&source, &[]) {
                program.evaluate(&Known::default(), &mut Budget::default()).unwrap();
            }
        }
    });
    on_a_small_stack.unwrap().join().unwrap();
}

#[test]
fn names_of_fields_are_escaped_as_upstream_does() {
    for (name, expect) in [
        ("namespace", "__namespace__"),
        ("a-b", "a__dash__b"),
        ("a.b", "a__dot__b"),
        ("a/b", "a__slash__b"),
        ("my_field", "my_field"),
        ("a__b", "a__underscores__b"),
        ("plain", "plain"),
    ] {
        assert_eq!(value::escape(name), expect);
    }
    let schema = json!({"type": "object", "properties": {"a-b": {"type": "integer"}, "t": {"type": "string", "format": "date-time"},
        "map": {"type": "object", "additionalProperties": {"type": "string"}}}});
    let object = json!({"a-b": 1, "t": "2026-01-01T00:00:00Z", "map": {"x-y": "z"}, "unknown": 1, "metadata": {"name": "n", "uid": "u"}});
    let seen = from_json_with_schema(&object, &schema, true);
    let program = Program::compile(
        "self.a__dash__b == 1 && self.t > timestamp('2025-01-01T00:00:00Z') && self.map['x-y'] == 'z' && \
         !has(self.unknown) && self.metadata.name == 'n' && !has(self.metadata.uid)",
        &["self"],
    );
    let result = program.unwrap().evaluate(&Known(vec![("self", seen)]), &mut Budget::default());
    assert_eq!(result.map(|value| to_json(&value)), Ok(Some(json!(true))));
}
