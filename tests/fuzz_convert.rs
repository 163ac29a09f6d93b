//! Mutated files of checkpoints through the converter: a file or an error, never a panic, and no allocation that the
//! checkpoint does not pay for.

mod checkpoint;
mod fuzz;
mod support;

use std::fs;
use std::path::Path;

use cap::Cap;
use checkpoint::data;
use curtail::convert::{Error, Options, OutType, Plan};
use support::Raw;

/// Makes an allocation beyond the limit fail, which ends the process.
#[global_allocator]
static ALLOCATOR: Cap<std::alloc::System> = Cap::new(std::alloc::System, usize::MAX);

/// The checkpoints are below half a megabyte; all of them in flight need far less.
const MAX_ALLOCATED: usize = 512 << 20;

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

#[test]
fn mutated_checkpoints_never_panic() {
    ALLOCATOR.set_limit(MAX_ALLOCATED).expect("less is allocated");
    for (checkpoint, file, fields) in TARGETS {
        let bytes = fs::read(data(checkpoint).join(file)).expect("a file");
        let seed = Raw(bytes.clone(), fields(&bytes));
        let name = format!("{checkpoint}/{file}");
        let outcomes = fuzz::run(&name, 300, &[seed], |bytes, _| outcome(checkpoint, file, bytes));
        // A model card that cannot be read is no reason to refuse a model: nothing is taken from it.
        let is_refused = file != "README.md";
        assert!(outcomes.len() > usize::from(is_refused), "{name}: the mutations must reach a check: {outcomes:#?}");
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
