//! The store of several masters: etcd members that the tool sets up on them, or ones that somebody else keeps.

use std::path::PathBuf;

use url::Url;

use super::{Checker, offset, usable};
use crate::spec::document::{At, Document, EtcdSection, Place};
use crate::spec::{Etcd, EtcdCertificates, Machines, Network};

/// The address that moves between the masters, from the network's first one on: before the masters' own.
const SHARED_OFFSET: u32 = 100;

/// Checks and completes the section; there is none where one master keeps everything by itself. Also chooses the
/// address that moves between the masters, which several have and one does not need.
pub(super) fn check_etcd(
    checker: &mut Checker,
    document: &Document,
    masters: &Machines,
    network: &mut Network,
) -> Option<Etcd> {
    let given = document.network.as_ref().and_then(|section| section.api.as_ref());
    let etcd = match &document.etcd {
        Some(section) => Some(check_section(checker, section)),
        None => (masters.count > 1).then(Etcd::default),
    };
    if etcd.is_none() {
        if let Some(At { place, .. }) = given {
            checker.wrong(
                *place,
                "network.api",
                "one master without etcd has no address beside its own",
                "leave it out, or more masters, or etcd: {}",
            );
        }
        return None;
    }
    let shared = checker.address("network.api", given, offset(network.nodes.network(), SHARED_OFFSET));
    if usable(network.nodes, shared.0) {
        network.api = Some(shared.0);
    } else if shared.1 == Place::Default {
        checker.wrong(
            place_of_nodes(document),
            "network.nodes",
            format!(
                "{} has no room for the masters' shared address, {} unless told otherwise",
                network.nodes, shared.0
            ),
            "a /24 or larger, or network.api",
        );
    } else {
        checker.inside("network.api", shared, "network.nodes", network.nodes);
    }
    etcd
}

fn place_of_nodes(document: &Document) -> Place {
    let nodes = document.network.as_ref().and_then(|section| section.nodes.as_ref());
    nodes.map_or(Place::Default, |at| at.place)
}

fn check_section(checker: &mut Checker, section: &EtcdSection) -> Etcd {
    let EtcdSection { executable, image, members, endpoints, certificates, prefix } = section;
    if let Some(At { value, place }) = image {
        checker.wrong(
            *place,
            "etcd.image",
            format!("{value:?} cannot be used: members from an image are not built yet"),
            "etcd.executable: the path of an etcd executable of this host",
        );
    }
    if let Some(At { value, place }) = members
        && value != "masters"
    {
        checker.wrong(
            *place,
            "etcd.members",
            format!("{value:?} is no place for members: machines of their own are not built yet"),
            "masters: one member on each, or etcd.endpoints",
        );
    }
    for (name, other) in [("executable", executable), ("members", members)] {
        if let (Some(At { place, .. }), false) = (other, endpoints.is_empty()) {
            checker.wrong(
                *place,
                &format!("etcd.{name}"),
                "with etcd.endpoints somebody else runs the members",
                "one of the two",
            );
        }
    }
    for At { value, place } in endpoints {
        let usable = Url::parse(value).is_ok_and(|url| {
            url.scheme() == "https" && url.host_str().is_some() && url.port().is_some() && url.path() == "/"
        });
        if !usable {
            checker.wrong(
                *place,
                "etcd.endpoints",
                format!("{value:?} is not the URL of an etcd member"),
                "https://HOST:PORT, such as https://10.0.0.5:2379",
            );
        }
    }
    let certificates = match (certificates, endpoints.first()) {
        (None, None) => None,
        (Some(section), Some(_)) => Some(EtcdCertificates {
            authority: file(checker, "etcd.certificates.authority", &section.authority),
            certificate: file(checker, "etcd.certificates.certificate", &section.certificate),
            key: file(checker, "etcd.certificates.key", &section.key),
        }),
        (Some(section), None) => {
            checker.wrong(
                section.authority.place,
                "etcd.certificates",
                "the tool makes the certificates of members that it sets up itself",
                "leave them out, or give etcd.endpoints, too",
            );
            None
        }
        (None, Some(At { place, .. })) => {
            checker.wrong(
                *place,
                "etcd.certificates",
                "there are none, and etcd is spoken to by mutual TLS",
                "{ authority: FILE, certificate: FILE, key: FILE }",
            );
            None
        }
    };
    if let Some(At { value, place }) = prefix {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let segment = value.strip_prefix('/').unwrap_or_default();
        if segment.is_empty() || !segment.bytes().all(plain) {
            checker.wrong(
                *place,
                "etcd.prefix",
                format!("{value:?} is not what keys can begin with"),
                "a slash and one word, such as /lab",
            );
        }
    }
    Etcd {
        executable: executable.as_ref().map(|at| file(checker, "etcd.executable", at)),
        endpoints: endpoints.iter().map(|at| at.value.clone()).collect(),
        certificates,
        prefix: prefix.as_ref().map(|at| at.value.clone()),
        joined: std::collections::BTreeSet::new(),
    }
}

fn file(checker: &mut Checker, field: &str, At { value, place }: &At<String>) -> PathBuf {
    if value.trim().is_empty() {
        checker.wrong(*place, field, "it is empty", "the path of a file");
    }
    PathBuf::from(value)
}

/// Returns what the user should know of a number of masters.
pub(crate) fn masters_warning(masters: u32) -> Option<String> {
    (masters > 0 && masters.is_multiple_of(2)).then(|| {
        let survives = (masters - 1) / 2;
        format!(
            "{masters} masters: a write needs {} of them, so the loss of {survives} is survived, no more than with {}; \
             the additional one makes every write wait for one more machine",
            masters / 2 + 1,
            masters - 1
        )
    })
}
