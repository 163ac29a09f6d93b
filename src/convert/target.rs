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
    /// Where it is one of several that become one tensor.
    member: Option<Member>,
}

/// One of the tensors that become one: matrices of experts, norms of heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    /// The layer: its tensors of this kind come when the last of them is there.
    layer: usize,
    /// Its place among them.
    index: usize,
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
    /// Some of each group of rows, then some others.
    Picked(Picked),
    /// The columns of each matrix, each so-manieth from one on: some checkpoints have matrices the other way round.
    Columns(Stride),
    /// Its elements, each so-manieth from one on.
    Elements(Stride),
}

/// Each so-manieth of something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stride {
    pub(super) first: usize,
    pub(super) step: usize,
}

/// Rows taken out of groups, as heads of queries, keys and values lie in one tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Picked {
    /// One after the other; those of no rows count for nothing.
    pub(super) picks: [Pick; 3],
    /// Rows of a group.
    pub(super) group: usize,
    /// Rows of a head whose halves are interleaved, if they are.
    pub(super) interleaved: Option<usize>,
}

/// Rows of each group.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pick {
    pub(super) start: usize,
    pub(super) len: usize,
}

impl Picked {
    /// Rows taken of each group.
    fn len(&self) -> usize {
        self.picks.iter().map(|pick| pick.len).sum()
    }

    /// Rows of the output, of `n` rows of the source.
    pub(super) fn n_rows(&self, n: usize) -> usize {
        n / self.group * self.len()
    }

    /// Where a row of the output lies among the `n` of the source, and how many rows behind it lie there side by side.
    pub(super) fn source_row(&self, n: usize, mut row: usize) -> (usize, usize) {
        let n_groups = n / self.group;
        for pick in self.picks {
            if row < n_groups * pick.len {
                let (group, within) = (row / pick.len, row % pick.len);
                return (group * self.group + pick.start + within, pick.len - within);
            }
            row -= n_groups * pick.len;
        }
        unreachable!("the output has as many rows as were picked")
    }
}

impl Rows {
    /// The shape of the output.
    fn shape(self, source: &[usize]) -> Vec<usize> {
        let mut shape = source.to_vec();
        match (self, &mut shape[..]) {
            (Rows::Picked(picked), [.., rows, _] | [rows]) => *rows = *rows / picked.group * picked.len(),
            (Rows::Columns(stride), [.., rows, columns]) => (*rows, *columns) = (*columns / stride.step, *rows),
            (Rows::Elements(stride), [.., last]) => *last /= stride.step,
            _ => {}
        }
        shape
    }
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
        let missing = Missing::Error("");
        Target { to: Some(to.into()), shape: shape.to_vec(), rows: Rows::All, offset: 0.0, missing, member: None }
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
    pub(super) fn head(to: impl Into<String>, shape: &[usize]) -> Target {
        const HINT: &str = "if this model's head is its embedding, `config.json` lost that: put `\"tie_word_embeddings\": true` into it";
        Target { missing: Missing::Error(HINT), ..Target::new(to, shape) }
    }

    pub(super) fn rows(self, rows: Rows) -> Target {
        Target { rows, ..self }
    }

    pub(super) fn plus(self, offset: f32) -> Target {
        Target { offset, ..self }
    }

    /// One of the tensors of a layer that become one.
    pub(super) fn member(self, layer: usize, index: usize) -> Target {
        Target { member: Some(Member { layer, index }), ..self }
    }
}

/// What becomes of each tensor by its name in the checkpoint: in most cases one tensor.
pub(super) type Targets = IndexMap<String, Vec<Target>>;

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
        /// One below the other, all of one shape.
        sources: Vec<Source>,
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

/// What keeps all its bits: norms, positions, and what tells experts apart.
const KEPT: [&str; 3] = ["_norm.weight", "position_embd.weight", "ffn_gate_inp.weight"];

/// The type of one tensor: vectors, norms and positions stay in F32, and rows that are no whole blocks become F16.
pub(super) fn dtype_of(name: &str, shape: &[usize], wanted: DType) -> DType {
    debug_assert!(is_target(wanted));
    let is_matrix = shape.len() > 1 && name.ends_with(".weight");
    if !is_matrix || KEPT.iter().any(|end| name.ends_with(end)) {
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
    let mut together = Together::of(&targets);
    for (name, source) in tensors {
        let Some(key) = name_of(name) else { continue };
        let path = source.shard.path();
        let Some(all) = targets.shift_remove(&*key) else {
            let expected = "only tensors that `config.json` tells of";
            return Err(Error::invalid(path, "tensors", expected, format_args!("`{name}` {:?}", source.shape)));
        };
        for target in all {
            if source.shape != target.shape {
                let field = format_args!("shape of tensor `{name}`");
                return Err(Error::invalid(
                    path,
                    field,
                    format_args!("{:?}", target.shape),
                    format_args!("{:?}", source.shape),
                ));
            }
            match target.member {
                Some(member) => outputs.extend(together.add(member, name, source, target, wanted)),
                None => outputs.extend(output(name, vec![source.clone()], target, wanted)),
            }
        }
    }
    for (name, target) in targets.into_iter().flat_map(|(name, all)| all.into_iter().map(move |t| (name.clone(), t))) {
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

/// Tensors that become one, as they come, by layer.
struct Together {
    layers: IndexMap<usize, Waiting>,
}

/// Those of a layer.
#[derive(Default)]
struct Waiting {
    /// How many are still to come.
    n_missing: usize,
    /// What came, by name of the output.
    outputs: IndexMap<String, Vec<Option<Source>>>,
}

impl Together {
    fn of(targets: &Targets) -> Together {
        let mut layers = IndexMap::<usize, Waiting>::new();
        for target in targets.values().flatten() {
            if let (Some(member), Some(to)) = (target.member, &target.to) {
                let waiting = layers.entry(member.layer).or_default();
                waiting.n_missing += 1;
                waiting.outputs.entry(to.clone()).or_default().push(None);
            }
        }
        Together { layers }
    }

    /// All outputs of the layer, once the last of their parts is there.
    fn add(&mut self, member: Member, from: &str, source: &Source, target: Target, wanted: DType) -> Vec<Output> {
        let Waiting { n_missing, outputs } = self.layers.get_mut(&member.layer).expect("all members were counted");
        let to = target.to.clone().expect("members have a place to go to");
        outputs.get_mut(&to).expect("all outputs were counted")[member.index] = Some(source.clone());
        *n_missing -= 1;
        if *n_missing > 0 {
            return Vec::new();
        }
        let all = std::mem::take(outputs).into_iter().filter_map(|(to, sources)| {
            let sources: Option<Vec<Source>> = sources.into_iter().collect();
            output(from, sources?, Target { to: Some(to), ..target.clone() }, wanted)
        });
        all.collect()
    }
}

/// A tensor of one of the checkpoint, or of several of one shape.
fn output(from: &str, mut sources: Vec<Source>, target: Target, wanted: DType) -> Option<Output> {
    let name = target.to?;
    if let Rows::Skip(n) = target.rows {
        sources = sources.into_iter().map(|source| source.without_rows(n)).collect();
    }
    let mut shape = target.rows.shape(&sources[0].shape);
    if target.member.is_some() {
        shape.insert(0, sources.len());
    }
    let dtype = dtype_of(&name, &shape, wanted);
    let data = Data::Stored { sources, rows: target.rows, offset: target.offset };
    Some(Output { name, from: from.to_owned(), shape, dtype, data })
}
