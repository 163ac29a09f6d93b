//! The subcommands, one file or folder each, and in `shared` what several of them need. Only here is anything printed, and a terminal or a file
//! that the user names touched.

mod bench;
mod chat;
mod completions;
mod convert;
mod doctor;
mod eval;
mod imatrix;
mod inspect;
mod layers;
mod list;
mod logits;
mod perplexity;
mod pull;
mod quantize;
mod rm;
mod rpc_server;
mod run;
mod shared;
mod tokenize;
mod train_exit;

use std::process::ExitCode;

use self::shared::{INTERRUPTED, Usage, chain, devices, interrupt, is_broken_pipe, note};
use crate::cli::{Cli, Command, Refused};
use crate::ggml;
use crate::gguf;
use crate::hub;

/// Carries out what the user typed.
pub fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    interrupt::begin()?;
    ggml::choose_isa()?;
    gguf::name_cut_files();
    if let Some(devices) = cli.command.devices().filter(|devices| devices.list_devices) {
        return devices::list(devices);
    }
    match cli.command {
        Command::Chat(args) => chat::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Imatrix(args) => imatrix::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::TrainExit(args) => train_exit::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Layers(args) => layers::run(&args),
        Command::RpcServer(args) => rpc_server::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::List(args) => list::run(&args),
        Command::Rm(args) => rm::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
    }
}

/// Tells the user what is wrong with the command line, or the help that was asked for.
pub fn refuse(refused: &Refused) -> ExitCode {
    // A closed terminal leaves nobody to tell.
    let _ = refused.error.print();
    if let Some(hint) = &refused.hint {
        note(format_args!("hint: {hint}"));
    }
    ExitCode::from(u8::try_from(refused.error.exit_code()).unwrap_or(2))
}

/// Tells the user why a command failed, and gives the exit code for it. A closed pipe is no failure: its reader
/// has seen enough.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    note(format_args!("error: {}", chain(error)));
    ExitCode::from(exit_code(error))
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<hub::Error>() {
        Some(hub::Error::Interrupted) => INTERRUPTED,
        Some(hub::Error::Spec { .. }) => 2,
        _ if error.is::<Usage>() => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn exit_codes() {
        let code = |error: anyhow::Error| format!("{:?}", report(&error));
        assert_eq!(code(Usage("no".into()).into()), format!("{:?}", ExitCode::from(2)));
        assert_eq!(code(anyhow::anyhow!("no")), format!("{:?}", ExitCode::from(1)));
        let closed = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("cannot write");
        assert_eq!(code(closed), format!("{:?}", ExitCode::SUCCESS));
    }
}
