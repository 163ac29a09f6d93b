//! Owns what an architecture of Hugging Face transformers is, as data: where `config.json` has its sizes, what else must hold
//! there, which tensor becomes which, which keys a GGUF file gets. Refuses names that have no entry in [`ARCHITECTURES`].

mod experts;
mod learned;
mod parallel;
mod parts;
mod table;

use super::Error;
use super::json::Object;
use super::vocab::Rules;

/// All, the most common first.
pub(super) static ARCHITECTURES: [Arch; 26] = [
    table::LLAMA,
    table::MISTRAL,
    table::QWEN2,
    table::QWEN3,
    table::GEMMA3,
    table::GEMMA3_IMAGES,
    table::GEMMA2,
    table::PHI3,
    experts::MIXTRAL,
    experts::QWEN3MOE,
    experts::GPT_OSS,
    table::SMOLLM3,
    table::GRANITE,
    experts::GRANITEMOE,
    table::OLMO2,
    table::GLM4,
    parallel::COMMAND_R,
    parallel::COHERE2,
    table::STARCODER2,
    table::INTERNLM2,
    parallel::STABLELM,
    parallel::FALCON,
    parallel::PHI2,
    parallel::GPTNEOX,
    learned::GPT2,
    learned::OPT,
];

/// One architecture.
#[derive(Debug)]
pub(super) struct Arch {
    /// Its names in `architectures`.
    pub(super) names: &'static [&'static str],
    /// `general.architecture`.
    pub(super) gguf: &'static str,
    /// Its sizes, each after those that it may be made of.
    pub(super) sizes: &'static [&'static [Field]],
    /// Its settings that are true or false: key, and what holds without it.
    pub(super) flags: &'static [(Flag, &'static str, bool)],
    pub(super) checks: &'static [Check],
    /// How positions become angles; `None` where they have embeddings.
    pub(super) rope: Option<Ropes>,
    pub(super) window: Window,
    /// Where the text model is, in a checkpoint of more than that.
    pub(super) part: Option<Part>,
    /// Names that begin with the second of these may have the first in front of it.
    pub(super) lead: Option<(&'static str, &'static str)>,
    /// Tensors with such ends of names are no weights: they are passed over.
    pub(super) passed_over: &'static [&'static str],
    /// Tensors before the layers, in each layer, behind them.
    pub(super) first: &'static [Row],
    pub(super) layer: &'static [&'static [Row]],
    pub(super) last: &'static [Row],
    /// The keys of the GGUF file, in its order.
    pub(super) keys: &'static [&'static [Key]],
    pub(super) vocabulary: Rules,
}

/// A text model beside others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// The key of `config.json` that holds its configuration.
    pub(super) config: &'static str,
    /// What the names of its tensors have in them besides.
    pub(super) infix: &'static str,
    /// What the names of other tensors have in them: these are left out.
    pub(super) others: &'static [&'static str],
    /// The others in words.
    pub(super) what: &'static str,
}

/// What sizes of tensors and values of keys are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Vocab,
    Layers,
    /// Width of the hidden state.
    Embd,
    /// Width of the token embedding.
    Word,
    FeedForward,
    Heads,
    KvHeads,
    HeadDim,
    Context,
    /// Rows of the embedding of positions.
    Positions,
    /// All query heads together.
    Q,
    /// All key heads together.
    Kv,
    /// Keys and values.
    TwoKv,
    /// Queries, keys and values.
    Qkv,
    /// Gate and up.
    GateUp,
    /// Feed-forward networks of a layer.
    Experts,
    /// Those that a token takes.
    ExpertsUsed,
}

impl Size {
    /// How many there are.
    pub(super) const COUNT: usize = Size::ExpertsUsed as usize + 1;
}

/// Where a size is found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) size: Size,
    /// The key of `config.json`; empty for a size that is always made of others.
    pub(super) key: &'static str,
    pub(super) absent: Otherwise,
    /// What `null` stands for.
    pub(super) null: Otherwise,
    /// It is 1, whatever the configuration says, if the first of these settings is true and the second is not.
    pub(super) single: Option<(&'static str, &'static str)>,
}

/// What a size is that the configuration does not name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Otherwise {
    /// An error.
    Needed,
    Is(usize),
    Same(Size),
    Product(Size, Size),
    Quotient(Size, Size),
    Sum(Size, usize),
    Times(Size, usize),
    Both(Size, Size),
}

impl Field {
    const fn need(size: Size, key: &'static str) -> Field {
        Field::or(size, key, Otherwise::Needed)
    }

    const fn or(size: Size, key: &'static str, otherwise: Otherwise) -> Field {
        Field { size, key, absent: otherwise, null: otherwise, single: None }
    }

    const fn null(self, null: Otherwise) -> Field {
        Field { null, ..self }
    }

    const fn single(self, settings: (&'static str, &'static str)) -> Field {
        Field { single: Some(settings), ..self }
    }

    const fn made(size: Size, of: Otherwise) -> Field {
        Field::or(size, "", of)
    }
}

/// A setting that is true or false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    /// Whether the embedding is the head.
    Tied,
    AttentionBias,
    MlpBias,
    /// Whether norms come before the halves of a layer.
    NormBefore,
    /// Whether the norm before the head was taken away.
    NoFinalNorm,
    /// Whether every matrix has a bias.
    Biases,
    /// Whether norms have weights.
    NormWeights,
    /// Whether the halves of a layer take one hidden state.
    Parallel,
    /// Whether queries and keys are normed.
    HeadNorms,
    /// Whether each half of a layer has a norm of its own.
    TwoNorms,
}

/// What else a configuration must say, if it says anything.
#[derive(Clone, Copy, Debug)]
pub(super) enum Check {
    /// One of these words.
    Word(&'static str, &'static [&'static str]),
    /// Nothing, `false`, 0 or an empty list: what it asks for has no place in the file.
    Unset(&'static str),
    /// `true`; what stands for it without the key.
    Set(&'static str, bool),
    /// This number, if any.
    Number(&'static str, f64),
    /// A number above 0, if it stands there at all.
    Positive(&'static str),
    /// The same as a size; without it, this number must be the same, where there is one.
    SameAs(&'static str, Size, Option<f64>),
    /// A list of a 0 for each so-manieth layer and 1 for the others; without it, the second key's number must be this.
    Every(&'static str, &'static str, usize),
    /// An even size.
    Even(&'static str, Size),
    /// A size that is no larger than another one.
    AtMost(&'static str, Size, Size),
    /// A size that divides another one; that one's name in words.
    Divides(&'static str, Size, Size, &'static str),
}

/// The kinds of rotary positions that an architecture of GGUF has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ropes {
    /// Values of `rope_type`.
    pub(super) kinds: &'static [&'static str],
    /// The base of the frequencies where the configuration names none.
    pub(super) theta: f64,
    /// The same of layers with a window, where they have one of their own.
    pub(super) local_theta: Option<f64>,
    /// Where a part of each head may rotate: an old key that says it, and the part where the configuration says nothing.
    pub(super) part: Option<(&'static str, f64)>,
}

/// Which layers see the last positions only.
#[derive(Clone, Copy, Debug)]
pub(super) enum Window {
    None,
    /// All, with a window of this size, or none, where the configuration does not speak of it.
    All(Option<usize>),
    /// From `max_window_layers` on, if `use_sliding_window` says so; this size and this layer where the configuration does not
    /// speak of them. GGUF has no key for it: it is left out, and said.
    Upper(usize, usize),
    /// All but the last of so many; this size where the configuration does not speak of it.
    Pattern(usize, usize),
}

/// One matrix or vector with what belongs to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// The name in the checkpoint without `.weight`; `{}` stands for the number of the layer.
    pub(super) from: &'static str,
    /// The name in the GGUF file.
    pub(super) to: &'static str,
    pub(super) shape: Shape,
    pub(super) bias: Bias,
    pub(super) order: Order,
    /// What is added to every number.
    pub(super) offset: f32,
    /// So many tensors, for whose numbers `{e}` stands, become one.
    pub(super) each: Option<Size>,
    /// Whether the name in the checkpoint is whole, and what the tensor becomes.
    pub(super) whole: Option<&'static str>,
    /// All must hold, or there is no such tensor.
    pub(super) when: &'static [When],
    pub(super) kind: RowKind,
}

/// A shape in the checkpoint, the last dimension innermost.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Vector(Size),
    Matrix(Size, Size),
    /// So many matrices.
    Matrices(Size, Size, Size),
}

/// Whether there is a bias.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bias {
    No,
    Yes,
    If(Flag),
}

/// The order of the rows in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Same,
    /// Without the first ones.
    Skip(usize),
    /// The two halves of each head by turns.
    Interleaved,
    /// Of groups that each have some heads of queries, one of keys and one of values: all queries, all keys, all values.
    Ungrouped,
    /// Of such groups, heads of one kind; the two halves of each head by turns.
    Of(HeadKind),
    /// The first half of each matrix's rows, or the second.
    Half(usize),
    /// Columns and rows of each matrix exchanged.
    Transposed,
    /// The same, of each second column from this on.
    AlternateColumns(usize),
    /// Each second element, from this on.
    AlternateElements(usize),
}

/// Heads of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadKind {
    Q,
    K,
    V,
}

/// A condition.
#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    Is(Flag),
    Not(Flag),
    /// The token embedding is narrower than the hidden state.
    Narrow,
}

/// What a tensor is.
#[derive(Clone, Copy, Debug)]
pub(super) enum RowKind {
    Plain,
    /// The output head: none where the embedding stands for it.
    Head,
    /// Ones, with zeros as a bias, where this setting is false.
    OnesUnless(Flag),
}

impl Row {
    const fn vector(from: &'static str, to: &'static str, size: Size) -> Row {
        Row::new(from, to, Shape::Vector(size))
    }

    const fn matrix(from: &'static str, to: &'static str, rows: Size, columns: Size) -> Row {
        Row::new(from, to, Shape::Matrix(rows, columns))
    }

    const fn matrices(from: &'static str, to: &'static str, [n, rows, columns]: [Size; 3]) -> Row {
        Row::new(from, to, Shape::Matrices(n, rows, columns))
    }

    const fn new(from: &'static str, to: &'static str, shape: Shape) -> Row {
        let (bias, order, kind) = (Bias::No, Order::Same, RowKind::Plain);
        Row { from, to, shape, bias, order, offset: 0.0, each: None, whole: None, when: &[], kind }
    }

    const fn bias(self, bias: Bias) -> Row {
        Row { bias, ..self }
    }

    const fn order(self, order: Order) -> Row {
        Row { order, ..self }
    }

    const fn plus(self, offset: f32) -> Row {
        Row { offset, ..self }
    }

    const fn each(self, n: Size) -> Row {
        Row { each: Some(n), ..self }
    }

    const fn whole(self, part: &'static str) -> Row {
        Row { whole: Some(part), ..self }
    }

    const fn when(self, when: &'static [When]) -> Row {
        Row { when, ..self }
    }

    const fn kind(self, kind: RowKind) -> Row {
        Row { kind, ..self }
    }
}

/// A key of the GGUF file, without the architecture's name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Key {
    Size(&'static str, Size),
    /// A size, where the configuration has this key.
    SizeIf(&'static str, Size, &'static str),
    /// A number of at least 0: the configuration's key, and what it is without it.
    Number(&'static str, &'static str, f64),
    /// A number that no configuration has.
    Always(&'static str, f32),
    /// A word that no configuration has.
    Text(&'static str, &'static str),
    /// A count of the configuration's, 0 without it.
    CountOrNone(&'static str, &'static str),
    /// `tokenizer.ggml.add_bos_token`.
    AddsBos(bool),
    /// `rope.dimension_count`.
    RotaryDims,
    /// `rope.freq_base`.
    RopeBase,
    /// `rope.scaling.original_context_length`.
    OriginalContext,
    /// A word: the configuration's key, and what it is without it.
    Word(&'static str, &'static str, &'static str),
    Flag(&'static str, Flag),
    /// Scaling and base of the rotary frequencies.
    Rope,
    /// The same, where they are not what GGUF takes without.
    UnusualRope,
    /// `attention.sliding_window`.
    Window,
    /// `general.file_type`.
    FileType,
}

impl Arch {
    /// That of a configuration: the first that it names.
    pub(super) fn of(config: &Object) -> Result<&'static Arch, Error> {
        let list = config.array("architectures")?;
        let first = list.and_then(|list| list.first()).and_then(serde_json::Value::as_str);
        let name = first.ok_or_else(|| config.error("architectures", "a list with a name", "none"))?;
        if let Some(arch) = ARCHITECTURES.iter().find(|arch| arch.names.contains(&name)) {
            return Ok(arch);
        }
        let names: Vec<&str> = ARCHITECTURES.iter().map(|arch| arch.names[0]).collect();
        let error = config.error("architectures", alternatives(&names), format_args!("`{name}`"));
        let nearest =
            names.iter().max_by_key(|known| same_start(known, name)).filter(|known| same_start(known, name) > 2);
        Err(match nearest {
            Some(nearest) => error.with_hint(format_args!("the nearest that is converted is `{nearest}`")),
            None => error,
        })
    }
}

/// How many letters two names begin with alike.
fn same_start(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count()
}

/// Words to choose from, for a message.
pub(super) fn alternatives(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => quoted.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_sizes_come_after_what_they_are_made_of() {
        let mut names: Vec<&str> = ARCHITECTURES.iter().flat_map(|arch| arch.names).copied().collect();
        let n = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), n);
        for arch in &ARCHITECTURES {
            let mut known = Vec::new();
            for field in arch.sizes.iter().flat_map(|fields| fields.iter()) {
                for otherwise in [field.absent, field.null] {
                    let parts = match otherwise {
                        Otherwise::Needed | Otherwise::Is(_) => vec![],
                        Otherwise::Same(a) | Otherwise::Sum(a, _) | Otherwise::Times(a, _) => vec![a],
                        Otherwise::Product(a, b) | Otherwise::Quotient(a, b) | Otherwise::Both(a, b) => vec![a, b],
                    };
                    assert!(parts.iter().all(|part| known.contains(part)), "{}: {:?}", arch.gguf, field.size);
                }
                known.push(field.size);
            }
            let rows = arch.first.iter().chain(arch.layer.iter().flat_map(|rows| rows.iter())).chain(arch.last);
            for row in rows {
                let sizes = match row.shape {
                    Shape::Vector(n) => vec![n],
                    Shape::Matrix(rows, columns) => vec![rows, columns],
                    Shape::Matrices(n, rows, columns) => vec![n, rows, columns],
                };
                assert!(sizes.iter().all(|size| known.contains(size)), "{}: {}", arch.gguf, row.from);
            }
        }
    }

    #[test]
    fn words_to_choose_from() {
        assert_eq!(alternatives(&["a"]), "`a`");
        assert_eq!(alternatives(&["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
