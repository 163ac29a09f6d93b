//! Owns the plan: which tensor of a model becomes which type, in which order they come, and what the metadata says then.

use std::collections::{BTreeSet, HashMap};

use super::mix::{Mix, Model, Seen, fall_back, layer_of};
use super::tensor_role::{Kind, PER_LAYER_EMBEDDING, is_quantizable};
use super::{Error, FileType, Imatrix, Override, Target, TensorType};
use crate::dtype::DType;
use crate::ggml;
use crate::gguf::{Metadata, TensorInfo, Value};

/// What the user wishes.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file type.
    pub target: Target,
    /// Tensors that are quantized already may be quantized again.
    pub allow_requantize: bool,
    /// `output.weight` stays as it is.
    pub leave_output: bool,
    /// No mix: every tensor gets the type that the mix starts from.
    pub pure: bool,
    /// The type of `output.weight`.
    pub output_type: Option<DType>,
    /// The type of the token embedding.
    pub embedding_type: Option<DType>,
    /// Types of tensors whose name matches; the first match counts, before any mix.
    pub tensor_types: Vec<TensorType>,
    /// Layers to leave out; those behind them move up.
    pub prune_layers: Vec<usize>,
    /// Keys to set in the metadata.
    pub overrides: Vec<Override>,
    /// Tensors stay in the order of the input's parts, instead of being sorted by layer and name.
    pub keep_order: bool,
}

impl Options {
    /// No wishes but the file type.
    pub fn new(target: Target) -> Options {
        Options {
            target,
            allow_requantize: false,
            leave_output: false,
            pure: false,
            output_type: None,
            embedding_type: None,
            tensor_types: Vec::new(),
            prune_layers: Vec::new(),
            overrides: Vec::new(),
            keep_order: false,
        }
    }
}

/// One tensor of the new file.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The tensor of the input, under its new name.
    pub tensor: TensorInfo,
    /// Its name in the input, and in the importance matrix.
    pub source_name: String,
    /// Its new type.
    pub to: DType,
    /// The type that its rows were too odd for.
    pub fell_back_from: Option<DType>,
    /// It needs the importance of its columns to be of any use, and there is no matrix at all.
    pub lacks_imatrix: bool,
    /// The importance matrix has an entry that fits it.
    pub has_importance: bool,
}

impl Planned {
    /// Whether the data changes.
    pub fn is_changed(&self) -> bool {
        self.tensor.dtype != self.to
    }

    /// Bytes of the new data.
    pub fn bytes(&self) -> usize {
        let row = self.to.row_bytes(self.tensor.shape[0]).expect("the plan has checked the rows");
        row * self.tensor.shape[1..].iter().product::<usize>()
    }
}

/// What becomes of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The metadata of the new file, without that of parts.
    pub metadata: Metadata,
    /// The tensors in their new order.
    pub tensors: Vec<Planned>,
}

impl Plan {
    /// Decides. Refuses what could not be carried out, except the lack of any importance matrix, which
    /// [`Plan::need_imatrix`] refuses: the sizes are known without one.
    pub fn new(
        metadata: &Metadata,
        tensors: &[TensorInfo],
        options: &Options,
        imatrix: Option<&Imatrix>,
    ) -> Result<Plan, Error> {
        let imatrix = imatrix.filter(|imatrix| !imatrix.is_empty());
        let mut metadata = new_metadata(metadata, tensors, options, imatrix);
        let model = Model::of(&metadata)?;
        let mut tensors: Vec<Source> = in_order(tensors).into_iter().map(Source::of).collect();
        if !options.prune_layers.is_empty() {
            let n_layer = prune(&mut tensors, &options.prune_layers)?;
            set_last(&mut metadata, &format!("{}.block_count", model.architecture), n_layer as u32);
        }
        if options.keep_order {
            tensors.sort_by_key(|t| t.tensor.place());
        }
        let kinds: Vec<Kind> = tensors.iter().map(|t| Kind::of(&t.tensor.name)).collect();
        let count = |kind| kinds.iter().filter(|&&k| k == kind).count();
        let mut chooser = Chooser {
            options,
            mix: Mix {
                model: &model,
                file_type: file_type(options.target),
                has_imatrix: imatrix.is_some(),
                is_tied: count(Kind::Output) == 0,
                output_type: options.output_type,
                n_attention_v: count(Kind::AttentionV),
                seen: Seen::default(),
            },
            imatrix,
        };
        let planned: Result<Vec<_>, _> =
            tensors.into_iter().zip(&kinds).map(|(t, &kind)| chooser.plan(t, kind)).collect();
        let plan = Plan { metadata, tensors: planned? };
        plan.check_imatrix(imatrix)?;
        Ok(plan)
    }

    /// Refuses a plan whose result would be garbage without an importance matrix.
    pub fn need_imatrix(&self) -> Result<(), Error> {
        match self.tensors.iter().find(|t| t.lacks_imatrix) {
            Some(t) => Err(Error::NeedsImatrix { tensor: t.tensor.name.clone(), to: t.to, given: false }),
            None => Ok(()),
        }
    }

    /// The tensors that change and that the importance matrix could have known, but does not.
    pub fn without_importance(&self) -> impl Iterator<Item = &Planned> {
        self.tensors.iter().filter(|t| t.is_changed() && !t.has_importance && is_multiplied(t))
    }

    fn check_imatrix(&self, imatrix: Option<&Imatrix>) -> Result<(), Error> {
        let n = self.tensors.iter().filter(|t| t.is_changed() && is_multiplied(t)).count();
        if imatrix.is_some() && n > 0 && self.without_importance().count() == n {
            return Err(Error::ForeignImatrix(n));
        }
        Ok(())
    }
}

/// The embedding and the head are no entries of most matrices.
fn is_multiplied(t: &Planned) -> bool {
    !matches!(Kind::of(&t.tensor.name), Kind::Embedding | Kind::Output)
}

fn file_type(target: Target) -> FileType {
    match target {
        Target::Type(file_type) => file_type,
        Target::Copy => FileType::F32,
    }
}

/// The tensors as llama.cpp writes them: what belongs to no layer, then layer by layer, by name.
fn in_order(tensors: &[TensorInfo]) -> Vec<TensorInfo> {
    let mut sorted = tensors.to_vec();
    sorted.sort_by(|a, b| (layer_of(&a.name), &a.name).cmp(&(layer_of(&b.name), &b.name)));
    sorted
}

/// A tensor with its name in the input.
struct Source {
    tensor: TensorInfo,
    name: String,
}

impl Source {
    fn of(tensor: TensorInfo) -> Source {
        Source { name: tensor.name.clone(), tensor }
    }
}

/// Takes out layers and gives the ones behind them the numbers that got free; returns how many are left.
fn prune(tensors: &mut Vec<Source>, layers: &[usize]) -> Result<usize, Error> {
    let present: BTreeSet<usize> = tensors.iter().filter_map(|t| layer_of(&t.name)).collect();
    if let Some(&layer) = layers.iter().find(|layer| !present.contains(layer)) {
        return Err(Error::NoSuchLayer { layer, n_layer: present.len() });
    }
    let left: Vec<usize> = present.into_iter().filter(|layer| !layers.contains(layer)).collect();
    tensors.retain(|t| layer_of(&t.name).is_none_or(|layer| left.contains(&layer)));
    for t in tensors {
        let number = layer_of(&t.name).and_then(|layer| left.iter().position(|&l| l == layer));
        let rest = t.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        if let (Some(number), Some((_, rest))) = (number, rest) {
            t.tensor.name = format!("blk.{number}.{rest}");
        }
    }
    Ok(left.len())
}

/// Chooses types, tensor by tensor.
struct Chooser<'a> {
    options: &'a Options,
    mix: Mix<'a>,
    imatrix: Option<&'a Imatrix>,
}

impl Chooser<'_> {
    fn plan(&mut self, source: Source, kind: Kind) -> Result<Planned, Error> {
        let Source { tensor, name: source_name } = source;
        let (to, fell_back_from) = self.choose(&tensor, kind)?;
        let mut planned =
            Planned { tensor, source_name, to, fell_back_from, lacks_imatrix: false, has_importance: false };
        if planned.is_changed() {
            check_source(&planned, self.options.allow_requantize)?;
            planned.has_importance = self.has_importance(&planned, kind)?;
            planned.lacks_imatrix = self.lacks_imatrix(&planned, kind)?;
        }
        Ok(planned)
    }

    /// The new type, and the one that its rows were too odd for.
    fn choose(&mut self, tensor: &TensorInfo, kind: Kind) -> Result<(DType, Option<DType>), Error> {
        let options = self.options;
        let is_kept = options.target == Target::Copy || (options.leave_output && kind == Kind::Output);
        if is_kept || !is_quantizable(&self.mix.model.architecture, tensor) {
            return Ok((tensor.dtype, None));
        }
        let named = options.tensor_types.iter().find(|wish| wish.name.is_match(&tensor.name)).map(|wish| wish.to);
        let wished = match kind {
            Kind::Embedding if tensor.name == PER_LAYER_EMBEDDING && named.is_some() => None,
            Kind::Embedding => options.embedding_type,
            Kind::Output => options.output_type,
            _ => None,
        };
        if let Some(to) = wished {
            return fitting(tensor, to).map(|to| (to, None));
        }
        let base = self.mix.file_type.base();
        if !base.is_quantized() {
            return Ok((base, None));
        }
        let chosen = match named {
            Some(to) => to,
            None if options.pure => base,
            None => self.mix.choose(tensor, kind)?,
        };
        let to = fall_back(tensor, chosen)?;
        Ok((to, (to != chosen).then_some(chosen)))
    }

    /// Whether the matrix knows the tensor's columns. An entry of another size is another model's, except of an embedding,
    /// whose rows are picked and not multiplied.
    fn has_importance(&self, planned: &Planned, kind: Kind) -> Result<bool, Error> {
        let tensor = &planned.tensor;
        let Some(importance) = self.imatrix.and_then(|imatrix| imatrix.get(&planned.source_name)) else {
            return Ok(false);
        };
        let (expected, found) = (tensor.shape[0] * tensor.shape[2], importance.len());
        if expected == found || kind == Kind::Embedding {
            return Ok(expected == found);
        }
        Err(Error::ImatrixSize { tensor: tensor.name.clone(), expected, found })
    }

    fn lacks_imatrix(&self, planned: &Planned, kind: Kind) -> Result<bool, Error> {
        use DType::*;
        // The embedding and the head are exempt where ggml can do without.
        let is_exempt = matches!(kind, Kind::Embedding | Kind::Output) && !ggml::needs_importance(planned.to);
        let needs = match planned.to {
            IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS => true,
            Q2_K => self.mix.file_type == FileType::Q2_K_S,
            _ => false,
        };
        if planned.has_importance || is_exempt || !needs {
            return Ok(false);
        }
        if self.imatrix.is_some() {
            return Err(Error::NeedsImatrix { tensor: planned.tensor.name.clone(), to: planned.to, given: true });
        }
        Ok(true)
    }
}

fn fitting(tensor: &TensorInfo, to: DType) -> Result<DType, Error> {
    let row = tensor.shape[0];
    let fits = row.is_multiple_of(to.block_len());
    if fits { Ok(to) } else { Err(Error::Row { tensor: tensor.name.clone(), to, row }) }
}

fn check_source(planned: &Planned, allow_requantize: bool) -> Result<(), Error> {
    let (tensor, from) = (planned.tensor.name.clone(), planned.tensor.dtype);
    if !ggml::can_dequantize(from) {
        return Err(Error::NoNumbers { tensor, from });
    }
    if from.is_quantized() && !allow_requantize {
        return Err(Error::Requantize { tensor, from });
    }
    Ok(())
}

/// The input's pairs, with what changes behind them in llama.cpp's order.
fn new_metadata(metadata: &Metadata, tensors: &[TensorInfo], options: &Options, imatrix: Option<&Imatrix>) -> Metadata {
    const FORMAT_VERSION: u32 = 2; // of the blocks of quantized types
    let mut new = metadata.clone();
    let file_type = match options.target {
        Target::Type(file_type) => file_type.id(),
        Target::Copy => own_file_type(metadata, tensors),
    };
    set_last(&mut new, "general.quantization_version", FORMAT_VERSION);
    set_last(&mut new, "general.file_type", file_type);
    for key in ["split.no", "split.count", "split.tensors.count"] {
        new.remove(key);
    }
    for wish in &options.overrides {
        set_last(&mut new, &wish.key, wish.value.clone());
    }
    if let Some(imatrix) = imatrix {
        set_last(&mut new, "quantize.imatrix.file", shortened(&imatrix.path().to_string_lossy()));
        if let Some(dataset) = imatrix.dataset() {
            set_last(&mut new, "quantize.imatrix.dataset", shortened(dataset));
        }
        set_last(&mut new, "quantize.imatrix.entries_count", imatrix.len() as u32);
        if imatrix.n_chunks() > 0 {
            set_last(&mut new, "quantize.imatrix.chunks_count", imatrix.n_chunks());
        }
    }
    new
}

/// A file's own type; of one that names none, what most of its tensors have, marked as a guess.
fn own_file_type(metadata: &Metadata, tensors: &[TensorInfo]) -> u32 {
    const GUESSED: u32 = 1024;
    if let Ok(Some(named)) = metadata.u32("general.file_type") {
        return named;
    }
    let mut counts: HashMap<DType, usize> = HashMap::new();
    let mut most = (DType::F32, 0);
    for t in in_order(tensors) {
        let n = counts.entry(t.dtype).or_default();
        *n += 1;
        // Of equals the one that was there first.
        if *n > most.1 {
            most = (t.dtype, *n);
        }
    }
    FileType::guess(most.0) | GUESSED
}

fn set_last(metadata: &mut Metadata, key: &str, value: impl Into<Value>) {
    metadata.remove(key);
    metadata.insert(key, value);
}

/// llama.cpp keeps no longer texts in these keys.
fn shortened(text: &str) -> &str {
    const MAX_BYTES: usize = 127;
    let end = (0..=MAX_BYTES.min(text.len())).rev().find(|&i| text.is_char_boundary(i));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Writer;

    /// The tensors of Llama-3.1-8B.
    fn llama_8b() -> (Metadata, Vec<TensorInfo>) {
        let mut metadata = Metadata::new();
        metadata.insert("general.architecture", "llama");
        metadata.insert("llama.block_count", 32u32);
        metadata.insert("llama.attention.head_count", 32u32);
        metadata.insert("llama.attention.head_count_kv", 8u32);
        let mut writer = Writer::new(Metadata::new());
        let mut add = |name: String, dims: &[usize]| {
            writer.tensor(&name, dims, if dims.len() > 1 { DType::F16 } else { DType::F32 }).unwrap();
        };
        add("token_embd.weight".into(), &[4096, 128_256]);
        add("output.weight".into(), &[4096, 128_256]);
        add("output_norm.weight".into(), &[4096]);
        add("rope_freqs.weight".into(), &[64]);
        for il in 0..32 {
            for (part, dims) in [
                ("attn_norm", &[4096][..]),
                ("attn_q", &[4096, 4096]),
                ("attn_k", &[4096, 1024]),
                ("attn_v", &[4096, 1024]),
                ("attn_output", &[4096, 4096]),
                ("ffn_norm", &[4096]),
                ("ffn_gate", &[4096, 14_336]),
                ("ffn_up", &[4096, 14_336]),
                ("ffn_down", &[14_336, 4096]),
            ] {
                add(format!("blk.{il}.{part}.weight"), dims);
            }
        }
        (metadata, writer.tensors().to_vec())
    }

    #[test]
    fn the_bits_that_help_shows_are_those_of_llama_8b() {
        let (metadata, tensors) = llama_8b();
        let imatrix = Imatrix::of(tensors.iter().map(|t| (t.name.clone(), vec![1.0; t.shape[0]])));
        let elements: usize = tensors.iter().map(TensorInfo::elements).sum();
        for &file_type in FileType::ALL {
            let plan = Plan::new(&metadata, &tensors, &Options::new(Target::Type(file_type)), Some(&imatrix)).unwrap();
            let bytes: usize = plan.tensors.iter().map(Planned::bytes).sum();
            let bits = bytes as f64 * 8.0 / elements as f64;
            let shown = file_type.bits_per_weight();
            assert!((bits - shown).abs() < 0.0051, "{}: {bits:.4}, shown as {shown}", file_type.name());
        }
        assert!(FileType::ALL.is_sorted_by(|a, b| a.bits_per_weight() <= b.bits_per_weight()));
    }

    #[test]
    fn layers_behind_pruned_ones_move_up() {
        let (metadata, tensors) = llama_8b();
        let mut options = Options::new(Target::Copy);
        options.prune_layers = vec![3, 30, 4];
        let plan = Plan::new(&metadata, &tensors, &options, None).unwrap();
        assert_eq!(plan.metadata.u32("llama.block_count").unwrap(), Some(29));
        let source = |name: &str| plan.tensors.iter().find(|t| t.tensor.name == name).map(|t| t.source_name.as_str());
        assert_eq!(source("blk.2.attn_q.weight"), Some("blk.2.attn_q.weight"));
        assert_eq!(source("blk.3.attn_q.weight"), Some("blk.5.attn_q.weight"));
        assert_eq!(source("blk.28.attn_q.weight"), Some("blk.31.attn_q.weight"));
        assert_eq!(source("blk.29.attn_q.weight"), None);
        assert_eq!(plan.tensors.len(), tensors.len() - 27);
        options.prune_layers = vec![32];
        let refused = Plan::new(&metadata, &tensors, &options, None).unwrap_err();
        assert_eq!(refused.to_string(), "layer 32: expected one of the 32 of this model");
    }
}
