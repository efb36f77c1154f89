//! The API server: what it holds, how it starts, and the way of a request through it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use api::openapi::Documents;
use api::registry::Registry;
use api::status::Status;
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::FutureExt;
use http::header::CONTENT_ENCODING;
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use machinery::clock::SharedClock;
use machinery::names::Random;
use machinery::tasks::Tasks;
use parking_lot::Mutex;
use store::Store;
use tokio::sync::watch;

use crate::access::{Access, Authenticator, Tokens, UserInfo};
use crate::admission::policy::config::Policies;
use crate::admission::policy::{self, Evaluator};
use crate::admission::webhook::call::Network;
use crate::admission::webhook::config::Configurations;
use crate::admission::webhook::{self, Webhooks};
use crate::admission::{Admission, Extensions};
use crate::aggregate::{self, Aggregator};
use crate::audit::{AtEnd, Audit, Stage, Trail};
use crate::body::Body;
use crate::cache::{Cache, Object};
use crate::config::{Config, FrontProxy};
use crate::convert::Converter;
use crate::custom::Made;
use crate::flow::{self, Flow};
use crate::identity::{self, Certificates, LocalUser};
use crate::metrics::Metrics;
use crate::negotiate::{self, Format, Offer};
use crate::path::{Query, RequestInfo};
use crate::proxy::Kubelet;
use crate::respond;

/// A request's body, whatever transport it came by.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, TransportError>;

/// A request's body could not be read to its end.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TransportError(String);

/// The largest body that is read.
const BODY_LIMIT: usize = 3 << 20;
/// How long a request may take that is neither a watch nor a stream.
const DEADLINE: Duration = Duration::from_secs(60);

/// An API server over a store.
pub struct ApiServer {
    pub(crate) config: Config,
    pub(crate) cache: Arc<Cache>,
    pub(crate) access: Arc<Access>,
    pub(crate) admission: Admission,
    pub(crate) authenticator: Authenticator,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) certificates: Certificates,
    pub(crate) documents: Documents,
    pub(crate) metrics: Metrics,
    pub(crate) kubelet: Kubelet,
    /// Every kind that is served at present.
    pub(crate) registry: Arc<ArcSwap<Registry>>,
    /// The kinds that are always served.
    pub(crate) base: Registry,
    /// The kinds of custom resource definitions, by the definition's name.
    pub(crate) custom: Mutex<HashMap<String, Made>>,
    pub(crate) converter: Arc<Converter>,
    pub(crate) aggregator: Arc<Aggregator>,
    pub(crate) flow: Arc<Flow>,
    audit: Option<Arc<Audit>>,
    pub(crate) clock: SharedClock,
    pub(crate) random: Random,
    pub(crate) tasks: Tasks,
    /// Held from before a service's addresses are chosen until the cache has the service.
    pub(crate) service_writes: tokio::sync::Mutex<()>,
}

/// Why an API server could not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store failed.
    #[error("reading the store: {0}")]
    Store(#[from] store::Error),
    /// A bootstrap object was refused.
    #[error("creating what every cluster has: {0}")]
    Bootstrap(#[from] Status),
    /// The audit log cannot be written.
    #[error("{0}")]
    Audit(String),
    /// Keys or certificates cannot be used.
    #[error("setting up access: {0}")]
    Access(String),
}

/// Everything about one request but its body.
pub(crate) struct Call {
    pub(crate) server: Arc<ApiServer>,
    pub(crate) user: Arc<UserInfo>,
    pub(crate) info: RequestInfo,
    pub(crate) query: Query,
    pub(crate) parts: http::request::Parts,
    /// Told to the client in `Warning` headers.
    pub(crate) warnings: Mutex<Vec<String>>,
    /// What the audit log is to say of the request.
    pub(crate) annotations: Arc<Mutex<Vec<(String, String)>>>,
}

impl ApiServer {
    /// Loads the store and creates what every cluster has. The server is ready when this returns.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(
        mut config: Config,
        store: Arc<dyn Store>,
        clock: SharedClock,
        random: Random,
        tasks: Tasks,
    ) -> Result<Arc<Self>, OpenError> {
        let cache = Cache::new(store, clock.clone(), random.clone());
        let mut registry = api::registry::builtin().clone();
        for kind in crate::proxy::metrics_kinds(&registry) {
            registry.insert(kind);
        }
        for kind in registry.iter() {
            crate::rest::register(&cache, kind);
        }
        let access = Arc::new(Access::new());
        observe(&cache, &access);
        let configurations = Arc::new(Configurations::default());
        let policies = Arc::new(Policies::default());
        observe_extensions(&cache, &configurations, &policies);
        let flow = Arc::new(Flow::new(clock.clone()));
        for resource in flow::OBSERVED {
            let flow = flow.clone();
            cache.kind(resource).set_observer(Box::new(move |key, object, previous| {
                // Status changes nothing here.
                let object = object.map(Object::value);
                if let (Some(object), Some(previous)) = (&object, previous)
                    && object["spec"] == previous.value()["spec"]
                {
                    return;
                }
                flow.observe(resource, key, object);
            }));
        }
        let audit = config
            .audit
            .clone()
            .map(|settings| Audit::open(settings, clock.clone(), &tasks).map(Arc::new))
            .transpose()
            .map_err(OpenError::Audit)?;
        let front = config.pki.front_proxy.take().map_or_else(FrontProxy::make, Ok);
        let aggregator = Arc::new(Aggregator::new(front.map_err(OpenError::Access)?));
        let observing = aggregator.clone();
        cache.kind(aggregate::ID).set_observer(Box::new(move |key, object, _| {
            observing.observe(key, object.map(Object::value).as_ref());
        }));
        cache.start(&tasks).await?;
        let kubelet = Kubelet::new(config.pki.kubelet_client.as_ref()).map_err(OpenError::Access)?;
        let issuer = format!("https://kubernetes.default.svc.{}", config.cluster_domain);
        let key = config.pki.service_account_key.as_bytes();
        let tokens = Tokens::new(key, &issuer, clock.clone(), random.clone()).map_err(OpenError::Access)?;
        let tokens = Arc::new(tokens);
        let base = registry.clone();
        let registry = Arc::new(ArcSwap::from_pointee(registry));
        let network = Network { cache: cache.clone(), random: random.clone(), clock: clock.clone() };
        let converter = Arc::new(Converter::new(network));
        let policies = Evaluator {
            policies,
            registry: registry.clone(),
            access: access.clone(),
            converter: converter.clone(),
        };
        let webhooks = Webhooks {
            configurations,
            registry: registry.clone(),
            access: access.clone(),
            converter: converter.clone(),
            cache: cache.clone(),
            random: random.clone(),
            clock: clock.clone(),
        };
        let admission = Admission::standard(access.clone(), random.clone(), clock.clone());
        let static_tokens = config.static_tokens.clone();
        let server = Arc::new(Self {
            config,
            cache,
            admission: admission.with(Extensions { policies, webhooks }),
            access,
            authenticator: Authenticator::new(tokens.clone(), clock.clone()).with(static_tokens),
            tokens,
            certificates: Certificates::default(),
            documents: Documents::default(),
            metrics: Metrics::default(),
            kubelet,
            registry,
            base,
            custom: Mutex::default(),
            converter,
            aggregator,
            flow,
            audit,
            clock,
            random,
            tasks,
            service_writes: tokio::sync::Mutex::default(),
        });
        server.refresh_registry();
        crate::bootstrap::run(&server).await?;
        crate::upkeep::start(&server);
        Ok(server)
    }

    /// Returns the server as a service for any HTTP transport.
    #[must_use]
    pub fn service(self: &Arc<Self>) -> ApiService {
        ApiService { server: self.clone(), user: None }
    }

    /// Returns a client that reaches this server without a socket, as `user` in `groups`.
    #[must_use]
    pub fn local_client(self: &Arc<Self>, user: &str, groups: &[&str]) -> kube::Client {
        let user = Arc::new(UserInfo::new(user, groups));
        kube::Client::new(ApiService { server: self.clone(), user: Some(user) }, "default")
    }

    /// Serves HTTPS on `listener` until the server's tasks end.
    pub fn serve(
        self: &Arc<Self>,
        listener: tokio::net::TcpListener,
        tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    ) {
        let served = machinery::serve::serve(listener, tls, self.service(), self.tasks.clone());
        self.tasks.spawn("api listener", served);
    }

    /// Tells other servers over the same store that this one ends; to be called shortly before it does.
    pub async fn leave(&self) {
        crate::masters::leave(self).await;
    }

    /// The revision that reads see at least.
    #[must_use]
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Where services' addresses and ports come from.
    pub(crate) fn pools(&self) -> crate::services::Pools {
        crate::services::Pools {
            network: self.config.service_network,
            ports: self.config.node_ports.clone(),
            reserved: vec![self.config.api_service_address(), self.config.dns_address],
        }
    }

    async fn respond(self: Arc<Self>, request: Request<RequestBody>) -> Response<Body> {
        let began = self.clock.now();
        let inflight = self.metrics.begin();
        let (mut parts, body) = request.into_parts();
        let audit_id = parts
            .headers
            .get("audit-id")
            .cloned()
            .filter(|id| !id.is_empty() && id.len() <= 64)
            .or_else(|| HeaderValue::from_str(&self.random.uid()).ok());
        let format = error_format(&parts);
        let compress = crate::openapi::takes_gzip(&parts.headers);
        let query = Query::parse(parts.uri.query());
        let pretty = respond::pretty(&query, &parts.headers);
        let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
        let result = match self.identify(&mut parts) {
            Ok((sender, user)) => {
                let id = audit_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default();
                let audit = self.audit.as_ref();
                let trail = audit.and_then(|audit| audit.begin(id, &parts, &info, (&sender, &user)));
                let call = Call {
                    server: self.clone(),
                    user,
                    info: info.clone(),
                    query,
                    parts,
                    warnings: Mutex::default(),
                    annotations: Arc::default(),
                };
                match trail {
                    None => self.attend(call, body).await,
                    Some(trail) => Ok(self.follow(call, body, trail, (format, pretty)).await),
                }
            }
            Err(status) => Err(status),
        };
        let mut response = result.unwrap_or_else(|status| respond::failure(&status, format, pretty));
        if let Some(id) = audit_id {
            response.headers_mut().insert("audit-id", id);
        }
        if compress && !response.headers().contains_key(CONTENT_ENCODING) {
            response = gzip(response);
        }
        drop(inflight);
        let took = Duration::try_from(self.clock.now().duration_since(began)).unwrap_or_default();
        self.metrics.count(&info, response.status().as_u16(), took);
        response
    }

    /// Handles a request and writes down what becomes of it.
    async fn follow(
        &self,
        call: Call,
        body: RequestBody,
        mut trail: Trail,
        (format, pretty): (Format, bool),
    ) -> Response<Body> {
        trail.received().await;
        let long = call.is_long_running();
        let annotations = call.annotations.clone();
        let mut failed = None;
        let result = if trail.wants_request() && !long {
            match read(body).await {
                Ok(bytes) => {
                    trail.request(&call.parts.headers, &bytes);
                    let body =
                        http_body_util::Full::new(bytes).map_err(|never| match never {}).boxed_unsync();
                    self.attend(call, body).await
                }
                Err(status) => Err(status),
            }
        } else {
            self.attend(call, body).await
        };
        let mut response = result.unwrap_or_else(|status| {
            failed = Some(status.to_value());
            respond::failure(&status, format, pretty)
        });
        trail.annotate(std::mem::take(&mut *annotations.lock()));
        let code = response.status().as_u16();
        if long && failed.is_none() {
            trail.answered(Stage::ResponseStarted, code, None).await;
            let end = AtEnd(trail, code);
            return response.map(|body| body.holding(end));
        }
        if trail.wants_response() {
            let (parts, body) = response.into_parts();
            let bytes = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) => {
                    tracing::warn!(%error, "an answer that is to be written down cannot be read");
                    Bytes::new()
                }
            };
            trail.response(&bytes);
            response = Response::from_parts(parts, Body::from(bytes));
        }
        trail.answered(Stage::ResponseComplete, code, failed.as_ref()).await;
        response
    }

    /// Handles an authenticated request when it is its turn.
    async fn attend(&self, call: Call, body: RequestBody) -> Result<Response<Body>, Status> {
        let class = self.flow.classify(&call.user, &call.info);
        let permit = match &class {
            Some(class) if !call.is_long_running() => Some(self.flow.admit(class).await?),
            _ => None,
        };
        let result = self.handle(call, body).await;
        drop(permit);
        let mut response = result?;
        if let Some(class) = class {
            for (name, uid) in [
                ("x-kubernetes-pf-flowschema-uid", &*class.schema),
                ("x-kubernetes-pf-prioritylevel-uid", class.level()),
            ] {
                if let Ok(value) = HeaderValue::from_str(uid) {
                    response.headers_mut().insert(name, value);
                }
            }
        }
        Ok(response)
    }

    /// Handles an authenticated request within its time; a panic in it is its failure and nobody else's.
    async fn handle(&self, call: Call, body: RequestBody) -> Result<Response<Body>, Status> {
        let (path, method) = (call.info.path.clone(), call.parts.method.clone());
        let long = call.is_long_running();
        let handled = AssertUnwindSafe(call.handle(body)).catch_unwind();
        let result = if long {
            handled.await
        } else {
            tokio::select! {
                biased;
                result = handled => result,
                () = self.clock.after(DEADLINE) => Ok(Err(Status::timeout(
                    "request did not complete within the allotted timeout", 0))),
            }
        };
        result.unwrap_or_else(|_| {
            tracing::error!(%method, path, "a request panicked");
            Err(Status::internal(format!(
                "This request caused apiserver to panic. Look in the logs for details: {method} {path}"
            )))
        })
    }
}

/// Compresses a response that is worth it.
fn gzip(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let body = match body.gzip() {
        Ok(body) => {
            parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            body
        }
        Err(body) => body,
    };
    Response::from_parts(parts, body)
}

impl Call {
    /// Whether the request may last as long as its client wants.
    fn is_long_running(&self) -> bool {
        self.info.verb == "watch"
            || self.info.verb == "proxy"
            || self.info.resource.as_ref().is_some_and(|target| {
                matches!(target.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
            })
    }

    async fn handle(self, body: RequestBody) -> Result<Response<Body>, Status> {
        let decision = identity::authorize(&self.server.access, &self.user, &self.info, &self.query);
        if self.server.audit.is_some() {
            let word = if decision.is_ok() { "allow" } else { "forbid" };
            self.annotations.lock().push(("authorization.k8s.io/decision".into(), word.into()));
        }
        decision?;
        let call = Arc::new(self);
        if let Some(service) = aggregate::serves(&call.server, call.parts.uri.path()) {
            return aggregate::pass(&call, &service, body).await;
        }
        let mut response = match &call.info.resource {
            Some(_) => crate::rest::dispatch(&call, body).await?,
            None => crate::paths::dispatch(&call).await?,
        };
        for warning in call.warnings.lock().iter() {
            let text = format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\""));
            match HeaderValue::from_str(&text) {
                Ok(value) => {
                    response.headers_mut().append(http::header::WARNING, value);
                }
                Err(error) => tracing::debug!(%error, warning, "a warning is no header"),
            }
        }
        Ok(response)
    }

    /// Adds a warning for the client, once.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        let (text, mut warnings) = (text.into(), self.warnings.lock());
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }
}

/// Lets access see every change of what it decides by.
fn observe(cache: &Cache, access: &Arc<Access>) {
    for resource in crate::access::OBSERVED {
        let access = access.clone();
        cache.kind(resource).set_observer(Box::new(move |key, object, previous| {
            // What a pod refers to does not change while it stays on its node; its status changes often.
            let node = |object: &Object| object.facts.field("spec.nodeName").map(str::to_owned);
            if *resource == "pods"
                && let (Some(object), Some(previous)) = (object, previous)
                && object.facts.uid == previous.facts.uid
                && node(object) == node(previous)
            {
                return;
            }
            let (namespace, name) = key.split_once('/').unwrap_or(("", key));
            access.observe(resource, namespace, name, object.map(Object::value).as_ref());
        }));
    }
}

/// Lets admission see every change of the webhook configurations and policies.
fn observe_extensions(cache: &Cache, configurations: &Arc<Configurations>, policies: &Arc<Policies>) {
    for resource in webhook::config::OBSERVED {
        let configurations = configurations.clone();
        cache.kind(resource).set_observer(Box::new(move |key, object, _| {
            configurations.observe(resource, key, object.map(Object::value).as_ref());
        }));
    }
    for resource in policy::config::OBSERVED {
        let policies = policies.clone();
        cache.kind(resource).set_observer(Box::new(move |key, object, _| {
            policies.observe(resource, key, object.map(Object::value).as_ref());
        }));
    }
}

/// Reads a request's body.
pub(crate) async fn read(body: RequestBody) -> Result<Bytes, Status> {
    let limited = http_body_util::Limited::new(body, BODY_LIMIT);
    match limited.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Status::request_entity_too_large(BODY_LIMIT))
        }
        Err(error) => Err(Status::bad_request(format!("reading the body: {error}"))),
    }
}

/// Errors are sent in the best of the plain forms that the client takes.
fn error_format(parts: &http::request::Parts) -> Format {
    negotiate::choose(&parts.headers, Offer::PLAIN).map_or(Format::Json, |form| form.format)
}

/// The server as a service.
#[derive(Clone)]
pub struct ApiService {
    server: Arc<ApiServer>,
    user: Option<Arc<UserInfo>>,
}

impl<B> tower::Service<Request<B>> for ApiService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut request =
            request.map(|body| body.map_err(|error| TransportError(error.into().to_string())).boxed_unsync());
        if let Some(user) = &self.user {
            request.extensions_mut().insert(LocalUser(user.clone()));
        }
        let server = self.server.clone();
        Box::pin(async move { Ok(server.respond(request).await) })
    }
}
