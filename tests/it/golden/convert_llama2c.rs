//! llama2.c's checkpoints, in each of their three versions, against the same model from Hugging Face's files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::checkpoint::{data, read_json};
use curtail::convert::{Options, OutType, Plan};
use curtail::gguf::File;
use curtail::tokenizer::{Special, Tokenizer};
use serde_json::json;

const GROUP: usize = 16;

/// The model in F32 as a GGUF file: its tensors lie as llama2.c has them.
fn original(folder: &Path) -> File {
    let path = folder.join("original.gguf");
    let options = Options { outtype: OutType::F32, ..Options::default() };
    Plan::new(&data("llama-spm"), &options).expect("a plan").write(&path, |_| true).expect("it is written");
    File::open(&path).expect("a GGUF file")
}

fn floats(file: &File, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap_or_else(|| panic!("no `{name}`"));
    file.data(tensor).as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// Each layer's tensor after the other's.
fn layers(name: &str) -> Vec<String> {
    (0..2).map(|il| format!("blk.{il}.{name}.weight")).collect()
}

/// dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len
fn counts(vocab_sign: i32) -> Vec<u8> {
    [32, 48, 2, 4, 2, 905 * vocab_sign, 64].iter().flat_map(|n: &i32| n.to_le_bytes()).collect()
}

fn header(version: u32) -> Vec<u8> {
    let mut header = [0x616b_3432u32.to_le_bytes(), version.to_le_bytes()].concat();
    header.extend(counts(1));
    header.push(0); // a head of its own
    if version == 2 {
        header.extend((GROUP as i32).to_le_bytes());
    }
    header.resize(256, 0);
    header
}

const MATRICES: [&str; 7] = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_down", "ffn_up"];

fn version_0(file: &File) -> Vec<u8> {
    let mut out = counts(-1);
    let mut put = |names: Vec<String>| {
        names.iter().for_each(|name| out.extend(floats(file, name).iter().flat_map(|x| x.to_le_bytes())));
    };
    put(vec!["token_embd.weight".into()]);
    put(layers("attn_norm"));
    MATRICES[..4].iter().for_each(|name| put(layers(name)));
    put(layers("ffn_norm"));
    MATRICES[4..].iter().for_each(|name| put(layers(name)));
    put(vec!["output_norm.weight".into()]);
    out.extend(vec![0; 2 * 64 * 4 * 4]);
    out.extend(floats(file, "output.weight").iter().flat_map(|x| x.to_le_bytes()));
    out
}

fn versions_1_and_2(file: &File, version: u32) -> Vec<u8> {
    let mut out = header(version);
    let norms = [layers("attn_norm"), layers("ffn_norm"), vec!["output_norm.weight".into()]].concat();
    norms.iter().for_each(|name| out.extend(floats(file, name).iter().flat_map(|x| x.to_le_bytes())));
    let mut names = vec!["token_embd.weight".to_owned()];
    MATRICES.iter().for_each(|name| names.extend(layers(name)));
    names.push("output.weight".into());
    for name in names {
        let values = floats(file, &name);
        if version == 1 {
            out.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        } else {
            let scale = |group: &[f32]| group.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0;
            let scales: Vec<f32> = values.chunks(GROUP).map(scale).collect();
            out.extend(values.iter().enumerate().map(|(i, x)| (x / scales[i / GROUP]).round() as i8 as u8));
            out.extend(scales.iter().flat_map(|x| x.to_le_bytes()));
        }
    }
    out
}

/// llama2.c has the same vocabulary, with spaces.
fn vocabulary(file: &File) -> Vec<u8> {
    let meta = file.metadata();
    let tokens = meta.strings("tokenizer.ggml.tokens").expect("a list").expect("a list");
    let scores = meta.f32s("tokenizer.ggml.scores").expect("a list").expect("a list");
    let mut out = 27i32.to_le_bytes().to_vec();
    for (id, (token, score)) in tokens.iter().zip(scores).enumerate() {
        let text = match id {
            1 => "\n<s>\n".into(),
            2 => "\n</s>\n".into(),
            _ => token.replace('\u{2581}', " "),
        };
        out.extend(score.to_le_bytes());
        out.extend((text.len() as i32).to_le_bytes());
        out.extend(text.bytes());
    }
    out
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).expect("it can be written");
    path
}

#[test]
fn all_three_versions_give_the_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let original = original(folder);
    let tokenizer = write(folder, "tokenizer.bin", &vocabulary(&original));
    let versions = [version_0(&original), versions_1_and_2(&original, 1), versions_1_and_2(&original, 2)];
    for (version, bytes) in versions.iter().enumerate() {
        let model = write(folder, "model.bin", bytes);
        let options = Options { outtype: OutType::F32, tokenizer: Some(tokenizer.clone()), ..Options::default() };
        let plan = Plan::new(&model, &options).unwrap_or_else(|e| panic!("version {version}: {e}"));
        let path = folder.join("out.gguf");
        plan.write(&path, |_| true).expect("it is written");
        let found = File::open(&path).expect("a GGUF file");
        assert_eq!(found.tensors().len(), original.tensors().len());
        for tensor in original.tensors() {
            let (a, b) = (floats(&found, &tensor.name), floats(&original, &tensor.name));
            assert_eq!(found.tensor(&tensor.name).map(|t| t.dims()), Some(tensor.dims()), "{}", tensor.name);
            let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            let largest = b.iter().fold(0f32, |m, x| m.max(x.abs()));
            // Half a step of the coarsest group.
            let tolerance = if version == 2 { largest / 127.0 * 0.501 } else { 0.0 };
            assert!(worst <= tolerance, "version {version}, {}: {worst}", tensor.name);
        }
        for key in ["context_length", "attention.head_count_kv", "rope.dimension_count", "rope.freq_base", "vocab_size"]
        {
            let key = format!("llama.{key}");
            assert_eq!(found.metadata().get(&key), original.metadata().get(&key), "{key}");
        }
    }
}

#[test]
fn its_vocabulary_gives_the_same_ids() {
    let folder = tempfile::tempdir().expect("a folder");
    let original = original(folder.path());
    let tokenizer = write(folder.path(), "tokenizer.bin", &vocabulary(&original));
    let model = write(folder.path(), "model.bin", &version_0(&original));
    let plan = Plan::new(&model, &Options { tokenizer: Some(tokenizer), ..Options::default() }).expect("a plan");
    let tokenizer = Tokenizer::from_gguf(plan.metadata()).expect("a tokenizer");
    let corpus = read_json(data("../tokenizer/corpus.json"));
    let golden = read_json(data("llama-spm").join("ids.json"));
    for (text, ids) in corpus.as_array().expect("a list").iter().zip(golden.as_array().expect("a list")) {
        let text = text.as_str().expect("a text");
        assert_eq!(json!(tokenizer.encode(text, Special::Plain)), *ids, "{text:?}");
    }
}

#[test]
fn files_of_another_length_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let original = original(folder.path());
    let vocabulary = vocabulary(&original);
    let whole = [version_0(&original), versions_1_and_2(&original, 1), versions_1_and_2(&original, 2)];
    let error = |model: &[u8], vocabulary: &[u8]| {
        let tokenizer = Some(write(folder.path(), "tokenizer.bin", vocabulary));
        let model = write(folder.path(), "model.bin", model);
        Plan::new(&model, &Options { tokenizer, ..Options::default() }).expect_err("a refusal").to_string()
    };
    for bytes in &whole {
        for n in [0, 10, 255, 256, 1000, bytes.len() - 1] {
            let error = error(&bytes[..n], &vocabulary);
            assert!(error.contains("model.bin") && error.contains("expected"), "{error}");
        }
        let error = error(&[bytes.as_slice(), b"x"].concat(), &vocabulary);
        assert!(error.contains("size: expected") && error.contains("as the header says"), "{error}");
    }
    for n in [0, 3, 5, 20, vocabulary.len() - 1] {
        let error = error(&whole[1], &vocabulary[..n]);
        assert!(error.contains("tokenizer.bin"), "{error}");
    }
    let error = error(&whole[1], &[vocabulary.as_slice(), b"x"].concat());
    assert!(error.contains("905 tokens, as many as the model has"), "{error}");
    let model = write(folder.path(), "model.bin", &whole[1]);
    let error = Plan::new(&model, &Options::default()).expect_err("a refusal").to_string();
    assert!(error.contains("hint: name it: --tokenizer tokenizer.bin"), "{error}");
}
