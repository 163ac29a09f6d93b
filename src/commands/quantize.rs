//! `quantize`: a model in, a model with fewer bits per weight out. Owns the files: none but the output is written, and
//! that appears complete or not at all.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, ensure};
use serde::Serialize;

use super::shared::open::{helpful_threads, tell_remarks, threads_at_once};
use super::shared::output::Inputs;
use super::shared::{INTERRUPTED, Usage, interrupt, note, print_line, progress};
use crate::cli::{QuantizeArgs, QuantizeWords};
use crate::dtype::DType;
use crate::gguf::{File, Writer};
use crate::quantize::{Error, Imatrix, Making, Options, Plan, Planned, Split, TensorType, produce};
use crate::text;

pub(super) fn run(args: &QuantizeArgs) -> anyhow::Result<ExitCode> {
    let words = args.words().map_err(Usage)?;
    let file = File::open(&args.input)?;
    let imatrix = open_imatrix(args)?;
    let options = options(args, &words)?;
    let plan = Plan::new(file.metadata(), file.tensors(), &options, imatrix.as_ref())?;
    tell_remarks(&file);
    remark(&plan, imatrix.as_ref());
    let parts = name_parts(plan.parts(args.split())?, &output_path(args, &words)?, args.split());
    if args.dry_run {
        return dry_run(args, &plan, &parts);
    }
    plan.need_imatrix()?;
    let inputs = Inputs::model(&args.input).and(&args.imatrix).and(&args.tensor_type_file);
    inputs.allow(parts.iter().map(|(path, _)| path.as_path()))?;
    let n_threads = words.threads.map_or_else(threads_at_once, |n| helpful_threads("NTHREADS", n));
    interrupt::watch();
    let start = Instant::now();
    let making = Making { file: &file, plan: &plan, imatrix: imatrix.as_ref(), n_threads, stop: &interrupt::requested };
    match write(&making, &parts) {
        Err(e) if matches!(e.downcast_ref(), Some(Error::Interrupted)) => {
            note("interrupted; nothing was written");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        result => result?,
    }
    let report = Report::new(&plan, &parts)?;
    note(format_args!("({}, {:.1} s)", report.sentence("written"), start.elapsed().as_secs_f64()));
    if args.json {
        print_line(&serde_json::to_string(&report).map_err(io::Error::from)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn open_imatrix(args: &QuantizeArgs) -> anyhow::Result<Option<Imatrix>> {
    let Some(path) = &args.imatrix else {
        return Ok(None);
    };
    let mut imatrix = Imatrix::open(path).context("cannot use the importance matrix")?;
    imatrix.exclude(&args.exclude_weights);
    if !args.include_weights.is_empty() {
        imatrix.include(&args.include_weights);
    }
    ensure!(!imatrix.is_empty(), "importance matrix: no entry is left by `--include-weights` or `--exclude-weights`");
    Ok(Some(imatrix))
}

fn options(args: &QuantizeArgs, words: &QuantizeWords) -> anyhow::Result<Options> {
    let mut tensor_types = args.tensor_type.clone();
    if let Some(path) = &args.tensor_type_file {
        tensor_types.extend(read_tensor_types(path)?);
    }
    Ok(Options {
        allow_requantize: args.allow_requantize,
        leave_output: args.leave_output_tensor,
        pure: args.pure,
        output_type: args.output_tensor_type,
        embedding_type: args.token_embedding_type,
        tensor_types,
        prune_layers: args.prune_layers.clone(),
        overrides: args.override_kv.clone(),
        keep_order: args.keep_split,
        ..Options::new(words.target)
    })
}

fn read_tensor_types(path: &Path) -> anyhow::Result<Vec<TensorType>> {
    let text = text::read(path, text::SETTINGS_BYTES).with_context(|| format!("cannot read `{}`", path.display()))?;
    let parse = |word: &str| word.parse().map_err(|why: String| anyhow::anyhow!("{}: `{word}`: {why}", path.display()));
    text.split_whitespace().map(parse).collect()
}

/// What the user should know before the work begins.
fn remark(plan: &Plan, imatrix: Option<&Imatrix>) {
    let mut fallbacks: BTreeMap<(DType, DType, usize), usize> = BTreeMap::new();
    for t in &plan.tensors {
        if let Some(wanted) = t.fell_back_from {
            *fallbacks.entry((wanted, t.to, t.tensor.shape[0])).or_default() += 1;
        }
    }
    for ((wanted, to, row), n) in fallbacks {
        let multiple = wanted.block_len();
        let (become_, their) =
            if n == 1 { ("1 tensor becomes".into(), "its") } else { (format!("{n} tensors become"), "their") };
        note(format_args!(
            "note: {become_} {to} instead of {wanted}: {their} rows of {row} are no multiple of {multiple}"
        ));
    }
    let missing: Vec<&Planned> = plan.without_importance().collect();
    if let (Some(_), [first, ..]) = (imatrix, &missing[..]) {
        let (n, name) = (missing.len(), &first.tensor.name);
        let what = if n == 1 { format!("`{name}`") } else { format!("{n} tensors, `{name}` the first of them") };
        note(format_args!("note: the importance matrix has nothing for {what}"));
    }
}

/// The output that is named, or llama.cpp's name for it beside the input.
fn output_path(args: &QuantizeArgs, words: &QuantizeWords) -> anyhow::Result<PathBuf> {
    let path = match &words.output {
        Some(path) => path.clone(),
        None => args.input.with_file_name(format!("ggml-model-{}.gguf", words.target.name())),
    };
    let is_stdout = path.as_os_str() == "-";
    ensure!(!is_stdout, Usage("a model is not written to stdout\nhint: `./-` names a file".into()));
    Ok(path)
}

/// The files with their names: the output's own, or `NAME-00001-of-0000N.gguf`.
fn name_parts(parts: Vec<Writer>, output: &Path, split: Split) -> Vec<(PathBuf, Writer)> {
    let n = parts.len();
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".gguf").unwrap_or(&name);
    let path = |no: usize| match split {
        Split::Whole => output.to_owned(),
        _ => output.with_file_name(format!("{stem}-{:05}-of-{n:05}.gguf", no + 1)),
    };
    parts.into_iter().enumerate().map(|(no, part)| (path(no), part)).collect()
}

fn write(making: &Making, parts: &[(PathBuf, Writer)]) -> anyhow::Result<()> {
    let total: usize = making.plan.tensors.iter().map(Planned::bytes).sum();
    let bar = progress::bytes(total as u64, "quantize");
    let written: Result<(), Error> = produce(making, |tensors| {
        Writer::write_parts(parts, |tensor, out| {
            tensors.write_next(out)?;
            bar.inc(tensor.bytes as u64);
            Ok(())
        })
    })
    .context("cannot start threads")?;
    bar.finish_and_clear();
    Ok(written?)
}

fn dry_run(args: &QuantizeArgs, plan: &Plan, parts: &[(PathBuf, Writer)]) -> anyhow::Result<ExitCode> {
    let report = Report::new(plan, parts)?;
    if plan.need_imatrix().is_err() {
        note("note: this needs an importance matrix (`--imatrix`)");
    }
    if args.json {
        print_line(&serde_json::to_string(&report).map_err(io::Error::from)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let width = report.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
    for t in &report.tensors {
        let shape: Vec<_> = t.shape.iter().map(usize::to_string).collect();
        let line = format!(
            "{:<width$}  {:>18}  {:>7} -> {:<7} {:>9.2} -> {:>9.2} MiB",
            t.name,
            shape.join(" x "),
            t.from,
            t.to,
            mib(t.bytes_before),
            mib(t.bytes)
        );
        print_line(&line)?;
    }
    print_line(&report.sentence("would be written"))?;
    Ok(ExitCode::SUCCESS)
}

/// What comes out, as `--json` prints it.
#[derive(Serialize)]
struct Report<'a> {
    files: Vec<String>,
    file_bytes: u64,
    bytes_before: usize,
    bytes: usize,
    bits_per_weight: f64,
    fallbacks: usize,
    tensors: Vec<Line<'a>>,
}

/// One tensor; sizes in bytes.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    shape: &'a [usize],
    from: &'static str,
    to: &'static str,
    bytes_before: usize,
    bytes: usize,
}

impl<'a> Report<'a> {
    fn new(plan: &'a Plan, parts: &[(PathBuf, Writer)]) -> Result<Report<'a>, Error> {
        let line = |t: &'a Planned| Line {
            name: &t.tensor.name,
            shape: t.tensor.ggml_dims(),
            from: t.tensor.dtype.name(),
            to: t.to.name(),
            bytes_before: t.tensor.bytes,
            bytes: t.bytes(),
        };
        let tensors: Vec<Line> = plan.tensors.iter().map(line).collect();
        let bytes = tensors.iter().map(|t| t.bytes).sum();
        let elements: usize = plan.tensors.iter().map(|t| t.tensor.elements()).sum();
        let sizes: Result<Vec<u64>, _> = parts.iter().map(|(_, part)| part.file_bytes()).collect();
        Ok(Report {
            files: parts.iter().map(|(path, _)| path.display().to_string()).collect(),
            file_bytes: sizes?.iter().sum(),
            bytes_before: tensors.iter().map(|t| t.bytes_before).sum(),
            bytes,
            bits_per_weight: bytes as f64 * 8.0 / elements.max(1) as f64,
            fallbacks: plan.tensors.iter().filter(|t| t.fell_back_from.is_some()).count(),
            tensors,
        })
    }

    fn sentence(&self, verb: &str) -> String {
        let files = match &self.files[..] {
            [file] => format!("`{file}`"),
            [first, ..] => format!("`{first}` and {} more", self.files.len() - 1),
            [] => String::new(),
        };
        let fallbacks = match self.fallbacks {
            0 => String::new(),
            1 => ", 1 tensor fell back to another type".to_owned(),
            n => format!(", {n} tensors fell back to another type"),
        };
        let (before, after) = (mib(self.bytes_before), mib(self.bytes));
        let bits = self.bits_per_weight;
        format!("{verb} {files}: {before:.2} -> {after:.2} MiB, {bits:.2} bits per weight{fallbacks}")
    }
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / (1 << 20) as f64
}
