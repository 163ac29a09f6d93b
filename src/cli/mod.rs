//! What the user may type: clap types and their value checks. Owns flag names and help texts; refuses to open,
//! print or run anything.

mod convert;
mod device;
mod exits;
mod generate;
mod habits;
mod hub;
mod layers;
mod model;
mod perplexity;
mod quantize;
mod tools;
mod train;
mod value;

use clap::{Parser, Subcommand};

pub use convert::{ConvertArgs, OutTypeArg};
pub use device::{DeviceArgs, DoctorArgs, GpuLayers, RpcServerArgs};
pub use exits::{DraftArg, ExitArg, ExitArgs, KvArg};
pub use generate::{ChatArgs, GenerationArgs, RunArgs, SamplingArgs, TemplateArgs};
pub use habits::{Refused, parse};
pub use hub::{ListArgs, PullArgs, RmArgs};
pub use layers::{LayersArg, LayersArgs, LayersCommand, MeasureArgs, MethodArg, PartsArg, PruneArgs, ScanArgs};
pub use model::{CacheArgs, ContextArgs, LoadArgs, ModelArgs, Switch};
pub use perplexity::{ImatrixArgs, PerplexityArgs, ReadArg, TextArgs};
pub use quantize::{QuantizeArgs, QuantizeWords};
pub use tools::{BenchArgs, BenchFormat, CompletionsArgs, InspectArgs, LogitsArgs, TokenizeArgs};
pub use train::{EvalArgs, InputArg, PresetArg, RuleArg, TargetArg, TrainExitArgs};
pub use value::{Count, Range, Seed, Shares, above_zero, count, fraction, not_negative, number, seed};

/// Runs quantized GGUF language models.
#[derive(Debug, Parser)]
#[command(name = "curtail", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Talk with a model in the terminal
    Chat(ChatArgs),
    /// Answer one prompt, or a file of prompts
    Run(RunArgs),
    /// Turn a Hugging Face checkpoint into a GGUF file
    Convert(ConvertArgs),
    /// Show what a GGUF file holds
    #[command(alias = "show")]
    Inspect(InspectArgs),
    /// Write a model with fewer bits per weight
    Quantize(QuantizeArgs),
    /// Turn text into token ids, or back
    Tokenize(TokenizeArgs),
    /// Measure prompt processing and generation speed
    Bench(BenchArgs),
    /// Score given tokens: the model's choice and the log-probability at every position
    Logits(LogitsArgs),
    /// Measure perplexity over a text, and the divergence from another model or depth
    Perplexity(PerplexityArgs),
    /// Collect what enters each weight matrix, for quantization
    Imatrix(ImatrixArgs),
    /// Fit when to stop on tasks with short answers
    TrainExit(TrainExitArgs),
    /// Measure an early stop on tasks with short answers, beside full depth
    Eval(EvalArgs),
    /// Measure what layers do, and leave some out for good
    Layers(LayersArgs),
    /// Compute layers for another machine
    RpcServer(RpcServerArgs),
    /// Show the devices, and which of them would run which part of a model
    Doctor(DoctorArgs),
    /// Download a model of the hub into the cache
    Pull(PullArgs),
    /// List the models in the cache and in models/
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Remove models from the cache
    Rm(RmArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

impl Command {
    /// The devices that the command would compute on.
    pub fn devices(&self) -> Option<&DeviceArgs> {
        match self {
            Command::Chat(args) => Some(&args.load.devices),
            Command::Run(args) => Some(&args.load.devices),
            Command::Logits(args) => Some(&args.load.devices),
            Command::TrainExit(args) => Some(&args.load.devices),
            Command::Eval(args) => Some(&args.load.devices),
            Command::Perplexity(args) => Some(&args.text.devices),
            Command::Imatrix(args) => Some(&args.text.devices),
            Command::Layers(args) => Some(&args.load().devices),
            Command::Bench(args) => Some(&args.devices),
            Command::Doctor(args) => Some(&args.devices),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::CommandFactory;

    use super::*;
    use crate::dtype::DType;

    fn parse(line: &str) -> Result<Cli, Refused> {
        super::parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ranges_expand_as_in_llama_bench() {
        let range = |text: &str| text.parse::<Range>().map(|r| r.0);
        assert_eq!(range("8"), Ok(vec![8]));
        assert_eq!(range("1-4"), Ok(vec![1, 2, 3, 4]));
        assert_eq!(range("64-256+64"), Ok(vec![64, 128, 192, 256]));
        assert_eq!(range("64-300*2"), Ok(vec![64, 128, 256]));
        for bad in ["", "x", "4-1", "1-4+0", "0-4*2", "1-5*1", "1-", "-1", "1-4+", "1-100000"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_dash_flags_of_llama_cpp_are_read() {
        let cli = parse("curtail chat -m x.gguf -fa off -ctk q8_0 -ctv q8_0 -sys hello -c 256 --temp 0").unwrap();
        let Command::Chat(args) = cli.command else { panic!("{cli:?}") };
        assert_eq!(args.load.context.cache.flash_attn, Some(Switch::Off));
        assert_eq!(args.load.context.cache.cache_type_k, DType::Q8_0);
        assert_eq!(args.generation.system.as_deref(), Some("hello"));
        assert_eq!(args.sampling.params().temperature, 0.0);
    }

    #[test]
    fn devices_are_read() {
        let cli = parse("curtail bench -ngl 12 -ts 3,1 -dev CUDA0,RPC0 --rpc a:1,b:2").unwrap();
        let devices = cli.command.devices().unwrap();
        assert_eq!(devices.gpu_layers, Some(GpuLayers::Last(12)));
        assert_eq!(devices.tensor_split, Some(Shares(vec![3.0, 1.0])));
        assert_eq!(
            (&devices.device[..], &devices.rpc[..]),
            (&["CUDA0", "RPC0"].map(String::from)[..], &["a:1", "b:2"].map(String::from)[..])
        );
        assert!(
            ["-ngl -1", "-ngl some", "-ts 0,0", "-ts 1,-1"]
                .iter()
                .all(|bad| parse(&format!("curtail bench {bad}")).is_err())
        );
    }

    #[test]
    fn a_prompt_may_look_like_a_flag() {
        let cli = parse("curtail run -p -fa -n -1").unwrap();
        let Command::Run(args) = cli.command else { panic!("{cli:?}") };
        assert_eq!(args.prompt.as_deref(), Some("-fa"));
        assert_eq!(args.generation.n_predict, Some(Count::All));
    }

    #[test]
    fn values_out_of_range_are_bad_usage() {
        for bad in
            ["--temp -1", "--temp nan", "--top-p 1.5", "--min-p -0.1", "--repeat-penalty 0", "-n -2", "-s x", "-t 0"]
        {
            assert!(parse(&format!("curtail run -p hi {bad}")).is_err(), "{bad}");
        }
    }
}
