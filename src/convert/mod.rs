//! A Hugging Face checkpoint to a GGUF file, from safetensors or from PyTorch's pickles, and llama2.c's checkpoints: one plan,
//! driven by a table of architectures (`arch/table.rs`). Owns every check of what such a folder says; refuses to run
//! anything in it, to follow names out of it, and to convert what it does not know to the last tensor.
//!
//! [`Plan::new`] reads everything but the numbers and checks it; [`Plan::write`] streams the numbers, in memory for a few
//! pieces of some megabytes. Of an architecture that llama.cpp has, the file is the one that its `convert_hf_to_gguf.py`
//! writes, byte for byte, but for what is said in [`Plan::notices`] and where that script's files give other token ids or
//! logits than the model's own code.

mod arch;
mod card;
mod checkpoint;
mod element;
mod error;
mod facts;
mod json;
mod llama2c;
mod naming;
mod pickle;
mod read;
mod rope;
mod safetensors;
mod shard;
mod target;
mod torch;
mod vocab;
mod write;

pub use error::Error;
pub use target::OutType;

use std::path::{Path, PathBuf};

use arch::{Arch, Size};
use checkpoint::Tensors;
use facts::Facts;
use json::{Document, Object, shown};
use naming::Parameters;
use read::Kind;
use target::{Output, file_type, place};
use vocab::Vocab;

use crate::dtype::DType;
use crate::files;
use crate::gguf::{Metadata, TensorInfo, Writer};

/// The names in `architectures` of checkpoints that become files of an architecture, the usual one first.
pub fn checkpoints_of(architecture: &str) -> Vec<&'static str> {
    let becomes = arch::ARCHITECTURES.iter().filter(|arch| arch.gguf == architecture);
    becomes.map(|arch| arch.names[0]).collect()
}

/// What the user may choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// The type of large matrices.
    pub outtype: OutType,
    /// `general.name`, instead of what the checkpoint says.
    pub name: Option<String>,
    /// `tokenizer.ggml.pre`, instead of what `tokenizer.json` says.
    pub pre: Option<String>,
    /// The vocabulary of a llama2.c checkpoint (`tokenizer.bin`).
    pub tokenizer: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        Options { outtype: OutType::Auto, name: None, pre: None, tokenizer: None }
    }
}

/// A checkpoint that was read and checked, ready to be written.
#[derive(Debug)]
pub struct Plan {
    metadata: Metadata,
    writer: Writer,
    outputs: Vec<Output>,
    dtype: DType,
    notices: Vec<String>,
}

impl Plan {
    /// Reads a checkpoint: a folder as Hugging Face transformers saves it, or a file of llama2.c.
    pub fn new(path: &Path, options: &Options) -> Result<Plan, Error> {
        if path.is_file() {
            return llama2c::plan(path, options);
        }
        let folder = path.canonicalize().map_err(|e| Error::io(path, "open", e))?;
        if !folder.is_dir() {
            let found = folder.metadata().map_or("something else", |facts| files::kind(&facts));
            return Err(Error::invalid(path, "checkpoint", "a folder, or a file of llama2.c", found));
        }
        let config = Document::need(folder.join("config.json"), Kind::Settings)?;
        let config = config.root();
        check_unquantized(&config)?;
        plan(Arch::of(&config)?, &folder, config, options)
    }

    /// Writes the file: complete, or not at all. `progress` is told how many bytes of tensors are written so far; when it
    /// says `false`, writing ends with [`Error::Interrupted`].
    pub fn write(&self, path: &Path, mut progress: impl FnMut(u64) -> bool) -> Result<(), Error> {
        write::write(path, &self.writer, &self.outputs, &mut progress)
    }

    /// The key-value pairs of the file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors of the file, in its order.
    pub fn tensors(&self) -> &[TensorInfo] {
        self.writer.tensors()
    }

    /// Bytes of all tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors().iter().map(|t| t.bytes as u64).sum()
    }

    /// The type of large matrices.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// What a user should know about this conversion.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    fn build(metadata: Metadata, outputs: Vec<Output>, dtype: DType, notices: Vec<String>) -> Result<Plan, Error> {
        let mut writer = Writer::new(metadata.clone());
        for output in &outputs {
            let dims: Vec<usize> = output.shape.iter().rev().copied().collect();
            writer.tensor(&output.name, &dims, output.dtype)?;
        }
        Ok(Plan { metadata, writer, outputs, dtype, notices })
    }
}

fn plan(arch: &'static Arch, folder: &Path, json: Object, options: &Options) -> Result<Plan, Error> {
    let mut notices = Vec::new();
    let mut text = json.clone();
    if let Some(part) = &arch.part {
        text = json.object(part.config)?.ok_or_else(|| json.error(part.config, "an object", "no such key"))?;
        notices.push(format!("{} is left out: the file is the text model", part.what));
    }
    let facts = Facts::read(arch, text, &mut notices)?;
    let tensors = checkpoint::open(folder)?;
    check_layers(&json, facts.size(Size::Layers), &tensors)?;
    facts.check_members(tensors.len())?;
    let dtype = options.outtype.resolved(&tensors);
    // The checkpoint's own come first to be checked, and last in the file: the others take the sizes that these prove.
    let own = place(folder, &tensors, facts.targets(), dtype, |name| facts.name_of(name))?;
    let mut outputs = facts.extra()?;
    outputs.extend(own);
    let mut meta = Metadata::new();
    meta.insert("general.architecture", arch.gguf);
    facts.write_first(&mut meta)?;
    meta.insert("general.type", "model");
    card::write(folder, options.name.as_deref(), json.clone(), &parameters(&outputs), &mut meta, &mut notices)?;
    facts.write(file_type(dtype), &mut meta)?;
    meta.insert("general.quantization_version", QUANTIZATION_VERSION);
    let n_vocab = facts.size(Size::Vocab);
    Vocab::open(folder, json, n_vocab, options.pre.as_deref(), &mut notices)?.write(&arch.vocabulary, &mut meta)?;
    Plan::build(meta, outputs, dtype, notices)
}

/// `GGML_QNT_VERSION` of ggml.
const QUANTIZATION_VERSION: u32 = 2;

fn general(architecture: &str) -> Metadata {
    let mut meta = Metadata::new();
    meta.insert("general.architecture", architecture);
    meta.insert("general.type", "model");
    meta
}

fn parameters(outputs: &[Output]) -> Parameters {
    let all = outputs.iter().map(Output::elements).sum();
    let is_of_experts = |output: &&Output| output.shape.len() > 2 && output.name.contains("_exps.");
    let counts: Vec<(u64, u64)> =
        outputs.iter().filter(is_of_experts).map(|output| (output.elements(), output.shape[0] as u64)).collect();
    let (elements, one): (u64, u64) =
        counts.iter().fold((0, 0), |(all, one), (elements, n)| (all + elements, one + elements / n));
    let n_expert = counts.iter().map(|(_, n)| n).sum::<u64>().checked_div(counts.len() as u64).unwrap_or(0);
    Parameters { all, n_expert, of_one_expert: all - elements + one }
}

fn check_unquantized(config: &Object) -> Result<(), Error> {
    match config.get("quantization_config") {
        None => Ok(()),
        Some(settings) => {
            let error =
                config.error("quantization_config", "an unquantized checkpoint", shown(&settings["quant_method"]));
            Err(error
                .with_hint("convert the checkpoint that this one was made from, with --outtype q8_0 to save space"))
        }
    }
}

/// Tensors that the smallest layer has.
const LAYER_TENSORS: usize = 6;

/// So many layers take no memory worth a word; what they lack is said by name.
const FEW_LAYERS: usize = 1000;

/// Refuses a number of layers that would take more memory to list than the checkpoint has tensors.
fn check_layers(config: &Object, n_layer: usize, tensors: &Tensors) -> Result<(), Error> {
    let most = (tensors.len() / LAYER_TENSORS).max(FEW_LAYERS).min(tensors.len());
    if n_layer > most {
        let expected = format!("no more layers than the {} tensors of the checkpoint make", tensors.len());
        return Err(config.error("num_hidden_layers", expected, n_layer));
    }
    Ok(())
}
