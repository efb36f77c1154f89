//! Jobs, cron jobs, daemon sets, stateful sets, disruption budgets.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::kit;

fn job(name: &str, container: &str, more: Value) -> Value {
    let mut spec = json!({"template": {"spec": {"restartPolicy": "Never",
        "containers": [{"name": container, "image": "a"}]}}});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

fn has(job: &Job, kind: &str) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|one| one.type_ == kind && one.status == "True")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_counts_each_success_once_and_a_hopeless_one_fails() {
    let kit = kit::start().await;
    kit.create::<Job>(job("good", "good", json!({"completions": 4, "parallelism": 2}))).await;
    kit.create::<Job>(job("bad", "bad", json!({"backoffLimit": 0}))).await;
    let good = kit.wait_object::<Job>("the job to complete", "good", |job| has(job, "Complete")).await;
    let status = good.status.unwrap();
    assert_eq!((status.succeeded, status.failed, status.active), (Some(4), None, None));
    let bad = kit.wait_object::<Job>("the job to fail", "bad", |job| has(job, "Failed")).await;
    assert_eq!(bad.status.unwrap().failed, Some(1));
    kit.api::<Job>().delete("good", &DeleteParams::background()).await.unwrap();
    kit.wait_list::<Pod>("its pods to go", "batch.kubernetes.io/job-name=good", |pods| pods.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cron_job_runs_what_is_due() {
    let kit = kit::start().await;
    let template = job("x", "good", json!({}));
    kit.create::<CronJob>(json!({"metadata": {"name": "tick"}, "spec": {"schedule": "@every 1s",
        "jobTemplate": {"spec": template["spec"]}}}))
        .await;
    kit.wait_list::<Job>("a job", "", |jobs| jobs.iter().any(|job| has(job, "Complete"))).await;
    kit.wait_object::<CronJob>("its success", "tick", |cron| {
        cron.status.as_ref().is_some_and(|status| status.last_successful_time.is_some())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_made_by_hand_of_a_cron_job_is_not_its_own() {
    let kit = kit::start().await;
    let template = job("x", "slow", json!({}));
    let cron = json!({"metadata": {"name": "never"}, "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": template["spec"]}}});
    kit.create::<CronJob>(cron).await;
    let cron = kit.api::<CronJob>().get("never").await.unwrap();
    let mut by_hand = job("by-hand", "slow", json!({}));
    by_hand["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": "never",
        "uid": cron.metadata.uid, "controller": true}]);
    kit.create::<Job>(by_hand).await;
    kit.wait_list::<k8s_openapi::api::core::v1::Event>("the warning", "", |events| {
        events.iter().any(|event| {
            event.reason.as_deref() == Some("UnexpectedJob")
                && event.message.as_deref()
                    == Some("Saw a job that the controller did not create or forgot: by-hand")
        })
    })
    .await;
    let active = kit.api::<CronJob>().get("never").await.unwrap().status.and_then(|status| status.active);
    assert_eq!(active, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_runs_on_every_node_and_rolls() {
    let kit = kit::start().await;
    let spec = |image: &str| {
        json!({"selector": {"matchLabels": {"app": "agent"}}, "template": {"metadata": {"labels": {"app": "agent"}},
            "spec": {"containers": [{"name": "a", "image": image}]}}})
    };
    kit.create::<DaemonSet>(json!({"metadata": {"name": "agent"}, "spec": spec("one")})).await;
    let is_done = |wanted: i32| {
        move |set: &DaemonSet| {
            set.status.as_ref().is_some_and(|status| {
                status.number_available == Some(wanted)
                    && status.desired_number_scheduled == wanted
                    && status.updated_number_scheduled == Some(wanted)
                    && status.observed_generation == set.metadata.generation
            })
        }
    };
    // Also on the master: daemons tolerate that it takes no pods.
    kit.wait_object::<DaemonSet>("two pods", "agent", is_done(2)).await;
    kit.add_node("172.17.4.202", false).await;
    kit.wait_object::<DaemonSet>("three pods", "agent", is_done(3)).await;
    let patch = Patch::Strategic(json!({"spec": spec("two")}));
    kit.api::<DaemonSet>().patch("agent", &PatchParams::default(), &patch).await.unwrap();
    kit.wait_object::<DaemonSet>("the new version", "agent", is_done(3)).await;
    kit.wait_list::<ControllerRevision>("two versions", "", |revisions| revisions.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_keeps_names_and_order() {
    let kit = kit::start().await;
    let spec = |image: &str| {
        json!({"replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "a", "image": image}]}}})
    };
    kit.create::<StatefulSet>(json!({"metadata": {"name": "db"}, "spec": spec("one")})).await;
    let is_done = |set: &StatefulSet| {
        set.status.as_ref().is_some_and(|status| {
            status.ready_replicas == Some(3)
                && status.updated_replicas == Some(3)
                && status.current_revision == status.update_revision
                && status.observed_generation == set.metadata.generation
        })
    };
    kit.wait_object::<StatefulSet>("three pods", "db", is_done).await;
    let pods = kit.wait_list::<Pod>("their names", "app=db", |pods| pods.len() == 3).await;
    let mut names: Vec<_> = pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["db-0", "db-1", "db-2"]);
    kit.create::<PodDisruptionBudget>(json!({"metadata": {"name": "db"}, "spec": {"maxUnavailable": 1,
        "selector": {"matchLabels": {"app": "db"}}}}))
        .await;
    kit.wait_object::<PodDisruptionBudget>("one disruption", "db", |budget| {
        budget.status.as_ref().is_some_and(|status| status.disruptions_allowed == Some(1))
    })
    .await;
    let patch = Patch::Strategic(json!({"spec": spec("two")}));
    kit.api::<StatefulSet>().patch("db", &PatchParams::default(), &patch).await.unwrap();
    kit.wait_object::<StatefulSet>("the new version", "db", is_done).await;
    kit.api::<StatefulSet>()
        .patch("db", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 1}})))
        .await
        .unwrap();
    let left = kit.wait_list::<Pod>("one pod", "app=db", |pods| pods.len() == 1).await;
    assert_eq!(left[0].metadata.name.as_deref(), Some("db-0"));
}
