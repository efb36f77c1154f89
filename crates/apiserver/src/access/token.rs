//! Service account tokens: ES256 JSON web signatures, bound to what they were asked for.
//!
//! A token holds as long as it has not expired and its service account, and the pod, secret or node that it
//! is bound to, are still there with the same uid.

use std::sync::Arc;

use api::status::{Resource, Status};
use base64::Engine as _;
use jiff::Timestamp;
use machinery::clock::SharedClock;
use machinery::names::Random;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::user::{CREDENTIAL_ID, base64url};
use super::{Lookup, UserInfo, strings, text};

/// The DER of a P-256 public key up to the point itself.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The shortest life that may be asked for, in seconds.
const MIN_LIFE: i64 = 600;
/// The longest life that may be asked for, in seconds.
const MAX_LIFE: i64 = 1 << 32;
/// The life of a token whose request names none, in seconds.
const DEFAULT_LIFE: i64 = 3600;
/// How long an account that is being deleted keeps its tokens, in seconds: clocks differ.
const DELETION_LEEWAY: i64 = 60;

/// Why a token is not accepted. For the log; the client is told only that it is unauthorized.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token of ours at all.
    #[error("malformed token: {0}")]
    Malformed(&'static str),
    /// Signed by another key, or changed.
    #[error("the signature does not fit")]
    Signature,
    /// Ours, but not or no longer valid.
    #[error("{0}")]
    Invalid(String),
}

/// A token that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The service account's user.
    pub user: UserInfo,
    /// The audiences that both the token and the caller know.
    pub audiences: Vec<String>,
}

/// Issues and verifies service account tokens with one key.
pub struct Tokens {
    key: EcdsaKeyPair,
    kid: String,
    issuer: String,
    audiences: Vec<String>,
    clock: SharedClock,
    random: Random,
    entropy: SystemRandom,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Makes an issuer from a P-256 key (PKCS #8 PEM). `issuer` is its URL, as in
    /// `https://kubernetes.default.svc.cluster.local`; it is also the API server's own audience.
    ///
    /// # Errors
    /// A text when the key cannot be used.
    pub fn new(key_pem: &[u8], issuer: &str, clock: SharedClock, random: Random) -> Result<Self, String> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(key_pem)
            .map_err(|error| format!("reading the service account key: {error}"))?;
        let entropy = SystemRandom::new();
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &entropy)
                .map_err(|error| format!("the service account key is not a P-256 key in PKCS #8: {error}"))?;
        let mut digest = Sha256::new();
        digest.update(SPKI_PREFIX);
        digest.update(key.public_key().as_ref());
        let kid = base64url(digest.finalize());
        Ok(Self { key, kid, issuer: issuer.into(), audiences: vec![issuer.into()], clock, random, entropy })
    }

    /// The audiences of the API server itself.
    #[must_use]
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Returns the public key as a JSON web key set, served at `/openid/v1/jwks`.
    #[must_use]
    pub fn jwks(&self) -> Value {
        let point = self.key.public_key().as_ref();
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.kid, "crv": "P-256", "alg": "ES256",
            "x": base64url(&point[1..33]), "y": base64url(&point[33..65]),
        }]})
    }

    /// Returns the discovery document, served at `/.well-known/openid-configuration`. `base` is the URL that
    /// the API server is reached at.
    #[must_use]
    pub fn discovery(&self, base: &str) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{base}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// Signs claims.
    fn sign(&self, claims: &Value) -> Result<String, Status> {
        let header = json!({"alg": "ES256", "kid": self.kid});
        let signed = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
        let signature = self.key.sign(&self.entropy, signed.as_bytes()).map_err(|error| {
            Status::new(500, api::status::Reason::InternalError, format!("signing a token: {error}"))
        })?;
        Ok(format!("{signed}.{}", base64url(signature)))
    }

    /// Answers a `TokenRequest` for the service account `account`, and returns it with its status.
    ///
    /// # Errors
    /// 422 when the request breaks the rules, 400, 404 or 409 when the object to bind to does not fit.
    pub fn request(&self, account: &Value, request: &Value, lookup: &dyn Lookup) -> Result<Value, Status> {
        let (namespace, name) = (text(account, "/metadata/namespace"), text(account, "/metadata/name"));
        let life = match request.pointer("/spec/expirationSeconds") {
            None | Some(Value::Null) => DEFAULT_LIFE,
            Some(life) => life.as_i64().unwrap_or(0),
        };
        let too = |why: &str| {
            let detail = format!("Invalid value: {life}: {why}");
            Status::new(
                422,
                api::status::Reason::Invalid,
                format!(
                    "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: {detail}"
                ),
            )
            .cause("FieldValueInvalid", detail, "spec.expirationSeconds")
        };
        if life < MIN_LIFE {
            return Err(too("may not specify a duration less than 10 minutes"));
        }
        if life > MAX_LIFE {
            return Err(too("may not specify a duration larger than 2^32 seconds"));
        }
        let mut audiences = strings(request, "/spec/audiences");
        if audiences.is_empty() {
            audiences.clone_from(&self.audiences);
        }
        let now = self.clock.now();
        let expires = now.as_second() + life;
        let mut private = json!({
            "namespace": namespace,
            "serviceaccount": {"name": name, "uid": text(account, "/metadata/uid")},
        });
        if let Some(reference) = request.pointer("/spec/boundObjectRef").filter(|value| value.is_object()) {
            bind(&mut private, reference, account, lookup)?;
        }
        let token = self.sign(&json!({
            "aud": audiences,
            "exp": expires,
            "iat": now.as_second(),
            "iss": self.issuer,
            "jti": self.random.uid(),
            "kubernetes.io": private,
            "nbf": now.as_second(),
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
        }))?;
        let mut answer = request.clone();
        if !answer.is_object() {
            answer = json!({});
        }
        answer["kind"] = "TokenRequest".into();
        answer["apiVersion"] = "authentication.k8s.io/v1".into();
        answer["metadata"] = json!({
            "name": name,
            "namespace": namespace,
            "creationTimestamp": seconds(now.as_second()),
        });
        if !answer["spec"].is_object() {
            answer["spec"] = json!({});
        }
        answer["spec"]["audiences"] = audiences.into();
        answer["spec"]["expirationSeconds"] = life.into();
        answer["status"] = json!({"token": token, "expirationTimestamp": seconds(expires)});
        Ok(answer)
    }

    /// Verifies a token for one of `audiences` (the API server's own when empty).
    ///
    /// # Errors
    /// When the token is not ours, has expired, is for somebody else, or its account or the object that it
    /// is bound to is gone.
    pub fn verify(
        &self,
        token: &str,
        audiences: &[String],
        lookup: &dyn Lookup,
    ) -> Result<Verified, TokenError> {
        let claims = self.claims(token)?;
        let now = self.clock.now().as_second();
        let time = |claim: &str| claims.get(claim).and_then(Value::as_i64);
        if text(&claims, "/iss") != self.issuer {
            return Err(TokenError::Invalid(format!("issued by {:?}", text(&claims, "/iss"))));
        }
        if time("exp").is_none_or(|exp| now >= exp) {
            return Err(TokenError::Invalid("service account token has expired".into()));
        }
        if time("nbf").is_some_and(|nbf| now + DELETION_LEEWAY < nbf) {
            return Err(TokenError::Invalid("service account token is not valid yet".into()));
        }
        let wanted = if audiences.is_empty() { &self.audiences } else { audiences };
        let audiences: Vec<String> =
            strings(&claims, "/aud").into_iter().filter(|audience| wanted.contains(audience)).collect();
        if audiences.is_empty() {
            return Err(TokenError::Invalid(format!(
                "token audiences {} is invalid for the target audiences {wanted:?}",
                claims["aud"]
            )));
        }
        let private = &claims["kubernetes.io"];
        let namespace = text(private, "/namespace");
        let (name, uid) = (text(private, "/serviceaccount/name"), text(private, "/serviceaccount/uid"));
        self.exists(lookup, "serviceaccounts", namespace, name, uid, now)?;
        let mut user = UserInfo::service_account(namespace, name, uid);
        let mut extra = |key: &str, value: &str| {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        };
        for (kind, resource) in [("pod", "pods"), ("secret", "secrets"), ("node", "nodes")] {
            let Some(bound) = private.get(kind) else { continue };
            let (name, uid) = (text(bound, "/name"), text(bound, "/uid"));
            // The node of a pod is for the record; only a token bound to the node itself depends on it.
            if kind != "node" || private.get("pod").is_none() {
                let namespace = if kind == "node" { "" } else { namespace };
                self.exists(lookup, resource, namespace, name, uid, now)?;
            }
            if kind != "secret" {
                extra(&format!("{kind}-name"), name);
                extra(&format!("{kind}-uid"), uid);
            }
        }
        if let Some(id) = claims.get("jti").and_then(Value::as_str) {
            user.extra.insert(CREDENTIAL_ID.into(), vec![format!("JTI={id}")]);
        }
        Ok(Verified { user, audiences })
    }

    fn claims(&self, token: &str) -> Result<Value, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed("no signature"))?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed("no claims"))?;
        let decode = |part: &str| {
            base64::engine::general_purpose::URL_SAFE_NO_PAD
                .decode(part)
                .map_err(|_| TokenError::Malformed("not base64url"))
        };
        let parse = |part: &str| -> Result<Value, TokenError> {
            serde_json::from_slice(&decode(part)?).map_err(|_| TokenError::Malformed("not JSON"))
        };
        let header = parse(header)?;
        if text(&header, "/alg") != "ES256" {
            return Err(TokenError::Malformed("not signed with ES256"));
        }
        if header.get("kid").is_some_and(|kid| kid != self.kid.as_str()) {
            return Err(TokenError::Signature);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Signature)?;
        parse(claims)
    }

    fn exists(
        &self,
        lookup: &dyn Lookup,
        resource: &str,
        namespace: &str,
        name: &str,
        uid: &str,
        now: i64,
    ) -> Result<Arc<Value>, TokenError> {
        let gone = |why: &str| TokenError::Invalid(format!("{resource} {namespace}/{name} {why}"));
        let found =
            lookup.lookup(resource, namespace, name).ok_or_else(|| gone("does not exist any more"))?;
        if text(&found, "/metadata/uid") != uid {
            return Err(gone("is another one of that name"));
        }
        let deleted = text(&found, "/metadata/deletionTimestamp").parse::<Timestamp>();
        // A pod that is being deleted may use its token until it is gone.
        if resource != "pods" && deleted.is_ok_and(|at| at.as_second() + DELETION_LEEWAY < now) {
            return Err(gone("has been deleted"));
        }
        Ok(found)
    }
}

/// Adds the object that a token is bound to to its claims.
fn bind(private: &mut Value, reference: &Value, account: &Value, lookup: &dyn Lookup) -> Result<(), Status> {
    let namespace = text(account, "/metadata/namespace");
    let (kind, version, name) =
        (text(reference, "/kind"), text(reference, "/apiVersion"), text(reference, "/name"));
    let (claim, resource, place) = match (version, kind) {
        ("v1", "Pod") => ("pod", "pods", namespace),
        ("v1", "Secret") => ("secret", "secrets", namespace),
        ("v1", "Node") => ("node", "nodes", ""),
        _ => {
            return Err(Status::bad_request(format!(
                "cannot bind token for object of type {version}, Kind={kind}"
            )));
        }
    };
    let about = Resource { group: "", name: resource };
    let found = lookup.lookup(resource, place, name).ok_or_else(|| Status::not_found(about, name))?;
    let uid = text(&found, "/metadata/uid");
    let wanted = text(reference, "/uid");
    if !wanted.is_empty() && wanted != uid {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict_because(about, name, &why));
    }
    private[claim] = json!({"name": name, "uid": uid});
    if claim == "pod" {
        let account = text(account, "/metadata/name");
        if text(&found, "/spec/serviceAccountName") != account {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
            )));
        }
        let node = text(&found, "/spec/nodeName");
        if !node.is_empty() {
            private["node"] = json!({"name": node});
            if let Some(found) = lookup.lookup("nodes", "", node) {
                private["node"]["uid"] = text(&found, "/metadata/uid").into();
            }
        }
    }
    Ok(())
}

/// Writes a time as the API does: whole seconds, UTC.
fn seconds(second: i64) -> String {
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests;
