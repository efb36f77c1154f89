//! Certificate signing requests: nobody asks for `system:masters`, and only who may speak for a signer
//! approves or signs.

use api::status::Status;
use base64::Engine as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::{Context, Operation, Plugin, Request};
use crate::access::{Attributes, list, text};

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

pub(super) struct Certificates;

impl Plugin for Certificates {
    fn validate(&self, request: &mut Request<'_>, context: &Context<'_>) -> Result<(), Status> {
        if (request.group, request.resource) != ("certificates.k8s.io", "certificatesigningrequests") {
            return Ok(());
        }
        let signer = text(request.object, "/spec/signerName");
        match (request.operation, request.subresource) {
            (Operation::Create, "") if signer == CLIENT => {
                if asks_for_masters(text(request.object, "/spec/request")) {
                    return Err(request.forbidden(format!(
                        "use of {CLIENT} signer with system:masters group is not allowed"
                    )));
                }
                Ok(())
            }
            (Operation::Update, "approval") => speak_for(request, context, "approve"),
            (Operation::Update, "status") => {
                let signed = |pointer: &str| {
                    request.object.pointer(pointer) != request.old.and_then(|old| old.pointer(pointer))
                };
                let failed = list(request.object, "/status/conditions").len()
                    != request.old.map_or(0, |old| list(old, "/status/conditions").len());
                if signed("/status/certificate") || failed {
                    speak_for(request, context, "sign")
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        }
    }
}

/// Checks that the user may do `verb` for the signer of the request, or for all of its domain.
fn speak_for(request: &Request<'_>, context: &Context<'_>, verb: &str) -> Result<(), Status> {
    let signer = request.old.map_or("", |old| text(old, "/spec/signerName"));
    let domain = signer.split('/').next().unwrap_or_default();
    let allowed = [signer.to_owned(), format!("{domain}/*")].iter().any(|name| {
        let attributes = Attributes {
            verb,
            group: "certificates.k8s.io",
            version: "*",
            resource: "signers",
            name,
            ..Attributes::default()
        };
        context.access.authorize(request.user, &attributes).allowed
    });
    if allowed {
        return Ok(());
    }
    let doing = if verb == "sign" { "signing" } else { "approving" };
    let what = if verb == "sign" { "sign" } else { "approve" };
    Err(request.forbidden(format!(
        "user not permitted to {what} requests with signerName {signer:?} ({doing} needs the verb {verb:?} on that signer)"
    )))
}

fn asks_for_masters(request: &str) -> bool {
    let Ok(pem) = base64::engine::general_purpose::STANDARD.decode(request) else { return false };
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(&pem) else { return false };
    let Ok((_, csr)) = X509CertificationRequest::from_der(&pem.contents) else { return false };
    csr.certification_request_info
        .subject
        .iter_organization()
        .any(|group| group.as_str().is_ok_and(|group| group == crate::access::MASTERS))
}
