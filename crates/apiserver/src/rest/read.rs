//! Getting, listing and watching: all from the cache.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use api::registry::Kind;
use api::selector::{FieldSelector, Selector};
use api::status::Status;
use futures::StreamExt;
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::options::{Cursor, Version};
use super::{ListOptions, Resource};
use crate::body::Body;
use crate::cache::{Event, Forgotten, Object, Slice};
use crate::negotiate::{Format, Shape};
use crate::respond::View;
use crate::watch::{self, Convert, Encoding, Watch};

/// How long a watch lasts at least when the client does not say; at most twice as long.
const WATCH_AT_LEAST: Duration = Duration::from_secs(1800);

/// Which objects a list or watch is about.
pub(crate) struct Selection {
    kind: Arc<Kind>,
    namespace: String,
    labels: Selector,
    fields: FieldSelector,
}

impl Selection {
    /// Whether every object of the scope is in.
    fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        if !self.namespace.is_empty() && object.namespace() != self.namespace {
            return false;
        }
        if !self.labels.is_everything() && !self.labels.matches(&*object.facts) {
            return false;
        }
        if self.fields.is_empty() {
            return true;
        }
        if !self.kind.is_stored_form() {
            // The cache knows the fields by the names of the stored version.
            let mut value = object.value();
            self.kind.from_storage(&mut value);
            return self
                .fields
                .matches(|field| self.kind.field(&value, field).map(|value| Cow::Owned(value.into_owned())));
        }
        self.fields.matches(|field| match field {
            "metadata.name" => Some(Cow::Borrowed(object.name())),
            "metadata.namespace" => Some(Cow::Borrowed(object.namespace())),
            _ => object.facts.field(field).map(Cow::Borrowed),
        })
    }
}

impl Resource {
    pub(super) async fn get(&self) -> Result<Response<Body>, Status> {
        let view = self.view()?;
        let object = self.read_one().await?;
        Ok(view.object(StatusCode::OK, &object))
    }

    /// Returns the object of this call at the revision that its query asks for.
    pub(crate) async fn read_one(&self) -> Result<Arc<Object>, Status> {
        let cache = &self.call.server.cache;
        match self.call.query.get("resourceVersion").filter(|version| !version.is_empty()) {
            None => {
                cache.current().await?;
            }
            Some("0") => {}
            Some(version) => {
                let revision = version.parse().map_err(|_| {
                    Status::bad_request(format!("strconv.ParseUint: parsing {version:?}: invalid syntax"))
                })?;
                cache.reach(revision).await?;
            }
        }
        let object = self.objects()?.get(&self.key()).ok_or_else(|| self.not_found())?;
        self.present_one(object).await
    }

    /// Returns the object of this name as the cache has it.
    pub(crate) fn read_one_of_name(&self, name: &str) -> Result<Arc<Object>, Status> {
        let found = self.objects()?.get(&super::key(self.namespace(), name));
        found.ok_or_else(|| Status::not_found(self.kind.resource(), name))
    }

    pub(crate) fn selection(&self, options: &ListOptions) -> Result<Selection, Status> {
        for requirement in options.fields.requirements() {
            if !self.kind.selects_by(&requirement.field) {
                // kubectl adds itself which objects it could not find.
                return Err(Status::bad_request(format!("field label not supported: {}", requirement.field)));
            }
        }
        Ok(Selection {
            kind: self.kind.clone(),
            namespace: self.namespace().to_owned(),
            labels: options.labels.clone(),
            fields: options.fields.clone(),
        })
    }

    pub(super) async fn list(&self) -> Result<Response<Body>, Status> {
        let options = ListOptions::parse(&self.call.query, false)?;
        let view = self.view()?;
        let selection = self.selection(&options)?;
        let slice = self.find(&options, &selection).await?;
        let mut meta = Map::new();
        meta.insert("resourceVersion".into(), slice.revision.to_string().into());
        if let Some(next) = &slice.next {
            meta.insert("continue".into(), Cursor::new(slice.revision, next).encode().into());
            // How many of the remaining ones are selected is not known without looking at them.
            if selection.is_everything() {
                meta.insert("remainingItemCount".into(), slice.remaining.into());
            }
        }
        Ok(view.list(self.present(slice.objects).await?, &meta))
    }

    /// Finds one page of what is selected.
    pub(super) async fn find(&self, options: &ListOptions, selection: &Selection) -> Result<Slice, Status> {
        let cache = &self.call.server.cache;
        let objects = self.objects()?;
        let cursor = options.cursor.as_ref();
        let at = match (cursor, options.version) {
            (Some(cursor), _) if cursor.rv > 0 => Some(cursor.rv),
            (Some(_), _) | (None, Version::Newest) => {
                cache.current().await?;
                None
            }
            (None, Version::Any) => None,
            (None, Version::NotOlderThan(revision)) => {
                cache.reach(revision).await?;
                None
            }
            (None, Version::Exact(revision)) => Some(revision),
        };
        if let Some(revision) = at {
            cache.reach(revision).await?;
        }
        let after = cursor.map(Cursor::after);
        // A single name needs no walk.
        if let Some(name) = options.fields.exact("metadata.name")
            && at.is_none()
            && (!self.kind.is_namespaced() || !self.namespace().is_empty())
        {
            let revision = cache.revision();
            let found = objects.get(&super::key(self.namespace(), name));
            let objects = found.into_iter().filter(|object| selection.matches(object)).collect();
            return Ok(Slice { objects, revision, next: None, remaining: 0 });
        }
        let all = selection.is_everything();
        objects
            .list(self.namespace(), after, options.limit, at, |object| all || selection.matches(object))
            .map_err(|Forgotten { asked, oldest }| match cursor {
                Some(cursor) => Status::continue_expired(&cursor.inconsistent().encode()),
                None => Status::too_old(asked, oldest),
            })
    }

    pub(super) async fn watch(&self) -> Result<Response<Body>, Status> {
        let mut options = ListOptions::parse(&self.call.query, true)?;
        let view = self.view()?;
        if !self.target.name.is_empty() {
            options.fields = FieldSelector::parse(&format!("metadata.name={}", self.target.name))
                .map_err(Status::bad_request)?;
        }
        let selection = self.selection(&options)?;
        let server = &self.call.server;
        let objects = self.objects()?.clone();
        let encoding = encoding(&view);
        let initial_wanted =
            options.send_initial.unwrap_or(matches!(options.version, Version::Newest | Version::Any));
        match options.version {
            Version::Newest => {
                server.cache.current().await?;
            }
            Version::NotOlderThan(revision) if options.send_initial == Some(true) => {
                server.cache.reach(revision).await?;
            }
            _ => {}
        }
        let started = match options.version {
            Version::NotOlderThan(revision) | Version::Exact(revision)
                if options.send_initial != Some(true) =>
            {
                objects.watch(revision).map(|watcher| (Vec::new(), watcher))
            }
            _ => {
                let (initial, watcher) = objects.list_and_watch(self.namespace());
                let initial = if initial_wanted { self.present(initial).await? } else { Vec::new() };
                Ok((initial, watcher))
            }
        };
        let socket = watch::socket::wanted(&self.call.parts.headers)?;
        let frames = match started {
            Ok((initial, watcher)) => {
                let spread = server.random.below(WATCH_AT_LEAST.as_secs());
                Watch {
                    watcher,
                    initial,
                    announce: options.send_initial == Some(true),
                    select: Box::new(move |object| selection.matches(object)),
                    encoding,
                    format: view.form.format,
                    convert: self.convert_events(),
                    apart: socket.is_some(),
                    bookmarks: options.bookmarks,
                    timeout: options.timeout.unwrap_or(WATCH_AT_LEAST + Duration::from_secs(spread)),
                    type_meta: (self.kind.api_version(), self.kind.kind.to_string()),
                    clock: server.clock.clone(),
                }
                .frames()
                .boxed()
            }
            Err(Forgotten { asked, oldest }) => {
                let frame = watch::error_frame(&Status::too_old(asked, oldest), view.form.format);
                futures::stream::once(std::future::ready(Ok(frame))).boxed()
            }
        };
        if let Some(accept) = socket {
            return watch::socket::answer(&self.call, accept, frames, view.form.format);
        }
        let mut response = Response::new(Body::stream(frames));
        let content_type = match view.form.format {
            Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => "application/json",
        };
        let headers = response.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        Ok(response)
    }
}

impl Resource {
    /// Returns what brings the events of a watch into the version of this call, where that takes a conversion.
    fn convert_events(&self) -> Option<Convert> {
        api::custom::conversion_of(&self.kind)?;
        let (call, kind) = (self.call.clone(), self.kind.clone());
        let (target, cached) = (self.target.clone(), self.cached.clone());
        let resource = Arc::new(Self { call, kind, target, cached });
        Some(Box::new(move |event: Arc<Event>| {
            let resource = resource.clone();
            Box::pin(async move {
                let previous = match &event.previous {
                    Some(previous) => Some(resource.present_one(previous.clone()).await?),
                    None => None,
                };
                let object = resource.present_one(event.object.clone()).await?;
                Ok(Arc::new(Event::new(object, previous, event.deleted)))
            })
        }))
    }
}

/// Chooses how the events of a watch are encoded.
fn encoding(view: &View) -> Encoding {
    if view.form.shape == Shape::Native && view.kind.is_stored_form() {
        return Encoding::Shared;
    }
    let view = view.clone();
    Encoding::Made(Box::new(move |object: &Value, first| {
        let object = view.convert(object.clone());
        match view.form.shape {
            Shape::Native => object,
            Shape::Table(version) => {
                let meta = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                view.table(version, &[object], meta, first)
            }
            Shape::Partial(version) => crate::respond::partial(object, version),
        }
    }))
}
