//! Where the proxies of pods and services lead.

use std::net::{IpAddr, SocketAddr};

use api::status::Status;
use serde_json::Value;

use super::{Dial, insecure};
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
    Ok(if secure { Dial::Tls { address, config: insecure()? } } else { Dial::Plain(address) })
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

/// Returns where a `services/proxy` call leads: one of the service's ready addresses.
pub(super) async fn service(resource: &Resource) -> Result<Dial, Status> {
    let place = parse(&resource.target.name, "service")?;
    let server = &resource.call.server;
    server.cache.current().await?;
    let service = resource.read_one_of_name(place.name)?.value();
    let ports = service["spec"]["ports"].as_array().map_or(&[][..], Vec::as_slice);
    // The name of a port is what endpoints know it by, so a number is looked up first.
    let port = match (place.port, ports) {
        ("", [only]) => Some(only),
        ("", _) => ports.iter().find(|port| port["name"].as_str().unwrap_or_default().is_empty()),
        (text, _) => ports.iter().find(|port| {
            port["name"] == text || text.parse::<u64>().ok().is_some_and(|number| port["port"] == number)
        }),
    };
    let unavailable = || {
        Status::service_unavailable(format!("no endpoints available for service {:?}", resource.target.name))
    };
    let name = port.ok_or_else(unavailable)?["name"].as_str().unwrap_or_default();
    let endpoints = resource.sibling("", "v1", "endpoints", place.name)?;
    let Some(endpoints) = endpoints.objects()?.get(&endpoints.key()) else { return Err(unavailable()) };
    let endpoints = endpoints.value();
    let mut found: Vec<(IpAddr, u16)> = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let matching = subset["ports"].as_array().into_iter().flatten();
        for port in matching.filter(|port| port["name"].as_str().unwrap_or_default() == name) {
            let Some(port) = number(&port["port"]) else { continue };
            let addresses = subset["addresses"].as_array().into_iter().flatten();
            found.extend(addresses.filter_map(|address| Some((address["ip"].as_str()?.parse().ok()?, port))));
        }
    }
    let choice = usize::try_from(server.random.below(found.len() as u64)).unwrap_or(0);
    let (address, port) = *found.get(choice).ok_or_else(unavailable)?;
    dial(address, port, place.secure)
}
