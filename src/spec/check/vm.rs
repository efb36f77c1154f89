//! What only virtual machines have: an operating system, SSH, an Ignition configuration, a proxy, certificates.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use url::Url;

use super::{Checker, label_fault};
use crate::spec::document::{At, Document, OsSection, Place, ProxySection, SshSection};
use crate::spec::{Flavor, Network, Os, ProviderKind, Proxy, Runtime, Ssh};

/// The networks in which each provider's own NAT gives addresses: a machine with one of them on both sides
/// reaches only one. QEMU's and VirtualBox's are built in; the other is vagrant-libvirt's default.
const NAT: [(ProviderKind, Ipv4Addr); 3] = [
    (ProviderKind::Qemu, Ipv4Addr::new(10, 0, 2, 0)),
    (ProviderKind::Vagrant, Ipv4Addr::new(10, 0, 2, 0)),
    (ProviderKind::Vagrant, Ipv4Addr::new(192, 168, 121, 0)),
];

/// What [`check_vm`] completes.
#[derive(Default)]
pub(super) struct Vm {
    pub(super) os: Option<Os>,
    pub(super) ssh: Option<Ssh>,
    pub(super) ignition: Option<PathBuf>,
    pub(super) proxy: Option<Proxy>,
    pub(super) certificates: Vec<PathBuf>,
}

/// Checks and completes the sections of virtual machines, or refuses them where there are none.
pub(super) fn check_vm(
    checker: &mut Checker,
    document: &Document,
    provider: ProviderKind,
    network: &Network,
) -> Vm {
    if provider == ProviderKind::Local {
        refuse_all(checker, document);
        return Vm::default();
    }
    check_nat(checker, document, provider, network);
    Vm {
        os: Some(check_os(checker, document.os.as_ref(), provider)),
        ssh: Some(check_ssh(checker, document.ssh.as_ref())),
        ignition: document.ignition.as_ref().and_then(|at| path(checker, "ignition", at, "user.yaml")),
        proxy: document.proxy.as_ref().map(|section| check_proxy(checker, section)),
        certificates: check_certificates(checker, &document.certificates),
    }
}

/// Checks the engine and completes it: the system's own containerd where there is one.
pub(super) fn check_runtime(
    checker: &mut Checker,
    given: Option<&At<String>>,
    provider: ProviderKind,
) -> Runtime {
    let default = if provider == ProviderKind::Local { Runtime::Builtin } else { Runtime::Cri };
    let Some(At { value, place }) = given else { return default };
    match value.as_str() {
        "builtin" => return Runtime::Builtin,
        "cri" if provider == ProviderKind::Local => checker.wrong(
            *place,
            "runtime",
            "machines of the local provider have no containerd of their own",
            "builtin, or provider vagrant or qemu",
        ),
        "cri" => return Runtime::Cri,
        other => checker.wrong(*place, "runtime", format!("{other:?} is not an engine"), "builtin or cri"),
    }
    default
}

fn first_place<'a>(places: impl IntoIterator<Item = Option<&'a At<String>>>) -> Option<Place> {
    places.into_iter().flatten().map(|at| at.place).next()
}

/// Refuses every section that the local provider has no use for.
fn refuse_all(checker: &mut Checker, document: &Document) {
    let Document { os, ssh, ignition, proxy, certificates, .. } = document;
    let os = os.as_ref().map(|section| {
        let OsSection { flavor, channel, version, vagrant_box, box_url, image, .. } = section;
        let OsSection { checksum, signature, signing_keys, .. } = section;
        [flavor, channel, version, vagrant_box, box_url, image, checksum, signature, signing_keys]
            .map(Option::as_ref)
    });
    let ssh = ssh.as_ref().map(|SshSection { user, public_key, private_key }| {
        [user, public_key, private_key].map(Option::as_ref)
    });
    let proxy = proxy.as_ref().map(|ProxySection { http_proxy, https_proxy, no_proxy }| {
        [http_proxy.as_ref(), https_proxy.as_ref(), no_proxy.first()]
    });
    let place =
        |fields: &[Option<&At<String>>]| first_place(fields.iter().copied()).unwrap_or(Place::Default);
    let written = [
        (os.map(|fields| place(&fields)), "os", "the local provider uses this machine's own system"),
        (ssh.map(|fields| place(&fields)), "ssh", "the local provider enters nodes without SSH"),
        (
            ignition.as_ref().map(|at| at.place),
            "ignition",
            "machines of the local provider are not made by Ignition",
        ),
        (
            proxy.map(|fields| place(&fields)),
            "proxy",
            "machines of the local provider have no way out that a proxy would be needed for",
        ),
        (
            certificates.first().map(|at| at.place),
            "certificates",
            "machines of the local provider trust whom this machine trusts",
        ),
    ];
    for (place, field, why) in written {
        if let Some(place) = place {
            let right = format!("leave {field} out, or use provider vagrant or qemu");
            checker.wrong(place, field, why, right);
        }
    }
}

fn check_nat(checker: &mut Checker, document: &Document, provider: ProviderKind, network: &Network) {
    for nat in NAT.iter().filter(|(kind, _)| *kind == provider).map(|(_, nat)| Ipv4Net::new_assert(*nat, 24))
    {
        let section = document.network.as_ref();
        let place = |at: Option<&At<String>>| at.map_or(Place::Default, |at| at.place);
        for (name, used, place) in [
            ("nodes", network.nodes, place(section.and_then(|section| section.nodes.as_ref()))),
            ("pods", network.pods, place(section.and_then(|section| section.pods.as_ref()))),
            ("services", network.services, place(section.and_then(|section| section.services.as_ref()))),
        ] {
            if used.contains(&nat) || nat.contains(&used) {
                checker.wrong(
                    place,
                    &format!("network.{name}"),
                    format!("{used} overlaps {nat}, in which the provider's NAT gives addresses"),
                    format!("a network that shares no address with {nat}"),
                );
            }
        }
    }
}

fn path(checker: &mut Checker, field: &str, at: &At<String>, example: &str) -> Option<PathBuf> {
    let At { value, place } = at;
    // A shell would have replaced the tilde; here it would name a directory of that name.
    if value.trim().is_empty() || value.ends_with('/') || value.contains("://") || value.starts_with('~') {
        let right = format!("a path, from the spec's directory or absolute, such as {example}");
        checker.wrong(*place, field, format!("{value:?} is not the path of a file"), right);
        return None;
    }
    Some(value.into())
}

/// Checks a path or URL.
fn source(checker: &mut Checker, field: &str, at: &At<String>) {
    let At { value, place } = at;
    let usable = match value.split_once("://") {
        None => !value.trim().is_empty() && !value.ends_with('/'),
        Some(("file", path)) => path.starts_with('/'),
        Some(("http" | "https", _)) => Url::parse(value).is_ok_and(|url| url.host_str().is_some()),
        Some(_) => false,
    };
    if !usable {
        checker.wrong(
            *place,
            field,
            format!("{value:?} is neither a path nor a URL"),
            "a path, or https://HOST/PATH, http://HOST/PATH or file:///PATH",
        );
    }
}

fn check_os(checker: &mut Checker, section: Option<&OsSection>, provider: ProviderKind) -> Os {
    let empty = OsSection::default();
    let section = section.unwrap_or(&empty);
    let OsSection { flavor, channel, version, vagrant_box, box_url, image, .. } = section;
    let OsSection { checksum, signature, signing_keys, .. } = section;
    let flavor_place = flavor.as_ref().map_or(Place::Default, |at| at.place);
    let flavor = check_flavor(checker, flavor.as_ref());
    check_release(checker, flavor, channel.as_ref(), version.as_ref());
    let foreign = match provider {
        ProviderKind::Qemu => vec![("os.box", vagrant_box), ("os.boxUrl", box_url)],
        _ => vec![("os.image", image), ("os.signature", signature), ("os.signingKeys", signing_keys)],
    };
    for (field, at) in foreign {
        if let Some(At { place, .. }) = at {
            let (wrong, right) = match provider {
                ProviderKind::Qemu => ("boxes are Vagrant's", "os.image: a disk image's path or URL"),
                _ => ("Vagrant boots boxes", "os.box and os.boxUrl"),
            };
            checker.wrong(*place, field, wrong, right);
        }
    }
    if let Some(At { value, place }) = vagrant_box
        && (value.is_empty()
            || !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte)))
    {
        let right = "letters, digits, -, _, . and /, such as my-box or owner/box";
        checker.wrong(*place, "os.box", format!("{value:?} is not the name of a box"), right);
    }
    for (field, at) in [("os.boxUrl", box_url), ("os.image", image), ("os.signature", signature)] {
        if let Some(at) = at {
            source(checker, field, at);
        }
    }
    if let (Some(At { place, .. }), None) = (box_url, vagrant_box) {
        checker.wrong(*place, "os.boxUrl", "a box needs a name", "os.box beside it");
    }
    // Fedora publishes no box, and of images only compressed ones, under names with their version.
    match (flavor, provider, vagrant_box, image) {
        (Flavor::FedoraCoreos, ProviderKind::Vagrant, None, _) => checker.wrong(
            flavor_place,
            "os.flavor",
            "there is no Vagrant box of Fedora CoreOS",
            "os.box, and os.boxUrl where it is not added yet: a box made from its image",
        ),
        (Flavor::FedoraCoreos, ProviderKind::Qemu, _, None) => checker.wrong(
            flavor_place,
            "os.flavor",
            "the image of Fedora CoreOS has to be named",
            "os.image: the path or URL of an unpacked fedora-coreos-VERSION-qemu.x86_64.qcow2",
        ),
        _ => {}
    }
    if let Some(at) = checksum {
        let named = image.is_some() || box_url.is_some() || version.is_some();
        check_checksum(checker, at, named);
    }
    let signing_keys = signing_keys.as_ref().and_then(|at| path(checker, "os.signingKeys", at, "keys.asc"));
    if let (Some(At { place, .. }), None) = (signature, &signing_keys) {
        let right = "os.signingKeys beside it: the publisher's public keys, in a file";
        checker.wrong(*place, "os.signature", "a signature proves nothing without the keys to trust", right);
    }
    if let Some(At { value, place }) = image
        && (value.starts_with("http://") || value.starts_with("https://"))
        && checksum.is_none()
        && signing_keys.is_none()
    {
        let right = "os.checksum, or os.signingKeys, which verify the signature beside it";
        checker.wrong(*place, "os.image", "an image from the network has to be known by something", right);
    }
    let text = |at: &Option<At<String>>| at.as_ref().map(|at| at.value.clone());
    Os {
        flavor,
        channel: text(channel).unwrap_or_else(|| "stable".into()),
        version: text(version),
        vagrant_box: text(vagrant_box),
        box_url: text(box_url),
        image: text(image),
        checksum: checksum.as_ref().map(|at| at.value.to_ascii_lowercase()),
        signature: text(signature),
        signing_keys,
    }
}

fn check_flavor(checker: &mut Checker, flavor: Option<&At<String>>) -> Flavor {
    let Some(At { value, place }) = flavor else { return Flavor::Flatcar };
    match value.as_str() {
        "flatcar" => Flavor::Flatcar,
        "fedora-coreos" => Flavor::FedoraCoreos,
        other => {
            let right = "flatcar or fedora-coreos";
            checker.wrong(*place, "os.flavor", format!("{other:?} is not known"), right);
            Flavor::Flatcar
        }
    }
}

fn check_release(
    checker: &mut Checker,
    flavor: Flavor,
    channel: Option<&At<String>>,
    version: Option<&At<String>>,
) {
    let (channels, parts, example): (&[&str], usize, &str) = match flavor {
        Flavor::Flatcar => (&["stable", "beta", "alpha", "lts"], 3, "4593.0.0"),
        Flavor::FedoraCoreos => (&["stable", "testing", "next"], 4, "43.20260801.3.0"),
    };
    if let Some(At { value, place }) = channel
        && !channels.contains(&value.as_str())
    {
        let wrong = format!("{value:?} is not a channel of {}", flavor.name());
        checker.wrong(*place, "os.channel", wrong, format!("one of {}", channels.join(", ")));
    }
    if let Some(At { value, place }) = version {
        let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if value.split('.').count() != parts || !value.split('.').all(number) {
            let wrong = format!("{value:?} is not a version of {}", flavor.name());
            let right = format!("such as {example}; leave it out for the channel's newest");
            checker.wrong(*place, "os.version", wrong, right);
        }
    }
}

fn check_checksum(checker: &mut Checker, At { value, place }: &At<String>, named: bool) {
    if value.len() != 64 || !value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        checker.wrong(*place, "os.checksum", format!("{value:?} is not a SHA-256"), "64 hexadecimal digits");
    } else if !named {
        checker.wrong(
            *place,
            "os.checksum",
            "a channel's newest release changes, and its checksum with it",
            "os.version, os.image or os.boxUrl beside it",
        );
    }
}

fn check_ssh(checker: &mut Checker, section: Option<&SshSection>) -> Ssh {
    let empty = SshSection::default();
    let SshSection { user, public_key, private_key } = section.unwrap_or(&empty);
    if let Some(At { value, place }) = user {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        let first = value.bytes().next();
        if !first.is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_')
            || value.len() > 32
            || !value.bytes().all(inner)
        {
            let right = "a-z, 0-9, - and _, with a letter first, at most 32, such as core";
            checker.wrong(*place, "ssh.user", format!("{value:?} is not the name of a user"), right);
        }
    }
    if let Some(At { value, place }) = public_key
        && value.parse::<remote::PublicKey>().is_err()
    {
        let right = "a line such as ssh-ed25519 AAAA… name";
        checker.wrong(*place, "ssh.publicKey", "it is not an OpenSSH public key", right);
    }
    Ssh {
        user: user.as_ref().map_or_else(|| "core".into(), |at| at.value.clone()),
        public_key: public_key.as_ref().map(|at| at.value.trim().to_owned()),
        private_key: private_key.as_ref().and_then(|at| path(checker, "ssh.privateKey", at, "keys/lab")),
    }
}

fn check_proxy(checker: &mut Checker, section: &ProxySection) -> Proxy {
    let ProxySection { http_proxy, https_proxy, no_proxy } = section;
    for (field, at) in [("proxy.httpProxy", http_proxy), ("proxy.httpsProxy", https_proxy)] {
        let Some(At { value, place }) = at else { continue };
        let usable = Url::parse(value)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some());
        if !usable || value.contains(['"', '\\', '\n', ' ', '%', '$']) {
            // Not quoted: a password may be in it. Percent signs are systemd's.
            checker.wrong(
                *place,
                field,
                "it is not the URL of a proxy",
                "http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, without %, $, quotes and blanks",
            );
        }
    }
    if http_proxy.is_none() && https_proxy.is_none() {
        let place = no_proxy.first().map_or(Place::Default, |at| at.place);
        checker.wrong(place, "proxy", "it names no proxy", "httpProxy, httpsProxy or both");
    }
    for At { value, place } in no_proxy {
        let host = value.strip_prefix('.').unwrap_or(value);
        let (host, port) = host.rsplit_once(':').map_or((host, None), |(host, port)| (host, Some(port)));
        let name = host.split('.').all(|label| label_fault(label, 63).is_none());
        let usable = value.parse::<ipnet::IpNet>().is_ok()
            || (port.is_none_or(|port| port.parse::<u16>().is_ok()) && name);
        if !usable {
            let wrong = format!("{value:?} is neither a host, a domain nor a network");
            let right = "one each of HOST, .DOMAIN, ADDRESS or NETWORK/PREFIX, such as .example.org";
            checker.wrong(*place, "proxy.noProxy", wrong, right);
        }
    }
    let text = |at: &Option<At<String>>| at.as_ref().map(|at| at.value.clone());
    Proxy {
        http_proxy: text(http_proxy),
        https_proxy: text(https_proxy),
        no_proxy: no_proxy.iter().map(|at| at.value.clone()).collect(),
    }
}

fn check_certificates(checker: &mut Checker, given: &[At<String>]) -> Vec<PathBuf> {
    let mut kept = Vec::new();
    for at in given {
        let Some(path) = path(checker, "certificates", at, "company-ca.pem") else { continue };
        if kept.contains(&path) {
            let wrong = format!("{:?} is given twice", at.value);
            checker.wrong(at.place, "certificates", wrong, "each file once");
        }
        kept.push(path);
    }
    kept
}
