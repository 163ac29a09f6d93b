//! The `curtail` command.

use std::process::ExitCode;

use clap::Parser;
use curtail::cli::Cli;
use curtail::commands;

fn main() -> ExitCode {
    match commands::dispatch(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has seen enough is no failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| match cause.downcast_ref::<std::io::Error>() {
        Some(io) => io.kind() == std::io::ErrorKind::BrokenPipe,
        None => false,
    })
}
