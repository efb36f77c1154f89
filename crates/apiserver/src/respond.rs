//! From results to HTTP responses in the negotiated form.

use std::sync::Arc;

use api::protobuf::Encoder;
use api::registry::{Kind, Table};
use api::status::Status;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::body::Body;
use crate::cache::Object;
use crate::negotiate::{Form, Format, Shape};
use crate::path::Query;

/// Which part of an object goes into a table's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, Status> {
        match text.unwrap_or_default() {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

/// How objects of a kind are shown to one client.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) kind: Arc<Kind>,
    pub(crate) form: Form,
    pub(crate) include: Include,
    pub(crate) pretty: bool,
    pub(crate) now: Timestamp,
}

impl View {
    /// Whether the cached bytes are what the client wants.
    pub(crate) fn is_plain(&self) -> bool {
        self.form == Form::JSON && self.kind.is_stored_form() && !self.pretty
    }

    /// Returns a stored object in the version of this view.
    pub(crate) fn convert(&self, mut object: Value) -> Value {
        if !self.kind.is_stored_form() {
            self.kind.from_storage(&mut object);
        }
        object
    }

    /// Answers with one object from the cache.
    pub(crate) fn object(&self, code: StatusCode, object: &Object) -> Response<Body> {
        if self.is_plain() {
            return whole(code, Format::Json, object.bytes.clone());
        }
        self.value(code, self.convert(object.value()))
    }

    /// Answers with one object in the version of this view.
    pub(crate) fn value(&self, code: StatusCode, object: Value) -> Response<Body> {
        self.value_in(code, object, &self.kind.table)
    }

    /// Answers with an object that another kind's table shows, such as a `Scale`.
    pub(crate) fn value_in(&self, code: StatusCode, object: Value, table: &Table) -> Response<Body> {
        let shown = match self.form.shape {
            Shape::Native => object,
            Shape::Table(version) => {
                let meta = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                self.table_of(table, version, &[object], meta, true)
            }
            Shape::Partial(version) => partial(object, version),
        };
        self.encode(code, &shown)
    }

    /// Encodes what has been shaped already.
    pub(crate) fn encode(&self, code: StatusCode, value: &Value) -> Response<Body> {
        encode(code, self.form.format, value, self.pretty)
    }

    /// Answers with a list of objects from the cache.
    pub(crate) fn list(&self, objects: Vec<Arc<Object>>, meta: &Map<String, Value>) -> Response<Body> {
        let meta = Value::Object(meta.clone());
        if self.is_plain() {
            let mut head = BytesMut::with_capacity(256);
            let api_version = Value::from(self.kind.api_version());
            let text = format!(
                r#"{{"kind":{},"apiVersion":{api_version},"metadata":{meta},"items":["#,
                Value::from(self.kind.list_kind.as_ref())
            );
            head.put_slice(text.as_bytes());
            let mut response = Response::new(Body::list(head.freeze(), objects));
            describe(&mut response, StatusCode::OK, Format::Json);
            return response;
        }
        if self.form == Form::PROTOBUF {
            let values = objects.iter().map(|object| self.convert(object.value()));
            let encoder = Encoder::of(&self.kind.api_version(), &self.kind.list_kind);
            return match encoder.map(|encoder| encoder.list(&meta, values)) {
                Some(Ok(bytes)) => whole(StatusCode::OK, Format::Protobuf, bytes.into()),
                Some(Err(error)) => unencodable(&error),
                None => unencodable(&format!("{} has no encoding", self.kind.list_kind)),
            };
        }
        let values = objects.iter().map(|object| self.convert(object.value())).collect();
        self.values(values, meta)
    }

    /// Answers with a list of objects in the version of this view.
    pub(crate) fn values(&self, values: Vec<Value>, meta: Value) -> Response<Body> {
        let shown = match self.form.shape {
            Shape::Native => {
                json!({"kind": self.kind.list_kind, "apiVersion": self.kind.api_version(), "metadata": meta, "items": values})
            }
            Shape::Table(version) => self.table(version, &values, meta, true),
            Shape::Partial(version) => {
                let items: Vec<Value> = values.into_iter().map(|value| partial(value, version)).collect();
                json!({"kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": meta, "items": items})
            }
        };
        self.encode(StatusCode::OK, &shown)
    }

    /// Makes a table of objects; `columns` says whether their definitions are wanted.
    pub(crate) fn table(&self, version: &str, objects: &[Value], meta: Value, columns: bool) -> Value {
        self.table_of(&self.kind.table, version, objects, meta, columns)
    }

    fn table_of(&self, table: &Table, version: &str, objects: &[Value], meta: Value, columns: bool) -> Value {
        let rows: Vec<Value> = objects
            .iter()
            .map(|object| {
                let shown = match self.include {
                    Include::None => Value::Null,
                    Include::Metadata => partial(object.clone(), version),
                    Include::Object => object.clone(),
                };
                json!({"cells": table.row(object, self.now), "object": shown})
            })
            .collect();
        let columns: Option<Vec<Value>> =
            columns.then(|| table.columns.iter().map(api::registry::Column::to_value).collect());
        json!({
            "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": meta,
            "columnDefinitions": columns, "rows": rows,
        })
    }
}

/// Returns an object's metadata as a `PartialObjectMetadata`.
pub(crate) fn partial(mut object: Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object["metadata"].take(),
    })
}

/// Answers with a value.
pub(crate) fn encode(code: StatusCode, format: Format, value: &Value, pretty: bool) -> Response<Body> {
    let (format, bytes) = match format {
        Format::Protobuf => match api::protobuf::encode(value) {
            Ok(bytes) => (Format::Protobuf, Bytes::from(bytes)),
            Err(error) => return unencodable(&error),
        },
        Format::Yaml => match serde_yaml::to_string(value) {
            Ok(text) => (Format::Yaml, Bytes::from(text)),
            Err(error) => {
                return failure(&Status::internal(format!("encoding YAML: {error}")), Format::Json, false);
            }
        },
        _ if pretty => {
            let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
            text.push('\n');
            (Format::Json, Bytes::from(text))
        }
        _ => {
            let mut text = value.to_string();
            text.push('\n');
            (Format::Json, Bytes::from(text))
        }
    };
    whole(code, format, bytes)
}

/// Answers that an object has no protobuf encoding, although its kind has: what is stored is not what it
/// should be.
fn unencodable(error: &dyn std::fmt::Display) -> Response<Body> {
    tracing::error!(%error, "encoding protobuf");
    failure(&Status::internal(format!("encoding protobuf: {error}")), Format::Json, false)
}

/// Answers with bytes that are encoded already.
pub(crate) fn whole(code: StatusCode, format: Format, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    describe(&mut response, code, format);
    response
}

/// Answers with a failure.
pub(crate) fn failure(status: &Status, format: Format, pretty: bool) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = encode(code, format, &status.to_value(), pretty);
    if let Some(seconds) = status.details.as_ref().map(|details| details.retry_after_seconds)
        && seconds > 0
    {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// Answers with a text.
pub(crate) fn text(code: StatusCode, text: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(text.into());
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Whether a person reads the answer: the query says so, or the client is a browser or a command line tool.
pub(crate) fn pretty(query: &Query, headers: &HeaderMap) -> bool {
    if query.get("pretty").is_some_and(|value| !value.is_empty()) {
        return query.is_set("pretty");
    }
    let agent = headers.get(USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
    [&b"curl"[..], b"Wget", b"Mozilla/5.0"].iter().any(|person| agent.starts_with(person))
}

pub(crate) fn describe(response: &mut Response<Body>, code: StatusCode, format: Format) {
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
}
