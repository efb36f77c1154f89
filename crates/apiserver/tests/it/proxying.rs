//! What other servers answer: a node agent's kubelet API and a pod's own server, each played by a small
//! server in the test; the API server itself is reached over TLS, as kubectl does.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use apiserver::{ApiServer, Config, KubeletClient, Pki, testing};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use machinery::clock;
use machinery::names::Random;
use machinery::serve::{Peer, serve};
use machinery::tasks::Tasks;
use machinery::tls::{self, Identity};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn issue(&self, name: &str, group: &str) -> Identity {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        }
    }
}

/// Starts an HTTPS server of the test's own; returns where it listens.
async fn listen<S>(authority: &Authority, service: S, tasks: &Tasks) -> SocketAddr
where
    S: tower::Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let config =
        tls::server(authority.issue("node", "system:nodes"), std::slice::from_ref(&authority.certificate))
            .unwrap();
    let (_sender, receiver) = tokio::sync::watch::channel(Arc::new(config));
    tasks.spawn("played server", serve(listener, receiver, service, tasks.clone()));
    address
}

/// Plays a node agent: tells what it was asked, and echoes after an upgrade.
async fn agent(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let peer: Peer = request.extensions().get::<Peer>().unwrap().clone();
    let answer = |code: u16, text: String| {
        Response::builder().status(code).body(Full::new(Bytes::from(text))).unwrap()
    };
    if peer.certificates.is_empty() {
        return Ok(answer(401, "who are you?".into()));
    }
    let path = request.uri().path_and_query().unwrap().to_string();
    if path.starts_with("/containerLogs/default/p/waiting") {
        let text = "container \"waiting\" in pod \"p\" is waiting to start: ContainerCreating";
        return Ok(answer(400, text.into()));
    }
    if path.starts_with("/exec/default/p/waiting") {
        return Ok(answer(500, "container not found (\"waiting\")".into()));
    }
    if path == "/stats/summary" {
        let time = "2026-11-22T20:00:00Z";
        let used = |cpu: u64, memory: u64| json!({"cpu": {"time": time, "usageNanoCores": cpu}, "memory": {"time": time, "workingSetBytes": memory}});
        let mut node = used(250_000_000, 64 << 20);
        node["nodeName"] = json!("n1");
        return Ok(answer(200, json!({"node": node, "pods": []}).to_string()));
    }
    if let Some(protocol) = request.headers().get("upgrade").cloned() {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            stream.write_all(format!("{path}\n").as_bytes()).await.unwrap();
            let (mut from, mut to) = tokio::io::split(stream);
            tokio::io::copy(&mut from, &mut to).await.unwrap();
        });
        return Ok(Response::builder()
            .status(101)
            .header("connection", "Upgrade")
            .header("upgrade", protocol)
            .body(Full::default())
            .unwrap());
    }
    Ok(answer(200, format!("{} {path}", request.method())))
}

struct Lab {
    api: SocketAddr,
    client: kube::Client,
    authority: Authority,
    _tasks: Tasks,
}

async fn lab() -> Lab {
    let authority = Authority::new();
    let tasks = Tasks::new(CancellationToken::new());
    let node = listen(&authority, tower::service_fn(agent), &tasks).await;
    let config = Config {
        advertise_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        pki: Pki {
            kubelet_client: Some(KubeletClient {
                authorities: vec![authority.certificate.clone()],
                identity: authority.issue("kube-apiserver-kubelet-client", "system:masters"),
            }),
            ..testing::config().pki
        },
        ..testing::config()
    };
    let store = Arc::new(store::MemoryStore::new());
    let server =
        ApiServer::open(config, store, clock::system(), Random::from_os(), tasks.clone()).await.unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let api = listener.local_addr().unwrap();
    let config =
        tls::server(authority.issue("kube-apiserver", ""), std::slice::from_ref(&authority.certificate))
            .unwrap();
    let (_sender, receiver) = tokio::sync::watch::channel(Arc::new(config));
    server.serve(listener, receiver);

    let lab = Lab { api, client: testing::admin(&server), authority, _tasks: tasks };
    lab.send("POST", "/api/v1/nodes", &json!({"metadata": {"name": "n1"}})).await;
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": node.port()}}}});
    lab.send("PATCH", "/api/v1/nodes/n1/status", &status).await;
    lab.send("POST", &format!("{DEFAULT}/serviceaccounts"), &json!({"metadata": {"name": "default"}})).await;
    let container = |name: &str| json!({"name": name, "image": "i"});
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [container("c"), container("waiting")]}});
    lab.send("POST", &format!("{DEFAULT}/pods"), &pod).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    lab.send("POST", &format!("{DEFAULT}/pods/p/binding"), &binding).await;
    lab
}

const DEFAULT: &str = "/api/v1/namespaces/default";

impl Lab {
    async fn send(&self, method: &str, uri: &str, body: &Value) -> String {
        let (code, text) = self.ask(method, uri, body).await;
        assert!(code.is_success(), "{method} {uri}: {code} {text}");
        text
    }

    async fn ask(&self, method: &str, uri: &str, body: &Value) -> (StatusCode, String) {
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(uri).header("content-type", content);
        let request = request.body(kube::client::Body::from(body)).unwrap();
        let (parts, body) = self.client.send(request).await.unwrap().into_parts();
        (parts.status, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }
}

#[tokio::test]
async fn logs_and_node_paths_come_from_the_node_agent() {
    let lab = lab().await;
    let log = lab.send("GET", &format!("{DEFAULT}/pods/p/log?container=c&tailLines=5"), &Value::Null).await;
    assert_eq!(log, "GET /containerLogs/default/p/c?tailLines=5");
    for (query, text) in [
        ("", "a container name must be specified for pod p, choose one of: [c waiting]"),
        ("?container=x", "container x is not valid for pod p"),
        ("?container=waiting", "is waiting to start: ContainerCreating"),
    ] {
        let (code, answer) = lab.ask("GET", &format!("{DEFAULT}/pods/p/log{query}"), &Value::Null).await;
        let status: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!((code.as_u16(), &status["reason"]), (400, &json!("BadRequest")), "{answer}");
        assert!(status["message"].as_str().unwrap().contains(text), "{answer}");
    }
    // kubectl shows the body of a refused upgrade as it is.
    let exec = format!("{DEFAULT}/pods/p/exec?container=waiting&command=ls");
    let (code, answer) = lab.ask("POST", &exec, &Value::Null).await;
    assert_eq!((code.as_u16(), answer.as_str()), (500, "container not found (\"waiting\")"));
    let path = lab.send("GET", "/api/v1/nodes/n1/proxy/some/path?x=1", &Value::Null).await;
    assert_eq!(path, "GET /some/path?x=1");
    let (code, answer) = lab.ask("GET", &format!("{DEFAULT}/services/kubernetes/proxy/"), &Value::Null).await;
    assert!(code == 503 && answer.contains("no endpoints available"), "{answer}");
    let nodes = lab.send("GET", "/apis/metrics.k8s.io/v1beta1/nodes", &Value::Null).await;
    let nodes: Value = serde_json::from_str(&nodes).unwrap();
    assert_eq!(nodes["items"][0]["usage"], json!({"cpu": "250000000n", "memory": "65536Ki"}));
}

#[tokio::test]
async fn an_exec_is_a_tunnel_to_the_node_agent() {
    let lab = lab().await;
    let admin = lab.authority.issue("kubernetes-admin", "system:masters");
    let mut config = tls::client(std::slice::from_ref(&lab.authority.certificate), Some(admin)).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(lab.api).await.unwrap();
    let name = rustls::pki_types::ServerName::IpAddress(lab.api.ip().into());
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let request = format!(
        "POST {DEFAULT}/pods/p/exec?command=ls&command=-l&container=c&stdin=true&stdout=true HTTP/1.1\r\n\
         Host: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let path = "/exec/default/p/c?input=1&output=1&command=ls&command=-l\n";
    let mut buffer = [0u8; 1024];
    while !seen.ends_with(path) {
        let read = tokio::time::timeout(std::time::Duration::from_secs(10), stream.read(&mut buffer));
        let count = read.await.expect("an answer in time").unwrap();
        assert!(count > 0, "the connection ended after {seen}");
        seen += std::str::from_utf8(&buffer[..count]).unwrap();
    }
    assert!(seen.starts_with("HTTP/1.1 101"), "{seen}");
    assert!(seen.to_lowercase().contains("upgrade: spdy/3.1"), "{seen}");
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut buffer[..5]).await.unwrap();
    assert_eq!(&buffer[..5], b"hello");
}
