//! The subcommands, one file each, and what they share. Only here is anything printed, and a terminal or a file
//! that the user names touched.

mod answer;
mod batch;
mod bench;
mod chat;
mod completions;
mod convert;
mod depth;
mod devices;
mod doctor;
mod drafts;
mod engine;
mod eval;
mod exits;
mod imatrix;
mod input;
mod inspect;
mod interrupt;
mod layers;
mod list;
mod logits;
mod machine_load;
mod output;
mod perplexity;
mod plan;
mod pull;
mod quantize;
mod rm;
mod rpc_server;
mod run;
mod screen;
mod stats;
mod stop;
mod template;
mod tokenize;
mod train_exit;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::cli::{Cli, Command, InspectArgs, Refused, TokenizeArgs};
use crate::ggml;
use crate::gguf;
use crate::hub;

/// The exit code of a command that was interrupted: 128 + SIGINT, as a shell reports it.
const INTERRUPTED: u8 = 130;

/// The command cannot be carried out as it was typed: exit code 2.
#[derive(Debug)]
struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

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
        Command::Inspect(args) => show_file(&args),
        Command::Tokenize(args) => show_tokens(&args),
    }
}

fn show_file(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let path = match &args.file {
        Some(path) => pull::named_model(path)?,
        None => engine::find_model(&args.model)?,
    };
    inspect::inspect(&path, args.json, &mut screen::stdout())?;
    Ok(ExitCode::SUCCESS)
}

fn show_tokens(args: &TokenizeArgs) -> anyhow::Result<ExitCode> {
    let path = engine::find_model(&args.model)?;
    let ids = args.ids.join(" ");
    let given = args.prompt.as_deref().or(Some(ids.as_str()).filter(|ids| !ids.is_empty()));
    let text = input::text(given, args.file.as_deref(), input::Kind::Corpus)?;
    if args.decode {
        tokenize::decode(&path, &text, args, &mut screen::data())?;
        return Ok(ExitCode::SUCCESS);
    }
    let parse_special = !args.no_parse_special;
    tokenize::tokenize(&path, &text, parse_special, !args.no_bos, args.json, &mut screen::stdout())?;
    Ok(ExitCode::SUCCESS)
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

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |cause: &(dyn std::error::Error + 'static)| {
        let of_json = || cause.downcast_ref::<serde_json::Error>()?.io_error_kind();
        cause.downcast_ref::<io::Error>().map(io::Error::kind).or_else(of_json)
    };
    error.chain().any(|cause| kind(cause) == Some(io::ErrorKind::BrokenPipe))
}

/// The whole chain of an error on one line, hints on lines of their own behind it.
fn chain(error: &anyhow::Error) -> String {
    let (mut text, mut hints) = (String::new(), String::new());
    for cause in error.chain().map(ToString::to_string) {
        let (cause, hint) = cause.split_once("\nhint: ").unwrap_or((&cause, ""));
        // Some errors end with the text of their cause.
        if !text.ends_with(cause) {
            text += if text.is_empty() { "" } else { ": " };
            text += cause;
        }
        if !hint.is_empty() && !hints.contains(hint) {
            hints = format!("{hints}\nhint: {hint}");
        }
    }
    text + &hints
}

/// Writes one line of results and hands it on at once.
fn print_line(line: &str) -> io::Result<()> {
    let mut stdout = screen::stdout();
    stdout.write_all(line.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Writes a line for the user's eyes, not for data. What a file or a model says in it is shown, not sent.
fn note(line: impl fmt::Display) {
    coloured_note(&screen::shown(&line.to_string()));
}

/// As [`note`], for a line that is this program's own and may have colours.
fn coloured_note(line: &str) {
    // A full or closed stderr is no reason to lose the answer.
    let _ = writeln!(io::stderr(), "{line}");
}

/// A number with so many digits behind the point. What rounds to zero has no sign.
fn rounded(number: f64, digits: usize) -> String {
    let text = format!("{number:.digits$}");
    match text.strip_prefix('-') {
        Some(zero) if zero.bytes().all(|b| matches!(b, b'0' | b'.')) => zero.to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_says_each_thing_once_and_ends_with_hints() {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        let error =
            anyhow::Error::from(missing()).context("cannot open `x`: no such file").context("line 3\nhint: look");
        assert_eq!(chain(&error), "line 3: cannot open `x`: no such file\nhint: look");
    }

    #[test]
    fn zero_has_no_sign() {
        assert_eq!([rounded(-4e-8, 6), rounded(-0.0, 3), rounded(-0.5, 0)], ["0.000000", "0.000", "0"]);
        assert_eq!([rounded(-6e-7, 6), rounded(4e-8, 6), rounded(-1.0, 1)], ["-0.000001", "0.000000", "-1.0"]);
        assert_eq!(rounded(f64::NEG_INFINITY, 2), "-inf");
    }

    #[test]
    fn exit_codes() {
        let code = |error: anyhow::Error| format!("{:?}", report(&error));
        assert_eq!(code(Usage("no".into()).into()), format!("{:?}", ExitCode::from(2)));
        assert_eq!(code(anyhow::anyhow!("no")), format!("{:?}", ExitCode::from(1)));
        let closed = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("cannot write");
        assert_eq!(code(closed), format!("{:?}", ExitCode::SUCCESS));
    }
}
