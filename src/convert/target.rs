//! Owns the way from a checkpoint's tensors to a GGUF file's: which name becomes which, in which shape. Refuses tensors
//! that nobody asked for, missing ones, and other shapes than the configuration says.

use std::borrow::Cow;
use std::path::Path;

use indexmap::IndexMap;

use super::Error;
use super::checkpoint::Tensors;
use super::element::{Element, is_target};
use super::shard::Source;
use crate::dtype::DType;

/// What becomes of a tensor of the checkpoint.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The name in the GGUF file; `None` for a tensor that is dropped.
    to: Option<String>,
    /// The shape in the checkpoint, the last dimension innermost.
    shape: Vec<usize>,
    rows: Rows,
    /// What is added to every number.
    offset: f32,
    missing: Missing,
}

/// Which rows of a tensor are written, in which order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rows {
    /// All, as they are.
    All,
    /// Without the first ones.
    Skip(usize),
    /// The rows of each head: those of its two halves by turns. Transformers rotates row i of a head with row i + half;
    /// GGUF's llama has the two as neighbours.
    Interleaved {
        /// Rows of a head.
        head_dim: usize,
    },
}

/// What a missing tensor is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Missing {
    /// An error, with a hint where there is one.
    Error(&'static str),
    Fine,
    /// It is written all the same, of one number.
    Filled(f32),
}

impl Target {
    /// A tensor that must be there.
    pub(super) fn new(to: impl Into<String>, shape: &[usize]) -> Target {
        Target { to: Some(to.into()), shape: shape.to_vec(), rows: Rows::All, offset: 0.0, missing: Missing::Error("") }
    }

    /// A tensor that may be there and is not needed.
    pub(super) fn dropped(shape: &[usize]) -> Target {
        Target { to: None, missing: Missing::Fine, ..Target::new("", shape) }
    }

    /// A tensor that no checkpoint has and a GGUF file does.
    pub(super) fn filled(to: impl Into<String>, shape: &[usize], value: f32) -> Target {
        Target { missing: Missing::Filled(value), ..Target::new(to, shape) }
    }

    /// The head, which a checkpoint lacks where the embedding stands for it and its configuration does not say so.
    pub(super) fn head(shape: &[usize]) -> Target {
        const HINT: &str = "if this model's head is its embedding, `config.json` lost that: put `\"tie_word_embeddings\": true` into it";
        Target { missing: Missing::Error(HINT), ..Target::new("output.weight", shape) }
    }

    pub(super) fn rows(self, rows: Rows) -> Target {
        Target { rows, ..self }
    }

    pub(super) fn plus(self, offset: f32) -> Target {
        Target { offset, ..self }
    }
}

/// All tensors by their names in the checkpoint.
pub(super) type Targets = IndexMap<String, Target>;

/// A tensor of the GGUF file.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) name: String,
    /// The name in the checkpoint.
    pub(super) from: String,
    /// The last dimension innermost.
    pub(super) shape: Vec<usize>,
    pub(super) dtype: DType,
    pub(super) data: Data,
}

/// Where the numbers of a tensor come from.
#[derive(Debug)]
pub(super) enum Data {
    Stored {
        source: Source,
        rows: Rows,
        /// What is added to every number.
        offset: f32,
    },
    /// Signed bytes in groups, each with a scale: llama2.c's version 2.
    Grouped {
        values: Source,
        scales: Source,
    },
    Made(Vec<f32>),
}

impl Output {
    pub(super) fn made(name: impl Into<String>, values: Vec<f32>) -> Output {
        let name = name.into();
        Output { from: name.clone(), name, shape: vec![values.len()], dtype: DType::F32, data: Data::Made(values) }
    }

    pub(super) fn elements(&self) -> u64 {
        self.shape.iter().map(|&d| d as u64).product()
    }
}

/// The element type that large matrices are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// bfloat16.
    Bf16,
    /// Blocks of 32 with 8 bits each and a scale.
    Q8_0,
    /// bfloat16 for checkpoints in it, 16-bit floats for others.
    Auto,
}

impl OutType {
    /// The type that `Auto` stands for: the first matrix of a 16-bit type says it.
    pub(super) fn resolved(self, tensors: &Tensors) -> DType {
        let halves = |s: &&Source| s.shape.len() >= 2 && matches!(s.element, Element::F16 | Element::Bf16);
        match self {
            OutType::F32 => DType::F32,
            OutType::F16 => DType::F16,
            OutType::Bf16 => DType::BF16,
            OutType::Q8_0 => DType::Q8_0,
            OutType::Auto => match tensors.values().find(halves).map(|s| s.element) {
                Some(Element::Bf16) => DType::BF16,
                _ => DType::F16,
            },
        }
    }
}

/// The value of `general.file_type` for a type: `llama_ftype` of llama.cpp.
pub(super) fn file_type(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Q8_0 => 7,
        DType::BF16 => 32,
        other => unreachable!("no file is written in {other}"),
    }
}

/// The type of one tensor: vectors, norms and positions stay in F32, and rows that are no whole blocks become F16.
pub(super) fn dtype_of(name: &str, shape: &[usize], wanted: DType) -> DType {
    debug_assert!(is_target(wanted));
    let is_matrix = shape.len() > 1 && name.ends_with(".weight");
    if !is_matrix || name.ends_with("_norm.weight") || name == "position_embd.weight" {
        return DType::F32;
    }
    let row = shape.last().copied().unwrap_or(0);
    if row.is_multiple_of(wanted.block_len()) { wanted } else { DType::F16 }
}

/// Gives each tensor of the checkpoint its place, in the checkpoint's order; what is filled comes last. `name_of` is a
/// tensor's name in `targets`, `None` for one to pass over.
pub(super) fn place<'n>(
    folder: &Path,
    tensors: &'n Tensors,
    mut targets: Targets,
    wanted: DType,
    name_of: impl Fn(&'n str) -> Option<Cow<'n, str>>,
) -> Result<Vec<Output>, Error> {
    let mut outputs = Vec::with_capacity(targets.len());
    for (name, source) in tensors {
        let Some(key) = name_of(name) else { continue };
        let path = source.shard.path();
        let Some(target) = targets.shift_remove(&*key) else {
            let expected = "only tensors that `config.json` tells of";
            return Err(Error::invalid(path, "tensors", expected, format_args!("`{name}` {:?}", source.shape)));
        };
        if source.shape != target.shape {
            let field = format_args!("shape of tensor `{name}`");
            return Err(Error::invalid(
                path,
                field,
                format_args!("{:?}", target.shape),
                format_args!("{:?}", source.shape),
            ));
        }
        outputs.extend(output(name, source, target, wanted));
    }
    for (name, target) in targets {
        match target.missing {
            Missing::Fine => {}
            Missing::Error(hint) => {
                let expected = format_args!("`{name}` {:?}", target.shape);
                return Err(Error::invalid(folder, "tensors", expected, "no such tensor").with_hint(hint));
            }
            Missing::Filled(value) => {
                let to = target.to.unwrap_or(name);
                outputs.push(Output::made(to, vec![value; target.shape.iter().product()]));
            }
        }
    }
    Ok(outputs)
}

fn output(from: &str, source: &Source, target: Target, wanted: DType) -> Option<Output> {
    let name = target.to?;
    let source = match target.rows {
        Rows::Skip(n) => source.clone().without_rows(n),
        _ => source.clone(),
    };
    let shape = source.shape.clone();
    let dtype = dtype_of(&name, &shape, wanted);
    let data = Data::Stored { source, rows: target.rows, offset: target.offset };
    Some(Output { name, from: from.to_owned(), shape, dtype, data })
}
