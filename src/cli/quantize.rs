//! What `quantize` takes.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::value::{number, positive};
use crate::dtype::DType;
use crate::quantize::{FileType, Override, Split, Target, TensorType, tensor_type};

/// `quantize`.
#[derive(Args, Debug)]
#[command(
    override_usage = "curtail quantize [OPTIONS] IN.gguf [OUT.gguf] TYPE [NTHREADS]",
    after_help = types()
)]
pub struct QuantizeArgs {
    /// The model to read: F32, F16 or BF16 (of a split one, the first part)
    #[arg(value_name = "IN.gguf", value_hint = ValueHint::FilePath)]
    pub input: PathBuf,
    /// The file to write [default: ggml-model-TYPE.gguf beside the input], the type (below), and how many threads work
    /// [default: one per logical core]
    #[arg(value_name = "[OUT.gguf] TYPE [NTHREADS]", num_args = 1..=3, required = true, value_hint = ValueHint::FilePath)]
    pub words: Vec<String>,
    /// Importance matrix, a .gguf or .dat file of llama-imatrix
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub imatrix: Option<PathBuf>,
    /// Use the importance matrix only for tensors whose name contains this; may be repeated
    #[arg(long, value_name = "NAME", requires = "imatrix", conflicts_with = "exclude_weights")]
    pub include_weights: Vec<String>,
    /// Leave the importance matrix aside for tensors whose name contains this; may be repeated
    #[arg(long, value_name = "NAME", requires = "imatrix")]
    pub exclude_weights: Vec<String>,
    /// Type of output.weight
    #[arg(long, value_name = "TYPE", value_parser = tensor_type)]
    pub output_tensor_type: Option<DType>,
    /// Type of the token embedding
    #[arg(long, value_name = "TYPE", value_parser = tensor_type)]
    pub token_embedding_type: Option<DType>,
    /// Type of the tensors whose name matches, as in attn_q=q8_0; the first match counts; may be repeated
    #[arg(long, value_name = "REGEX=TYPE")]
    pub tensor_type: Vec<TensorType>,
    /// File with such pairs, between spaces or on lines
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub tensor_type_file: Option<PathBuf>,
    /// Give every tensor the same type, without a mix
    #[arg(long)]
    pub pure: bool,
    /// Quantize tensors that are quantized already; what they lost stays lost
    #[arg(long)]
    pub allow_requantize: bool,
    /// Leave output.weight as it is
    #[arg(long)]
    pub leave_output_tensor: bool,
    /// Leave out these layers, counted from 0, as in 20,21; those behind them move up
    #[arg(long, value_name = "L0,L1,...", value_delimiter = ',', value_parser = number)]
    pub prune_layers: Vec<usize>,
    /// Set a key of the metadata; int, float, bool or str; may be repeated
    #[arg(long, value_name = "KEY=TYPE:VALUE")]
    pub override_kv: Vec<Override>,
    /// Write as many parts as the input has
    #[arg(long)]
    pub keep_split: bool,
    /// Write parts with at most so much tensor data each, as in 500M or 2G
    #[arg(long, value_name = "N(M|G)", value_parser = size, conflicts_with = "keep_split")]
    pub split_max_size: Option<u64>,
    /// Write parts with at most so many tensors each
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with_all = ["keep_split", "split_max_size"])]
    pub split_max_tensors: Option<usize>,
    /// Show the types and sizes that would come out, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print what was made of each tensor, as JSON
    #[arg(long)]
    pub json: bool,
}

/// The words behind the input.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizeWords {
    /// The file to write, where one is named.
    pub output: Option<PathBuf>,
    /// The type.
    pub target: Target,
    /// The number of threads, where one is named.
    pub threads: Option<usize>,
}

impl QuantizeArgs {
    /// Tells the output from the type: a first word that is a type is the type.
    pub fn words(&self) -> Result<QuantizeWords, String> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let (output, rest) = match words.split_first() {
            Some((first, rest)) if first.parse::<Target>().is_err() && !rest.is_empty() => {
                (Some(PathBuf::from(first)), rest)
            }
            _ => (None, &words[..]),
        };
        let (target, threads) = match rest {
            [target] => (target.parse()?, None),
            [target, threads] => (
                target.parse()?,
                Some(positive(threads).map_err(|e| format!("number of threads: {e}, found `{threads}`"))?),
            ),
            _ => return Err(format!("expected [OUT.gguf] TYPE [NTHREADS], found `{}`", words.join(" "))),
        };
        Ok(QuantizeWords { output, target, threads })
    }

    /// How many files come out.
    pub fn split(&self) -> Split {
        match (self.keep_split, self.split_max_size, self.split_max_tensors) {
            (true, ..) => Split::AsInput,
            (_, Some(bytes), _) => Split::MaxBytes(bytes),
            (_, _, Some(tensors)) => Split::MaxTensors(tensors),
            _ => Split::Whole,
        }
    }
}

/// `500M` or `2G`: millions or thousands of millions of bytes, as llama.cpp counts them.
fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let unit: u64 = match unit {
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return Err("expected a number and M or G, as in 500M".into()),
    };
    let n = number(digits)? as u64;
    n.checked_mul(unit).filter(|&bytes| bytes > 0).ok_or_else(|| "must be from 1M to what fits in 64 bits".into())
}

fn types() -> String {
    let mut text = "Types, with bits per weight of Llama-3.1-8B (given an importance matrix):\n".to_owned();
    for row in FileType::ALL.chunks(3) {
        let cells = row.iter().map(|t| format!("  {:<10}{:>6.2}  id {:<4}", t.name(), t.bits_per_weight(), t.id()));
        text += cells.collect::<String>().trim_end();
        text.push('\n');
    }
    let aliases = Target::ALIASES.map(|(name, t)| format!("{name} is {}", t.name()));
    text += &format!("{}; COPY keeps the tensors as they are.\n\n", aliases.join(", "));
    text + "Types below Q3_K_S, except Q1_0, Q2_0, TQ1_0, TQ2_0 and Q2_K, need an importance matrix. MXFP4_MOE is for mixtures of experts: \
         everything else becomes Q8_0."
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn words(line: &str) -> Result<QuantizeWords, String> {
        let cli = Cli::try_parse_from(format!("curtail quantize {line}").split(' ')).map_err(|e| e.to_string())?;
        let Command::Quantize(args) = cli.command else { panic!("{cli:?}") };
        args.words()
    }

    #[test]
    fn output_and_threads_may_be_left_out() {
        let target = Target::Type(FileType::Q4_K_M);
        let expected =
            |output: Option<&str>, threads| Ok(QuantizeWords { output: output.map(PathBuf::from), target, threads });
        assert_eq!(words("in.gguf q4_k"), expected(None, None));
        assert_eq!(words("in.gguf Q4_K_M 2"), expected(None, Some(2)));
        assert_eq!(words("in.gguf out.gguf 15"), expected(Some("out.gguf"), None));
        assert_eq!(words("--pure in.gguf out.gguf Q4_K_M 8"), expected(Some("out.gguf"), Some(8)));
        for bad in ["in.gguf", "in.gguf out.gguf", "in.gguf out.gguf Q4_K_M 0", "in.gguf Q4_K_M x", "in.gguf a b c"] {
            assert!(words(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("500M"), Ok(500_000_000));
        assert_eq!(size("2G"), Ok(2_000_000_000));
        for bad in ["", "M", "5", "5K", "-5M", "0G", "5µ", "99999999999999G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
