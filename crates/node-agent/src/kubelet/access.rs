//! Who may call the kubelet API: clients with a certificate of the cluster's authority or a token, and then
//! whatever the API server says. The group `system:masters` may everything.

use http::header::AUTHORIZATION;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use machinery::serve::Peer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Refusal;
use crate::agent::Agent;

/// The group that may everything.
const MASTERS: &str = "system:masters";

#[derive(Debug, Clone, PartialEq, Eq)]
struct Caller {
    user: String,
    groups: Vec<String>,
}

/// Lets a request pass or says why not.
///
/// # Errors
/// 401 or 403 with upstream's words.
pub(super) async fn check(agent: &Agent, request: &Request<Incoming>) -> Result<(), Refusal> {
    let unauthorized = || (StatusCode::UNAUTHORIZED, "Unauthorized".to_owned());
    let certificate = request.extensions().get::<Peer>().and_then(|peer| peer.certificates.first().cloned());
    let caller = match certificate {
        Some(certificate) => of_certificate(&certificate).ok_or_else(unauthorized)?,
        None => {
            let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let token = header.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(unauthorized)?;
            of_token(agent, token).await?.ok_or_else(unauthorized)?
        }
    };
    if caller.groups.iter().any(|group| group == MASTERS) {
        return Ok(());
    }
    let verb = verb(request.method());
    let subresource = subresource(request.uri().path());
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(caller.user.clone()),
            groups: Some(caller.groups),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.into()),
                version: Some("v1".into()),
                resource: Some("nodes".into()),
                subresource: Some(subresource.into()),
                name: Some(agent.config.node_name.clone()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answered = Api::<SubjectAccessReview>::all(agent.client.clone())
        .create(&PostParams::default(), &review)
        .await
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("Authorization error ({error})")))?;
    if answered.status.is_some_and(|status| status.allowed) {
        return Ok(());
    }
    Err((
        StatusCode::FORBIDDEN,
        format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource={subresource})", caller.user),
    ))
}

fn of_certificate(der: &[u8]) -> Option<Caller> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|one| one.as_str().ok()).map(str::to_owned).collect();
    Some(Caller { user, groups })
}

async fn of_token(agent: &Agent, token: &str) -> Result<Option<Caller>, Refusal> {
    let review = TokenReview {
        spec: TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() },
        ..TokenReview::default()
    };
    let answered = Api::<TokenReview>::all(agent.client.clone())
        .create(&PostParams::default(), &review)
        .await
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("Authentication error ({error})")))?;
    Ok(answered
        .status
        .filter(|status| status.authenticated == Some(true))
        .and_then(|status| status.user)
        .map(|user| Caller {
            user: user.username.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
        }))
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

fn subresource(path: &str) -> &'static str {
    let under = |prefix: &str| path == prefix || path.starts_with(&format!("{prefix}/"));
    if under("/stats") {
        "stats"
    } else if under("/metrics") {
        "metrics"
    } else if under("/logs") {
        "log"
    } else {
        "proxy"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_ask_for_their_subresource() {
        for (path, expected) in [
            ("/stats/summary", "stats"),
            ("/metrics/cadvisor", "metrics"),
            ("/metricsx", "proxy"),
            ("/exec/a/b/c", "proxy"),
        ] {
            assert_eq!(subresource(path), expected, "{path}");
        }
    }

    #[test]
    fn a_certificate_names_user_and_groups() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "kube-apiserver-kubelet-client");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, MASTERS);
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(
            of_certificate(certificate.der()),
            Some(Caller { user: "kube-apiserver-kubelet-client".into(), groups: vec![MASTERS.into()] })
        );
    }
}
