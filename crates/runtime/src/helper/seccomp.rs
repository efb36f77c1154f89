//! Seccomp profiles as filters for the kernel.
//!
//! A profile names an action for each of some system calls and one for all others. A filter of the library knows two
//! actions, so a profile becomes several filters; the kernel asks all of them and takes the strictest answer.
#![expect(unsafe_code, reason = "the library's own call would set no_new_privs, too")]

use std::collections::BTreeMap;
use std::path::Path;

use seccompiler::{BpfProgram, TargetArch, compile_from_json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::seccomp_default::{EVERYWHERE, HERE, WITH};
use crate::Seccomp;

/// A program for the kernel.
pub(super) type Filter = BpfProgram;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// The flags of `clone` that make namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// Sockets that reach the host of a virtual machine.
const AF_VSOCK: u64 = 40;
/// The personalities that change nothing but what `uname` says.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// A profile, as the OCI runtime specification and Docker write it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Vec<Argument>,
    includes: Condition,
    excludes: Condition,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// When a rule counts, in Docker's form of profiles.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Condition {
    caps: Vec<String>,
    arches: Vec<String>,
}

/// Returns the filters that make up a profile; none for no profile. `capabilities` is a mask in the order of `names`.
pub(super) fn filters(profile: &Seccomp, capabilities: u64, names: &[&str]) -> Result<Vec<Filter>, String> {
    let has = |name: &str| {
        let bare = name.strip_prefix("CAP_").unwrap_or(name);
        names.iter().position(|known| *known == bare).is_some_and(|bit| capabilities & (1 << bit) != 0)
    };
    match profile {
        Seccomp::Unconfined => Ok(Vec::new()),
        Seccomp::RuntimeDefault => compile(&default_profile(has), has),
        Seccomp::Localhost(path) => {
            let named = |error: String| format!("the seccomp profile {}: {error}", path.display());
            compile(&read(path).map_err(named)?, has).map_err(named)
        }
    }
}

/// Puts the filters on this process, for good.
pub(super) fn install(filters: &[Filter]) -> Result<(), String> {
    for filter in filters {
        let length = u16::try_from(filter.len()).map_err(|_| "the seccomp filter is too long".to_owned())?;
        let program = libc::sock_fprog {
            len: length,
            // Both are the kernel's struct of the same name.
            filter: filter.as_ptr().cast::<libc::sock_filter>().cast_mut(),
        };
        // SAFETY: the kernel reads `len` instructions, which live until the call returns.
        let result =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
        if result != 0 {
            return Err(format!("installing the seccomp filter: {}", std::io::Error::last_os_error()));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Profile, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

fn default_profile(has: impl Fn(&str) -> bool) -> Profile {
    let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let rule = |names: &[&str], args: Vec<Argument>| Rule {
        names: strings(names),
        action: "SCMP_ACT_ALLOW".to_owned(),
        args,
        ..Rule::default()
    };
    let argument = |op: &str, value: u64, value_two: u64| {
        vec![Argument { index: 0, value, value_two, op: op.to_owned() }]
    };
    let mut syscalls = vec![
        rule(EVERYWHERE, Vec::new()),
        rule(HERE, Vec::new()),
        rule(&["socket"], argument("SCMP_CMP_NE", AF_VSOCK, 0)),
    ];
    for personality in PERSONALITIES {
        syscalls.push(rule(&["personality"], argument("SCMP_CMP_EQ", personality, 0)));
    }
    for (capability, names) in WITH {
        if has(capability) {
            syscalls.push(rule(names, Vec::new()));
        }
    }
    if !has("SYS_ADMIN") {
        syscalls.push(rule(&["clone"], argument("SCMP_CMP_MASKED_EQ", NEW_NAMESPACES, 0)));
        // Its flags are in memory, where a filter cannot look; programs then fall back to clone.
        syscalls.push(Rule {
            names: strings(&["clone3"]),
            action: "SCMP_ACT_ERRNO".to_owned(),
            errno_ret: Some(ENOSYS),
            ..Rule::default()
        });
    }
    Profile { default_action: "SCMP_ACT_ERRNO".to_owned(), default_errno_ret: Some(EPERM), syscalls }
}

/// System calls with the sets of conditions under which something happens to them; an empty set is always.
type Calls = BTreeMap<String, Vec<Vec<Value>>>;

fn compile(profile: &Profile, has: impl Fn(&str) -> bool) -> Result<Vec<Filter>, String> {
    let allow = json!("allow");
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut groups: BTreeMap<String, (Value, Calls)> = BTreeMap::new();
    for rule in profile.syscalls.iter().filter(|rule| counts(rule, &has)) {
        let action = action(&rule.action, rule.errno_ret)?;
        let arguments = rule.args.iter().map(argument).collect::<Result<Vec<Value>, String>>()?;
        let group = groups.entry(action.to_string()).or_insert_with(|| (action, BTreeMap::new()));
        for name in &rule.names {
            let conditions = group.1.entry(name.clone()).or_default();
            if arguments.is_empty() {
                conditions.insert(0, Vec::new());
            } else {
                conditions.push(arguments.clone());
            }
        }
    }
    let mut filters = Vec::new();
    if default != allow {
        // Whatever another filter decides must pass this one.
        let mut allowed = groups.remove(&allow.to_string()).map(|(_, calls)| calls).unwrap_or_default();
        for name in groups.values().flat_map(|(_, calls)| calls.keys()) {
            allowed.insert(name.clone(), vec![Vec::new()]);
        }
        filters.push(filter(&allowed, &default, &allow)?);
    }
    for (action, calls) in groups.into_values() {
        if action != allow && action != default {
            filters.push(filter(&calls, &allow, &action)?);
        }
    }
    Ok(filters)
}

fn filter(calls: &Calls, otherwise: &Value, action: &Value) -> Result<Filter, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let mut calls = calls.clone();
    loop {
        let mut rules = Vec::new();
        for (name, conditions) in &calls {
            // One without a condition makes the others pointless.
            if conditions.iter().any(Vec::is_empty) {
                rules.push(json!({"syscall": name}));
            } else {
                rules.extend(conditions.iter().map(|arguments| json!({"syscall": name, "args": arguments})));
            }
        }
        let text = json!({"one": {"mismatch_action": otherwise, "match_action": action, "filter": rules}});
        match compile_from_json(text.to_string().as_bytes(), arch) {
            Ok(mut programs) => return programs.remove("one").ok_or_else(|| "no filter came out".to_owned()),
            Err(error) => {
                // A profile names the system calls of every architecture; those of others do not matter.
                let text = error.to_string();
                let unknown = calls
                    .keys()
                    .find(|name| text.contains(&format!("Invalid syscall name: {name} ")))
                    .cloned();
                match unknown {
                    Some(name) => drop(calls.remove(&name)),
                    None => return Err(text),
                }
            }
        }
    }
}

fn counts(rule: &Rule, has: impl Fn(&str) -> bool) -> bool {
    let here = |arches: &[String]| {
        let (docker, scmp) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", "SCMP_ARCH_X86_64"),
            "aarch64" => ("arm64", "SCMP_ARCH_AARCH64"),
            other => (other, other),
        };
        arches.iter().any(|arch| arch == docker || arch == scmp)
    };
    let included = rule.includes.caps.iter().all(|cap| has(cap))
        && (rule.includes.arches.is_empty() || here(&rule.includes.arches));
    included && !rule.excludes.caps.iter().any(|cap| has(cap)) && !here(&rule.excludes.arches)
}

fn action(name: &str, errno: Option<u32>) -> Result<Value, String> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => json!("allow"),
        "SCMP_ACT_ERRNO" => json!({"errno": errno.unwrap_or(EPERM)}),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => json!("kill_thread"),
        "SCMP_ACT_KILL_PROCESS" => json!("kill_process"),
        "SCMP_ACT_LOG" => json!("log"),
        "SCMP_ACT_TRACE" => json!({"trace": errno.unwrap_or(0)}),
        "SCMP_ACT_TRAP" => json!("trap"),
        other => return Err(format!("the action {other:?} is not supported")),
    })
}

fn argument(argument: &Argument) -> Result<Value, String> {
    let value = argument.value;
    let (op, value) = match argument.op.as_str() {
        "SCMP_CMP_EQ" => (json!("eq"), value),
        "SCMP_CMP_NE" => (json!("ne"), value),
        "SCMP_CMP_LT" => (json!("lt"), value),
        "SCMP_CMP_LE" => (json!("le"), value),
        "SCMP_CMP_GT" => (json!("gt"), value),
        "SCMP_CMP_GE" => (json!("ge"), value),
        "SCMP_CMP_MASKED_EQ" => (json!({"masked_eq": value}), argument.value_two),
        other => return Err(format!("the comparison {other:?} is not supported")),
    };
    Ok(json!({"index": argument.index, "type": "qword", "op": op, "val": value}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Filter>, String> {
        compile(&serde_json::from_str(text).map_err(|error| error.to_string())?, |cap| cap == "CAP_SYS_ADMIN")
    }

    #[test]
    fn the_default_profile_compiles_with_and_without_capabilities() {
        let none = filters(&Seccomp::RuntimeDefault, 0, &["SYS_ADMIN"]).unwrap();
        let admin = filters(&Seccomp::RuntimeDefault, 1, &["SYS_ADMIN"]).unwrap();
        assert_eq!((none.len(), admin.len()), (2, 1), "clone3 has an answer of its own without SYS_ADMIN");
        assert!(none[0].len() < 4096);
        assert!(filters(&Seccomp::Unconfined, 0, &[]).unwrap().is_empty());
    }

    #[test]
    fn a_profile_has_one_filter_for_each_further_action() {
        let cases = [
            (r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#, 0),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#,
                1,
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read","not_a_call"],"action":"SCMP_ACT_ALLOW"}]}"#,
                1,
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
                    {"names":["read"],"action":"SCMP_ACT_ALLOW"},
                    {"names":["clone"],"action":"SCMP_ACT_ALLOW",
                     "args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]},
                    {"names":["write"],"action":"SCMP_ACT_LOG"}]}"#,
                2,
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                    {"names":["read"],"action":"SCMP_ACT_LOG","excludes":{"caps":["CAP_SYS_ADMIN"]}}]}"#,
                0,
            ),
        ];
        for (text, expect) in cases {
            assert_eq!(parse(text).map(|filters| filters.len()), Ok(expect), "{text}");
        }
        for (text, expect) in [
            (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "\"SCMP_ACT_NOTIFY\" is not supported"),
            ("{}", "missing field `defaultAction`"),
        ] {
            assert!(parse(text).is_err_and(|error| error.contains(expect)), "{text}");
        }
    }
}
