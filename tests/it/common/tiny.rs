//! A tiny complete model, made here, whose every part a test may replace: two layers, byte-level BPE, seeded weights.

use std::borrow::Cow;
use std::path::Path;

use curtail::dtype::DType;
use curtail::gguf::{Error, Metadata, Writer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(crate) const N_EMBD: usize = 64;
pub(crate) const N_FF: usize = 96;
pub(crate) const N_LAYER: u32 = 2;

/// ChatML, as most models have it.
pub(crate) const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                                 {% if add_generation_prompt %}<|im_start|>assistant\n{{ '' }}{% endif %}";

/// A model in the making.
pub(crate) struct Tiny {
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<TinyTensor>,
}

/// One tensor with its bytes.
pub(crate) struct TinyTensor {
    pub(crate) name: String,
    pub(crate) dims: Vec<usize>,
    pub(crate) dtype: DType,
    pub(crate) bytes: Vec<u8>,
}

impl Tiny {
    /// 262 tokens: the bytes, three merges, and `<|endoftext|>` (259), `<|im_start|>` (260), `<|im_end|>` (261).
    pub(crate) fn new() -> Tiny {
        Tiny::sized(N_EMBD, N_FF)
    }

    /// The same with other widths; four heads.
    pub(crate) fn sized(n_embd: usize, n_ff: usize) -> Tiny {
        let (mut tokens, mut types) = (byte_characters(), vec![1i32; 259]);
        tokens.extend(["th", "he", "the", "<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned));
        types.extend([3; 3]);
        let n_vocab = tokens.len();
        let mut m = Metadata::new();
        m.insert("general.architecture", "llama");
        m.insert("general.name", "tiny");
        for (key, value) in [
            ("block_count", N_LAYER),
            ("context_length", 256),
            ("embedding_length", n_embd as u32),
            ("feed_forward_length", n_ff as u32),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 4),
            ("rope.dimension_count", n_embd as u32 / 4),
        ] {
            m.insert(format!("llama.{key}"), value);
        }
        m.insert("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
        m.insert("llama.rope.freq_base", 10000.0f32);
        m.insert("tokenizer.ggml.model", "gpt2");
        m.insert("tokenizer.ggml.pre", "gpt-2");
        m.insert("tokenizer.ggml.tokens", tokens);
        m.insert("tokenizer.ggml.token_type", types);
        m.insert("tokenizer.ggml.merges", ["t h", "h e", "th e"].map(str::to_owned).to_vec());
        m.insert("tokenizer.ggml.bos_token_id", 259u32);
        m.insert("tokenizer.ggml.eos_token_id", 261u32);
        m.insert("tokenizer.chat_template", CHATML);
        let mut tiny = Tiny { metadata: m, tensors: Vec::new() };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut matrix = |name: String, n_in: usize, n_out: usize| {
            let values: Vec<f32> = (0..n_in * n_out).map(|_| rng.random_range(-0.14..0.14)).collect();
            tiny.tensors.push(TinyTensor::f32(&name, &[n_in, n_out], &values));
        };
        matrix("token_embd.weight".to_owned(), n_embd, n_vocab);
        matrix("output.weight".to_owned(), n_embd, n_vocab);
        for il in 0..N_LAYER {
            for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
                matrix(format!("blk.{il}.{name}.weight"), n_embd, n_embd);
            }
            for (name, n_in, n_out) in
                [("ffn_gate", n_embd, n_ff), ("ffn_up", n_embd, n_ff), ("ffn_down", n_ff, n_embd)]
            {
                matrix(format!("blk.{il}.{name}.weight"), n_in, n_out);
            }
        }
        let norms = (0..N_LAYER).flat_map(|il| ["attn_norm", "ffn_norm"].map(|name| format!("blk.{il}.{name}.weight")));
        for name in norms.chain(["output_norm.weight".to_owned()]) {
            tiny.tensors.push(TinyTensor::f32(&name, &[n_embd], &vec![1.0; n_embd]));
        }
        tiny
    }

    /// With one key set.
    pub(crate) fn with(mut self, key: &str, value: impl Into<curtail::gguf::Value>) -> Tiny {
        self.metadata.insert(key, value);
        self
    }

    /// Without one key.
    pub(crate) fn without(mut self, key: &str) -> Tiny {
        self.metadata.remove(key);
        self
    }

    /// A tensor by its name.
    pub(crate) fn tensor(&mut self, name: &str) -> &mut TinyTensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("a tensor of the model")
    }

    /// Writes the file. Parts that [`Writer`] refuses are for [`crate::common::tiny`]'s users to patch in the bytes.
    pub(crate) fn write(&self, path: &Path) {
        let mut writer = Writer::new(self.metadata.clone());
        for TinyTensor { name, dims, dtype, .. } in &self.tensors {
            writer.tensor(name, dims, *dtype).expect("a tensor");
        }
        let bytes =
            |name: &str| self.tensors.iter().find(|tensor| tensor.name == name).expect("declared").bytes.as_slice();
        writer.write::<Error>(path, |info| Ok(Cow::Borrowed(bytes(&info.name)))).expect("written");
    }
}

impl TinyTensor {
    pub(crate) fn f32(name: &str, dims: &[usize], values: &[f32]) -> TinyTensor {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        TinyTensor { name: name.to_owned(), dims: dims.to_vec(), dtype: DType::F32, bytes }
    }
}

/// GPT-2's printable stand-ins for the bytes.
pub(crate) fn byte_characters() -> Vec<String> {
    let mut next = 256;
    let stand_in = |byte: u32| {
        if matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) {
            return byte;
        }
        next += 1;
        next - 1
    };
    (0..256).map(stand_in).map(|c| char::from_u32(c).expect("a character").to_string()).collect()
}
