//! What the tests share.

use std::sync::Arc;

use apiserver::{ApiServer, testing};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use machinery::tasks::Tasks;
use serde_json::{Value, json};

pub(crate) struct Kit {
    pub(crate) server: Arc<ApiServer>,
    pub(crate) client: kube::Client,
    pub(crate) store: Arc<dyn store::Store>,
    _tasks: Tasks,
}

pub(crate) async fn kit() -> Kit {
    let store: Arc<dyn store::Store> = Arc::new(store::MemoryStore::new());
    let (server, tasks) = testing::start_with(store.clone(), machinery::clock::system()).await;
    let client = testing::admin(&server);
    Kit { server, client, store, _tasks: tasks }
}

/// An answer taken apart.
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) bytes: Vec<u8>,
    /// The bytes as text; what is no text is replaced.
    pub(crate) text: String,
}

impl Answer {
    /// The object of a protobuf answer.
    pub(crate) fn protobuf(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/vnd.kubernetes.protobuf", "{}", self.text);
        api::protobuf::decode(&self.bytes).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

impl Kit {
    /// A kit for a server that was started otherwise; its store is out of reach.
    pub(crate) fn of(server: Arc<ApiServer>, tasks: Tasks) -> Self {
        let client = testing::admin(&server);
        Self { server, client, store: Arc::new(store::MemoryStore::new()), _tasks: tasks }
    }

    /// Sends one request; `headers` are `Name: value`.
    pub(crate) async fn send(
        &self,
        method: &str,
        uri: &str,
        headers: &[&str],
        body: impl AsRef<[u8]>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(uri);
        for header in headers {
            let (name, value) = header.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        let request = request.body(kube::client::Body::from(body.as_ref().to_vec())).unwrap();
        let response = self.client.send(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            code: parts.status,
            headers: parts.headers,
            text: String::from_utf8_lossy(&bytes).into_owned(),
            bytes: bytes.to_vec(),
        }
    }

    pub(crate) async fn get(&self, uri: &str) -> Answer {
        self.send("GET", uri, &[], "").await
    }

    pub(crate) async fn post(&self, uri: &str, body: &Value) -> Answer {
        self.send("POST", uri, &["Content-Type: application/json"], &body.to_string()).await
    }

    /// Returns an `Authorization` header of a service account that may do everything, for transports that
    /// bring no user.
    pub(crate) async fn token(&self) -> String {
        let accounts = "/api/v1/namespaces/default/serviceaccounts";
        let account = json!({"metadata": {"name": "writer"}});
        assert_eq!(self.post(accounts, &account).await.code, 201);
        let binding = json!({"metadata": {"name": "writer"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "writer", "namespace": "default"}]});
        let bound = self.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
        assert_eq!(bound.code, 201, "{}", bound.text);
        let token = self.post(&format!("{accounts}/writer/token"), &json!({"spec": {"audiences": []}})).await;
        format!("Bearer {}", token.json()["status"]["token"].as_str().unwrap())
    }
}
