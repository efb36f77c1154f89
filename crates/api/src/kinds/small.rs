//! Kinds with little of their own: leases, service accounts, component statuses, runtime classes.

use super::{cells, check};
use crate::field::Path;
use crate::meta;
use crate::registry::{AGE, Column, Kind, NAME, Part, Strategy, Table};
use crate::value::{int, list, text};

/// Completes the descriptor of `Lease`.
pub(super) fn lease(kind: &mut Kind) {
    kind.strategy = Strategy {
        validate: |_, lease, errors| {
            let (spec, path) = (&lease["spec"], Path::new("spec"));
            check::positive(spec, "leaseDurationSeconds", &path, errors);
            if int(spec, "leaseTransitions").is_some_and(|count| count < 0) {
                let at = path.child("leaseTransitions");
                errors.invalid(&at, spec["leaseTransitions"].clone(), "must be greater than or equal to 0");
            }
        },
        create_on_update: true,
        unconditional_update: false,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(vec![NAME, Column::text("Holder", "Who holds the lease."), AGE], |lease, now| {
        vec![cells::name(lease), text(lease, "spec.holderIdentity").into(), cells::age(lease, now)]
    });
}

/// Completes the descriptor of `ServiceAccount`.
pub(super) fn service_account(kind: &mut Kind) {
    kind.table = Table::new(
        vec![NAME, Column::number("Secrets", "How many secrets it names."), AGE],
        |account, now| {
            vec![cells::name(account), list(account, "secrets").len().into(), cells::age(account, now)]
        },
    );
}

/// Completes the descriptor of `ComponentStatus`.
pub(super) fn component_status(kind: &mut Kind) {
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Status", "Whether the component is healthy."),
            Column::text("Message", "What the component says."),
            Column::text("Error", "What went wrong."),
        ],
        |object, _| {
            let healthy = list(object, "conditions").iter().find(|one| text(one, "type") == "Healthy");
            let (status, message, error) = healthy.map_or(("Unknown", "", ""), |one| {
                let status = if text(one, "status") == "True" { "Healthy" } else { "Unhealthy" };
                (status, text(one, "message"), text(one, "error"))
            });
            vec![cells::name(object), status.into(), message.into(), error.into()]
        },
    );
}

/// Completes the descriptor of `RuntimeClass`.
pub(super) fn runtime_class(kind: &mut Kind) {
    kind.strategy = Strategy {
        validate: |_, class, errors| match text(class, "handler") {
            "" => errors.required(&Path::new("handler"), ""),
            handler => check::named(handler, meta::dns_label_errors, &Path::new("handler"), errors),
        },
        validate_update: |_, new, old, part, errors| {
            if part == Part::Main {
                check::immutable(new, old, "handler", &Path::default(), errors);
            }
        },
        unconditional_update: false,
        ..Strategy::GENERIC
    };
    kind.table =
        Table::new(vec![NAME, Column::text("Handler", "How the runtime calls it."), AGE], |class, now| {
            vec![cells::name(class), text(class, "handler").into(), cells::age(class, now)]
        });
}
