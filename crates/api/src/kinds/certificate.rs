//! Certificate signing requests: the request never changes, the decision and the certificate are added to it.

use super::cells;
use crate::field::Path;
use crate::meta;
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::value::{int, keep, list, object, set, text};

/// Completes the descriptor of `CertificateSigningRequest`.
pub(super) fn signing_request(kind: &mut Kind) {
    kind.strategy = Strategy {
        // Signers grant by who asked, so that nobody but the server may say who that was.
        created_by: Some(|request, user| {
            let Some(spec) = object(request, "spec") else { return };
            for key in ["username", "uid", "groups", "extra"] {
                keep(spec, user, key);
            }
        }),
        prepare_update: |_, new, old, part| {
            let sent = std::mem::replace(new, old.clone());
            let meta = sent["metadata"].clone();
            set(new, "metadata", meta);
            let status = match part {
                Part::Main => return,
                // The certificate is the signer's, the decision is the approver's.
                Part::Status => ["certificate"].as_slice(),
                Part::Other(_) => &[],
            };
            let Some(place) = object(new, "status") else { return };
            for key in status {
                keep(place, &sent["status"], key);
            }
            keep(place, &sent["status"], "conditions");
        },
        validate: |_, object, errors| {
            let (spec, path) = (&object["spec"], Path::new("spec"));
            if text(spec, "request").is_empty() {
                errors.invalid(&path.child("request"), "", "PEM block type must be CERTIFICATE REQUEST");
            }
            if list(spec, "usages").is_empty() {
                errors.required(&path.child("usages"), "");
            }
            match text(spec, "signerName") {
                "" => errors.required(&path.child("signerName"), ""),
                "kubernetes.io/legacy-unknown" => {
                    let why = "the legacy signerName is not allowed via this API version";
                    errors.invalid(&path.child("signerName"), "kubernetes.io/legacy-unknown", why);
                }
                name if !name.contains('/') => {
                    let why =
                        "must be a fully qualified domain and path of the form 'example.com/signer-name'";
                    errors.invalid(&path.child("signerName"), name, why);
                }
                _ => {}
            }
            if let Some(seconds) = int(spec, "expirationSeconds")
                && seconds < 600
            {
                let why = "may not specify a duration less than 600 seconds (10 minutes)";
                errors.invalid(&path.child("expirationSeconds"), seconds, why);
            }
        },
        validate_update: |_, _, _, _, _| {},
        name_errors: meta::path_segment_errors,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            AGE,
            Column::text("SignerName", "Who is asked to sign."),
            Column::text("Requestor", "Who asked."),
            Column::text("RequestedDuration", "How long the certificate should be valid."),
            Column::text("Condition", "What has been decided and done."),
        ],
        |object, now| {
            let duration = int(object, "spec.expirationSeconds")
                .map_or_else(|| cells::NONE.to_owned(), crate::time::human);
            let mut condition = if cells::condition(object, "Denied").is_some() {
                "Denied"
            } else if cells::condition(object, "Approved").is_some() {
                "Approved"
            } else {
                "Pending"
            }
            .to_owned();
            if cells::condition(object, "Failed").is_some() {
                condition += ",Failed";
            }
            if !text(object, "status.certificate").is_empty() {
                condition += ",Issued";
            }
            vec![
                cells::name(object),
                cells::age(object, now),
                cells::or_none(text(object, "spec.signerName")).into(),
                text(object, "spec.username").into(),
                duration.into(),
                condition.into(),
            ]
        },
    );
}
