//! Every file type that `quantize` writes, run with every kernel that this machine has for it, beside the same weights in F32.
//! A kernel that ends the process, or computes something else than the weights say, fails.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::common::{curtail, demo_model};
use curtail::engine::{EngineParams, Sequence};
use curtail::eval::{Base, compare, log_softmax};
use curtail::ggml::{Device, usable_isas};
use curtail::gguf::{Error, File, TensorInfo, Writer};
use curtail::model::Model;
use curtail::quantize::FileType;
use curtail::tokenizer::{Special, Tokenizer};
use rayon::prelude::*;

/// The prompt is a batch, which other kernels multiply than a single row.
const N_PROMPT: usize = 24;
const N_TOKENS: usize = 8;

/// Layers of the demo model that are kept: the searches of the smallest types take a minute for all thirty, and more layers
/// have no other kernels.
const N_LAYER: u32 = 3;

/// What 8-bit activations cost at most: the largest measured is 0.004 (docs/src/results/file-types.md). A wrong block, scale or sign costs
/// more than 1.
fn most(file_type: FileType) -> f64 {
    match file_type {
        FileType::F32 | FileType::F16 | FileType::BF16 => 2e-4,
        // What is left of a model that was not trained for three or four values is noise, and noise amplifies.
        FileType::TQ1_0 | FileType::TQ2_0 | FileType::Q1_0 | FileType::Q2_0 => 0.3,
        _ => 0.01,
    }
}

const MODEL: &str = "CURTAIL_TEST_MODEL";
const LOGITS: &str = "CURTAIL_TEST_LOGITS";

fn passage() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/perplexity/passage.txt")
}

#[test]
fn every_file_type_computes_what_its_weights_say() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let imatrix = folder.path().join("imatrix.gguf");
    let model = folder.path().join("demo.gguf");
    write_first_layers(&model);
    let model = model.to_str().expect("UTF-8").to_owned();
    let imatrix = imatrix.to_str().expect("UTF-8");
    let arguments = ["imatrix", "-m", &model, "-f", passage(), "-c", "64", "--chunks", "2", "-o", imatrix];
    succeed(&mut curtail(&arguments));
    let mut lines: Vec<(FileType, String, bool)> =
        FileType::ALL.par_iter().map(|&file_type| one_type(file_type, &model, imatrix, folder.path())).collect();
    lines.sort_by_key(|line| line.0);
    lines.iter().for_each(|line| println!("{}", line.1));
    let failed: Vec<&str> = lines.iter().filter(|line| !line.2).map(|line| line.1.as_str()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The demo model with its first layers alone.
fn write_first_layers(path: &Path) {
    let file = File::open(Path::new(&demo_model())).expect("a model");
    let mut metadata = file.metadata().clone();
    metadata.insert("llama.block_count", N_LAYER);
    let is_kept = |name: &str| {
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
        layer.is_none_or(|il| il < N_LAYER)
    };
    let mut writer = Writer::new(metadata);
    for tensor in file.tensors().iter().filter(|tensor| is_kept(&tensor.name)) {
        writer.tensor(&tensor.name, tensor.dims(), tensor.dtype).expect("a tensor");
    }
    let data = |tensor: &TensorInfo| Ok(file.data(file.tensor(&tensor.name).expect("one of the file")).into());
    writer.write::<Error>(path, data).expect("written");
}

/// A line of the table: the divergence at each level; and whether all are small.
fn one_type(file_type: FileType, model: &str, imatrix: &str, folder: &Path) -> (FileType, String, bool) {
    let path = |suffix: &str| folder.join(format!("{}{suffix}", file_type.name()));
    let (quantized, plain) = (path(".gguf"), path("-f32.gguf"));
    let quantize = ["quantize", "--allow-requantize", "--imatrix", imatrix];
    succeed(curtail(&quantize).args(wishes(file_type)).arg(model).arg(&quantized).args([file_type.name(), "1"]));
    succeed(curtail(&["quantize", "--allow-requantize"]).args([&quantized, &plain]).args(["F32", "1"]));
    let best = usable_isas().last().copied().expect("a level").name();
    let expected = logits(&plain, best, &path(".logits")).expect("F32 runs");
    let mut line = format!("{:10}", file_type.name());
    let mut all_small = true;
    for isa in usable_isas() {
        match logits(&quantized, isa.name(), &path(".logits")) {
            Ok(found) => {
                let divergence = divergence(&expected, &found);
                all_small &= divergence < most(file_type);
                line += &format!(" {isa} {divergence:.6}");
            }
            Err(why) => {
                all_small = false;
                line += &format!(" {isa} {why}");
            }
        }
    }
    [quantized, plain].iter().for_each(|path| fs::remove_file(path).expect("it was written"));
    (file_type, line, all_small)
}

/// Blocks of 128 fit in the demo model's rows of 1536 alone, and nothing stands in for them in the others.
fn wishes(file_type: FileType) -> &'static [&'static str] {
    const SMALL_ROWS: &[&str] = &[
        "--token-embedding-type",
        "q8_0",
        "--tensor-type",
        "attn=q8_0",
        "--tensor-type",
        "ffn_gate=q8_0",
        "--tensor-type",
        "ffn_up=q8_0",
    ];
    if file_type == FileType::Q1_0 { SMALL_ROWS } else { &[] }
}

fn succeed(command: &mut Command) {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Mean Kullback-Leibler divergence over the places, in nats.
fn divergence(expected: &[f32], found: &[f32]) -> f64 {
    let n_places = N_TOKENS + 1;
    assert_eq!(expected.len(), found.len());
    let n_vocab = expected.len() / n_places;
    let mut log_probs = Vec::new();
    let at = |(expected, found): (&[f32], &[f32])| {
        log_softmax(expected, &mut log_probs);
        compare(Base { log_probs: &log_probs, floor: f32::NEG_INFINITY }, found, 0).kld
    };
    expected.chunks(n_vocab).zip(found.chunks(n_vocab)).map(at).sum::<f64>() / n_places as f64
}

/// The level is chosen once in a process, and a wrong instruction ends one: this binary runs itself.
fn logits(model: &Path, isa: &str, out: &Path) -> Result<Vec<f32>, String> {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "file_types::writes_logits"])
        .env("CURTAIL_ISA", isa)
        .env(MODEL, model)
        .env(LOGITS, out)
        .output()
        .expect("it starts");
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stdout)));
    }
    let bytes = fs::read(out).expect("the logits");
    fs::remove_file(out).expect("the logits");
    Ok(bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four"))).collect())
}

#[test]
#[ignore = "the other test runs it, once for each model and level"]
fn writes_logits() {
    let path = std::env::var(MODEL).expect("the other test sets it");
    let file = Arc::new(File::open(Path::new(&path)).expect("a model"));
    let tokenizer = Tokenizer::from_gguf(file.metadata()).expect("a vocabulary");
    let ids = tokenizer.encode(&fs::read_to_string(passage()).expect("a text"), Special::Plain);
    let model = Arc::new(Model::load(file, Device::cpu(1).expect("a CPU")).expect("it loads"));
    let mut sequence =
        Sequence::alone(model, EngineParams { n_ctx: 64, ..EngineParams::default() }).expect("a sequence");
    let mut bytes = Vec::new();
    let (prompt, tokens) = ids[..N_PROMPT + N_TOKENS + 1].split_at(N_PROMPT);
    sequence
        .score(prompt, tokens, &mut |_, logits| {
            bytes.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
        })
        .expect("it runs");
    fs::write(std::env::var(LOGITS).expect("the other test sets it"), bytes).expect("written");
}
