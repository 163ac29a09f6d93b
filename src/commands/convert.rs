//! Owns `convert`: names the file, shows progress, says what was written.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;

use super::shared::output::Inputs;
use super::shared::{INTERRUPTED, Usage, interrupt, note, print_line, progress};
use crate::cli::{ConvertArgs, OutTypeArg};
use crate::convert::{Error, Options, OutType, Plan};

pub(super) fn run(args: &ConvertArgs) -> anyhow::Result<ExitCode> {
    ensure!(
        args.tokenizer.is_none() || !args.checkpoint.is_dir(),
        Usage("--tokenizer is for a checkpoint of llama2.c, which is a file".into())
    );
    let started = Instant::now();
    let plan = Plan::new(&args.checkpoint, &options(args))?;
    plan.notices().iter().for_each(|notice| note(format_args!("note: {notice}")));
    let path = args.output.clone().unwrap_or_else(|| default_name(&args.checkpoint, &plan));
    read(args)?.allow([path.as_path()])?;
    interrupt::watch();
    match write(&plan, &path) {
        Err(Error::Interrupted) => {
            note("interrupted: nothing was written");
            Ok(ExitCode::from(INTERRUPTED))
        }
        written => {
            written?;
            report(&plan, &path, started.elapsed(), args.json)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What is read: the files of the checkpoint's folder, as far as they are no GGUF files.
fn read(args: &ConvertArgs) -> anyhow::Result<Inputs> {
    let inputs = Inputs::default().and(&args.tokenizer);
    if !args.checkpoint.is_dir() {
        return Ok(inputs.and([&args.checkpoint]));
    }
    let entries =
        std::fs::read_dir(&args.checkpoint).with_context(|| format!("cannot read `{}`", args.checkpoint.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(inputs.and(paths.filter(|path| path.is_file() && path.extension().is_none_or(|end| end != "gguf"))))
}

fn options(args: &ConvertArgs) -> Options {
    let outtype = match args.outtype {
        OutTypeArg::F32 => OutType::F32,
        OutTypeArg::F16 => OutType::F16,
        OutTypeArg::Bf16 => OutType::Bf16,
        OutTypeArg::Q8_0 => OutType::Q8_0,
        OutTypeArg::Auto => OutType::Auto,
    };
    Options { outtype, name: args.model_name.clone(), pre: args.pre.clone(), tokenizer: args.tokenizer.clone() }
}

/// `Llama-2-7b-hf.f16.gguf` in the current folder.
fn default_name(checkpoint: &Path, plan: &Plan) -> PathBuf {
    let whole = checkpoint.canonicalize().unwrap_or_else(|_| checkpoint.to_owned());
    let name = if whole.is_file() { whole.file_stem() } else { whole.file_name() };
    let name = name.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
    format!("{name}.{}.gguf", plan.dtype()).into()
}

fn write(plan: &Plan, path: &Path) -> Result<(), Error> {
    let bar = progress::bytes(plan.tensor_bytes(), "convert");
    let written = plan.write(path, |bytes| {
        bar.set_position(bytes);
        !interrupt::requested()
    });
    bar.finish_and_clear();
    written
}

fn report(plan: &Plan, path: &Path, time: Duration, json: bool) -> anyhow::Result<()> {
    let (n, bytes, seconds) = (plan.tensors().len(), plan.tensor_bytes(), time.as_secs_f64());
    if json {
        let line = json!({
            "file": path.to_string_lossy(), "type": plan.dtype().name(), "tensors": n, "bytes": bytes,
            "seconds": seconds, "notices": plan.notices(),
        });
        return Ok(print_line(&line.to_string())?);
    }
    note(format_args!(
        "{}: {n} tensors in {}, {:.1} MB in {seconds:.1} s ({:.0} MB/s)",
        path.display(),
        plan.dtype(),
        bytes as f64 * 1e-6,
        bytes as f64 * 1e-6 / seconds
    ));
    Ok(())
}
