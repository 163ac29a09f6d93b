//! A small checkpoint, made here, whose every file a test may replace.

use std::fs;
use std::path::PathBuf;

use curtail::gguf::{File, Metadata};
use serde_json::{Map, Value as Json, json};

use crate::common::tiny::byte_characters;
use crate::common::watched::{self, Ended};

/// Width of everything; the vocabulary has 256 bytes, three merges and four added tokens.
pub(crate) const N: usize = 32;
pub(crate) const N_VOCAB: usize = 263;

/// A checkpoint in the making.
pub(crate) struct Made {
    pub(crate) config: Json,
    pub(crate) tokenizer: Json,
    pub(crate) tokenizer_config: Json,
    /// Name, shape, values.
    pub(crate) tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
    /// The type of all tensors in the file: `F64`, `F32`, `F16`, `BF16`.
    pub(crate) dtype: &'static str,
    /// Files besides, by name.
    pub(crate) files: Vec<(&'static str, Vec<u8>)>,
}

impl Made {
    pub(crate) fn new() -> Made {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": N, "intermediate_size": N, "num_attention_heads": 2,
            "num_key_value_heads": 2, "num_hidden_layers": 1, "vocab_size": N_VOCAB, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 256, "rope_theta": 10000.0, "bos_token_id": 259, "eos_token_id": 260,
        });
        let mut made = Made {
            config,
            tokenizer: tokenizer(),
            tokenizer_config: json!({"bos_token": "<s>", "eos_token": "</s>"}),
            tensors: Vec::new(),
            dtype: "F32",
            files: Vec::new(),
        };
        let mut put = |name: &str, shape: &[usize]| {
            let n: usize = shape.iter().product();
            let value = |i: usize| ((i * 7919 + name.len()) % 401) as f32 / 2000.0 - 0.1;
            made.tensors.push((name.into(), shape.to_vec(), (0..n).map(value).collect()));
        };
        put("model.embed_tokens.weight", &[N_VOCAB, N]);
        put("lm_head.weight", &[N_VOCAB, N]);
        put("model.norm.weight", &[N]);
        for module in ["input_layernorm", "post_attention_layernorm"] {
            put(&format!("model.layers.0.{module}.weight"), &[N]);
        }
        for module in ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"] {
            put(&format!("model.layers.0.{module}_proj.weight"), &[N, N]);
        }
        made
    }

    /// With one key of the configuration; `null` stays in it.
    pub(crate) fn with(mut self, key: &str, value: Json) -> Made {
        self.config[key] = value;
        self
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Vec<f32> {
        &mut self.tensors.iter_mut().find(|(n, ..)| n == name).expect("a tensor").2
    }

    pub(crate) fn without_tensor(mut self, name: &str) -> Made {
        self.tensors.retain(|(n, ..)| n != name);
        self
    }

    /// One more token beside the vocabulary proper.
    pub(crate) fn add_token(&mut self, id: usize, text: &str, special: bool) {
        let token = json!({"id": id, "content": text, "special": special});
        self.tokenizer["added_tokens"].as_array_mut().expect("a list").push(token);
    }

    /// The model has as many rows as this.
    pub(crate) fn resize(&mut self, n_vocab: usize) {
        self.config["vocab_size"] = n_vocab.into();
        for (name, shape, values) in &mut self.tensors {
            if name.contains("embed") || name.contains("head") {
                shape[0] = n_vocab;
                values.resize(n_vocab * N, 0.01);
            }
        }
    }

    /// Writes the folder.
    pub(crate) fn write(&self) -> Folder {
        let folder = tempfile::tempdir().expect("a folder");
        let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("it can be written");
        put("config.json", self.config.to_string().as_bytes());
        for (name, value) in [("tokenizer.json", &self.tokenizer), ("tokenizer_config.json", &self.tokenizer_config)] {
            if !value.is_null() {
                put(name, value.to_string().as_bytes());
            }
        }
        put("model.safetensors", &self.weights());
        self.files.iter().for_each(|(name, bytes)| put(name, bytes));
        Folder { folder }
    }

    fn weights(&self) -> Vec<u8> {
        let (mut header, mut data) = (Map::new(), Vec::new());
        for (name, shape, values) in &self.tensors {
            let start = data.len();
            for &value in values {
                match self.dtype {
                    "F64" => data.extend(f64::from(value).to_le_bytes()),
                    "F16" => data.extend(half::f16::from_f32(value).to_le_bytes()),
                    "BF16" => data.extend(half::bf16::from_f32(value).to_le_bytes()),
                    _ => data.extend(value.to_le_bytes()),
                }
            }
            let entry = json!({"dtype": self.dtype, "shape": shape, "data_offsets": [start, data.len()]});
            header.insert(name.clone(), entry);
        }
        safetensors(&Json::Object(header).to_string(), &data)
    }
}

/// A safetensors file.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Byte-level BPE with GPT-2's rules; `<s>`, `</s>`, `<|a|>` are special, `<tool>` is not.
fn tokenizer() -> Json {
    let pieces = byte_characters().into_iter().chain(["th", "he", "the"].map(str::to_owned));
    let vocab: Map<String, Json> = pieces.enumerate().map(|(id, piece)| (piece, id.into())).collect();
    let added = ["<s>", "</s>", "<|a|>", "<tool>"].into_iter().enumerate();
    let added: Vec<Json> = added
        .map(|(i, text)| json!({"id": 259 + i, "content": text, "special": text != "<tool>", "normalized": false}))
        .collect();
    json!({
        "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["t h", "h e", "th e"]},
    })
}

/// A checkpoint's folder, and where its model goes.
pub(crate) struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The file that comes out.
    pub(crate) fn output(&self) -> PathBuf {
        self.file("out.gguf")
    }

    pub(crate) fn convert(&self, options: &[&str]) -> Ended {
        let (input, output) = (self.folder.path().display().to_string(), self.output().display().to_string());
        let arguments = [&["convert", &input, "-o", &output], options].concat();
        watched::run(&mut crate::common::curtail(&arguments), b"")
    }

    /// Converts, and says this on stderr.
    #[track_caller]
    pub(crate) fn converted(&self, said: &[&str]) -> (Metadata, String) {
        let ended = self.convert(&[]).with(0, said);
        (File::open(&self.output()).expect("a GGUF file").metadata().clone(), ended.stderr)
    }

    /// Refuses, says this, and leaves nothing.
    #[track_caller]
    pub(crate) fn refused(&self, options: &[&str], said: &[&str]) {
        let before = self.names();
        self.convert(options).with(1, said);
        assert_eq!(self.names(), before, "something is left");
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).expect("a folder");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}
