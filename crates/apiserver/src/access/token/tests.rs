use std::collections::HashMap;
use std::time::Duration;

use machinery::clock::ManualClock;

use super::*;
use crate::access::token_review;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

#[derive(Default)]
struct World(HashMap<String, Arc<Value>>);

impl World {
    fn put(&mut self, resource: &str, namespace: &str, name: &str, mut object: Value) {
        object["metadata"]["name"] = name.into();
        object["metadata"]["namespace"] = namespace.into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{name}").into();
        }
        self.0.insert(format!("{resource}/{namespace}/{name}"), Arc::new(object));
    }
}

impl Lookup for World {
    fn lookup(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.0.get(&format!("{resource}/{namespace}/{name}")).cloned()
    }

    fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        let prefix = format!("{resource}/{namespace}");
        self.0.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, value)| value.clone()).collect()
    }
}

fn world() -> World {
    let mut world = World::default();
    world.put("serviceaccounts", "ns", "web", json!({}));
    world.put("pods", "ns", "p", json!({"spec": {"serviceAccountName": "web", "nodeName": "n1"}}));
    world.put("pods", "ns", "other", json!({"spec": {"serviceAccountName": "default"}}));
    world.put("secrets", "ns", "s", json!({}));
    world.put("nodes", "", "n1", json!({}));
    world
}

fn tokens(clock: &ManualClock) -> Tokens {
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    Tokens::new(key.as_bytes(), ISSUER, Arc::new(clock.clone()), Random::seeded(1)).unwrap()
}

fn clock() -> ManualClock {
    ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap())
}

fn issue(tokens: &Tokens, world: &World, spec: Value) -> Result<String, Status> {
    let account = world.lookup("serviceaccounts", "ns", "web").unwrap();
    let answer = tokens.request(&account, &json!({"spec": spec}), world)?;
    Ok(answer["status"]["token"].as_str().unwrap().to_owned())
}

#[test]
fn a_token_names_its_account_and_what_it_is_bound_to() {
    let (clock, world) = (clock(), world());
    let tokens = tokens(&clock);
    let token =
        issue(&tokens, &world, json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}}))
            .unwrap();
    let Verified { user, audiences } = tokens.verify(&token, &[], &world).unwrap();
    assert_eq!(user.name, "system:serviceaccount:ns:web");
    assert_eq!(user.uid, "uid-web");
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]);
    assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
    assert_eq!(user.extra["authentication.kubernetes.io/pod-uid"], ["uid-p"]);
    assert_eq!(user.extra["authentication.kubernetes.io/node-name"], ["n1"]);
    assert_eq!(user.extra["authentication.kubernetes.io/node-uid"], ["uid-n1"]);
    assert!(user.extra[CREDENTIAL_ID][0].starts_with("JTI="));
    assert_eq!(audiences, [ISSUER]);
}

#[test]
fn a_token_ends() {
    let (clock, world) = (clock(), world());
    let tokens = tokens(&clock);
    let token = issue(&tokens, &world, json!({"expirationSeconds": 600})).unwrap();
    clock.advance(Duration::from_secs(599));
    assert!(tokens.verify(&token, &[], &world).is_ok());
    clock.advance(Duration::from_secs(1));
    assert!(matches!(tokens.verify(&token, &[], &world), Err(TokenError::Invalid(_))));
}

#[test]
fn a_token_falls_with_what_it_is_bound_to() {
    let clock = clock();
    let tokens = tokens(&clock);
    for (reference, gone) in [
        (json!(null), "serviceaccounts/ns/web"),
        (json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "uid-p"}), "pods/ns/p"),
        (json!({"kind": "Secret", "apiVersion": "v1", "name": "s"}), "secrets/ns/s"),
        (json!({"kind": "Node", "apiVersion": "v1", "name": "n1"}), "nodes//n1"),
    ] {
        let mut world = world();
        let token = issue(&tokens, &world, json!({"boundObjectRef": reference})).unwrap();
        assert!(tokens.verify(&token, &[], &world).is_ok(), "{gone}");
        let old = world.0.remove(gone).unwrap();
        assert!(tokens.verify(&token, &[], &world).is_err(), "{gone}");
        let mut again = (*old).clone();
        again["metadata"]["uid"] = "another".into();
        world.0.insert(gone.into(), Arc::new(again));
        assert!(tokens.verify(&token, &[], &world).is_err(), "{gone} made again");
    }
    let mut world = world();
    let token = issue(&tokens, &world, json!({})).unwrap();
    world.put(
        "serviceaccounts",
        "ns",
        "web",
        json!({"metadata": {"deletionTimestamp": "2025-12-31T00:00:00Z"}}),
    );
    assert!(tokens.verify(&token, &[], &world).is_err());
}

#[test]
fn a_token_is_for_its_audiences() {
    let (clock, world) = (clock(), world());
    let tokens = tokens(&clock);
    let token = issue(&tokens, &world, json!({"audiences": ["vault", "db"]})).unwrap();
    assert!(tokens.verify(&token, &[], &world).is_err());
    let verified = tokens.verify(&token, &["db".into(), "x".into()], &world).unwrap();
    assert_eq!(verified.audiences, ["db"]);
}

#[test]
fn a_changed_or_foreign_token_is_refused() {
    let (clock, world) = (clock(), world());
    let tokens = tokens(&clock);
    let token = issue(&tokens, &world, json!({})).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let forged =
        base64url(json!({"iss": ISSUER, "sub": "system:serviceaccount:kube-system:admin"}).to_string());
    let none = base64url(json!({"alg": "none"}).to_string());
    for bad in [
        String::new(),
        "x".into(),
        "x.y".into(),
        "x.y.z".into(),
        "..".into(),
        format!("{}.{forged}.{}", parts[0], parts[2]),
        format!("{none}.{forged}."),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{token}x"),
        self::tokens(&clock).sign(&json!({"iss": ISSUER})).unwrap(),
    ] {
        assert!(tokens.verify(&bad, &[], &world).is_err(), "{bad}");
    }
    let no_account = tokens.sign(&json!({"iss": ISSUER, "aud": [ISSUER], "exp": i64::MAX})).unwrap();
    assert!(tokens.verify(&no_account, &[], &world).is_err());
    let no_end = tokens.sign(&json!({"iss": ISSUER, "aud": [ISSUER]})).unwrap();
    assert!(tokens.verify(&no_end, &[], &world).is_err());
}

#[test]
fn requests_that_do_not_fit_are_refused() {
    let (clock, world) = (clock(), world());
    let tokens = tokens(&clock);
    let pod = |name: &str, uid: &str| json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}});
    for (spec, code, message) in [
        (json!({"expirationSeconds": 599}), 422, "may not specify a duration less than 10 minutes"),
        (json!({"expirationSeconds": -1}), 422, "less than 10 minutes"),
        (json!({"expirationSeconds": i64::MAX}), 422, "larger than 2^32 seconds"),
        (pod("missing", ""), 404, "pods \"missing\" not found"),
        (pod("p", "wrong"), 409, "does not match the UID in record"),
        (pod("other", ""), 400, "different serviceaccount name"),
        (
            json!({"boundObjectRef": {"kind": "Frob", "apiVersion": "v1", "name": "x"}}),
            400,
            "cannot bind token for object of type",
        ),
    ] {
        let error = issue(&tokens, &world, spec.clone()).unwrap_err();
        assert_eq!(error.code, code, "{spec}");
        assert!(error.message.contains(message), "{}", error.message);
    }
}

#[test]
fn the_key_is_published_for_others_to_verify() {
    let clock = clock();
    let tokens = tokens(&clock);
    let jwks = tokens.jwks();
    let key = &jwks["keys"][0];
    let decode = |field: &str| {
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(key[field].as_str().unwrap()).unwrap()
    };
    let mut point = vec![4];
    point.extend(decode("x"));
    point.extend(decode("y"));
    let token = tokens.sign(&json!({})).unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(signature).unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed.as_bytes(), &signature).unwrap();
    assert_eq!(
        tokens.discovery("https://172.17.4.101:443")["jwks_uri"],
        "https://172.17.4.101:443/openid/v1/jwks"
    );
    assert!(Tokens::new(b"nonsense", ISSUER, Arc::new(clock), Random::seeded(1)).is_err());
}

#[test]
fn a_token_review_says_whose_the_token_is() {
    let (clock, world) = (clock(), world());
    let tokens = tokens(&clock);
    let token = issue(&tokens, &world, json!({})).unwrap();
    let ask = |token: &str| token_review(&tokens, &world, &json!({"spec": {"token": token}}));
    let answer = ask(&token).unwrap();
    assert_eq!(answer["status"]["authenticated"], true);
    assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:ns:web");
    let answer = ask("nonsense").unwrap();
    assert_eq!(answer["status"]["authenticated"], Value::Null);
    assert!(answer["status"]["error"].as_str().unwrap().contains("invalid bearer token"));
    assert!(ask("").is_err());
}
