//! The CNI plugin: what this executable is when containerd runs it under a plugin's name.
//!
//! It reads the network's configuration from its standard input and what to do from its environment, asks the
//! agent, and prints the result. It uses no tokio and ends at once when no agent is there: containerd tries again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::result::{self, VERSION, VERSIONS, code};
use super::{Answer, LARGEST, LOOPBACK, Question};

/// How long the agent may take: less than containerd gives a sandbox.
const PATIENCE: Duration = Duration::from_secs(180);

/// The network's configuration, as containerd hands it over.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Configuration {
    cni_version: String,
    socket: PathBuf,
    runtime_config: RuntimeConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeConfig {
    #[serde(rename = "io.kubernetes.cri.pod-annotations")]
    annotations: BTreeMap<String, String>,
}

/// A failure with its number.
struct Failure(u32, String);

/// Runs as the plugin `name`.
pub(crate) fn main(name: &OsStr) -> ExitCode {
    let mut input = Vec::new();
    let read = std::io::stdin().take(LARGEST).read_to_end(&mut input);
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let (printed, code) = match read {
        Ok(_) => run(name == LOOPBACK, &input, &variable),
        Err(error) => (Some(result::failed(VERSION, code::PARSE, &error.to_string())), ExitCode::FAILURE),
    };
    match printed.map(|value| std::io::stdout().write_all(value.to_string().as_bytes())) {
        Some(Err(_)) => ExitCode::FAILURE,
        _ => code,
    }
}

fn run(loopback: bool, input: &[u8], variable: &dyn Fn(&str) -> String) -> (Option<Value>, ExitCode) {
    let mut version = VERSION.to_owned();
    match attempt(loopback, input, variable, &mut version) {
        Ok(value) => (value, ExitCode::SUCCESS),
        Err(Failure(code, message)) => (Some(result::failed(&version, code, &message)), ExitCode::FAILURE),
    }
}

fn attempt(
    loopback: bool,
    input: &[u8],
    variable: &dyn Fn(&str) -> String,
    version: &mut String,
) -> Result<Option<Value>, Failure> {
    let command = variable("CNI_COMMAND");
    if command == "VERSION" {
        return Ok(Some(result::versions()));
    }
    let configuration: Configuration = serde_json::from_slice(input).map_err(|error| {
        Failure(code::PARSE, format!("the network's configuration does not parse: {error}"))
    })?;
    if !VERSIONS.contains(&configuration.cni_version.as_str()) {
        return Err(Failure(
            code::VERSION,
            format!("CNI version {:?} is not one of {}", configuration.cni_version, VERSIONS.join(", ")),
        ));
    }
    version.clone_from(&configuration.cni_version);
    let needed = |name: &str| match variable(name) {
        text if text.is_empty() => Err(Failure(code::ENVIRONMENT, format!("{name} is not set"))),
        text => Ok(text),
    };
    match (command.as_str(), loopback) {
        ("ADD", true) => {
            let (namespace, interface) = (needed("CNI_NETNS")?, needed("CNI_IFNAME")?);
            raise(Path::new(&namespace)).map_err(|error| {
                Failure(code::NETWORK, format!("raising the loopback of {namespace}: {error}"))
            })?;
            Ok(Some(result::raised(version, &interface, &namespace)))
        }
        // A loopback goes with its namespace.
        ("DEL" | "CHECK" | "STATUS" | "GC", true) => Ok(None),
        ("ADD", false) => {
            let (namespace, interface) = (needed("CNI_NETNS")?, needed("CNI_IFNAME")?);
            let question = Question::Add {
                sandbox: needed("CNI_CONTAINERID")?,
                namespace: PathBuf::from(&namespace),
                annotations: configuration.runtime_config.annotations.clone(),
            };
            let addresses = ask(&configuration.socket, &question)?;
            Ok(Some(result::connected(version, &interface, &namespace, &addresses)))
        }
        ("DEL", false) => {
            ask(&configuration.socket, &Question::Delete { sandbox: needed("CNI_CONTAINERID")? })?;
            Ok(None)
        }
        ("STATUS", false) => match ask(&configuration.socket, &Question::Status) {
            Ok(_) => Ok(None),
            Err(Failure(_, message)) => Err(Failure(code::NOT_AVAILABLE, message)),
        },
        // The agent repairs by itself what is missing, and knows itself what has gone.
        ("CHECK" | "GC", false) => Ok(None),
        (other, _) => Err(Failure(code::ENVIRONMENT, format!("CNI_COMMAND {other:?} is not known"))),
    }
}

/// Asks the agent.
fn ask(socket: &Path, question: &Question) -> Result<Vec<std::net::IpAddr>, Failure> {
    let talk = || -> std::io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&serde_json::to_vec(question)?)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = Vec::new();
        stream.take(LARGEST).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = talk().map_err(|error| {
        Failure(code::LATER, format!("the node agent does not answer at {}: {error}", socket.display()))
    })?;
    match serde_json::from_slice(&answer) {
        Ok(Answer::Done(addresses)) => Ok(addresses),
        Ok(Answer::Failed(message)) => Err(Failure(code::NETWORK, message)),
        // It ended while it was asked.
        Err(error) => Err(Failure(code::LATER, format!("the node agent's answer does not parse: {error}"))),
    }
}

fn raise(namespace: &Path) -> std::io::Result<()> {
    let file = std::fs::File::open(namespace)?;
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
    crate::loopback::raise()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(command: &str, input: &str) -> String {
        let variable = |name: &str| match name {
            "CNI_COMMAND" => command.to_owned(),
            "CNI_CONTAINERID" => "s1".to_owned(),
            _ => String::new(),
        };
        run(false, input.as_bytes(), &variable).0.map(|value| value.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_wrong_is_said_with_the_specifications_numbers() {
        let fine = r#"{"cniVersion":"1.0.0","name":"x","type":"cluster-cni","socket":"/no/such/socket"}"#;
        for (command, input, expect) in [
            ("VERSION", "", r#""supportedVersions""#),
            ("ADD", "{", r#""code":6"#),
            ("ADD", r#"{"cniVersion":"9.0.0"}"#, r#""code":1"#),
            ("ADD", fine, r#""code":4"#),
            ("FLY", fine, r#""code":4"#),
            ("DEL", fine, r#""code":11"#),
            ("STATUS", fine, r#""code":50"#),
        ] {
            let found = check(command, input);
            assert!(found.contains(expect), "{command} {input}: {found}");
        }
        assert_eq!(check("CHECK", fine), "");
    }
}
