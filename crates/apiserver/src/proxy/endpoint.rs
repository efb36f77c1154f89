//! Where the proxies of pods and services lead.

use std::net::{IpAddr, SocketAddr};

use api::status::Status;
use machinery::names::Random;
use serde_json::Value;

use super::{Dial, insecure};
use crate::cache::Cache;
use crate::rest::Resource;

/// A name as proxies take it: `[scheme:]name[:port]`.
struct Place<'a> {
    secure: bool,
    name: &'a str,
    port: &'a str,
}

fn parse<'a>(text: &'a str, what: &str) -> Result<Place<'a>, Status> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts[..] {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme, name, port] => (scheme, name, port),
        _ => return Err(Status::bad_request(format!("invalid {what} request {text:?}"))),
    };
    if !matches!(scheme, "" | "http" | "https") {
        return Err(Status::bad_request(format!("invalid {what} request {text:?}")));
    }
    Ok(Place { secure: scheme == "https", name, port })
}

fn dial(address: IpAddr, port: u16, secure: bool) -> Result<Dial, Status> {
    let address = SocketAddr::new(address, port);
    Ok(if secure { Dial::Tls { address, config: insecure(None)? } } else { Dial::Plain(address) })
}

fn number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)
}

/// Returns where a `pods/proxy` call leads.
pub(super) async fn pod(resource: &Resource) -> Result<Dial, Status> {
    let place = parse(&resource.target.name, "pod")?;
    resource.call.server.cache.current().await?;
    let pod = resource.read_one_of_name(place.name)?.value();
    let ports = || {
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        containers.flat_map(|container| container["ports"].as_array().into_iter().flatten())
    };
    let port = match place.port {
        "" => ports().find_map(|port| number(&port["containerPort"])).unwrap_or(80),
        text => match text.parse() {
            Ok(port) => port,
            Err(_) => ports()
                .find(|port| port["name"] == text)
                .and_then(|port| number(&port["containerPort"]))
                .ok_or_else(|| Status::bad_request(format!("pod {:?} has no port {text:?}", place.name)))?,
        },
    };
    let address = pod["status"]["podIP"].as_str().and_then(|address| address.parse().ok());
    let address = address.ok_or_else(|| {
        Status::service_unavailable(format!("address not allowed: pod {:?} has no address yet", place.name))
    })?;
    dial(address, port, place.secure)
}

/// Where a service's clients are to connect.
pub(crate) enum Backend {
    /// One of its ready addresses.
    Address(SocketAddr),
    /// The name and port that a service of type `ExternalName` stands for.
    Host(String, u16),
}

/// Returns where a service leads. `port` is a port of the service by name or number; empty for its only one.
///
/// # Errors
/// 503 when there is no such service, port or ready address.
pub(crate) fn backend(
    cache: &Cache,
    random: &Random,
    namespace: &str,
    name: &str,
    port: &str,
) -> Result<Backend, Status> {
    let key = crate::rest::key(namespace, name);
    let service = cache.kind("services").get(&key).ok_or_else(|| {
        Status::service_unavailable(format!("service {name:?} not found in namespace {namespace:?}"))
    })?;
    let service = service.value();
    if service["spec"]["type"] == "ExternalName" {
        let host = service["spec"]["externalName"].as_str().unwrap_or_default().to_owned();
        return Ok(Backend::Host(host, port.parse().unwrap_or(443)));
    }
    let ports = service["spec"]["ports"].as_array().map_or(&[][..], Vec::as_slice);
    // The name of a port is what endpoints know it by, so a number is looked up first.
    let wanted = match (port, ports) {
        ("", [only]) => Some(only),
        ("", _) => ports.iter().find(|port| port["name"].as_str().unwrap_or_default().is_empty()),
        (text, _) => ports.iter().find(|port| {
            port["name"] == text || text.parse::<u64>().ok().is_some_and(|number| port["port"] == number)
        }),
    };
    let unavailable = || Status::service_unavailable(format!("no endpoints available for service {name:?}"));
    let wanted = wanted.ok_or_else(|| {
        Status::service_unavailable(format!("no service port {port:?} found for service {name:?}"))
    })?;
    let wanted = wanted["name"].as_str().unwrap_or_default();
    let endpoints = cache.kind("endpoints").get(&key).ok_or_else(unavailable)?.value();
    let mut found: Vec<SocketAddr> = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let matching = subset["ports"].as_array().into_iter().flatten();
        for port in matching.filter(|port| port["name"].as_str().unwrap_or_default() == wanted) {
            let Some(port) = number(&port["port"]) else { continue };
            let addresses = subset["addresses"].as_array().into_iter().flatten();
            found
                .extend(addresses.filter_map(|address| {
                    Some(SocketAddr::new(address["ip"].as_str()?.parse().ok()?, port))
                }));
        }
    }
    let choice = usize::try_from(random.below(found.len() as u64)).unwrap_or(0);
    found.get(choice).copied().map(Backend::Address).ok_or_else(unavailable)
}

/// Returns where a `services/proxy` call leads: one of the service's ready addresses.
pub(super) async fn service(resource: &Resource) -> Result<Dial, Status> {
    let place = parse(&resource.target.name, "service")?;
    let server = &resource.call.server;
    server.cache.current().await?;
    // A name that is not there is the client's mistake, not a service without endpoints.
    resource.read_one_of_name(place.name)?;
    let found = backend(&server.cache, &server.random, resource.namespace(), place.name, place.port)?;
    match found {
        Backend::Address(address) => dial(address.ip(), address.port(), place.secure),
        Backend::Host(host, port) => {
            let mut addresses = tokio::net::lookup_host((host.as_str(), port)).await.map_err(|error| {
                Status::service_unavailable(format!(
                    "looking up {host:?} of service {:?}: {error}",
                    place.name
                ))
            })?;
            let address = addresses
                .next()
                .ok_or_else(|| Status::service_unavailable(format!("the name {host:?} has no address")))?;
            dial(address.ip(), address.port(), place.secure)
        }
    }
}
