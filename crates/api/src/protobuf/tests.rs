//! Objects put together byte by byte, as Go's encoder does.

use serde_json::json;

use super::*;

/// Encodes one field of bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend_from_slice(bytes);
    out
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), field(1, &meta), field(2, raw), field(3, b""), field(4, b"")].concat()
}

#[test]
fn a_config_map_is_read_and_what_says_nothing_is_left_out() {
    let entry = [field(1, b"x"), field(2, b"1")].concat();
    let meta = [field(1, b"a"), field(2, b""), field(3, b""), field(8, b""), vec![7 << 3, 0]].concat();
    let raw = [field(1, &meta), field(2, &entry)].concat();
    let value = decode(&envelope("v1", "ConfigMap", &raw)).unwrap();
    assert_eq!(
        value,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}})
    );
}

#[test]
fn pointers_inline_structs_and_special_types_are_read() {
    // A volume's source stands in the volume itself; a zero of a pointer is kept.
    let empty_dir = field(2, &field(2, &field(1, b"1Gi")));
    let volume = [field(1, b"v"), field(2, &empty_dir)].concat();
    let port = [vec![1 << 3, 1], vec![2 << 3, 0], field(3, b"http")].concat();
    let probe = field(1, &field(2, &[field(1, b"/"), field(2, &port)].concat()));
    let container = [field(1, b"c"), field(10, &probe)].concat();
    let spec = [field(1, &volume), field(2, &container), vec![4 << 3, 0], vec![11 << 3, 0]].concat();
    let value = decode(&envelope("v1", "Pod", &field(2, &spec))).unwrap();
    assert_eq!(
        value["spec"],
        json!({
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}],
            "containers": [{"name": "c", "livenessProbe": {"httpGet": {"path": "/", "port": "http"}}}],
            "terminationGracePeriodSeconds": 0,
        })
    );
    let options = decode(&envelope("v1", "DeleteOptions", &[vec![1 << 3, 0], field(4, b"Orphan")].concat()));
    assert_eq!(options.unwrap()["gracePeriodSeconds"], 0);
}

#[test]
fn what_is_no_object_is_an_error() {
    let whole = envelope("v1", "ConfigMap", &field(1, &field(1, b"a")));
    for length in 0..whole.len() - 4 {
        // Nothing panics, and hardly anything that is cut short is taken for whole.
        let _cut = decode(&whole[..length]);
    }
    for bytes in [&b""[..], b"k8s", b"{}", &envelope("v1", "Nonsense", b""), &[MAGIC, &[0xff; 20]].concat()] {
        assert!(decode(bytes).is_err(), "{bytes:?}");
    }
}
