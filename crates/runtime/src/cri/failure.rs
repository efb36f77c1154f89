//! From what a call failed with to this crate's error.

use std::time::Duration;

use super::grpc::{Code, Status};
use crate::Error;

/// Returns the error for a call that failed while `context` was done.
pub(super) fn of(context: &str, deadline: Duration) -> impl FnOnce(Status) -> Error {
    move |status| match status.code {
        Code::DeadlineExceeded => Error::Timeout { what: context.to_owned(), after: deadline },
        Code::Unavailable => Error::system(context, status.message),
        _ => said(&status.message),
    }
}

/// Returns the error for something that may not be there: a `what` of this id.
pub(super) fn about(
    what: &'static str,
    id: &str,
    context: &str,
    deadline: Duration,
) -> impl FnOnce(Status) -> Error {
    move |status| match status.code {
        Code::NotFound => Error::not_found(what, id),
        _ => of(context, deadline)(status),
    }
}

/// Returns an error that prints exactly as what the runtime said, without the class that it ends with.
fn said(message: &str) -> Error {
    let message = tidy(message);
    match message.split_once(": ") {
        Some((context, reason)) => Error::system(context, reason),
        None => Error::system("the container runtime refused", message),
    }
}

/// Takes away the class of error that containerd appends to texts of others.
pub(super) fn tidy(message: &str) -> &str {
    message.strip_suffix(": unknown").unwrap_or(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_print_as_the_runtime_said_it() {
        for (message, expect) in [
            ("failed to create: exec: \"x\": not found: unknown", "failed to create: exec: \"x\": not found"),
            ("no", "the container runtime refused: no"),
        ] {
            assert_eq!(said(message).to_string(), expect);
        }
    }

    #[test]
    fn classes_of_errors_are_told_apart() {
        let status = |code| Status { code, message: "x".into() };
        let error = about("container", "c1", "starting", PATIENCE)(status(Code::NotFound));
        assert!(matches!(error, Error::NotFound { what: "container", .. }));
        let error = of("starting", PATIENCE)(status(Code::DeadlineExceeded));
        assert!(matches!(error, Error::Timeout { .. }));
        let error = of("starting", PATIENCE)(status(Code::Unavailable));
        assert_eq!(error.to_string(), "starting: x");
    }

    const PATIENCE: Duration = Duration::from_secs(1);
}
