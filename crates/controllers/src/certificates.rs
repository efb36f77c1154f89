//! Certificate signing requests: approves those of node agents for themselves, and signs what is approved.

use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Key};
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use kube::api::{Patch, PatchParams, PostParams};
use rcgen::{
    CertificateSigningRequestParams, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

use crate::frame::{self, Context, Error, Next, Result, is_deleting};

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY: &str = "kubernetes.io/legacy-unknown";
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Certificates are valid from a little before, so that a clock that is behind takes them.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

struct Controller {
    context: Context,
    requests: Informer<CertificateSigningRequest>,
    /// The authority's key as PEM.
    key: Option<String>,
}

pub(crate) fn start(context: &Context) {
    let key = context.config.ca_key.as_ref().and_then(|path| match std::fs::read_to_string(path) {
        Ok(key) => Some(key),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "certificates are not signed: the authority's key cannot be read");
            None
        }
    });
    let controller = Arc::new(Controller { context: context.clone(), requests: context.informers.of(), key });
    let queue = context.queue();
    frame::enqueue(&controller.requests, &queue);
    let requests = controller.requests.clone();
    context.work("certificates", 1, &queue, async move { requests.wait_synced().await }, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|one| one.type_ == kind && one.status != "False")
}

fn subject(parsed: &CertificateSigningRequestParams, of: &DnType) -> String {
    match parsed.params.distinguished_name.get(of) {
        Some(DnValue::Utf8String(text)) => text.clone(),
        Some(DnValue::PrintableString(text)) => text.as_str().to_owned(),
        Some(DnValue::Ia5String(text)) => text.as_str().to_owned(),
        _ => String::new(),
    }
}

fn parse(spec: &CertificateSigningRequestSpec) -> Result<CertificateSigningRequestParams, String> {
    let text = std::str::from_utf8(&spec.request.0).map_err(|_| "the request is not PEM".to_owned())?;
    CertificateSigningRequestParams::from_pem(text)
        .map_err(|error| format!("the request cannot be read: {error}"))
}

/// Returns why a signer does not sign such a request.
fn refusal(spec: &CertificateSigningRequestSpec, parsed: &CertificateSigningRequestParams) -> Option<String> {
    let usages = spec.usages.clone().unwrap_or_default();
    let only = |allowed: &[&str], needed: &str| {
        (!usages.iter().all(|usage| allowed.contains(&usage.as_str()))
            || !usages.iter().any(|usage| usage == needed))
        .then(|| format!("usages did not match {allowed:?}"))
    };
    let organization = subject(parsed, &DnType::OrganizationName);
    let common_name = subject(parsed, &DnType::CommonName);
    let is_node = organization == "system:nodes" && common_name.starts_with("system:node:");
    match spec.signer_name.as_str() {
        CLIENT => only(&["client auth", "digital signature", "key encipherment"], "client auth"),
        NODE_CLIENT if !is_node => Some("subject is not that of a node".into()),
        NODE_CLIENT if !parsed.params.subject_alt_names.is_empty() => {
            Some("client certificates have no names".into())
        }
        NODE_CLIENT => only(&["client auth", "digital signature", "key encipherment"], "client auth"),
        NODE_SERVING if !is_node => Some("subject is not that of a node".into()),
        NODE_SERVING if parsed.params.subject_alt_names.is_empty() => {
            Some("there is no name to serve".into())
        }
        NODE_SERVING => only(&["server auth", "digital signature", "key encipherment"], "server auth"),
        _ => None,
    }
}

/// Signs a request for as long as it asks for; returns the certificate as PEM.
fn sign(
    spec: &CertificateSigningRequestSpec,
    mut parsed: CertificateSigningRequestParams,
    authority: &str,
    key: &str,
    now: jiff::Timestamp,
) -> Result<String, String> {
    let key = KeyPair::from_pem(key).map_err(|error| format!("the authority's key: {error}"))?;
    let issuer =
        Issuer::from_ca_cert_pem(authority, key).map_err(|error| format!("the authority: {error}"))?;
    let asked = spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let lifetime = asked.map_or(YEAR, Duration::from_secs).clamp(Duration::from_secs(600), YEAR);
    let since = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let params = &mut parsed.params;
    params.not_before = epoch + since.saturating_sub(BACKDATE);
    params.not_after = epoch + since + lifetime;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = Vec::new();
    params.extended_key_usages = Vec::new();
    for usage in spec.usages.iter().flatten() {
        match usage.as_str() {
            "digital signature" | "signing" => params.key_usages.push(KeyUsagePurpose::DigitalSignature),
            "key encipherment" => params.key_usages.push(KeyUsagePurpose::KeyEncipherment),
            "client auth" => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth),
            "server auth" => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth),
            other => return Err(format!("usage {other:?} is not given out")),
        }
    }
    let certificate = parsed.signed_by(&issuer).map_err(|error| format!("signing: {error}"))?;
    Ok(certificate.pem())
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(request) = self.requests.get(key) else { return Ok(Next::Done) };
        let spec = &request.spec;
        let known = [CLIENT, NODE_CLIENT, NODE_SERVING, LEGACY].contains(&spec.signer_name.as_str());
        let signed = request.status.as_ref().is_some_and(|status| status.certificate.is_some());
        if !known || signed || is_deleting(&*request) || has(&request, "Denied") || has(&request, "Failed") {
            return Ok(Next::Done);
        }
        if !has(&request, "Approved") {
            if spec.signer_name == NODE_CLIENT {
                self.approve(&request).await?;
            }
            return Ok(Next::Done);
        }
        let Some(authority_key) = &self.key else { return Ok(Next::Done) };
        let result = parse(spec).and_then(|parsed| match refusal(spec, &parsed) {
            Some(why) => Err(why),
            None => {
                let authority = &self.context.config.ca_certificate;
                sign(spec, parsed, authority, authority_key, self.context.clock.now())
            }
        });
        let api = self.context.cluster_api::<CertificateSigningRequest>();
        let patch = match result {
            Ok(certificate) => json!({ "status": { "certificate": ByteString(certificate.into_bytes()) } }),
            Err(why) => {
                let mut conditions =
                    request.status.clone().and_then(|status| status.conditions).unwrap_or_default();
                conditions.push(self.condition("Failed", "SignerValidationFailure", &why));
                json!({ "status": { "conditions": conditions } })
            }
        };
        api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(Next::Done)
    }

    fn condition(&self, kind: &str, reason: &str, message: &str) -> CertificateSigningRequestCondition {
        CertificateSigningRequestCondition {
            type_: kind.into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_update_time: Some(self.context.now()),
            last_transition_time: Some(self.context.now()),
        }
    }

    /// Approves a node's request for its own client certificate, if its user may ask for one.
    async fn approve(&self, request: &CertificateSigningRequest) -> Result<()> {
        let spec = &request.spec;
        let Ok(parsed) = parse(spec) else { return Ok(()) };
        if refusal(spec, &parsed).is_some() {
            return Ok(());
        }
        let is_own = spec.username.as_deref() == Some(&subject(&parsed, &DnType::CommonName));
        let subresource = if is_own { "selfnodeclient" } else { "nodeclient" };
        let review: SubjectAccessReview = serde_json::from_value(json!({
            "metadata": {},
            "spec": {
                "user": spec.username, "groups": spec.groups, "uid": spec.uid, "extra": spec.extra,
                "resourceAttributes": {
                    "group": "certificates.k8s.io", "resource": "certificatesigningrequests",
                    "subresource": subresource, "verb": "create", "version": "*",
                },
            },
        }))
        .map_err(|error| Error::Other(format!("building an access review: {error}")))?;
        let reviews = self.context.cluster_api::<SubjectAccessReview>();
        let answer = reviews.create(&PostParams::default(), &review).await?;
        if !answer.status.is_some_and(|status| status.allowed) {
            return Ok(());
        }
        let message = if is_own {
            "Auto approving self kubelet client certificate after SubjectAccessReview."
        } else {
            "Auto approving kubelet client certificate after SubjectAccessReview."
        };
        let mut approved = request.clone();
        let status = approved.status.get_or_insert_default();
        status.conditions.get_or_insert_default().push(self.condition("Approved", "AutoApproved", message));
        let api = self.context.cluster_api::<CertificateSigningRequest>();
        api.replace_subresource("approval", frame::name(request), &PostParams::default(), &approved).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(
        signer: &str,
        organization: &str,
        common_name: &str,
        usages: &[&str],
    ) -> CertificateSigningRequestSpec {
        let key = KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, common_name);
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: signer.into(),
            usages: Some(usages.iter().map(|usage| (*usage).to_owned()).collect()),
            ..CertificateSigningRequestSpec::default()
        }
    }

    #[test]
    fn a_signer_takes_only_what_it_is_for() {
        let client = ["client auth", "digital signature"];
        for (spec, signed) in [
            (spec(CLIENT, "dev", "jane", &client), true),
            (spec(CLIENT, "dev", "jane", &["server auth"]), false),
            (spec(NODE_CLIENT, "system:nodes", "system:node:172.17.4.201", &client), true),
            (spec(NODE_CLIENT, "dev", "jane", &client), false),
            (spec(NODE_SERVING, "system:nodes", "system:node:172.17.4.201", &["server auth"]), false),
        ] {
            let parsed = parse(&spec).unwrap();
            assert_eq!(refusal(&spec, &parsed).is_none(), signed, "{}", spec.signer_name);
        }
    }

    #[test]
    fn an_approved_request_gets_a_certificate_of_the_authority() {
        let key = KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        let spec = spec(CLIENT, "dev", "jane", &["client auth"]);
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let certificate = sign(&spec, parse(&spec).unwrap(), &authority, &key.serialize_pem(), now).unwrap();
        assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----"));
    }
}
