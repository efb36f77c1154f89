//! The only place that prints. Spinners on a terminal, plain lines elsewhere, JSON events with `--output json`.

#![expect(clippy::print_stderr, reason = "everything else prints through this module")]

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::error::{Error, Kind};

/// In which form a command answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON value a line.
    Json,
}

/// Where everything that a command says goes.
#[derive(Debug)]
pub(crate) struct Ui {
    output: Output,
    quiet: bool,
    started: Instant,
    spinner: Mutex<Option<ProgressBar>>,
    machines: Mutex<Machines>,
}

/// What each machine is at.
#[derive(Debug, Default)]
struct Machines {
    /// The phase of each, and its line on a terminal.
    phases: BTreeMap<String, (String, Option<ProgressBar>)>,
    /// Keeps the lines below each other.
    board: Option<MultiProgress>,
}

impl Ui {
    /// Returns the way to speak in `output` form; `quiet` leaves progress out.
    pub(crate) fn new(output: Output, quiet: bool) -> Self {
        Self { output, quiet, started: Instant::now(), spinner: Mutex::new(None), machines: Mutex::default() }
    }

    /// Returns whether answers are JSON.
    pub(crate) fn json(&self) -> bool {
        self.output == Output::Json
    }

    /// Returns the time since the command began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Shows that a step is being done; on a terminal only, since a plain log needs the outcome alone.
    pub(crate) fn begin(&self, step: &str, doing: &str) {
        if self.quiet || self.json() || !std::io::stdout().is_terminal() {
            return;
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        if let Ok(style) = ProgressStyle::with_template(" {spinner} {prefix:<13} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(step.to_owned());
        bar.set_message(doing.to_owned());
        bar.enable_steady_tick(Duration::from_millis(80));
        self.replace_spinner(Some(bar));
    }

    /// Changes what the running step says.
    pub(crate) fn progress(&self, doing: &str) {
        if let Ok(spinner) = self.spinner.lock()
            && let Some(bar) = spinner.as_ref()
        {
            bar.set_message(doing.to_owned());
        }
    }

    /// Says what a machine is at: one line a machine on a terminal, one a phase elsewhere.
    pub(crate) fn phase(&self, machine: &str, phase: &str) {
        let Ok(mut machines) = self.machines.lock() else { return };
        if machines.phases.get(machine).is_some_and(|(known, _)| known == phase) {
            return;
        }
        let terminal = !self.quiet && !self.json() && std::io::stdout().is_terminal();
        let bar = match machines.phases.remove(machine) {
            Some((_, bar)) => bar,
            None if terminal => {
                self.replace_spinner(None);
                let board = machines
                    .board
                    .get_or_insert_with(|| MultiProgress::with_draw_target(ProgressDrawTarget::stdout()));
                let bar = board.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("   {spinner} {prefix:<11} {msg}") {
                    bar.set_style(style);
                }
                bar.set_prefix(machine.to_owned());
                bar.enable_steady_tick(Duration::from_millis(120));
                Some(bar)
            }
            None => None,
        };
        match &bar {
            Some(bar) => bar.set_message(phase.to_owned()),
            None if self.json() => {
                let seconds = rounded(self.elapsed());
                let event =
                    json!({ "event": "machine", "machine": machine, "phase": phase, "seconds": seconds });
                self.line(&event.to_string());
            }
            None if self.quiet => {}
            None => self.line(&step_line(machine, phase, Some(self.elapsed())).replacen('✓', "•", 1)),
        }
        machines.phases.insert(machine.to_owned(), (phase.to_owned(), bar));
    }

    /// Returns what shows how many bytes of how many a machine's phase has moved. On a terminal only.
    pub(crate) fn transfer(&self, machine: &str) -> impl Fn(u64, u64) + Send + Sync + 'static {
        let line = self.machines.lock().ok().and_then(|machines| {
            let (phase, bar) = machines.phases.get(machine)?;
            Some((phase.clone(), bar.clone()?))
        });
        move |done, all| {
            if let Some((phase, bar)) = &line {
                bar.set_message(format!("{phase}: {} of {} MiB", done >> 20, all >> 20));
            }
        }
    }

    fn forget_machines(&self) {
        if let Ok(mut machines) = self.machines.lock() {
            for (_, bar) in std::mem::take(&mut machines.phases).into_values() {
                if let Some(bar) = bar {
                    bar.finish_and_clear();
                }
            }
            machines.board = None;
        }
    }

    /// Reports a finished step.
    pub(crate) fn done(&self, step: &str, outcome: &str) {
        self.step(step, outcome, None);
    }

    /// Reports a finished step and how long the command has taken by now.
    pub(crate) fn done_timed(&self, step: &str, outcome: &str) {
        self.step(step, outcome, Some(self.elapsed()));
    }

    /// Reports a check: how it ended and how long it took.
    pub(crate) fn checked(&self, step: &str, outcome: &str, took: Duration, passed: bool) {
        self.replace_spinner(None);
        if self.json() {
            let state = if passed { "passed" } else { "failed" };
            let event = json!({ "event": "check", "check": step, "state": state, "message": outcome,
                "seconds": rounded(took) });
            self.line(&event.to_string());
        } else if !self.quiet || !passed {
            let line = step_line(step, outcome, Some(took));
            self.line(&if passed { line } else { line.replacen('✓', "✗", 1) });
        }
    }

    fn step(&self, step: &str, outcome: &str, elapsed: Option<Duration>) {
        self.forget_machines();
        self.replace_spinner(None);
        if self.json() {
            let mut event = json!({ "event": "step", "step": step, "state": "done", "message": outcome });
            if let Some(elapsed) = elapsed {
                event["seconds"] = json!(rounded(elapsed));
            }
            self.line(&event.to_string());
        } else if !self.quiet {
            self.line(&step_line(step, outcome, elapsed));
        }
    }

    /// Says something that is not a step.
    pub(crate) fn note(&self, text: &str) {
        self.replace_spinner(None);
        if self.json() {
            self.line(&json!({ "event": "note", "message": text }).to_string());
        } else if !self.quiet {
            self.line(text);
        }
    }

    /// Warns on standard error.
    pub(crate) fn warn(&self, text: &str) {
        self.replace_spinner(None);
        if self.json() {
            self.line(&json!({ "event": "warning", "message": text }).to_string());
        } else {
            eprintln!("warning: {text}");
        }
    }

    /// Answers: `value` as JSON, or `text` for people. Also when quiet.
    pub(crate) fn answer(&self, text: &str, value: &Value) {
        self.replace_spinner(None);
        if self.json() {
            self.line(&value.to_string());
        } else if !text.is_empty() {
            self.line(text.trim_end_matches('\n'));
        }
    }

    /// Writes bytes to standard output as they are.
    pub(crate) fn raw(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }

    /// Reports a failure.
    pub(crate) fn fail(&self, error: &Error) {
        self.forget_machines();
        self.replace_spinner(None);
        if self.json() {
            let kind = match error.kind {
                Kind::User => "user",
                Kind::Usage => "usage",
                Kind::Internal => "internal",
            };
            let event = json!({ "event": "error", "kind": kind, "message": error.messages.first(),
                "causes": error.messages.get(1..).unwrap_or_default(), "hints": error.hints });
            self.line(&event.to_string());
        } else {
            eprintln!("{}", error_text(error));
        }
    }

    fn line(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        if let Err(error) = writeln!(out, "{text}") {
            // A reader that went away, as in `cluster status | head -1`, is no failure.
            if error.kind() != std::io::ErrorKind::BrokenPipe {
                eprintln!("warning: writing to standard output: {error}");
            }
        }
    }

    fn replace_spinner(&self, next: Option<ProgressBar>) {
        if let Ok(mut spinner) = self.spinner.lock() {
            if let Some(old) = spinner.take() {
                old.finish_and_clear();
            }
            *spinner = next;
        }
    }
}

/// Returns seconds with three places.
fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

fn step_line(step: &str, outcome: &str, elapsed: Option<Duration>) -> String {
    match elapsed {
        Some(elapsed) => format!(" ✓ {step:<13} {outcome:<47} {:.1} s", elapsed.as_secs_f64()),
        None => format!(" ✓ {step:<13} {outcome}"),
    }
}

/// Returns a failure as it stands on standard error.
pub(crate) fn error_text(error: &Error) -> String {
    let mut text = format!("error: {}", error.messages.first().map_or("unknown", String::as_str));
    for cause in error.messages.get(1..).unwrap_or_default() {
        text.push_str("\n  because: ");
        text.push_str(&cause.replace('\n', "\n    "));
    }
    for hint in &error.hints {
        text.push_str("\n  hint: ");
        text.push_str(&hint.replace('\n', "\n    "));
    }
    text
}

/// Lays out rows in columns two spaces apart, as kubectl does.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (width, cell) in widths.iter().zip(cells) {
            text.push_str(&format!("{cell:<width$}   "));
        }
        text.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut header.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_lines_are_the_ones_of_the_guide() {
        assert_eq!(
            step_line("plan", "lab: 1 master, 1 worker, local provider", None),
            " ✓ plan          lab: 1 master, 1 worker, local provider"
        );
        assert_eq!(
            step_line("ready", "2 nodes Ready, DNS answers", Some(Duration::from_millis(1100))),
            " ✓ ready         2 nodes Ready, DNS answers                      1.1 s"
        );
    }

    #[test]
    fn an_error_says_why_and_what_to_do() {
        let error = Error::user("starting m1").because("no space left").hint("free some");
        assert_eq!(error_text(&error), "error: starting m1\n  because: no space left\n  hint: free some");
    }

    #[test]
    fn columns_line_up() {
        let text = table(&["NAME", "X"], &[vec!["longer".into(), "1".into()], vec!["a".into(), "2".into()]]);
        assert_eq!(text, "NAME     X\nlonger   1\na        2");
    }
}
