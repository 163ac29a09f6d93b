//! The `curtail` program: parses the command line, dispatches, and turns the result into an exit code.

use std::process::ExitCode;

use clap::Parser;
use curtail::cli::{self, Cli};
use curtail::commands;

fn main() -> ExitCode {
    let cli = Cli::parse_from(cli::normalize(std::env::args_os()));
    commands::dispatch(cli).unwrap_or_else(|error| commands::report(&error))
}
