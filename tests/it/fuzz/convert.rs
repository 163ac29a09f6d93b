//! Mutated files of checkpoints through the converter: a file or an error, never a panic, and no more memory than
//! four times the file's size, beyond a constant.

use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::Path;

use crate::common::checkpoint::data;
use crate::common::fuzz::{self, structure};
use crate::common::raw::Raw;
use crate::{Turn, limit_memory};
use curtail::convert::{Error, Options, OutType, Plan};
use rand_chacha::ChaCha8Rng;

/// What a conversion takes for itself, whatever it converts: pieces of weights in flight, compiled patterns, maps. On all cores
/// at once.
const CONSTANT: usize = 48 << 20;

/// As much as this may a file take of its own size, before an allocation fails and ends the process.
const TIMES_FILE: usize = 4;

/// Where the fields of a file begin.
type Fields = fn(&[u8]) -> Vec<usize>;

/// A file of a checkpoint to be mutated, and how it splits into fields.
const TARGETS: [(&str, &str, Fields); 8] = [
    ("llama-bpe", "model.safetensors", json_fields),
    ("llama-bpe", "config.json", json_fields),
    ("llama-bpe", "tokenizer.json", json_fields),
    ("llama-spm", "tokenizer.model", every_byte),
    ("llama-spm", "tokenizer_config.json", json_fields),
    ("llama-spm", "README.md", every_byte),
    ("llama-spm", "model.safetensors.index.json", json_fields),
    ("opt-prenorm", "pytorch_model.bin", zip_fields),
];

/// A file whose form stays, and how what it says is changed.
type Mutation = fn(&[u8], &mut ChaCha8Rng) -> Vec<u8>;

const STRUCTURED: [(&str, &str, Mutation); 12] = [
    ("llama-bpe", "model.safetensors", structure::safetensors),
    ("llama-bpe", "config.json", structure::json),
    ("llama-bpe", "tokenizer.json", structure::json),
    ("llama-bin", "config.json", structure::json),
    ("gemma3", "config.json", structure::json),
    ("qwen2", "config.json", structure::json),
    ("smollm3", "config.json", structure::json),
    ("llama-hf", "tokenizer.json", structure::json),
    ("llama-bin", "tokenizer_config.json", structure::json),
    ("llama-spm", "model.safetensors.index.json", structure::json),
    ("llama-spm", "generation_config.json", structure::json),
    ("opt-prenorm", "pytorch_model.bin", pickled),
];

/// The largest that a mutation makes of a file.
const LARGEST_FILE: usize = 2 << 20;

fn turn() -> Turn {
    let turn = Turn::take();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    limit_memory(threads * (CONSTANT + TIMES_FILE * LARGEST_FILE));
    turn
}

#[test]
fn checkpoints_that_say_something_else_never_panic() {
    let _turn = turn();
    for (checkpoint, file, mutation) in STRUCTURED {
        let bytes = fs::read(data(checkpoint).join(file)).expect("a file");
        let name = format!("{checkpoint}/{file} by structure");
        let seed = Raw::of(&bytes);
        let outcomes = fuzz::run(&name, 150, &[seed], |_, rng| {
            let mut input = mutation(&bytes, rng);
            input.truncate(LARGEST_FILE);
            outcome(checkpoint, file, &input)
        });
        assert!(
            outcomes.len() > usize::from(is_needed(file)),
            "{name}: the mutations must reach a check: {outcomes:#?}"
        );
    }
}

/// A model card or settings of generation that cannot be read are no reason to refuse a model: nothing is taken from
/// them.
fn is_needed(file: &str) -> bool {
    !["README.md", "generation_config.json"].contains(&file)
}

/// The archive with another pickle.
fn pickled(archive: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut archive = zip::ZipArchive::new(Cursor::new(archive)).expect("an archive");
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for i in 0..archive.len() {
        let mut member = archive.by_index(i).expect("a member");
        let name = member.name().expect("a name").into_owned();
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).expect("its bytes");
        if name.ends_with("data.pkl") {
            bytes = structure::pickle(&bytes, rng);
        }
        let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        out.start_file(name, stored).expect("a member");
        out.write_all(&bytes).expect("its bytes");
    }
    out.finish().expect("an archive").into_inner()
}

#[test]
fn mutated_checkpoints_never_panic() {
    let _turn = turn();
    for (checkpoint, file, fields) in TARGETS {
        let bytes = fs::read(data(checkpoint).join(file)).expect("a file");
        let seed = Raw(bytes.clone(), fields(&bytes));
        let name = format!("{checkpoint}/{file}");
        let outcomes = fuzz::run(&name, 300, &[seed], |bytes, _| outcome(checkpoint, file, bytes));
        assert!(
            outcomes.len() > usize::from(is_needed(file)),
            "{name}: the mutations must reach a check: {outcomes:#?}"
        );
    }
}

/// Converts a checkpoint with one file replaced.
fn outcome(checkpoint: &str, file: &str, bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(data(checkpoint)).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        if name != file {
            link(&path, &folder.path().join(name));
        }
    }
    fs::write(folder.path().join(file), bytes).expect("it can be written");
    let out = folder.path().join("out.gguf");
    let result = Plan::new(folder.path(), &Options { outtype: OutType::Q8_0, ..Options::default() });
    let written = match result {
        Ok(plan) => plan.write(&out, |_| true),
        Err(error) => Err(error),
    };
    match written {
        Ok(()) => {
            assert!(curtail::gguf::File::open(&out).is_ok(), "what is written is a GGUF file");
            "converted".into()
        }
        Err(e) => {
            assert!(!out.exists(), "{e}");
            class(&e)
        }
    }
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) {
    std::os::unix::fs::symlink(from, to).expect("a link");
}

#[cfg(not(unix))]
fn link(from: &Path, to: &Path) {
    fs::copy(from, to).expect("a copy");
}

/// The kind of an error, without what differs from input to input.
fn class(error: &Error) -> String {
    match error {
        Error::Invalid { field, expected, .. } => {
            let words = |text: &str| {
                text.split(['`', ' '])
                    .filter(|w| w.chars().all(char::is_alphabetic))
                    .take(4)
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            format!("{}: {}", words(field), words(expected))
        }
        Error::Io { action, .. } => format!("cannot {action}"),
        Error::Gguf(_) => "no GGUF file".into(),
        Error::Tokenizer(_) => "no tokenizer".into(),
        Error::Interrupted => panic!("nobody asked to stop"),
    }
}

/// Runs of letters and digits, and what stands between them.
fn json_fields(bytes: &[u8]) -> Vec<usize> {
    let starts = |i: &usize| *i == 0 || bytes[*i].is_ascii_alphanumeric() != bytes[i - 1].is_ascii_alphanumeric();
    (0..bytes.len().min(20_000)).filter(starts).collect()
}

fn every_byte(bytes: &[u8]) -> Vec<usize> {
    (0..bytes.len().min(20_000)).collect()
}

/// The pickle byte by byte, and the fields of the archive's records.
fn zip_fields(bytes: &[u8]) -> Vec<usize> {
    let record = |at: &usize| bytes[*at..].starts_with(b"PK");
    let records = (0..bytes.len() - 30).filter(record).flat_map(|at| (at..at + 30).step_by(2));
    let mut fields: Vec<usize> = (0..6000).chain(records).collect();
    fields.sort_unstable();
    fields.dedup();
    fields
}
