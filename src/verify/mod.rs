//! `cluster verify`: proves that a cluster works, as a user would: through its API, and from inside pods.
//!
//! Everything happens in one namespace that is made for it and removed at the end, also after a failure or
//! Ctrl-C. The pods run [`workload`], from an image that is made of this very executable, so that no registry
//! is needed. To add a check, write its function in `checks.rs` and its line in [`all`].

mod checks;
mod kit;
mod report;
pub(crate) mod workload;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use machinery::names::Random;

use crate::cli::Verify;
use crate::commands::{Session, client, image};
use crate::error::{Context, Error, Result};
use crate::images::Request;
use crate::provider;
use crate::ui::Ui;
use kit::Kit;
use report::{Cause, Checked};

/// The image that is made of this executable; its tag tells executables apart.
const IMAGE: &str = "cluster.local/verify";

/// This process's own file.
const EXECUTABLE: &str = "/proc/self/exe";

/// Runs `cluster verify`; returns its exit code.
pub(crate) async fn run(session: &Session<'_>, arguments: &Verify) -> Result<u8> {
    let Verify { kubeconfig, context, image, junit, wait } = arguments;
    let ui = session.ui;
    let patience = Duration::from_secs(*wait);
    let random = Random::from_os();
    let namespace = format!("cluster-verify-{}", random.suffix(5));
    let (kit, name) = match kubeconfig {
        Some(path) => {
            let text = fs_err::read_to_string(path)?;
            let client = client(&text, context.as_deref()).await?;
            let image = match image {
                Some(image) => image.clone(),
                None => image_name()?,
            };
            let domain = "cluster.local".to_owned();
            let kit = Kit { client, namespace, image, domain, on_host: false, patience, random };
            (kit, path.display().to_string())
        }
        None => {
            let (plan, state) = session.existing()?;
            let path = state.path("kubeconfig");
            let text = std::fs::read_to_string(&path).map_err(|error| {
                Error::from(error).within(format!("reading {}", path.display())).hint("run `cluster up`")
            })?;
            let image = match image {
                Some(image) => image.clone(),
                None => {
                    let name = image_name()?;
                    ui.begin("image", "packing this executable");
                    let request = Request::Executable { path: EXECUTABLE.into(), name: name.clone() };
                    let provider = provider::of(&plan, &state)?;
                    image::perform(&*provider, &plan, &request, ui)
                        .await
                        .context("making the workload's image")?;
                    name
                }
            };
            let domain = plan.spec.network.domain.clone();
            let kit = Kit {
                client: client(&text, None).await?,
                namespace,
                image,
                domain,
                on_host: true,
                patience,
                random,
            };
            (kit, plan.spec.name.clone())
        }
    };
    reachable(&kit).await?;
    let mut checked = Vec::new();
    let interrupted = tokio::select! {
        () = all(&kit, ui, &mut checked) => false,
        signal = tokio::signal::ctrl_c() => {
            signal.context("listening for Ctrl-C")?;
            true
        }
    };
    one(&kit, ui, &mut checked, "cleanup", Cause::Cleanup, checks::cleanup(&kit)).await;
    if interrupted {
        return Err(Error::user("interrupted; what was made is removed").with_code(130));
    }
    if let Some(path) = junit {
        let xml = report::junit(&name, &checked);
        machinery::files::replace(path, xml.as_bytes(), machinery::files::PUBLIC)
            .context(format!("writing {}", path.display()))?;
    }
    ui.answer(&report::text(&checked), &report::value(&checked));
    Ok(report::code(&checked))
}

/// Returns the image's name. Size and time of the executable stand for its contents, as they do for make:
/// reading all of it each time would take longer than the checks.
fn image_name() -> Result<String> {
    let metadata = fs_err::metadata(EXECUTABLE)?;
    let modified = Timestamp::try_from(metadata.modified()?).context("reading the executable's time")?;
    Ok(format!("{IMAGE}:v{}-{:x}-{:x}", env!("CARGO_PKG_VERSION"), metadata.len(), modified.as_millisecond()))
}

/// Says plainly that there is no API to be asked, before anything is tried.
async fn reachable(kit: &Kit) -> Result<()> {
    let asked = tokio::time::timeout(kit.patience, kit.client.apiserver_version()).await;
    let failed = |error: Error| {
        error
            .within("the API cannot be asked")
            .hint("`cluster status` shows the machines; `cluster up` repairs")
    };
    match asked {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(failed(error.into())),
        Err(_) => Err(failed(Error::user(format!("no answer within {:?}", kit.patience)))),
    }
}

/// Makes every check in order. What the later ones stand on ends the row when it fails.
async fn all(kit: &Kit, ui: &Ui, checked: &mut Vec<Checked>) {
    for essential in [
        one(kit, ui, checked, "nodes", Cause::Nodes, checks::nodes(kit)).await,
        one(kit, ui, checked, "namespace", Cause::Namespaces, checks::namespace(kit)).await,
    ] {
        if !essential {
            return;
        }
    }
    if !one(kit, ui, checked, "pods", Cause::Pods, checks::pods(kit)).await {
        return;
    }
    one(kit, ui, checked, "labels", Cause::Pods, checks::labels(kit)).await;
    one(kit, ui, checked, "replication", Cause::Controllers, checks::replication(kit)).await;
    if one(kit, ui, checked, "cluster ip", Cause::Services, checks::cluster_ip(kit)).await {
        one(kit, ui, checked, "node port", Cause::Services, checks::node_port(kit)).await;
        one(kit, ui, checked, "load balancer", Cause::Services, checks::load_balancer(kit)).await;
        one(kit, ui, checked, "dns", Cause::Dns, checks::dns(kit)).await;
    }
    one(kit, ui, checked, "deployments", Cause::Controllers, checks::deployments(kit)).await;
    one(kit, ui, checked, "across nodes", Cause::Network, checks::across_nodes(kit)).await;
}

/// Makes one check and reports it; returns whether it passed.
async fn one(
    kit: &Kit,
    ui: &Ui,
    checked: &mut Vec<Checked>,
    name: &'static str,
    cause: Cause,
    check: impl Future<Output = Result<String>>,
) -> bool {
    ui.begin(name, "checking");
    let started = Instant::now();
    let outcome = match check.await {
        Ok(seen) => Ok(seen),
        Err(error) => Err(format!("{}\n{}", error.line(), kit.evidence().await).trim_end().to_owned()),
    };
    let took = started.elapsed();
    let line = match &outcome {
        Ok(seen) => seen.as_str(),
        Err(evidence) => evidence.lines().next().unwrap_or_default(),
    };
    ui.checked(name, line, took, outcome.is_ok());
    let passed = outcome.is_ok();
    checked.push(Checked { name, cause, took, outcome });
    passed
}
