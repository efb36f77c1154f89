//! What is in a volume that is made from API objects: config maps, secrets, fields of the pod, tokens.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource, KeyToPath, Pod,
    ProjectedVolumeSource, SecretVolumeSource, ServiceAccount, ServiceAccountTokenProjection,
};
use kube::Api;
use kube::api::PostParams;

use super::atomic::{File, Payload};
use super::renew_at;
use crate::agent::Agent;
use crate::pods::{field_value, resource_value};

/// The permission bits of files when none are given.
const DEFAULT_MODE: i32 = 0o644;
/// How long a token lives when nothing else is asked for, seconds.
const TOKEN_SECONDS: i64 = 3600;

fn file(contents: Vec<u8>, mode: i32) -> File {
    File { contents, mode: u32::try_from(mode).unwrap_or(0o644) & 0o777, owner: None }
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// Chooses keys: all of them under their own names, or the listed ones under their paths.
fn select(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&Vec<KeyToPath>>,
    mode: i32,
    optional: bool,
    into: &mut Payload,
) -> Result<(), String> {
    let items = items.filter(|items| !items.is_empty());
    let Some(items) = items else {
        for (key, value) in data {
            into.insert(key.clone(), file(value.clone(), mode));
        }
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(value) => {
                into.insert(item.path.clone(), file(value.clone(), item.mode.unwrap_or(mode)));
            }
            None if optional => {}
            None => return Err(format!("references non-existent config key: {}", item.key)),
        }
    }
    Ok(())
}

async fn config_map_data(
    agent: &Agent,
    pod: &Pod,
    name: &str,
    optional: bool,
) -> Result<BTreeMap<String, Vec<u8>>, String> {
    match agent.objects.config_map(namespace(pod), name).await? {
        Some(map) => {
            let text =
                map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
            let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
            Ok(text.chain(binary).collect())
        }
        None if optional => Ok(BTreeMap::new()),
        None => Err(format!("configmap {name:?} not found")),
    }
}

async fn secret_data(
    agent: &Agent,
    pod: &Pod,
    name: &str,
    optional: bool,
) -> Result<BTreeMap<String, Vec<u8>>, String> {
    match agent.objects.secret(namespace(pod), name).await? {
        Some(secret) => {
            Ok(secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect())
        }
        None if optional => Ok(BTreeMap::new()),
        None => Err(format!("secret {name:?} not found")),
    }
}

/// Returns the files of a config map volume.
pub(super) async fn config_map(
    agent: &Agent,
    pod: &Pod,
    source: &ConfigMapVolumeSource,
) -> Result<Payload, String> {
    let optional = source.optional == Some(true);
    let data = config_map_data(agent, pod, &source.name, optional).await?;
    let mut out = Payload::new();
    select(&data, source.items.as_ref(), source.default_mode.unwrap_or(DEFAULT_MODE), optional, &mut out)?;
    Ok(out)
}

/// Returns the files of a secret volume.
pub(super) async fn secret(agent: &Agent, pod: &Pod, source: &SecretVolumeSource) -> Result<Payload, String> {
    let optional = source.optional == Some(true);
    let name = source.secret_name.as_deref().unwrap_or_default();
    let data = secret_data(agent, pod, name, optional).await?;
    let mut out = Payload::new();
    select(&data, source.items.as_ref(), source.default_mode.unwrap_or(DEFAULT_MODE), optional, &mut out)?;
    Ok(out)
}

/// Returns the files of a downward API volume.
pub(super) fn downward(
    agent: &Agent,
    pod: &Pod,
    source: &DownwardAPIVolumeSource,
    ips: &[String],
) -> Result<Payload, String> {
    let mut out = Payload::new();
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    for item in source.items.iter().flatten() {
        out.insert(item.path.clone(), downward_file(agent, pod, item, mode, ips)?);
    }
    Ok(out)
}

fn downward_file(
    agent: &Agent,
    pod: &Pod,
    item: &DownwardAPIVolumeFile,
    mode: i32,
    ips: &[String],
) -> Result<File, String> {
    let text = if let Some(field) = &item.field_ref {
        field_value(field, pod, ips, &agent.config.node_ip.to_string())?
    } else if let Some(resource) = &item.resource_field_ref {
        resource_value(resource, None, pod, &agent.machine.allocatable)?
    } else {
        return Err(format!("file {:?} has neither fieldRef nor resourceFieldRef", item.path));
    };
    Ok(file(text.into_bytes(), item.mode.unwrap_or(mode)))
}

/// Returns the files of a projected volume, and when its tokens must be fetched anew.
pub(super) async fn projected(
    agent: &Agent,
    pod: &Pod,
    source: &ProjectedVolumeSource,
    volume: &str,
    ips: &[String],
) -> Result<(Payload, Option<Timestamp>), String> {
    let mut out = Payload::new();
    let mut refresh: Option<Timestamp> = None;
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    for one in source.sources.iter().flatten() {
        if let Some(map) = &one.config_map {
            let optional = map.optional == Some(true);
            let data = config_map_data(agent, pod, &map.name, optional).await?;
            select(&data, map.items.as_ref(), mode, optional, &mut out)?;
        } else if let Some(secret) = &one.secret {
            let optional = secret.optional == Some(true);
            let data = secret_data(agent, pod, &secret.name, optional).await?;
            select(&data, secret.items.as_ref(), mode, optional, &mut out)?;
        } else if let Some(downward) = &one.downward_api {
            for item in downward.items.iter().flatten() {
                out.insert(item.path.clone(), downward_file(agent, pod, item, mode, ips)?);
            }
        } else if let Some(token) = &one.service_account_token {
            let (token_file, until) = service_account_token(agent, pod, token, volume, mode).await?;
            refresh = Some(refresh.map_or(until, |known| known.min(until)));
            out.insert(token.path.clone(), token_file);
        } else {
            return Err("a source of this projected volume is of a kind that is not supported".into());
        }
    }
    Ok((out, refresh))
}

async fn service_account_token(
    agent: &Agent,
    pod: &Pod,
    source: &ServiceAccountTokenProjection,
    volume: &str,
    mode: i32,
) -> Result<(File, Timestamp), String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let account =
        spec.service_account_name.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into());
    let meta = &pod.metadata;
    let uid = meta.uid.clone().unwrap_or_default();
    // Only the user the pod runs as, or its group, may read a token.
    let context = spec.security_context.unwrap_or_default();
    let user = common_user(&spec.containers, context.run_as_user);
    let mode = match (context.fs_group, user) {
        (Some(_), _) | (None, Some(_)) => 0o600,
        (None, None) => mode,
    };
    let audience = source.audience.clone().filter(|text| !text.is_empty());
    let key = (uid.clone(), volume.to_owned(), source.path.clone());
    let now = agent.clock.now();
    let (token, until) = match agent.pods.known_token(&key, now) {
        Some(known) => known,
        None => {
            let request = TokenRequest {
                spec: Some(TokenRequestSpec {
                    audiences: audience.map(|one| vec![one]),
                    bound_object_ref: Some(BoundObjectReference {
                        api_version: Some("v1".into()),
                        kind: Some("Pod".into()),
                        name: meta.name.clone(),
                        uid: meta.uid.clone(),
                    }),
                    expiration_seconds: Some(source.expiration_seconds.unwrap_or(TOKEN_SECONDS)),
                }),
                ..TokenRequest::default()
            };
            let api = Api::<ServiceAccount>::namespaced(agent.client.clone(), namespace(pod));
            let made: TokenRequest = api
                .create_subresource("token", &account, &PostParams::default(), &request)
                .await
                .map_err(|error| match error {
                    kube::Error::Api(status) => format!("failed to fetch token: {}", status.message),
                    other => format!("failed to fetch token: {other}"),
                })?;
            let status = made.status.ok_or("failed to fetch token: the answer holds none")?;
            let token = status.token.ok_or("failed to fetch token: the answer holds none")?;
            let end = status.expiration_timestamp.map_or(now, |time| time.0);
            let lives = end.as_second() - now.as_second();
            let until = renew_at(now, lives.min(24 * 3600));
            agent.pods.remember_token(key, token.clone(), until);
            (token, until)
        }
    };
    let owner =
        if context.fs_group.is_none() { user.and_then(|user| u32::try_from(user).ok()) } else { None };
    Ok((File { owner, ..file(token.into_bytes(), mode) }, until))
}

/// Returns the user that every container runs as, if it is one.
fn common_user(containers: &[k8s_openapi::api::core::v1::Container], pod_user: Option<i64>) -> Option<i64> {
    let mut users = containers
        .iter()
        .map(|one| one.security_context.as_ref().and_then(|context| context.run_as_user).or(pod_user));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_chosen_renamed_and_missed() {
        let data = BTreeMap::from([("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]);
        let item = |key: &str| vec![KeyToPath { key: key.into(), path: "x/y".into(), mode: Some(0o400) }];
        let mut all = Payload::new();
        select(&data, None, 0o644, false, &mut all).unwrap();
        assert_eq!(all.len(), 2);
        let mut one = Payload::new();
        select(&data, Some(&item("b")), 0o644, false, &mut one).unwrap();
        assert_eq!((one["x/y"].contents.as_slice(), one["x/y"].mode), (&b"2"[..], 0o400));
        let missing = select(&data, Some(&item("z")), 0o644, false, &mut Payload::new());
        assert_eq!(missing, Err("references non-existent config key: z".into()));
        assert!(select(&data, Some(&item("z")), 0o644, true, &mut Payload::new()).is_ok());
    }
}
