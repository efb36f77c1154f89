//! Reads the user's own Ignition configuration: Ignition as JSON or YAML, or Butane's YAML as far as it is another
//! spelling of Ignition. What Butane does beyond that is refused by its name: the program `butane` turns it into
//! Ignition, which is taken.

use std::path::{Component, Path};

use serde_json::{Map, Value};

use super::data_url;
use crate::error::{Context, Error, Result};

/// For each variant and version of Butane that is known the version of Ignition's specification that it is
/// written as (Butane's docs/specs.md).
const VERSIONS: [(&str, &str, &str); 11] = [
    ("fcos", "1.0.0", "3.0.0"),
    ("fcos", "1.1.0", "3.1.0"),
    ("fcos", "1.2.0", "3.2.0"),
    ("fcos", "1.3.0", "3.2.0"),
    ("fcos", "1.4.0", "3.3.0"),
    ("fcos", "1.5.0", "3.4.0"),
    ("fcos", "1.6.0", "3.5.0"),
    ("fcos", "1.7.0", "3.6.0"),
    ("flatcar", "1.0.0", "3.3.0"),
    ("flatcar", "1.1.0", "3.4.0"),
    ("flatcar", "1.2.0", "3.5.0"),
];

/// What Butane does by itself, and Ignition does not.
const BUTANES_OWN: [&str; 10] = [
    "trees",
    "with_mount_unit",
    "boot_device",
    "grub",
    "contents_local",
    "ssh_authorized_keys_local",
    "extensions",
    "openshift",
    "quadlets",
    "parent",
];

/// Returns a configuration as Ignition's JSON, in the version of the specification that it was written for.
/// Paths after `local` are within `directory`.
///
/// # Errors
/// Text that is not YAML or JSON, a word that Ignition does not know, and what only Butane can do.
pub(super) fn to_ignition(text: &str, directory: &Path) -> Result<String> {
    let mut value = parse(text)?;
    let Some(fields) = value.as_object_mut() else {
        return Err(Error::user("it is no configuration")
            .because("it is not a mapping")
            .hint("begin with ignition: { version: 3.3.0 }, or with variant and version as Butane does"));
    };
    if let Some(version) = butane_version(fields)? {
        value = ignitions_names(value);
        if let Some(fields) = value.as_object_mut() {
            let section = fields.entry("ignition").or_insert_with(|| Value::Object(Map::new()));
            if let Some(section) = section.as_object_mut() {
                section.insert("version".into(), version.into());
            }
        }
    }
    inline(&mut value, "$", directory)?;
    let text = value.to_string();
    let (_, warnings) = ignition_config::Config::parse_str(&text).map_err(|error| {
        Error::user("Ignition cannot read it")
            .because(error.to_string())
            .hint("ignition.version is 3.0.0 to 3.6.0; Butane's variant is fcos or flatcar")
    })?;
    match warnings.as_slice() {
        [] => Ok(text),
        warnings => {
            let all: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            Err(Error::user("Ignition does not know everything in it").because(all.join(", ")))
        }
    }
}

fn parse(text: &str) -> Result<Value> {
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    // Butane reads YAML 1.1, in which 0644 is a mode as people write it.
    let options = serde_yaml::options! { legacy_octal_numbers: true };
    serde_yaml::from_str_with_options(text, options).map_err(|error| {
        let place = error
            .location()
            .map_or(String::new(), |place| format!("line {}, column {}: ", place.line(), place.column()));
        let message = error.without_snippet().to_string();
        Error::user("it is neither JSON nor YAML").because(format!("{place}{message}"))
    })
}

/// Takes Butane's header away; returns the version of Ignition's specification that it stands for.
fn butane_version(fields: &mut Map<String, Value>) -> Result<Option<&'static str>> {
    let Some(variant) = fields.remove("variant") else { return Ok(None) };
    let version = fields.remove("version").unwrap_or_default();
    let known = VERSIONS.iter().find(|(known, number, _)| variant == *known && version == *number);
    known.map(|(.., version)| Some(*version)).ok_or_else(|| {
        let all: Vec<String> = VERSIONS.iter().map(|(name, number, _)| format!("{name} {number}")).collect();
        Error::user(format!("Butane's variant {variant} {version} is not known"))
            .hint(format!("one of {}; or give what butane makes of it", all.join(", ")))
    })
}

/// Writes every field as Ignition does: Butane has `ssh_authorized_keys` for `sshAuthorizedKeys`.
fn ignitions_names(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| {
                let name = if BUTANES_OWN.contains(&name.as_str()) { name } else { camel(&name) };
                (name, ignitions_names(value))
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(ignitions_names).collect()),
        other => other,
    }
}

fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut all, part| {
        let mut letters = part.chars();
        all.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        all.push_str(letters.as_str());
        all
    })
}

/// Puts text that stands in the configuration or in a file beside it into URLs, and refuses what is Butane's.
fn inline(value: &mut Value, at: &str, directory: &Path) -> Result<()> {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                if BUTANES_OWN.contains(&name.as_str()) {
                    return Err(Error::user(format!("{at}.{name} is Butane's own, and not done here"))
                        .hint("run butane on it, and give what it writes"));
                }
                inline(value, &format!("{at}.{name}"), directory)?;
            }
            let given = ["inline", "local", "source"].map(|name| fields.contains_key(name));
            if given.iter().filter(|&&given| given).count() > 1 {
                return Err(Error::user(format!("{at} has more than one of inline, local and source")));
            }
            if let Some(text) = fields.remove("inline") {
                let text = text.as_str().context(format!("{at}.inline is not a text"))?;
                fields.insert("source".into(), data_url(text.as_bytes()).into());
            } else if let Some(path) = fields.remove("local") {
                let path = path.as_str().context(format!("{at}.local is not a path"))?;
                fields.insert("source".into(), data_url(&local(path, at, directory)?).into());
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                inline(item, &format!("{at}[{index}]"), directory)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Reads a file below the configuration's own directory, as Butane's `--files-dir` does.
fn local(path: &str, at: &str, directory: &Path) -> Result<Vec<u8>> {
    let path = Path::new(path);
    if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(Error::user(format!(
            "{at}.local {} leads out of the configuration's directory",
            path.display()
        ))
        .hint("give a path below it"));
    }
    let within = format!("reading {at}.local");
    let path = directory.join(path);
    let size = fs_err::metadata(&path).context(&within)?.len();
    if size > super::given::MOST {
        return Err(Error::user(format!("{at}.local {} has {size} bytes", path.display()))
            .because(format!("at most {} are read", super::given::MOST))
            .hint("let Ignition fetch it: source: https://…"));
    }
    fs_err::read(path).context(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Value> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("motd"), "hello\n").unwrap();
        to_ignition(text, directory.path()).map(|text| serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn json_yaml_and_butane_say_the_same() {
        let json = r#"{"ignition":{"version":"3.3.0"},"passwd":{"users":[{"name":"me","sshAuthorizedKeys":["ssh-ed25519 A"]}]},
            "storage":{"files":[{"path":"/etc/motd","mode":420,"contents":{"source":"data:,hello%0A"}}]}}"#;
        let yaml = "ignition: { version: 3.3.0 }\npasswd: { users: [{ name: me, sshAuthorizedKeys: [ssh-ed25519 A] }] }\n\
            storage: { files: [{ path: /etc/motd, mode: 0644, contents: { inline: \"hello\\n\" } }] }\n";
        let butane = "variant: flatcar\nversion: 1.0.0\npasswd:\n  users:\n  - name: me\n    ssh_authorized_keys: [ssh-ed25519 A]\n\
            storage:\n  files:\n  - path: /etc/motd\n    mode: 0644\n    contents:\n      inline: |\n        hello\n";
        let local = butane.replace("inline: |\n        hello\n", "local: motd\n");
        for text in [yaml, butane, &local] {
            assert_eq!(read(text).unwrap(), read(json).unwrap(), "{text}");
        }
    }

    #[test]
    fn a_newer_specification_stays_what_it_is() {
        for (text, version) in [
            ("variant: fcos\nversion: 1.5.0\n", "3.4.0"),
            ("{\"ignition\":{\"version\":\"3.6.0\"}}", "3.6.0"),
        ] {
            assert_eq!(read(text).unwrap()["ignition"]["version"], version);
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let head = "variant: fcos\nversion: 1.4.0\n";
        let said: Vec<String> = [
            "a: [".to_owned(),
            "- a\n".into(),
            "storage: {}\n".into(),
            "ignition: { version: 2.3.0 }\n".into(),
            "variant: fcos\nversion: 9.0.0\n".into(),
            "variant: openshift\nversion: 4.14.0\n".into(),
            "variant: fcos\n".into(),
            "ignition: { version: 3.3.0 }\nstorage: { fiels: [] }\n".into(),
            format!("{head}storage: {{ trees: [{{ local: etc }}] }}\n"),
            format!("{head}storage: {{ filesystems: [{{ path: /v, device: /dev/x, with_mount_unit: true }}] }}\n"),
            format!("{head}boot_device: {{ mirror: {{ devices: [a, b] }} }}\n"),
            format!("{head}systemd: {{ units: [{{ name: a.service, contents_local: a.service }}] }}\n"),
            format!("{head}storage: {{ files: [{{ path: /a, contents: {{ inline: a, source: \"data:,a\" }} }}] }}\n"),
            format!("{head}storage: {{ files: [{{ path: /a, contents: {{ local: ../a }} }}] }}\n"),
            format!("{head}storage: {{ files: [{{ path: /a, contents: {{ inline: [a] }} }}] }}\n"),
            format!("{head}storage: {{ files: [{{ path: /a, mode: \"0644\" }}] }}\n"),
        ]
        .iter()
        .map(|text| {
            let error = read(text).expect_err(text);
            format!("{text}=> {}\n   {}\n", error.line(), error.hints.join("\n"))
        })
        .collect();
        insta::assert_snapshot!(said.join("\n"));
    }
}
