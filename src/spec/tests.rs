use super::*;

#[test]
fn an_empty_spec_is_the_default_lab() {
    insta::assert_json_snapshot!(check(&Document::default()).unwrap());
    for text in ["", "# nothing\n", "{}"] {
        assert_eq!(check(&parse(text).unwrap()), check(&Document::default()), "{text:?}");
    }
}

#[test]
fn a_full_spec_keeps_what_it_says() {
    let text = "\
name: full
provider: qemu
masters: { count: 1, cpus: 2, memory: 2Gi, disk: 20Gi }
workers: { count: 3, cpus: 1, memory: 512MiB, firstAddress: 10.20.1.1, labels: { disk: fast, example.org/rack: r1 } }
network:
  nodes: 10.20.0.0/16
  pods: 10.32.0.0/12
  services: 10.50.0.0/20
  host: 10.20.0.1
  dns: 10.50.0.10
  domain: corp.example
  apiPort: 6443
  nodePorts: 31000-31999
  loadBalancers: 10.20.5.1-10.20.5.200
registries: { mirrors: { docker.io: [\"http://10.20.0.1:5000\", \"https://mirror.example\"] } }
runtime: builtin
os: { flavor: fedora-coreos, channel: testing, version: 43.20260801.2.0, image: images/fcos.qcow2, checksum: SUM, signature: \"https://example.org/fcos.sig\", signingKeys: fedora.asc }
ssh: { user: admin, publicKey: KEY me, privateKey: keys/lab }
ignition: own.yaml
proxy: { httpProxy: \"http://proxy:3128\", httpsProxy: \"http://user:secret@proxy:3128\", noProxy: [.corp.example, 10.0.0.0/8, \"registry:5000\"] }
certificates: [corp.pem, /etc/lab.pem]
";
    let text = text.replace("SUM", &"0A".repeat(32)).replace("KEY", KEY);
    let mut spec = check(&parse(&text).unwrap()).unwrap();
    spec.anchor(std::path::Path::new("/home/me"));
    insta::assert_json_snapshot!(spec);
    assert!(!format!("{spec:?}").contains("secret"), "passwords are not for logs");
}

/// A public key that is one: its blob begins with its type.
pub(crate) const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

#[test]
fn what_a_saved_spec_of_an_older_version_lacks_is_filled_in() {
    let mut value = serde_json::to_value(check(&Document::default()).unwrap()).unwrap();
    value.as_object_mut().unwrap().remove("runtime");
    let spec: ClusterSpec = serde_json::from_value(value).unwrap();
    assert_eq!(spec, check(&Document::default()).unwrap());
}

#[test]
fn the_engine_follows_the_provider_unless_it_is_named() {
    for (text, runtime) in [
        ("", Runtime::Builtin),
        ("runtime: builtin", Runtime::Builtin),
        ("provider: qemu", Runtime::Cri),
        ("provider: vagrant", Runtime::Cri),
        ("provider: qemu\nruntime: builtin", Runtime::Builtin),
        ("provider: vagrant\nruntime: cri", Runtime::Cri),
    ] {
        assert_eq!(check(&parse(text).unwrap()).unwrap().runtime, runtime, "{text}");
    }
}

#[test]
fn flags_win_over_the_file() {
    let mut document = parse("name: a\nworkers: { count: 1 }\nnetwork: { pods: 10.8.0.0/16 }").unwrap();
    let flags =
        Overrides { workers: Some(3), node_network: Some("172.30.0.0/24".into()), ..Overrides::default() };
    overlay(&mut document, Some("b"), &flags);
    let spec = check(&document).unwrap();
    assert_eq!((spec.name.as_str(), spec.workers.count), ("b", 3));
    assert_eq!(spec.workers.first_address.to_string(), "172.30.0.201");
    assert_eq!(spec.network.pods.to_string(), "10.8.0.0/16");
}

/// Returns what a user is told about a bad spec.
fn told(text: &str, flags: &Overrides) -> String {
    let problems = match parse(text) {
        Ok(mut document) => {
            overlay(&mut document, None, flags);
            check(&document).expect_err("this spec is bad")
        }
        Err(problem) => vec![problem],
    };
    refuse("cluster.yaml", &problems).line()
}

/// Bad specs, a line or a few each; the snapshot has what is said about every one.
const BAD: &[&str] = &[
    // The text itself.
    "name: [unclosed",
    "name: a\n\tprovider: local",
    "- a list",
    "just words",
    "name: a\nname: b",
    "name: lab\n---\nname: two",
    // Unknown fields and wrong types.
    "nmae: lab",
    "worker: { count: 2 }",
    "masters:\n  cuont: 1",
    "network:\n  pod: 10.2.0.0/16",
    "registries: { mirror: {} }",
    "os: { flavour: flatcar }",
    "masters: 3",
    "masters: { count: two }",
    "masters: { count: 1.5 }",
    "network: 172.17.4.0/24",
    "registries: { mirrors: { docker.io: http://a } }",
    "network: { apiPort: https }",
    // Names.
    "name: Lab",
    "name: my_lab",
    "name: -lab",
    "name: lab-",
    "name: \"\"",
    "name: a.b",
    "name: this-name-is-longer-than-any-bridge",
    "name: ../etc",
    // Providers.
    "provider: docker",
    "provider: Local",
    "provider: \"\"",
    // Counts.
    "masters: { count: 0 }",
    "masters: { count: -1 }",
    "masters: { count: 8 }",
    "workers: { count: -2 }",
    "workers: { count: 251 }",
    "workers: { count: 60 }",
    // Networks.
    "network: { nodes: 172.17.4.0 }",
    "network: { nodes: 172.17.4.0/33 }",
    "network: { nodes: 172.17.4.7/24 }",
    "network: { nodes: 300.1.1.0/24 }",
    "network: { nodes: fd00::/64 }",
    "network: { nodes: 127.0.0.0/24 }",
    "network: { nodes: 224.0.1.0/24 }",
    "network: { nodes: 169.254.4.0/24 }",
    "network: { nodes: 172.17.4.0/30 }",
    "network: { nodes: 172.17.4.0/25 }",
    "network: { pods: 10.2.0.0/28 }",
    "network: { pods: 10.2.0.0/24 }",
    "network: { services: 10.3.0.0/30 }",
    "network: { services: 10.0.0.0/8 }",
    "network: { pods: 172.17.0.0/16 }",
    "network: { services: 10.2.3.0/24 }",
    "network:\n  nodes: 10.2.0.0/24",
    "network:\n  pods: 10.9.0.0/16\n  services: 10.9.1.0/24",
    // Addresses.
    "network: { host: 172.17.4 }",
    "network: { host: 10.0.0.1 }",
    "network: { host: 172.17.4.0 }",
    "network: { host: 172.17.4.255 }",
    "network: { host: 172.17.4.101 }",
    "masters: { count: 2 }\nnetwork: { etcd: 172.17.4.201 }",
    "network: { dns: 10.3.0.1 }",
    "network: { dns: 10.2.0.10 }",
    "masters: { firstAddress: 172.17.5.101 }",
    "workers: { firstAddress: 172.17.4.101 }",
    "masters: { firstAddress: somewhere }",
    "masters: { count: 5, firstAddress: 172.17.4.252 }",
    // Ports and ranges.
    "network: { apiPort: 0 }",
    "network: { apiPort: 70000 }",
    "network: { apiPort: 10250 }",
    "network: { nodePorts: 30000 }",
    "network: { nodePorts: 32767-30000 }",
    "network: { nodePorts: 400-500 }",
    "network: { nodePorts: 10000-11000 }",
    "network: { loadBalancers: 172.17.4.60 }",
    "network: { loadBalancers: 172.17.4.99-172.17.4.60 }",
    "network: { loadBalancers: 172.17.5.60-172.17.5.99 }",
    "network: { loadBalancers: 172.17.4.60-172.17.4.120 }",
    "network: { domain: Cluster.Local }",
    "network: { domain: a..b }",
    // Machines.
    "workers: { cpus: many }",
    "workers: { cpus: 0 }",
    "workers: { memory: 1 }",
    "workers: { memory: 16Mi }",
    "workers: { memory: lots }",
    "workers: { disk: 20Gi }",
    "workers: { labels: { \"a b\": x } }",
    "workers: { labels: { a: \"-x\" } }",
    "workers: { labels: { node-role.kubernetes.io/worker: \"\" } }",
    // Registries, operating system, SSH.
    "registries: { mirrors: { docker.io: [mirror.example] } }",
    "registries: { mirrors: { docker.io: [\"ftp://mirror.example\"] } }",
    "os: { flavor: flatcar }",
    "ssh: { user: core }",
    "registries: { mirrors: { ../etc: [\"http://mirror.example\"] } }",
    "registries: { mirrors: { \"docker.io:x\": [\"http://mirror.example\"] } }",
    "ignition: own.ign",
    "proxy: { httpProxy: \"http://proxy:3128\" }",
    "certificates: [ca.pem]",
    "runtime: cri",
    "runtime: docker",
    "provider: qemu\nruntime: containerd",
    "provider: vagrant\nos: { flavor: ubuntu }",
    "provider: vagrant\nos: { flavor: fedora-coreos }",
    "provider: qemu\nos: { flavor: fedora-coreos }",
    "provider: qemu\nos: { channel: testing }",
    "provider: qemu\nos: { flavor: fedora-coreos, channel: beta, image: a.qcow2 }",
    "provider: qemu\nos: { version: current }",
    "provider: qemu\nos: { version: 43.20260801.3.0 }",
    "provider: qemu\nos: { flavor: fedora-coreos, image: a.qcow2, version: 4593.0.0 }",
    "provider: qemu\nos: { box: flatcar }",
    "provider: qemu\nos: { box: flatcar, boxUrl: \"https://example.org/x.box\" }",
    "provider: vagrant\nos: { image: flatcar.img }",
    "provider: vagrant\nos: { box: b, boxUrl: b.box, signature: b.sig }",
    "provider: vagrant\nos: { box: my box }",
    "provider: vagrant\nos: { boxUrl: \"https://example.org/x.box\" }",
    "provider: vagrant\nos: { box: b, boxUrl: \"ftp://example.org/x.box\" }",
    "provider: qemu\nos: { image: \"https://\" }",
    "provider: qemu\nos: { image: \"file://x.img\" }",
    "provider: qemu\nos: { image: \"\" }",
    "provider: qemu\nos: { image: a.img, signature: \"s3://bucket/sig\" }",
    "provider: qemu\nos: { image: a.img, signature: a.img.sig }",
    "provider: qemu\nos: { image: \"https://example.org/a.img\" }",
    "provider: qemu\nos: { signingKeys: \"https://example.org/keys\" }",
    "provider: vagrant\nos: { signingKeys: keys.asc }",
    "provider: qemu\nos: { image: a.img, checksum: abc }",
    "provider: qemu\nos: { checksum: 0000000000000000000000000000000000000000000000000000000000000000 }",
    "provider: qemu\nssh: { user: \"Core User\" }",
    "provider: qemu\nssh: { user: 1st }",
    "provider: qemu\nssh: { publicKey: nonsense }",
    "provider: qemu\nssh: { publicKey: ssh-ed25519 AAAA me }",
    "provider: qemu\nssh: { publicKey: ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f }",
    "provider: qemu\nssh: { privateKey: \"\" }",
    "provider: qemu\nssh: { privateKey: ~/.ssh/id_ed25519 }",
    "provider: qemu\nignition: \"https://example.org/own.ign\"",
    "provider: qemu\nignition: own/",
    "provider: qemu\nignition: { storage: {} }",
    "provider: qemu\nproxy: { httpProxy: \"proxy:3128\" }",
    "provider: qemu\nproxy: { httpsProxy: \"socks5://proxy:3128\" }",
    "provider: qemu\nproxy: { httpProxy: \"http://user:pa%20ss@proxy:3128\" }",
    "provider: qemu\nproxy: { noProxy: [.example.org] }",
    "provider: qemu\nproxy: { httpProxy: \"http://proxy:3128\", noProxy: [\"a b\", \"*.example.org\", \"10.0.0.0/40\", \"a:b\"] }",
    "provider: qemu\nproxy: { httpProxy: \"http://proxy:3128\", noProxy: .example.org }",
    "provider: qemu\nproxy: { http_proxy: \"http://proxy:3128\" }",
    "provider: qemu\ncertificates: ca.pem",
    "provider: qemu\ncertificates: [ca.pem, \"\", ca.pem]",
    "provider: qemu\nworkers: { cpus: 500m }",
    "provider: qemu\nmasters: { cpus: 2.5 }",
    "provider: qemu\nmasters: { cpus: 0 }",
    "provider: qemu\nmasters: { memory: 256Mi }",
    "provider: qemu\nmasters: { disk: 1Gi }",
    "provider: qemu\nmasters: { disk: 20 }",
    "provider: qemu\nnetwork:\n  nodes: 10.0.2.0/24",
    "provider: vagrant\nnetwork:\n  pods: 192.168.0.0/16",
    "provider: vagrant\nnetwork:\n  services: 192.168.121.0/24",
    // Several at once are told at once, in the order of the file.
    "name: Lab\nprovider: x\nmasters: { count: 0 }\nnetwork: { pods: 1 }",
];

#[test]
fn every_bad_spec_is_told_its_line_its_value_and_what_is_right() {
    let mut all = String::new();
    for text in BAD {
        let said = told(text, &Overrides::default());
        assert!(said.contains("cluster.yaml:"), "no line for {text:?}: {said}");
        all.push_str(&format!("{text}\n=> {said}\n\n"));
    }
    assert!(BAD.len() >= 140, "{} bad specs", BAD.len());
    insta::assert_snapshot!(all);
}

#[test]
fn a_bad_flag_is_named() {
    let flags = [
        Overrides { provider: Some("docker".into()), ..Overrides::default() },
        Overrides { masters: Some(0), ..Overrides::default() },
        Overrides { workers: Some(-1), ..Overrides::default() },
        Overrides { node_network: Some("10.2.0.0/16".into()), ..Overrides::default() },
        Overrides { pod_network: Some("x".into()), ..Overrides::default() },
        Overrides { service_network: Some("10.3.0.0/30".into()), ..Overrides::default() },
    ];
    let all: Vec<String> = flags.iter().map(|flags| told("", flags)).collect();
    insta::assert_snapshot!(all.join("\n\n"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "[ -~\n]{0,200}") {
        if let Ok(document) = parse(&text) {
            // Whether it is right or wrong, it is told.
            drop(check(&document));
        }
    }

    #[test]
    fn machines_of_a_checked_spec_have_addresses_of_their_own(
        masters in 1..8i64, workers in 0..251i64, prefix in 16..26u8, first in 2..250u8,
    ) {
        let text = format!(
            "provider: qemu\nmasters: {{ count: {masters} }}\nworkers: {{ count: {workers}, firstAddress: 172.20.0.{first} }}\n\
             network: {{ nodes: 172.20.0.0/{prefix} }}"
        );
        if let Ok(spec) = check(&parse(&text).unwrap()) {
            let plan = crate::plan::plan(&spec);
            let mut addresses: Vec<_> = plan.machines.iter().map(|machine| machine.address).collect();
            addresses.push(spec.network.host);
            let all = addresses.len();
            proptest::prop_assert!(addresses.iter().all(|address| spec.network.nodes.contains(address)));
            addresses.sort();
            addresses.dedup();
            proptest::prop_assert_eq!(addresses.len(), all);
        }
    }
}

#[test]
fn the_examples_are_specs_and_the_full_one_is_the_default() {
    let full = check(&parse(include_str!("../../examples/cluster.yaml")).unwrap()).unwrap();
    assert_eq!(full, check(&Document::default()).unwrap());
    let coreos = check(&parse(include_str!("../../examples/coreos.yaml")).unwrap()).unwrap();
    assert_eq!((coreos.provider, coreos.workers.count), (ProviderKind::Vagrant, 3));
}
