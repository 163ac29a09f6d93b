//! Owns llama2.c's checkpoints: version 0 without a mark, version 1 in f32, version 2 in groups of bytes, each with its
//! `tokenizer.bin`. Refuses files of another length than their header says. Their queries and keys are in GGUF's order
//! already.

use std::path::Path;
use std::sync::Arc;

use super::element::Element;
use super::shard::{Shard, Source, size};
use super::target::{Data, Output, Rows, dtype_of, file_type};
use super::{Error, Options, OutType, Plan, QUANTIZATION_VERSION, general, parameters, read};
use crate::dtype::DType;
use crate::gguf::Metadata;
use crate::tokenizer::Tokenizer;

/// The mark of versions 1 and 2, `ak42`.
const MAGIC: u32 = 0x616b_3432;

/// Bytes of the header of versions 1 and 2.
const HEADER_BYTES: u64 = 256;

/// What llama2.c has in its code, not in its files.
const RMS_EPS: f32 = 1e-5;
const ROPE_THETA: f32 = 10000.0;

/// The header of a file.
#[derive(Clone, Copy, Debug, Default)]
struct Header {
    version: u32,
    n_embd: usize,
    n_ff: usize,
    n_layer: usize,
    n_head: usize,
    n_head_kv: usize,
    n_vocab: usize,
    n_context: usize,
    tied: bool,
    /// Elements that share a scale, in version 2.
    group: usize,
}

/// Reads a file and its vocabulary.
pub(super) fn plan(path: &Path, options: &Options) -> Result<Plan, Error> {
    let shard = Shard::open(path.to_owned())?;
    let header = Header::read(&shard)?;
    let dtype = match options.outtype {
        OutType::Auto => DType::F16,
        other => other.resolved(&Default::default()),
    };
    let outputs = Layout { shard: &shard, at: header.start(), header, dtype, outputs: Vec::new() }.read()?;
    let mut meta = general("llama");
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    meta.insert("general.name", options.name.clone().unwrap_or(stem));
    meta.insert("general.size_label", parameters(&outputs).label());
    header.write(dtype, &mut meta);
    let Some(vocabulary) = &options.tokenizer else {
        let error = Error::invalid(path, "tokenizer", "the vocabulary of a llama2.c checkpoint", "none");
        return Err(error.with_hint("name it: --tokenizer tokenizer.bin"));
    };
    write_vocabulary(vocabulary, header.n_vocab, &mut meta)?;
    Tokenizer::from_gguf(&meta)?;
    Plan::build(meta, outputs, dtype, Vec::new())
}

impl Header {
    fn read(shard: &Shard) -> Result<Header, Error> {
        let mut bytes = [0; 48];
        if shard.bytes() < HEADER_BYTES {
            let expected = format!("at least {HEADER_BYTES} bytes of a llama2.c checkpoint");
            return Err(Error::invalid(shard.path(), "size", expected, shard.bytes()));
        }
        shard.read(0, &mut bytes)?;
        let word = |i: usize| i32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        if word(0) as u32 != MAGIC {
            return Header::fields(shard, 0, word(20) > 0, 0, |i| {
                if i == 5 { word(20).saturating_abs() } else { word(4 * i) }
            });
        }
        match word(4) {
            version @ 1..=2 => {
                let group = if version == 2 { word(37) } else { 0 };
                Header::fields(shard, version as u32, bytes[36] != 0, group, |i| word(8 + 4 * i))
            }
            other => Err(Error::invalid(shard.path(), "version", "1 or 2", other)),
        }
    }

    fn fields(
        shard: &Shard,
        version: u32,
        tied: bool,
        group: i32,
        word: impl Fn(usize) -> i32,
    ) -> Result<Header, Error> {
        const NAMES: [&str; 7] =
            ["dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len"];
        let invalid = |field: &str, expected: &str, found: i32| {
            Error::invalid(shard.path(), format_args!("`{field}`"), expected, found)
        };
        let mut counts = [0; 7];
        for (i, (count, name)) in counts.iter_mut().zip(NAMES).enumerate() {
            *count = word(i) as usize;
            if word(i) <= 0 || word(i) > 1 << 24 {
                return Err(invalid(name, "a count from 1 to 16777216", word(i)));
            }
        }
        let [n_embd, n_ff, n_layer, n_head, n_head_kv, n_vocab, n_context] = counts;
        if n_embd % n_head != 0 || (n_embd / n_head) % 2 != 0 {
            return Err(invalid("n_heads", "heads of an even number of elements", word(3)));
        }
        if n_head % n_head_kv != 0 {
            return Err(invalid("n_kv_heads", "a divisor of `n_heads`", word(4)));
        }
        if n_layer as u64 * 4 > shard.bytes() {
            return Err(invalid("n_layers", "as many as the file can hold", word(2)));
        }
        if version == 2 && group <= 0 {
            return Err(invalid("group_size", "a count of at least 1", group));
        }
        Ok(Header {
            version,
            n_embd,
            n_ff,
            n_layer,
            n_head,
            n_head_kv,
            n_vocab,
            n_context,
            tied,
            group: group as usize,
        })
    }

    fn start(&self) -> u64 {
        if self.version == 0 { 28 } else { HEADER_BYTES }
    }

    fn n_kv(&self) -> usize {
        self.n_embd / self.n_head * self.n_head_kv
    }

    fn write(&self, dtype: DType, meta: &mut Metadata) {
        let mut put = |key: &str, n: usize| drop(meta.insert(format!("llama.{key}"), n as u32));
        put("block_count", self.n_layer);
        put("context_length", self.n_context);
        put("embedding_length", self.n_embd);
        put("feed_forward_length", self.n_ff);
        put("attention.head_count", self.n_head);
        put("attention.head_count_kv", self.n_head_kv);
        put("vocab_size", self.n_vocab);
        put("rope.dimension_count", self.n_embd / self.n_head);
        meta.insert("llama.rope.freq_base", ROPE_THETA);
        meta.insert("llama.attention.layer_norm_rms_epsilon", RMS_EPS);
        meta.insert("general.file_type", file_type(dtype));
        meta.insert("general.quantization_version", QUANTIZATION_VERSION);
    }
}

/// The way through a file, tensor by tensor.
struct Layout<'a> {
    shard: &'a Arc<Shard>,
    at: u64,
    header: Header,
    dtype: DType,
    outputs: Vec<Output>,
}

impl Layout<'_> {
    fn read(mut self) -> Result<Vec<Output>, Error> {
        let h = self.header;
        if h.version == 0 {
            self.matrix("token_embd", h.n_vocab, h.n_embd)?;
            self.norms("attn_norm")?;
            self.attention()?;
            self.norms("ffn_norm")?;
            self.feed_forward()?;
            self.norm("output_norm".into())?;
            // Cosines and sines of every position, which nobody reads any more.
            self.skip(2 * h.n_context * (h.n_embd / h.n_head / 2))?;
        } else {
            self.norms("attn_norm")?;
            self.norms("ffn_norm")?;
            self.norm("output_norm".into())?;
            self.matrix("token_embd", h.n_vocab, h.n_embd)?;
            self.attention()?;
            self.feed_forward()?;
        }
        if !h.tied {
            self.matrix("output", h.n_vocab, h.n_embd)?;
        }
        if self.at != self.shard.bytes() {
            let expected = format!("{} bytes, as the header says", self.at);
            return Err(Error::invalid(self.shard.path(), "size", expected, self.shard.bytes()));
        }
        Ok(self.outputs)
    }

    fn attention(&mut self) -> Result<(), Error> {
        let (n, n_kv) = (self.header.n_embd, self.header.n_kv());
        self.layers("attn_q", n, n)?;
        self.layers("attn_k", n_kv, n)?;
        self.layers("attn_v", n_kv, n)?;
        self.layers("attn_output", n, n)
    }

    fn feed_forward(&mut self) -> Result<(), Error> {
        let (n, n_ff) = (self.header.n_embd, self.header.n_ff);
        self.layers("ffn_gate", n_ff, n)?;
        self.layers("ffn_down", n, n_ff)?;
        self.layers("ffn_up", n_ff, n)
    }

    fn layers(&mut self, name: &str, rows: usize, row: usize) -> Result<(), Error> {
        (0..self.header.n_layer).try_for_each(|il| self.matrix(&format!("blk.{il}.{name}"), rows, row))
    }

    fn norms(&mut self, name: &str) -> Result<(), Error> {
        (0..self.header.n_layer).try_for_each(|il| self.norm(format!("blk.{il}.{name}")))
    }

    fn norm(&mut self, name: String) -> Result<(), Error> {
        let source = self.take(vec![self.header.n_embd], Element::F32)?;
        self.push(name, source.shape.clone(), Data::Stored { sources: vec![source], rows: Rows::All, offset: 0.0 });
        Ok(())
    }

    fn matrix(&mut self, name: &str, rows: usize, row: usize) -> Result<(), Error> {
        let shape = vec![rows, row];
        let data = if self.header.version < 2 {
            Data::Stored { sources: vec![self.take(shape.clone(), Element::F32)?], rows: Rows::All, offset: 0.0 }
        } else {
            let group = self.header.group;
            if !(rows * row).is_multiple_of(group) {
                let expected = format!("a divisor of the {} elements of `{name}`", rows * row);
                return Err(Error::invalid(self.shard.path(), "`group_size`", expected, group));
            }
            let values = self.take(shape.clone(), Element::I8)?;
            Data::Grouped { values, scales: self.take(vec![rows * row / group, 1], Element::F32)? }
        };
        self.push(name.to_owned(), shape, data);
        Ok(())
    }

    fn push(&mut self, name: String, shape: Vec<usize>, data: Data) {
        let name = format!("{name}.weight");
        let dtype = dtype_of(&name, &shape, self.dtype);
        self.outputs.push(Output { from: name.clone(), name, shape, dtype, data });
    }

    fn skip(&mut self, n: usize) -> Result<(), Error> {
        self.take(vec![n], Element::F32).map(|_| ())
    }

    fn take(&mut self, shape: Vec<usize>, element: Element) -> Result<Source, Error> {
        let end = size(&shape, element).and_then(|n| self.at.checked_add(n)).filter(|&end| end <= self.shard.bytes());
        let Some(end) = end else {
            let found = format!("{} bytes before the end of the file", self.shard.bytes() - self.at);
            return Err(Error::invalid(
                self.shard.path(),
                "weights",
                format_args!("{shape:?} at byte {}", self.at),
                found,
            ));
        };
        let source = Source { element, shape, shard: self.shard.clone(), offset: self.at };
        self.at = end;
        Ok(source)
    }
}

/// The ids that llama2.c gives a meaning to.
const UNKNOWN: usize = 0;
const BOS: usize = 1;
const EOS: usize = 2;

/// Reads `tokenizer.bin`: the length of the longest token, then score, length and text of each.
fn write_vocabulary(path: &Path, n_vocab: usize, meta: &mut Metadata) -> Result<(), Error> {
    let bytes = read::bytes(path, read::Kind::Lists)?;
    let mut rest = bytes.as_slice();
    let mut take = |n: usize, what: &dyn std::fmt::Display| {
        let (head, tail) = rest
            .split_at_checked(n)
            .ok_or_else(|| Error::invalid(path, what, format_args!("{n} bytes"), rest.len()))?;
        rest = tail;
        Ok::<_, Error>(head)
    };
    take(4, &"longest token")?;
    let (mut texts, mut scores, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
    for id in 0..n_vocab {
        let head = take(8, &format_args!("score and length of token {id}"))?;
        let [score, length] = [0, 4].map(|i| [head[i], head[i + 1], head[i + 2], head[i + 3]]);
        let length = usize::try_from(i32::from_le_bytes(length)).unwrap_or(usize::MAX);
        let text = String::from_utf8_lossy(take(length, &format_args!("text of token {id}"))?).into_owned();
        let (kind, text) = token(id, &text);
        texts.push(text);
        scores.push(f32::from_le_bytes(score));
        kinds.push(kind);
    }
    if !rest.is_empty() {
        let expected = format!("{n_vocab} tokens, as many as the model has");
        return Err(Error::invalid(path, "vocabulary", expected, format_args!("{} more bytes", rest.len())));
    }
    meta.insert("tokenizer.ggml.model", "llama");
    meta.insert("tokenizer.ggml.pre", "default");
    meta.insert("tokenizer.ggml.tokens", texts);
    meta.insert("tokenizer.ggml.scores", scores);
    meta.insert("tokenizer.ggml.token_type", kinds);
    meta.insert("tokenizer.ggml.bos_token_id", BOS as u32);
    meta.insert("tokenizer.ggml.eos_token_id", EOS as u32);
    meta.insert("tokenizer.ggml.unknown_token_id", UNKNOWN as u32);
    Ok(())
}

/// Kind and text of a token as GGUF has it. llama2.c has spaces where SentencePiece has a mark for them.
fn token(id: usize, text: &str) -> (i32, String) {
    match id {
        UNKNOWN => (2, "<unk>".into()),
        BOS => (3, "<s>".into()),
        EOS => (3, "</s>".into()),
        _ if text.len() == 6 && text.starts_with("<0x") && text.ends_with('>') => (6, text.to_owned()),
        _ => (1, text.replace(' ', "\u{2581}")),
    }
}
