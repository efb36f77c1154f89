//! API aggregation: groups and versions that other servers serve, as `APIService` objects say.
//!
//! Who asks is authenticated and authorized here; the other server is told the user in headers that it believes
//! because of the certificate that this server shows. Whether a server can be reached is probed and written into
//! the object's condition; what it serves is a part of discovery.

mod probe;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::status::Status;
use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue, Request, Response};
use machinery::tls::Identity;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;

use crate::access::{UserInfo, text};
use crate::body::Body;
use crate::config::FrontProxy;
use crate::proxy::{Backend, Dial, backend, insecure};
use crate::server::{ApiServer, Call, RequestBody};

pub(crate) use probe::run;

/// The resource that is observed.
pub(crate) const ID: &str = "apiservices.apiregistration.k8s.io";
/// The common name of the certificate that other servers are shown.
const NAME: &str = "front-proxy-client";
/// What need not be escaped in the key of an extra header.
const HEADER_KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A group and version that another server serves.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    namespace: String,
    service: String,
    port: u16,
    /// Trust and identity; the text says why there is none.
    tls: Result<Arc<ClientConfig>, String>,
    /// Larger ones come first in discovery.
    pub(crate) priority: (i64, i64),
    /// What the server serves, as an `APIResourceList`; `None` until it was reached.
    pub(crate) resources: ArcSwap<Option<Value>>,
}

/// All of them. The task that follows the store writes, requests read.
pub(crate) struct Aggregator {
    front: FrontProxy,
    by_name: Mutex<BTreeMap<String, Arc<Service>>>,
    services: ArcSwap<Vec<Arc<Service>>>,
}

impl Aggregator {
    /// Shows other servers the certificate of `front`.
    pub(crate) fn new(front: FrontProxy) -> Self {
        Self { front, by_name: Mutex::default(), services: ArcSwap::default() }
    }

    /// Returns what other servers must know to believe this one.
    pub(crate) fn request_header(&self) -> Value {
        let list = |names: &[&str]| serde_json::json!(names).to_string();
        serde_json::json!({
            "requestheader-client-ca-file": self.front.authority,
            "requestheader-allowed-names": list(&[NAME]),
            "requestheader-username-headers": list(&["X-Remote-User"]),
            "requestheader-uid-headers": list(&["X-Remote-Uid"]),
            "requestheader-group-headers": list(&["X-Remote-Group"]),
            "requestheader-extra-headers-prefix": list(&["X-Remote-Extra-"]),
        })
    }

    /// Takes note of an `APIService`: as it is now, or `None` when it is gone.
    pub(crate) fn observe(&self, name: &str, object: Option<&Value>) {
        let mut by_name = self.by_name.lock();
        let spec = object.map(|object| &object["spec"]).filter(|spec| spec["service"].is_object());
        match spec {
            None => drop(by_name.remove(name)),
            Some(spec) => {
                let service = self.read(name, spec);
                // What was found out stays, unless the object leads elsewhere now.
                if let Some(old) = by_name.get(name)
                    && (&old.namespace, &old.service, old.port)
                        == (&service.namespace, &service.service, service.port)
                {
                    service.resources.store(old.resources.load_full());
                }
                by_name.insert(name.to_owned(), Arc::new(service));
            }
        }
        let mut all: Vec<Arc<Service>> = by_name.values().cloned().collect();
        all.sort_by_key(|service| std::cmp::Reverse(service.priority));
        self.services.store(Arc::new(all));
    }

    fn read(&self, name: &str, spec: &Value) -> Service {
        let number = |key: &str| spec[key].as_i64().unwrap_or(0);
        Service {
            name: name.to_owned(),
            group: text(spec, "/group").to_owned(),
            version: text(spec, "/version").to_owned(),
            namespace: text(spec, "/service/namespace").to_owned(),
            service: text(spec, "/service/name").to_owned(),
            port: spec["service"]["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
            tls: self.tls(spec),
            priority: (number("groupPriorityMinimum"), number("versionPriority")),
            resources: ArcSwap::default(),
        }
    }

    fn tls(&self, spec: &Value) -> Result<Arc<ClientConfig>, String> {
        if spec["insecureSkipTLSVerify"] == true {
            return insecure(Some(self.front.identity.duplicate())).map_err(|status| status.message);
        }
        let bundle = STANDARD
            .decode(text(spec, "/caBundle"))
            .map_err(|error| format!("the caBundle is not base64: {error}"))?;
        let authorities: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&bundle)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("the caBundle is not PEM: {error}"))?;
        machinery::tls::client(&authorities, Some(self.front.identity.duplicate()))
            .map(Arc::new)
            .map_err(|error| error.to_string())
    }

    /// Returns all services, in the order of discovery.
    pub(crate) fn services(&self) -> Arc<Vec<Arc<Service>>> {
        self.services.load_full()
    }

    /// Returns who serves a group and version.
    pub(crate) fn find(&self, group: &str, version: &str) -> Option<Arc<Service>> {
        self.services.load().iter().find(|one| one.group == group && one.version == version).cloned()
    }
}

impl FrontProxy {
    /// Makes an authority and a certificate for this process. Other servers read the authority from the config
    /// map, and follow it when it changes.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub(crate) fn make() -> Result<Self, String> {
        let failed = |error: rcgen::Error| format!("making the front proxy's certificate: {error}");
        let mut authority = rcgen::CertificateParams::new(Vec::new()).map_err(failed)?;
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        authority.distinguished_name.push(rcgen::DnType::CommonName, "front-proxy-ca");
        let authority_key = rcgen::KeyPair::generate().map_err(failed)?;
        let pem = authority.self_signed(&authority_key).map_err(failed)?.pem();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let mut own = rcgen::CertificateParams::new(Vec::new()).map_err(failed)?;
        own.distinguished_name.push(rcgen::DnType::CommonName, NAME);
        own.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().map_err(failed)?;
        let certificate = own.signed_by(&key, &issuer).map_err(failed)?;
        let identity = Identity {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        };
        Ok(Self { authority: pem, identity })
    }
}

impl Service {
    /// Returns how to reach the server now.
    fn dial(&self, server: &ApiServer) -> Result<Dial, Status> {
        let config = self.tls.clone().map_err(|why| {
            Status::service_unavailable(format!("error trying to reach service: {}: {why}", self.name))
        })?;
        let name = format!("{}.{}.svc", self.service, self.namespace);
        match backend(&server.cache, &server.random, &self.namespace, &self.service, &self.port.to_string())?
        {
            Backend::Address(address) => Ok(Dial::Named { address, name, config }),
            Backend::Host(host, _) => Err(Status::service_unavailable(format!(
                "service {:?} is only a name ({host}), which cannot serve an API",
                self.service
            ))),
        }
    }
}

/// Returns who else serves a path such as `/apis/GROUP/VERSION/…`.
pub(crate) fn serves(server: &ApiServer, path: &str) -> Option<Arc<Service>> {
    let services = server.aggregator.services.load();
    if services.is_empty() {
        return None;
    }
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let of = |group: &str, version: &str| {
        // What upstream has built in is never anybody else's.
        let own = api::registry::builtin().iter().any(|kind| kind.group == group && kind.version == version);
        if own { None } else { server.aggregator.find(group, version) }
    };
    match segments.next()? {
        "apis" => of(segments.next()?, segments.next()?),
        "openapi" if segments.next() == Some("v3") && segments.next() == Some("apis") => {
            of(segments.next()?, segments.next()?)
        }
        _ => None,
    }
}

/// Passes a request on to the server of `service`.
pub(crate) async fn pass(
    call: &Call,
    service: &Service,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let dial = service.dial(&call.server)?;
    let mut request = Request::new(body);
    *request.method_mut() = call.parts.method.clone();
    *request.headers_mut() = call.parts.headers.clone();
    *request.extensions_mut() = call.parts.extensions.clone();
    introduce(request.headers_mut(), &call.user)?;
    let path = call.parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    call.server.forward().send(request, &dial, path).await
}

/// Tells another server who asks, and makes sure that nobody else has said so.
fn introduce(headers: &mut http::HeaderMap, user: &UserInfo) -> Result<(), Status> {
    let claimed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-remote-") || name.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for name in claimed {
        headers.remove(name);
    }
    let mut add = |name: &str, value: &str| {
        let failed = |what: &str| Status::internal(format!("the user's {what} cannot be told in a header"));
        let name: HeaderName = name.parse().map_err(|_| failed("extra key"))?;
        headers.append(name, HeaderValue::from_str(value).map_err(|_| failed("name or group"))?);
        Ok::<_, Status>(())
    };
    add("x-remote-user", &user.name)?;
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid)?;
    }
    for group in &user.groups {
        add("x-remote-group", group)?;
    }
    for (key, values) in &user.extra {
        let key = utf8_percent_encode(key, HEADER_KEY).to_string();
        for value in values {
            add(&format!("x-remote-extra-{key}"), value)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_claim_to_be_somebody_else() {
        let mut headers = http::HeaderMap::new();
        for name in ["x-remote-user", "x-remote-group", "x-remote-extra-a", "impersonate-user"] {
            headers.insert(name, HeaderValue::from_static("root"));
        }
        let mut user = UserInfo::new("me", &["g"]);
        user.extra.insert("example.com/x".into(), vec!["1".into()]);
        introduce(&mut headers, &user).unwrap();
        let mut found: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                ("x-remote-extra-example.com%2fx", "1"),
                ("x-remote-group", "g"),
                ("x-remote-group", "system:authenticated"),
                ("x-remote-user", "me"),
            ]
        );
    }
}
