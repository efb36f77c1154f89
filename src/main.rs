//! `cluster`: one executable that is the provisioner, the control plane and the node agent, told apart by the
//! name it is called by. See docs/ARCHITECTURE.md.

mod artifacts;
mod cli;
mod commands;
mod dns;
mod error;
mod images;
mod plan;
mod preflight;
mod provider;
mod spec;
mod state;
mod ui;
mod verify;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // These are processes of one thread: they come before anything that could start another.
    if let Some(code) = runtime::helper_main(arguments.iter().cloned()) {
        return code;
    }
    if let Some(code) = provider::local::helper(&arguments) {
        return code;
    }
    let called = arguments.first().map(Path::new).and_then(Path::file_name).and_then(OsStr::to_str);
    // As a subcommand a program's name takes the place of the executable's.
    let as_subcommand = || arguments.get(1..).unwrap_or_default().to_vec();
    match (called, arguments.get(1).and_then(|argument| argument.to_str())) {
        (Some("control-plane"), _) => control_plane::main(arguments),
        (Some("node-agent"), _) => node_agent::main(arguments),
        (_, Some("control-plane")) => control_plane::main(as_subcommand()),
        (_, Some("node-agent")) => node_agent::main(as_subcommand()),
        (_, Some("dns-query")) => dns::main(&arguments[2..]),
        (_, Some("node-images")) => images::main(&arguments[2..]),
        (_, Some("workload")) => verify::workload::main(&arguments[2..]),
        _ => provision(),
    }
}

/// Runs the provisioner.
fn provision() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failures; clap knows where each is printed.
            let code = if error.use_stderr() { 2 } else { 0 };
            return if error.print().is_ok() { ExitCode::from(code) } else { ExitCode::from(3) };
        }
    };
    let ui = ui::Ui::new(cli.global.output, cli.global.quiet);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            ui.fail(&error::Error::from(error).within("starting"));
            return ExitCode::from(3);
        }
    };
    match runtime.block_on(commands::run(&cli, &ui)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            ui.fail(&error);
            ExitCode::from(error.code())
        }
    }
}
