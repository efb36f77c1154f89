//! Golden files over a matrix of specs, and what must hold of every one.

use std::collections::BTreeMap;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::*;
use crate::plan::{Machine, Role};
use crate::spec::tests::KEY;
use crate::spec::{check, parse};

const PROVIDERS: [(&str, &str); 2] = [("qemu", "image"), ("vagrant", "box")];
const FLAVORS: [&str; 2] = ["flatcar", "fedora-coreos"];

fn plan_of(text: &str) -> Plan {
    crate::plan::plan(&check(&parse(text).unwrap()).unwrap())
}

fn given_to(plan: &Plan) -> (Given, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Given::ensure(plan, directory.path()).unwrap(), directory)
}

/// Takes keys out of what is compared: they differ from run to run.
fn scrubbed(text: &str) -> String {
    let private =
        regex::Regex::new("(?s)-----BEGIN OPENSSH PRIVATE KEY-----.*?-----END OPENSSH PRIVATE KEY-----");
    let public = regex::Regex::new("ssh-ed25519 [A-Za-z0-9+/=]{60,}");
    let text = private.unwrap().replace_all(text, "[private key]").into_owned();
    public.unwrap().replace_all(&text, "[public key]").into_owned()
}

fn decoded(url: &str) -> String {
    let bytes = if let Some(text) = url.strip_prefix("data:;base64,") {
        STANDARD.decode(text).unwrap()
    } else {
        percent_decoded(url.strip_prefix("data:,").unwrap())
    };
    String::from_utf8(bytes).unwrap()
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
        } else {
            byte
        });
    }
    bytes
}

/// Writes an Ignition configuration so that a person can read it: every file with its text.
fn readable(ignition: &str) -> String {
    let mut value: Value = serde_json::from_str(ignition).unwrap();
    let mut text = String::new();
    let mut heading = |name: String, contents: &str| {
        writeln!(text, "  {name}").unwrap();
        contents.lines().for_each(|line| writeln!(text, "    | {line}").unwrap());
    };
    if let Some(storage) = value.as_object_mut().unwrap().remove("storage") {
        for directory in storage["directories"].as_array().into_iter().flatten() {
            heading(
                format!(
                    "{:04o} {}/",
                    directory["mode"].as_u64().unwrap(),
                    directory["path"].as_str().unwrap()
                ),
                "",
            );
        }
        for file in storage["files"].as_array().into_iter().flatten() {
            let contents = decoded(file["contents"]["source"].as_str().unwrap());
            heading(
                format!("{:04o} {}", file["mode"].as_u64().unwrap_or(0o644), file["path"].as_str().unwrap()),
                &contents,
            );
        }
    }
    if let Some(systemd) = value.as_object_mut().unwrap().remove("systemd") {
        for unit in systemd["units"].as_array().into_iter().flatten() {
            let enabled = if unit["enabled"] == true { "enabled" } else { "extended" };
            heading(
                format!("{enabled} {}", unit["name"].as_str().unwrap()),
                unit["contents"].as_str().unwrap_or_default(),
            );
            for part in unit["dropins"].as_array().into_iter().flatten() {
                heading(
                    format!("  with {}", part["name"].as_str().unwrap()),
                    part["contents"].as_str().unwrap(),
                );
            }
        }
    }
    format!("  {}\n{text}", scrubbed(&value.to_string())).replace(": \n", ":\n")
}

/// Puts words for what is a machine's own, so that machines of one role can be compared.
fn impersonal(text: &str, machine: &Machine) -> String {
    let nat = machine.nat_mac.as_deref().unwrap();
    text.replace(&machine.mac, "[mac]")
        .replace(&machine.mac.to_uppercase(), "[MAC]")
        .replace(nat, "[nat mac]")
        .replace(&format!("{}/24", machine.address), "[address]/24")
        .replace(&format!("| {}\n", machine.name), "| [name]\n")
}

/// Tells what was rendered for a cluster; what was `seen` before is named by where.
fn told(name: &str, plan: &Plan, seen: &mut BTreeMap<String, String>) -> String {
    let (given, _directory) = given_to(plan);
    let mut all = String::new();
    for file in files(plan, &given).unwrap() {
        let text = String::from_utf8(file.contents.clone()).unwrap();
        assert_eq!(file.mode, if file.path == "Vagrantfile" { 0o644 } else { 0o600 }, "{}", file.path);
        let (text, own) = match plan.machines.iter().find(|machine| {
            file.path.starts_with(&format!("machines/{}.", machine.name))
                || file.path.starts_with(&format!("machines/{}-", machine.name))
        }) {
            Some(machine) => {
                (impersonal(&scrubbed(&readable(&text)), machine), " but for name, addresses and keys")
            }
            None => {
                // What differs between clusters is said for each; the rest once.
                let (summary, rest) = text.split_once('\n').unwrap();
                let (head, rest) = rest.split_once("machines = [\n").unwrap();
                let (machines, tail) = rest.split_once("\n]\n").unwrap();
                writeln!(all, "{name}: {}\n{summary}\n{machines}", file.path).unwrap();
                (format!("{head}machines = [\n…\n]\n{tail}"), " but for the machines")
            }
        };
        let here = format!("{name}: {}", file.path);
        match seen.get(&text) {
            Some(there) => writeln!(all, "{here}\n  is {there}{own}\n").unwrap(),
            None => {
                writeln!(all, "{here}\n{text}").unwrap();
                seen.insert(text, here);
            }
        }
    }
    all
}

#[test]
fn artifacts_of_a_matrix_of_specs_are_as_recorded() {
    for (provider, from) in PROVIDERS {
        for flavor in FLAVORS {
            let mut seen = BTreeMap::new();
            let mut all = String::new();
            for masters in [1, 3] {
                for workers in 0..=3 {
                    let plan = plan_of(&format!(
                        "provider: {provider}\nos: {{ flavor: {flavor}, {from}: own }}\n\
                         masters: {{ count: {masters}, memory: 2Gi }}\nworkers: {{ count: {workers}, cpus: 2 }}"
                    ));
                    all.push_str(&told(&format!("{masters}+{workers}"), &plan, &mut seen));
                }
            }
            insta::assert_snapshot!(format!("{provider} {flavor}"), all);
        }
    }
}

#[test]
fn every_setting_shows_in_the_artifacts() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(
        path("own.yaml"),
        "ignition: { version: 3.4.0 }\nkernelArguments: { shouldExist: [quiet] }\n",
    )
    .unwrap();
    std::fs::write(path("ca.pem"), [authority("one"), authority("two")].concat()).unwrap();
    let certificate = regex::Regex::new("(?s)    \\| M[A-Za-z0-9+/=|\n ]+?    \\| -----END").unwrap();
    for flavor in FLAVORS {
        let mut plan = plan_of(&format!(
            "provider: qemu\nruntime: builtin\nos: {{ flavor: {flavor}, image: own }}\nworkers: {{ count: 0 }}\n\
             ssh: {{ user: me, publicKey: {KEY} me }}\nignition: own.yaml\ncertificates: [ca.pem]\n\
             proxy: {{ httpProxy: \"http://proxy:3128\", noProxy: [.example.org] }}\n\
             registries: {{ mirrors: {{ docker.io: [\"http://172.17.4.1:5000\"] }} }}"
        ));
        plan.spec.anchor(directory.path());
        let told = told("1+0", &plan, &mut BTreeMap::new());
        insta::assert_snapshot!(
            format!("every setting {flavor}"),
            certificate.replace_all(&told, "    | [certificate]\n    | -----END")
        );
    }
}

/// Returns the certificate of an authority.
fn authority(name: &str) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&key).unwrap().pem()
}

#[test]
fn the_first_configuration_fits_into_what_virtualbox_hands_over() {
    for flavor in FLAVORS {
        let plan = plan_of(&format!(
            "name: a-name-of-the-greatest-length-ok\nprovider: vagrant\nos: {{ flavor: {flavor}, box: own }}\n\
             masters: {{ firstAddress: 172.100.100.101 }}\nworkers: {{ count: 1, firstAddress: 172.100.200.201 }}\n\
             network: {{ nodes: 172.100.0.0/16 }}"
        ));
        let (given, _directory) = given_to(&plan);
        for machine in &plan.machines {
            let text = ignition::first(&plan, machine, &given).unwrap();
            assert!(text.len() <= FIRST_LIMIT, "{} bytes: {text}", text.len());
        }
    }
}

#[test]
fn a_key_for_which_virtualbox_has_no_room_is_an_error_and_not_a_machine_that_nobody_gets_into() {
    let directory = tempfile::tempdir().unwrap();
    let pem = "-----BEGIN RSA PRIVATE KEY-----\nAA==\n-----END RSA PRIVATE KEY-----\n";
    std::fs::write(directory.path().join("key"), pem).unwrap();
    let blob = [&7u32.to_be_bytes()[..], b"ssh-rsa", &[7; 520]].concat();
    let mut plan = plan_of(&format!(
        "provider: vagrant\nssh: {{ privateKey: key, publicKey: ssh-rsa {} me }}",
        STANDARD.encode(blob)
    ));
    plan.spec.anchor(directory.path());
    let (given, _directory) = given_to(&plan);
    let error = files(&plan, &given).unwrap_err();
    assert!(error.line().contains("VirtualBox hands over 1024"), "{}", error.line());
}

#[test]
fn the_top_level_vagrantfile_is_that_of_the_default_lab() {
    let rendered = vagrantfile(&plan_of("provider: vagrant")).unwrap();
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/Vagrantfile"), &rendered).unwrap();
        return;
    }
    assert_eq!(rendered, include_str!("../../../Vagrantfile"));
}

#[test]
fn nothing_of_the_cluster_is_secret_in_ignition_but_the_host_key() {
    let plan = plan_of("provider: vagrant\nmasters: { count: 3 }\nworkers: { count: 2 }");
    let (given, directory) = given_to(&plan);
    let (pki, _) =
        crate::artifacts::pki::ensure(directory.path(), &plan.certificates, crate::artifacts::pki::TEST_NOW)
            .unwrap();
    for machine in &plan.machines {
        let all = crate::artifacts::all_files(&plan, machine, &pki, Some(&given)).unwrap();
        let system = system(&plan, machine, &given).unwrap();
        for text in [
            ignition::whole(&plan, machine, &given, &system).unwrap(),
            ignition::first(&plan, machine, &given).unwrap(),
        ] {
            let value: Value = serde_json::from_str(&text).unwrap();
            for file in value["storage"]["files"].as_array().unwrap() {
                let path = file["path"].as_str().unwrap();
                let text = decoded(file["contents"]["source"].as_str().unwrap());
                assert_eq!(text.contains("PRIVATE KEY"), path == "/etc/ssh/ssh_host_ed25519_key", "{path}");
            }
        }
        // What has a key in it, and only that, is for root alone.
        for file in all {
            let text = String::from_utf8(file.contents).unwrap();
            let secret = text.contains("PRIVATE KEY") || file.path.ends_with("kubeconfig");
            assert_eq!(file.mode, if secret { 0o600 } else { 0o644 }, "{}", file.path);
        }
        let keys = machine.role == Role::Master;
        assert_eq!(machine.files.iter().any(|path| path.ends_with("ca.key")), keys);
    }
}

#[test]
fn the_same_spec_and_directory_give_the_same_bytes() {
    let plan = plan_of("provider: vagrant\nworkers: { count: 2 }");
    let (given, directory) = given_to(&plan);
    let first = files(&plan, &given).unwrap();
    let again = Given::ensure(&plan, directory.path()).unwrap();
    assert!(first == files(&plan, &again).unwrap());
    let (others, _elsewhere) = given_to(&plan);
    assert!(first != files(&plan, &others).unwrap(), "another directory is another seed");
}

#[test]
fn bytes_come_back_from_their_url() {
    for bytes in [&b""[..], b"m1\n", b"[Match]\nMACAddress=52:54:00\n", b"100%,\"#", "ä".as_bytes()] {
        assert_eq!(decoded(&data_url(bytes)).as_bytes(), bytes);
    }
}
