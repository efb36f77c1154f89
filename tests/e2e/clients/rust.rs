//! The `kube` crate as a client: an informer that lists by streaming, server-side apply, finalizers, exec and
//! port-forward.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{Stream, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{AttachParams, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::controller::Action;
use kube::runtime::finalizer::{self, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NAMESPACE: &str = "newest-rust";
/// How long one step may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs all of it and says what was not as it should be.
pub(super) fn check(kubeconfig: &Path) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(all(kubeconfig)).map_err(|error| format!("the kube crate: {error:#}"))
}

async fn all(kubeconfig: &Path) -> Result<()> {
    // Another test of this process may have done it.
    rustls::crypto::ring::default_provider().install_default().ok();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &options).await?;
    let client = Client::try_from(config)?;
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    timely("the informer", informer(&client)).await?;
    timely("server-side apply", applying(&client)).await?;
    timely("a finalizer", finalizing(&client)).await?;
    timely("exec", exec(&client)).await?;
    timely("port-forward", port_forward(&client)).await
}

async fn timely(what: &str, step: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::time::timeout(PATIENCE, step)
        .await
        .with_context(|| format!("{what}: no end"))?
        .context(what.to_owned())
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"part": "rust"}}, "data": {"key": value}}))
    .unwrap()
}

async fn next(
    events: &mut (impl Stream<Item = watcher::Result<Event<ConfigMap>>> + Unpin),
) -> Result<Event<ConfigMap>> {
    events.try_next().await?.context("the watch has ended")
}

/// A list by streaming, then what changes, in order.
async fn informer(client: &Client) -> Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    for name in ["a", "b"] {
        api.create(&PostParams::default(), &config_map(name, "1")).await?;
    }
    let config = watcher::Config::default().streaming_lists().labels("part=rust");
    let mut events = pin!(watcher(api.clone(), config));
    let mut listed = Vec::new();
    loop {
        match next(&mut events).await? {
            Event::Init => {}
            Event::InitApply(object) => listed.push(object.name_any()),
            Event::InitDone => break,
            other => bail!("{other:?} during the list"),
        }
    }
    ensure!(listed == ["a", "b"], "listed {listed:?}");
    let merge = Patch::Merge(json!({"data": {"key": "2"}}));
    api.patch("a", &PatchParams::default(), &merge).await?;
    api.delete("b", &DeleteParams::default()).await?;
    match next(&mut events).await? {
        Event::Apply(object) => {
            ensure!(object.name_any() == "a" && object.data.unwrap_or_default()["key"] == "2");
        }
        other => bail!("{other:?} instead of a change"),
    }
    match next(&mut events).await? {
        Event::Delete(object) => ensure!(object.name_any() == "b"),
        other => bail!("{other:?} instead of a deletion"),
    }
    // An object that leaves the selection is gone for this watch.
    let unlabel = Patch::Merge(json!({"metadata": {"labels": {"part": null}}}));
    api.patch("a", &PatchParams::default(), &unlabel).await?;
    match next(&mut events).await? {
        Event::Delete(object) => ensure!(object.name_any() == "a"),
        other => bail!("{other:?} instead of a deletion"),
    }
    Ok(())
}

/// Who applied a field owns it, until another takes it by force.
async fn applying(client: &Client) -> Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let apply = |manager: &str, value: &str, force: bool| {
        let mut parameters = PatchParams::apply(manager);
        parameters.force = force;
        let (api, patch) = (api.clone(), Patch::Apply(config_map("applied", value)));
        async move { api.patch("applied", &parameters, &patch).await }
    };
    let made = apply("one", "1", false).await?;
    let managers: Vec<_> = made.managed_fields().iter().filter_map(|one| one.manager.as_deref()).collect();
    ensure!(managers == ["one"], "{managers:?}");
    match apply("two", "2", false).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let text = "Apply failed with 1 conflict: conflict with \"one\": .data.key";
            ensure!(status.message == text, "{}", status.message);
        }
        other => bail!("no conflict: {other:?}"),
    }
    let taken = apply("two", "2", true).await?;
    ensure!(taken.data.unwrap_or_default()["key"] == "2");
    Ok(())
}

/// An object with a finalizer stays until its controller has cleaned up.
async fn finalizing(client: &Client) -> Result<()> {
    const FINALIZER: &str = "example.com/rust";
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    api.create(&PostParams::default(), &config_map("finalized", "1")).await?;
    let mut cleaned = false;
    for round in 0..4 {
        let Some(object) = api.get_opt("finalized").await? else { break };
        if round == 2 {
            ensure!(object.finalizers() == [FINALIZER], "{:?}", object.finalizers());
            let left = api.delete("finalized", &DeleteParams::default()).await?;
            ensure!(left.left().is_some_and(|object| object.metadata.deletion_timestamp.is_some()));
            continue;
        }
        let reconcile = |event| {
            cleaned |= matches!(event, finalizer::Event::Cleanup(_));
            async { Ok::<_, std::convert::Infallible>(Action::await_change()) }
        };
        finalizer(&api, FINALIZER, Arc::new(object), reconcile).await?;
    }
    ensure!(cleaned, "it was never cleaned up");
    ensure!(api.get_opt("finalized").await?.is_none(), "it is still there");
    Ok(())
}

/// A command in a pod: what it reads, what it says on both streams, and its exit code.
async fn exec(client: &Client) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "web", "image": "nginx", "imagePullPolicy": "IfNotPresent"}]}}))?;
    api.create(&PostParams::default(), &pod).await?;
    await_condition(api.clone(), "web", conditions::is_pod_running()).await?;

    let command = ["sh", "-c", "cat; echo problem >&2; exit 3"];
    let mut process = api.exec("web", command, &AttachParams::default().stdin(true)).await?;
    let status = process.take_status().context("no status")?;
    let (mut stdout, mut stderr) =
        (process.stdout().context("no stdout")?, process.stderr().context("no stderr")?);
    let mut stdin = process.stdin().context("no stdin")?;
    stdin.write_all(b"typed").await?;
    stdin.shutdown().await?;
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    tokio::try_join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err))?;
    ensure!((out.as_str(), err.as_str()) == ("typed", "problem\n"), "{out:?} {err:?}");
    let status = status.await.context("no status came")?;
    let code = status.details.and_then(|details| details.causes?.into_iter().next()?.message);
    ensure!(code.as_deref() == Some("3"), "{code:?}");
    Ok(())
}

/// A request through a forwarded port.
async fn port_forward(client: &Client) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let mut forward = api.portforward("web", &[80]).await?;
    let mut stream = forward.take_stream(80).context("no stream")?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    while !answer.contains("</html>") {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).await?;
        ensure!(count > 0, "the stream ended after {answer:?}");
        answer += std::str::from_utf8(&part[..count])?;
    }
    ensure!(answer.starts_with("HTTP/1.1 200") && answer.contains("Welcome to nginx!"), "{answer}");
    api.delete("web", &DeleteParams::default()).await?;
    Ok(())
}
