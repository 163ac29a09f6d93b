//! `doctor`: shows what there is to compute with, and which of it would run which part of a model. Owns the report.

mod machine_load;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use self::machine_load::Load;
use super::shared::{devices, open, screen};
use crate::cli::DoctorArgs;
use crate::engine::{EngineParams, Sequence};
use crate::ggml::{self, Device, Isa};
use crate::gguf::File;
use crate::model::{Model, Placement};
use crate::sample::{Sampler, SamplerParams};

#[derive(Serialize)]
struct Report {
    version: &'static str,
    ggml: &'static str,
    threads: usize,
    instructions: Instructions,
    devices: Vec<DeviceReport>,
    cuda: Option<Cuda>,
    model: Option<ModelReport>,
}

/// Levels of instructions by the names that `CURTAIL_ISA` takes.
#[derive(Serialize)]
struct Instructions {
    used: &'static str,
    built_in: Vec<&'static str>,
    /// What this processor and its operating system allow.
    allowed: &'static str,
    is_forced: bool,
}

#[derive(Serialize)]
struct DeviceReport {
    name: String,
    description: String,
    memory_bytes: Option<u64>,
    free_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Cuda {
    runtime: String,
    driver: Option<String>,
    problem: Option<String>,
}

#[derive(Serialize)]
struct ModelReport {
    path: String,
    embeddings: String,
    layers: Vec<Layers>,
    output: String,
    /// Of the faster round.
    tokens_per_second: f64,
    /// Of every round.
    rounds_tokens_per_second: Vec<f64>,
    /// Why the machine could do more than was measured, where it seems so.
    load: Option<String>,
}

#[derive(Serialize)]
struct Layers {
    first: usize,
    last: usize,
    device: String,
}

pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let n_threads = open::n_threads(args.threads);
    let device_args = devices::usable(&args.devices);
    // A model that nobody names is no reason to fail.
    let path = match args.model.named() {
        Some(_) => Some(open::find_model(&args.model)?),
        None => open::find_model(&args.model).ok(),
    };
    let (devices, model) = match path {
        Some(path) => {
            let file = Arc::new(File::open(&path)?);
            let params = EngineParams { n_ctx: args.ctx_size, ..open::cache_params(&args.cache) };
            let model = open::load_model(&file, n_threads, &device_args, &params)?;
            let devices = model.placement().devices().iter().map(|device| device_report(device)).collect();
            (devices, Some(model_report(&file, model, params)?))
        }
        None => {
            let found = devices::find(&device_args, n_threads)?;
            (found.iter().map(|device| device_report(device)).collect(), None)
        }
    };
    let version = env!("CARGO_PKG_VERSION");
    let instructions = instructions();
    let report =
        Report { version, ggml: ggml::version(), threads: n_threads, instructions, devices, cuda: cuda(), model };
    let mut out = screen::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write_text(&report, &mut out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn instructions() -> Instructions {
    let used = ggml::isa();
    Instructions {
        used: used.name(),
        built_in: ggml::built_isas().into_iter().map(Isa::name).collect(),
        allowed: ggml::processor_isa().name(),
        is_forced: ggml::usable_isas().last() != Some(&used),
    }
}

/// Driver and runtime, where the program was built for CUDA.
fn cuda() -> Option<Cuda> {
    #[cfg(feature = "cuda")]
    {
        let ggml::CudaStatus { runtime, driver, problem } = ggml::cuda_status();
        Some(Cuda { runtime, driver, problem })
    }
    #[cfg(not(feature = "cuda"))]
    None
}

fn device_report(device: &Device) -> DeviceReport {
    let memory = device.memory();
    DeviceReport {
        name: device.name().to_owned(),
        description: device.description(),
        memory_bytes: memory.map(|memory| memory.total),
        free_bytes: memory.map(|memory| memory.free),
    }
}

fn model_report(file: &File, model: Arc<Model>, params: EngineParams) -> anyhow::Result<ModelReport> {
    let placement: &Placement = model.placement();
    let name = |device: usize| placement.devices()[device].name().to_owned();
    let layers = devices::ranges(placement, model.config().n_layer);
    let layers = layers.into_iter().map(|(range, device)| Layers {
        first: range.start,
        last: range.end - 1,
        device: name(device),
    });
    let Speed { rounds, load } = measure(&model, params)?;
    Ok(ModelReport {
        path: file.path().display().to_string(),
        embeddings: name(Placement::CPU),
        layers: layers.collect(),
        output: name(placement.of_output()),
        tokens_per_second: rounds.iter().copied().fold(0.0, f64::max),
        rounds_tokens_per_second: rounds,
        load,
    })
}

/// What was measured.
struct Speed {
    rounds: Vec<f64>,
    load: Option<String>,
}

/// Tokens per second at full depth and the beginning of a context, in rounds, so that it shows how much chance is in them.
fn measure(model: &Arc<Model>, params: EngineParams) -> anyhow::Result<Speed> {
    let mut sequence = Sequence::alone(Arc::clone(model), params).context("cannot make a sequence")?;
    let mut sampler = Sampler::new(SamplerParams { temperature: 0.0, seed: Some(0), ..SamplerParams::default() });
    sequence.sync(&[0], &mut |_, _| ControlFlow::Continue(()))?;
    // The first needs no evaluation, the second builds the graphs.
    (0..2).try_for_each(|_| sequence.step(&mut sampler).map(drop))?;
    let before = Load::now();
    let rounds = (0..ROUNDS).map(|_| round(&mut sequence, &mut sampler)).collect::<anyhow::Result<Vec<f64>>>()?;
    let load = before.suspicion(&Load::now(), &rounds, model.device().n_threads());
    Ok(Speed { rounds, load })
}

const ROUNDS: usize = 2;

/// Tokens of a round, which is run again until it has taken a while: what another program does in a millisecond is chance.
const TOKENS: usize = 16;
const A_WHILE: Duration = Duration::from_millis(150);

fn round(sequence: &mut Sequence, sampler: &mut Sampler) -> anyhow::Result<f64> {
    let first = sequence.tokens().len();
    let n_tokens = TOKENS.min(sequence.n_ctx().saturating_sub(first));
    let (start, mut done) = (Instant::now(), 0);
    while done == 0 || start.elapsed() < A_WHILE {
        sequence.rewind(first);
        for _ in 0..n_tokens {
            sequence.step(sampler)?;
        }
        done += n_tokens.max(1);
    }
    let speed = done as f64 / start.elapsed().as_secs_f64();
    sequence.rewind(first);
    Ok(speed)
}

fn write_text(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "curtail {}, ggml {}, {} threads", report.version, report.ggml, report.threads)?;
    let Instructions { used, built_in, allowed, is_forced } = &report.instructions;
    let forced = if *is_forced { " (by CURTAIL_ISA)" } else { "" };
    let built_in = built_in.join(", ");
    writeln!(out, "instructions: {used}{forced}; built in: {built_in}; processor and system allow up to: {allowed}")?;
    for device in &report.devices {
        let memory = match (device.memory_bytes, device.free_bytes) {
            (Some(total), Some(free)) => format!(", {} MiB, {} MiB free", total >> 20, free >> 20),
            _ => String::new(),
        };
        writeln!(out, "{}: {}{memory}", device.name, device.description)?;
    }
    match &report.cuda {
        None => writeln!(out, "CUDA: not built in (feature `cuda`)")?,
        Some(Cuda { runtime, driver, problem }) => {
            let problem = problem.as_ref().map_or(String::new(), |problem| format!(": {problem}"));
            let driver = driver.as_ref().map(|version| format!("driver for {version}{problem}"));
            writeln!(out, "CUDA: runtime {runtime}, {}", driver.as_deref().unwrap_or("no driver"))?;
        }
    }
    let Some(model) = &report.model else { return Ok(()) };
    writeln!(out, "{}:", model.path)?;
    writeln!(out, "  embeddings: {}", model.embeddings)?;
    for Layers { first, last, device } in &model.layers {
        writeln!(out, "  layers {first} to {last}: {device}")?;
    }
    writeln!(out, "  output head: {}", model.output)?;
    let rounds: Vec<String> = model.rounds_tokens_per_second.iter().map(|speed| format!("{speed:.1}")).collect();
    let speed = model.tokens_per_second;
    writeln!(out, "  about {speed:.1} tokens per second at full depth (measured: {})", rounds.join(" and "))?;
    match &model.load {
        Some(load) => writeln!(out, "  this machine may do more: {load}"),
        None => Ok(()),
    }
}
