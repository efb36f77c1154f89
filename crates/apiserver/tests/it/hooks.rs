//! A webhook server of the tests: real HTTPS on loopback, with an answer for each path.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use machinery::names::Random;
use machinery::serve::{Peer, serve};
use machinery::tasks::Tasks;
use machinery::tls::{self, Identity};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What a path answers: the review's request in, the whole answer out (without uid); `None` never answers.
pub(crate) type Answer = Box<dyn Fn(&Value) -> Option<Value> + Send + Sync>;

/// What the server was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) body: Value,
    pub(crate) headers: http::HeaderMap,
    /// Tells connections apart.
    pub(crate) peer: SocketAddr,
}

pub(crate) struct Hooks {
    pub(crate) address: SocketAddr,
    /// The certificate of who signed the server's certificate, PEM in base64.
    pub(crate) bundle: String,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: Tasks,
}

impl Hooks {
    /// Starts a server whose certificate is for `names`.
    pub(crate) async fn start(names: &[&str]) -> Self {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A name of its own: to another authority of the same name a certificate would be forged, not foreign.
        authority.distinguished_name.push(DnType::CommonName, Random::from_os().suffix(8));
        let authority_key = KeyPair::generate().unwrap();
        let certificate = authority.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let identity = Identity {
            chain: vec![own.der().clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        };

        let answers: Arc<Mutex<HashMap<String, Answer>>> = Arc::default();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let tasks = Tasks::new(CancellationToken::new());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_sender, tls) = tokio::sync::watch::channel(Arc::new(tls::server(identity, &[]).unwrap()));
        let service = tower::service_fn({
            let (answers, asked) = (answers.clone(), asked.clone());
            move |request| respond(request, answers.clone(), asked.clone())
        });
        tasks.spawn("webhook server", serve(listener, tls, service, tasks.clone()));
        Self { address, bundle: STANDARD.encode(certificate.pem()), answers, asked, _tasks: tasks }
    }

    /// Says what a path answers.
    pub(crate) fn on(&self, path: &str, answer: impl Fn(&Value) -> Option<Value> + Send + Sync + 'static) {
        self.answers.lock().insert(path.to_owned(), Box::new(answer));
    }

    /// Takes what was asked since the last call.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock())
    }

    /// Returns a `clientConfig` that leads to a path.
    pub(crate) fn client(&self, path: &str) -> Value {
        json!({"url": format!("https://{}{path}", self.address), "caBundle": self.bundle})
    }
}

async fn respond(
    request: Request<Incoming>,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let peer = parts.extensions.get::<Peer>().unwrap().address;
    let body = body.collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = parts.uri.path().to_owned();
    asked.lock().push(Asked { path: path.clone(), body: body.clone(), headers: parts.headers, peer });
    let answer = match answers.lock().get(&path) {
        Some(answer) => answer(&body),
        None => Some(json!({"answer to": path})),
    };
    match answer {
        Some(answer) => Ok(Response::new(Full::new(Bytes::from(answer.to_string())))),
        None => std::future::pending().await,
    }
}

/// Returns a review that allows, with more fields of the response.
pub(crate) fn review(body: &Value, mut response: Value) -> Option<Value> {
    response["uid"] = body["request"]["uid"].clone();
    Some(json!({"apiVersion": body["apiVersion"], "kind": "AdmissionReview", "response": response}))
}

/// Returns a review that allows with a JSON patch.
pub(crate) fn patched(body: &Value, patch: &Value) -> Option<Value> {
    let patch = STANDARD.encode(patch.to_string());
    review(body, json!({"allowed": true, "patch": patch, "patchType": "JSONPatch"}))
}
