//! Flow schemas and priority levels.

use serde_json::Value;

use super::cells;
use crate::registry::{AGE, Column, Kind, NAME, Strategy, Table};
use crate::value::{default, object, text};

/// Completes the descriptors of the kinds of `flowcontrol.apiserver.k8s.io`.
pub(super) fn describe(kind: &mut Kind) {
    if kind.kind == "FlowSchema" {
        kind.strategy = Strategy {
            default: |_, schema| {
                if let Some(spec) = object(schema, "spec") {
                    default(spec, "matchingPrecedence", 1000);
                }
            },
            unconditional_update: false,
            ..Strategy::GENERIC
        };
        kind.table = Table::new(
            vec![
                NAME,
                Column::text("PriorityLevel", "The level of requests that match."),
                Column::number("MatchingPrecedence", "Which schema comes first: the lowest number."),
                Column::text("DistinguisherMethod", "What tells flows apart."),
                AGE,
                Column::text("MissingPL", "Whether the level does not exist."),
            ],
            |object, now| {
                let dangling = cells::condition(object, "Dangling").map_or("?", |one| text(one, "status"));
                vec![
                    cells::name(object),
                    text(object, "spec.priorityLevelConfiguration.name").into(),
                    cells::count(object, "spec.matchingPrecedence").into(),
                    cells::or_none(text(object, "spec.distinguisherMethod.type")).into(),
                    cells::age(object, now),
                    dangling.into(),
                ]
            },
        );
        return;
    }
    kind.strategy = Strategy {
        default: |_, schema| {
            let limited = schema.get_mut("spec").and_then(|spec| spec.get_mut("limited"));
            if let Some(limited) = limited.filter(|limited| limited.is_object()) {
                default(limited, "nominalConcurrencyShares", 30);
                default(limited, "lendablePercent", 0);
            }
        },
        unconditional_update: false,
        ..Strategy::GENERIC
    };
    kind.table = Table::new(
        vec![
            NAME,
            Column::text("Type", "Whether requests of the level are limited."),
            Column::text("NominalConcurrencyShares", "The level's share of all seats."),
            Column::text("Queues", "How many queues the level has."),
            Column::text("HandSize", "From how many queues one is picked."),
            Column::text("QueueLengthLimit", "How long a queue may be."),
            AGE,
        ],
        |object, now| {
            let limited = &object["spec"]["limited"];
            let number = |value: &Value| cells::int_or_string(value, cells::NONE);
            let queuing = &limited["limitResponse"]["queuing"];
            vec![
                cells::name(object),
                text(object, "spec.type").into(),
                number(&limited["nominalConcurrencyShares"]).into(),
                number(&queuing["queues"]).into(),
                number(&queuing["handSize"]).into(),
                number(&queuing["queueLengthLimit"]).into(),
                cells::age(object, now),
            ]
        },
    );
}
