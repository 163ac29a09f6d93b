//! The `curtail` program: parses the command line, dispatches, and turns the result into an exit code.

use std::process::ExitCode;

use curtail::{cli, commands};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(cli) => commands::dispatch(cli).unwrap_or_else(|error| commands::report(&error)),
        Err(refused) => commands::refuse(&refused),
    }
}
