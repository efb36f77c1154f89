//! Watches: every change once, in order.

use futures::StreamExt;
use http::Request;
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::kit::{Kit, kit};

/// An open watch: the events as they come.
struct Events {
    body: kube::client::Body,
    rest: String,
}

impl Events {
    async fn open(kit: &Kit, uri: &str) -> Self {
        let request = Request::get(uri).body(kube::client::Body::empty()).unwrap();
        let response = kit.client.send(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Self { body: response.into_body(), rest: String::new() }
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.rest.split_once('\n') {
                let event = serde_json::from_str(line).unwrap();
                self.rest = rest.to_owned();
                return Some(event);
            }
            let frame = tokio::time::timeout(std::time::Duration::from_secs(5), self.body.frame()).await;
            let frame = frame.expect("an event was due")?.unwrap();
            self.rest += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
        }
    }

    /// Returns `TYPE name` of the next event.
    async fn short(&mut self) -> String {
        let event = self.next().await.expect("the watch ended");
        format!(
            "{} {}",
            event["type"].as_str().unwrap(),
            event["object"]["metadata"]["name"].as_str().unwrap_or_default()
        )
    }
}

fn map(name: &str, app: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"app": app}}})).unwrap()
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_selection_is_entered_and_left() {
    let kit = kit().await;
    let api: Api<ConfigMap> = Api::namespaced(kit.client.clone(), "default");
    let label = |app: &str| Patch::Merge(json!({"metadata": {"labels": {"app": app}}}));
    api.create(&PostParams::default(), &map("a", "x")).await.unwrap();
    let mut events = Events::open(&kit, &format!("{MAPS}?watch=true&labelSelector=app%3Dx")).await;
    assert_eq!(events.short().await, "ADDED a");
    let params = PatchParams::default();
    api.patch("a", &params, &label("y")).await.unwrap();
    let left = events.next().await.unwrap();
    assert_eq!(
        (&left["type"], &left["object"]["metadata"]["labels"]["app"]),
        (&json!("DELETED"), &json!("x"))
    );
    api.create(&PostParams::default(), &map("b", "y")).await.unwrap();
    let back = api.patch("a", &params, &label("x")).await.unwrap();
    let event = events.next().await.unwrap();
    assert_eq!(event["type"], "ADDED");
    assert_eq!(event["object"]["metadata"]["resourceVersion"], json!(back.metadata.resource_version));
    api.delete("b", &DeleteParams::default()).await.unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    let gone = events.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert_ne!(gone["object"]["metadata"]["resourceVersion"], json!(back.metadata.resource_version));
}

#[tokio::test]
async fn a_streamed_list_says_where_it_ends() {
    let kit = kit().await;
    let api: Api<ConfigMap> = Api::namespaced(kit.client.clone(), "default");
    api.create(&PostParams::default(), &map("a", "x")).await.unwrap();
    let uri = format!(
        "{MAPS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1"
    );
    let mut events = Events::open(&kit, &uri).await;
    assert_eq!(events.short().await, "ADDED a");
    let end = events.next().await.unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let version = end["object"]["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    api.create(&PostParams::default(), &map("b", "x")).await.unwrap();
    assert_eq!(events.short().await, "ADDED b");
    let last = events.next().await.unwrap();
    assert_eq!(last["type"], "BOOKMARK", "{last}");
    assert!(events.next().await.is_none());
    // What came after the end of the list can be watched from there.
    let mut events = Events::open(&kit, &format!("{MAPS}?watch=true&resourceVersion={version}")).await;
    assert_eq!(events.short().await, "ADDED b");
}

#[tokio::test]
async fn a_table_watch_names_its_columns_once() {
    let kit = kit().await;
    let api: Api<ConfigMap> = Api::namespaced(kit.client.clone(), "default");
    for name in ["a", "b"] {
        api.create(&PostParams::default(), &map(name, "x")).await.unwrap();
    }
    let request = Request::get(format!("{MAPS}?watch=true"))
        .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .body(kube::client::Body::empty())
        .unwrap();
    let body = kit.client.send(request).await.unwrap().into_body();
    let mut events = Events { body, rest: String::new() };
    let first = events.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert!(first["object"]["columnDefinitions"].is_array());
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    assert_eq!(first["object"]["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let second = events.next().await.unwrap();
    assert!(second["object"]["columnDefinitions"].is_null());
}

#[tokio::test]
async fn no_event_is_lost_doubled_or_out_of_order_under_load() {
    let kit = kit().await;
    let start = kit.server.cache().revision();
    let mut watchers = Vec::new();
    for _ in 0..8 {
        let uri = format!("{MAPS}?watch=true&resourceVersion={start}");
        let mut events = Events::open(&kit, &uri).await;
        watchers.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            while seen.len() < 400 {
                let event = events.next().await.unwrap();
                let version: u64 =
                    event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
                seen.push((version, event["type"].as_str().unwrap().to_owned()));
            }
            seen
        }));
    }
    let writers = (0..4).map(|writer| {
        let api: Api<ConfigMap> = Api::namespaced(kit.client.clone(), "default");
        async move {
            for index in 0..50 {
                let name = format!("w{writer}-{index}");
                api.create(&PostParams::default(), &map(&name, "x")).await.unwrap();
                api.delete(&name, &DeleteParams::default()).await.unwrap();
            }
        }
    });
    futures::stream::iter(writers).for_each_concurrent(None, |writer| writer).await;
    let mut histories = Vec::new();
    for watcher in watchers {
        histories.push(watcher.await.unwrap());
    }
    let first = &histories[0];
    assert!(first.windows(2).all(|pair| pair[0].0 < pair[1].0), "revisions grow");
    assert!(histories.iter().all(|history| history == first), "all watchers see the same history");
}

#[tokio::test]
async fn a_watch_comes_over_a_websocket_event_by_event() {
    let kit = kit().await;
    let token = kit.token().await;
    for name in ["a", "b"] {
        assert_eq!(kit.post(MAPS, &json!({"metadata": {"name": name}})).await.code, 201);
    }
    for (accept, text) in [("application/json", true), ("application/vnd.kubernetes.protobuf", false)] {
        let (near, far) = tokio::io::duplex(64 << 10);
        let service = hyper_util::service::TowerToHyperService::new(kit.server.service());
        let serve = hyper::server::conn::http1::Builder::new()
            .serve_connection(hyper_util::rt::TokioIo::new(far), service)
            .with_upgrades();
        let serving = tokio::spawn(serve);
        let request = Request::get(format!("ws://server{MAPS}?watch=true&timeoutSeconds=1"))
            .header("Host", "server")
            .header("Authorization", &token)
            .header("Accept", accept)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .unwrap();
        let (mut socket, response) = tokio_tungstenite::client_async(request, near).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let mut names = Vec::new();
        while let Some(Ok(message)) = socket.next().await {
            assert!(message.is_close() || message.is_text() == text, "{message:?}");
            if message.is_text() {
                let event: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
                names.push(event["object"]["metadata"]["name"].clone());
            } else if message.is_binary() {
                let event = message.into_data();
                let at = event.windows(4).position(|window| window == b"k8s\0").unwrap();
                let object = api::protobuf::decode(&event[at..]).unwrap();
                names.push(object["metadata"]["name"].clone());
            } else {
                break;
            }
        }
        assert_eq!(names, ["a", "b"], "{accept}");
        serving.abort();
    }
}
