//! Questions that come in by UDP and TCP, and what is sent back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Edns, Header, HeaderCounts, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::sync::watch;

use super::forward::{Forwarder, PAYLOAD};
use super::lookup::{Found, Outcome, authority, lookup};
use super::zone::Zone;

/// How many aliases inside the cluster are followed.
const ALIASES: usize = 8;

/// Answers questions from the newest zone and from upstream servers.
pub(super) struct Answerer {
    pub(super) zone: watch::Receiver<Arc<Zone>>,
    pub(super) forwarder: Forwarder,
    /// Turns the order of answers, so that clients that take the first spread.
    pub(super) turn: AtomicUsize,
}

/// An answer, whoever it came from.
struct Answer {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Answer {
    fn only(code: ResponseCode) -> Self {
        Self { code, authoritative: false, answers: vec![], authorities: vec![], additionals: vec![] }
    }
}

impl Answerer {
    async fn answer(&self, name: &Name, kind: RecordType, dnssec: bool) -> Answer {
        let zone = self.zone.borrow().clone();
        let mut found = match lookup(&zone, name, kind) {
            Outcome::Elsewhere => return self.forward(name, kind, dnssec).await,
            Outcome::NoSuchName => {
                let authorities = authority(&zone).into_iter().collect();
                return Answer { authoritative: true, authorities, ..Answer::only(ResponseCode::NXDomain) };
            }
            Outcome::Found(found) => found,
        };
        let mut code = ResponseCode::NoError;
        if matches!(kind, RecordType::A | RecordType::AAAA) {
            code = self.follow(&zone, &mut found, kind, dnssec).await;
        }
        let Found { mut answers, additionals, .. } = found;
        let authorities =
            if answers.is_empty() { authority(&zone).into_iter().collect() } else { Vec::new() };
        if kind == RecordType::A && answers.len() > 1 && answers.iter().all(|one| one.record_type() == kind) {
            let first = self.turn.fetch_add(1, Ordering::Relaxed) % answers.len();
            answers.rotate_left(first);
        }
        Answer { code, authoritative: true, answers, authorities, additionals }
    }

    /// Adds what an alias leads to, inside the cluster or outside.
    async fn follow(&self, zone: &Zone, found: &mut Found, kind: RecordType, dnssec: bool) -> ResponseCode {
        for _ in 0..ALIASES {
            let Some(target) = found.alias.take() else { return ResponseCode::NoError };
            match lookup(zone, &target, kind) {
                Outcome::Found(next) => {
                    found.answers.extend(next.answers);
                    found.alias = next.alias;
                }
                Outcome::NoSuchName => return ResponseCode::NXDomain,
                Outcome::Elsewhere => {
                    let outside = self.forward(&target, kind, dnssec).await;
                    found.answers.extend(outside.answers);
                    // The alias itself is a good answer where nobody outside is known or answers.
                    return match outside.code {
                        ResponseCode::NXDomain => ResponseCode::NXDomain,
                        _ => ResponseCode::NoError,
                    };
                }
            }
        }
        ResponseCode::ServFail
    }

    async fn forward(&self, name: &Name, kind: RecordType, dnssec: bool) -> Answer {
        if !self.forwarder.has_upstreams() {
            return Answer::only(ResponseCode::Refused);
        }
        match self.forwarder.ask(name, kind, dnssec).await {
            Some(message) => Answer {
                code: message.metadata.response_code,
                authoritative: false,
                answers: message.answers,
                authorities: message.authorities,
                additionals: message.additionals,
            },
            None => Answer::only(ResponseCode::ServFail),
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Answerer {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let dnssec = request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        let answer = match (request.metadata.op_code, request.request_info()) {
            (OpCode::Query, Ok(_)) if request.version() > 0 => Answer::only(ResponseCode::BADVERS),
            (OpCode::Query, Ok(info)) if info.query.query_class() == DNSClass::IN => {
                let question = info.query.original();
                self.answer(question.name(), question.query_type(), dnssec).await
            }
            (OpCode::Query, Ok(_)) => Answer::only(ResponseCode::Refused),
            (OpCode::Query, Err(_)) => Answer::only(ResponseCode::FormErr),
            _ => Answer::only(ResponseCode::NotImp),
        };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = answer.code;
        metadata.authoritative = answer.authoritative;
        metadata.recursion_available = true;

        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, PAYLOAD)).set_dnssec_ok(dnssec);
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let none: [Record; 0] = [];
        let response =
            builder.build(metadata, &answer.answers, &answer.authorities, &none, &answer.additionals);
        match response_handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(client = %request.src(), %error, "sending a DNS answer");
                ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
            }
        }
    }
}
