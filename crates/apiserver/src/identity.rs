//! Who sends a request: the in-process user, the certificate of the connection, or a token; then whom the
//! sender acts as, and whether that one may do what the request asks.

use std::collections::HashMap;
use std::sync::Arc;

use api::status::Status;
use http::header::AUTHORIZATION;
use http::request::Parts;
use machinery::serve::Peer;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use serde_json::Value;

use crate::access::{
    Access, Attributes, CertificateUser, Credentials, Impersonation, Lookup, UserInfo, impersonate,
};
use crate::cache::Cache;
use crate::path::{Query, RequestInfo};
use crate::server::ApiServer;

/// Above so many connections' certificates, all are read anew.
const CONNECTIONS: usize = 1024;

/// The users of connections, so that a certificate is read once for each connection and not for each request.
/// By the address of the connection's chain, which is held here so that the address stays its own.
#[derive(Default)]
pub(crate) struct Certificates(Mutex<HashMap<usize, Known>>);

type Known = (Arc<[CertificateDer<'static>]>, Option<Arc<CertificateUser>>);

impl Certificates {
    fn user(&self, peer: &Peer) -> Option<Arc<CertificateUser>> {
        let first = peer.certificates.first()?;
        let place = peer.certificates.as_ptr() as usize;
        if let Some((_, user)) = self.0.lock().get(&place) {
            return user.clone();
        }
        let user = match CertificateUser::read(first) {
            Ok(user) => Some(Arc::new(user)),
            Err(error) => {
                tracing::debug!(address = %peer.address, error, "a client certificate names no user");
                None
            }
        };
        let mut known = self.0.lock();
        if known.len() >= CONNECTIONS {
            known.clear();
        }
        known.insert(place, (peer.certificates.clone(), user.clone()));
        user
    }
}

/// The user of an in-process client; put into the request's extensions by its transport, which no request
/// from outside can reach.
#[derive(Clone)]
pub(crate) struct LocalUser(pub(crate) Arc<UserInfo>);

impl ApiServer {
    /// Finds out who is asking, and whom they act as.
    pub(crate) fn identify(&self, parts: &mut Parts) -> Result<(Arc<UserInfo>, Arc<UserInfo>), Status> {
        let user = match parts.extensions.remove() {
            Some(LocalUser(user)) => user,
            None => {
                let certificate = parts.extensions.get().and_then(|peer| self.certificates.user(peer));
                let authorization = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
                let credentials = Credentials {
                    certificate: certificate.as_deref(),
                    authorization,
                    path: parts.uri.path(),
                };
                self.authenticator.authenticate(&credentials, &*self.cache)?
            }
        };
        let headers =
            parts.headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        match Impersonation::read(headers) {
            None => Ok((user.clone(), user)),
            Some(wanted) => {
                let acting = impersonate(&self.access, &user, &wanted)?;
                Ok((user, Arc::new(acting)))
            }
        }
    }
}

/// Refuses what the user may not do.
pub(crate) fn authorize(
    access: &Access,
    user: &UserInfo,
    info: &RequestInfo,
    query: &Query,
) -> Result<(), Status> {
    let Some(target) = &info.resource else {
        let attributes = Attributes { verb: &info.verb, path: &info.path, ..Attributes::default() };
        return access.check(user, &attributes);
    };
    let selector = query.get("fieldSelector").unwrap_or_default();
    let fields: Vec<(&str, &str)> = selector
        .split(',')
        .filter(|term| !term.contains("!="))
        .filter_map(|term| term.split_once('='))
        .map(|(field, value)| (field, value.strip_prefix('=').unwrap_or(value)))
        .collect();
    // A collection that is narrowed to one name is authorized as that name.
    let across = matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
    let selected =
        fields.iter().find(|(field, _)| across && *field == "metadata.name").map(|(_, name)| *name);
    access.check(
        user,
        &Attributes {
            verb: &info.verb,
            group: &target.group,
            version: &target.version,
            resource: &target.resource,
            subresource: &target.subresource,
            namespace: &target.namespace,
            name: if target.name.is_empty() { selected.unwrap_or_default() } else { &target.name },
            path: &info.path,
            fields: &fields,
        },
    )
}

impl Lookup for Cache {
    fn lookup(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let object = self.kind(resource).get(&crate::rest::key(namespace, name))?;
        Some(Arc::new(object.value()))
    }

    fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        let (objects, _) = self.kind(resource).all(namespace);
        objects.iter().map(|object| Arc::new(object.value())).collect()
    }
}
