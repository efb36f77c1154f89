//! Transcripts: files that show commands and what they must print, run line by line against a lab.
//!
//! ```text
//! # a comment
//! $ kubectl get pods            runs once; the lines below it are what it prints, stdout then stderr
//! ~ kubectl get pods            runs until it prints this (or the lab's patience ends): what takes time in a real cluster
//! nginx  1/1  Running  0  {age}
//! ...                           any number of lines
//! ```
//! Runs of blanks count as one. `{age}`, `{ip}`, `{port}`, `{suffix}` and `{any}` match what their names
//! say; `{name=ip}` also keeps the text as `name`, and `{=name}` stands for what was kept, in commands and
//! in expected lines. `{from}` matches the namespace that newer versions of kubectl add to what they deleted, or
//! nothing. `{newest: text}` and `{oldest: text}` are lines that one client version prints; from a line `@newest` or
//! `@oldest` on, up to `@all`, the steps are that version's alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use regex::Regex;

use crate::lab::{Lab, Ran};

struct Step {
    line_number: usize,
    command: String,
    until: bool,
    expected: Vec<String>,
}

/// Runs a transcript with one client version.
pub(crate) fn run(lab: &Lab, version: &str, name: &str, text: &str) {
    let known = BTreeMap::from([("net".to_owned(), lab.net.clone())]);
    let shell = |line: &str| lab.shell(version, line);
    check(&shell, lab.patience, version, name, text, known).unwrap_or_else(|failure| panic!("{failure}"));
}

/// Runs a transcript by `shell`, with what is `known` by name, and says what was not as it shows.
pub(crate) fn check(
    shell: &dyn Fn(&str) -> Ran,
    patience: Duration,
    version: &str,
    name: &str,
    text: &str,
    known: BTreeMap<String, String>,
) -> Result<(), String> {
    let mut kept = known;
    for step in parse(text, version) {
        let started = Instant::now();
        loop {
            let command = fill(&step.command, &kept);
            let ran = shell(&command);
            match compare(&step.expected, &ran.text, &kept) {
                Ok(found) => {
                    kept.extend(found);
                    break;
                }
                Err(difference) if !step.until || started.elapsed() > patience => {
                    return Err(format!(
                        "{name}:{} with the {version} clients: $ {command}\n{difference}\n--- it printed:\n{}",
                        step.line_number, ran.text
                    ));
                }
                // Asking again at once would only take the processor from what we wait for.
                Err(_) => wait(Duration::from_millis(100)),
            }
        }
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a client that asks again, as a person would, has no event to wait on"
)]
fn wait(duration: Duration) {
    std::thread::sleep(duration);
}

fn parse(text: &str, version: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut skipped = false;
    for (index, line) in text.lines().enumerate() {
        if let Some(only) = line.strip_prefix('@') {
            skipped = only != "all" && only != version;
        }
        if skipped || line.starts_with(['#', '@']) {
            continue;
        }
        if let Some(command) = line.strip_prefix("$ ").or(line.strip_prefix("~ ")) {
            let until = line.starts_with('~');
            let command = command.trim().to_owned();
            steps.push(Step { line_number: index + 1, command, until, expected: Vec::new() });
        } else if !line.trim().is_empty() {
            let line = match line.strip_prefix('{').and_then(|rest| rest.split_once(": ")) {
                Some((only @ ("newest" | "oldest"), rest)) if only == version => {
                    rest.strip_suffix('}').expect("a version line ends with a brace")
                }
                Some(("newest" | "oldest", _)) => continue,
                _ => line,
            };
            let step = steps.last_mut().expect("a transcript begins with a command");
            step.expected.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    steps
}

/// Puts what is kept in its places.
pub(crate) fn fill(text: &str, kept: &BTreeMap<String, String>) -> String {
    kept.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{={name}}}"), value))
}

fn pattern(line: &str, kept: &BTreeMap<String, String>) -> Regex {
    let placeholder = Regex::new(r"\{(?:(\w+)=)?(age|ip|port|suffix|from|any)\}").unwrap();
    let line = fill(line, kept);
    let mut regex = String::from("^");
    let mut end = 0;
    for found in placeholder.captures_iter(&line) {
        let whole = found.get(0).unwrap();
        regex += &regex::escape(&line[end..whole.start()]);
        let class = match &found[2] {
            "age" => r"(?:\d+[smhdy])+|<unknown>|<invalid>",
            "ip" => r"\d+\.\d+\.\d+\.\d+",
            "port" => r"\d+",
            "suffix" => "[a-z0-9]+",
            "from" => r"(?: from \S+ namespace)?",
            _ => ".*?",
        };
        match found.get(1) {
            Some(name) => regex += &format!("(?<{}>{class})", name.as_str()),
            None => regex += &format!("(?:{class})"),
        }
        end = whole.end();
    }
    regex += &regex::escape(&line[end..]);
    regex += "$";
    Regex::new(&regex).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn compare(
    expected: &[String],
    printed: &str,
    kept: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, String> {
    // The oldest kubectl colours its output also where there is no terminal.
    let colour = Regex::new("\u{1b}\\[[0-9;]*m").unwrap();
    let printed: Vec<String> = colour
        .replace_all(printed, "")
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|line| !line.is_empty())
        .collect();
    let mut found = BTreeMap::new();
    let (mut at, mut skipping) = (0, false);
    for line in expected {
        if line == "..." {
            skipping = true;
            continue;
        }
        let mut known = kept.clone();
        known.extend(found.clone());
        let regex = pattern(line, &known);
        let Some(position) = (at..printed.len()).find(|index| regex.is_match(&printed[*index])) else {
            return Err(format!("no line matches: {line}"));
        };
        if position != at && !skipping {
            return Err(format!("expected: {line}\n but got: {}", printed[at]));
        }
        let captures = regex.captures(&printed[position]).expect("it matched a moment ago");
        for name in regex.capture_names().flatten() {
            found.insert(name.to_owned(), captures[name].to_owned());
        }
        (at, skipping) = (position + 1, false);
    }
    if at < printed.len() && !skipping {
        return Err(format!("not expected: {}", printed[at]));
    }
    Ok(found)
}

#[test]
fn a_transcript_matches_blanks_placeholders_and_kept_values() {
    let kept = BTreeMap::from([("net".to_owned(), "172.18.4".to_owned())]);
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let printed = "NAME   AGE\nnginx  5s\n10.2.0.4 at 172.18.4.1\nlast";
    let found = compare(&lines(&["NAME AGE", "nginx {age}", "{pod=ip} at {=net}.1", "..."]), printed, &kept);
    assert_eq!(found.unwrap()["pod"], "10.2.0.4");
    for wrong in [&["NAME AGE"][..], &["NAME AGE", "redis {age}", "..."], &["nginx {age}", "..."]] {
        assert!(compare(&lines(wrong), printed, &kept).is_err(), "{wrong:?}");
    }
}

#[test]
fn steps_and_lines_of_another_version_are_left_out() {
    let text = "$ a\none\n{newest: new}\n{oldest: old}\n@newest\n$ b\ntwo\n@all\n$ c\n";
    let steps = |version: &str| {
        let steps = parse(text, version).into_iter();
        steps.map(|step| (step.command, step.expected.join(","))).collect::<Vec<_>>()
    };
    let own = |steps: &[(&str, &str)]| {
        steps.iter().map(|(command, lines)| ((*command).to_owned(), (*lines).to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(steps("newest"), own(&[("a", "one,new"), ("b", "two"), ("c", "")]));
    assert_eq!(steps("oldest"), own(&[("a", "one,old"), ("c", "")]));
}
