//! What `quantize` writes is, to the byte, what llama-quantize writes (tests/makers/make_quantize_golden.py): same order, types,
//! blocks and metadata, for every type, with and without importance, for odd rows, experts and wishes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{curtail, demo_model};
use clap::Parser;
use curtail::cli::Cli;
use curtail::commands;
use serde::Deserialize;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Case {
    model: String,
    arguments: Vec<String>,
    /// The SHA-256 of the file; none where llama-quantize refuses.
    file: Option<String>,
}

#[derive(Deserialize)]
struct Demo {
    r#type: String,
    file: String,
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/quantize").join(name)
}

fn read<T: for<'de> Deserialize<'de>>(name: &str) -> Vec<T> {
    serde_json::from_slice(&fs::read(data(name)).expect("it is committed")).expect("JSON")
}

fn digest(path: &Path) -> String {
    Sha256::digest(fs::read(path).expect("it was written")).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs the case where the files have the names that the metadata will hold, all cases in one process: the tables of the i-quants
/// take seconds to make and are made once.
fn run(case: &Case) -> (Option<String>, String) {
    for name in ["imatrix.gguf", "imatrix.dat"] {
        // Not every model has both.
        let _ = fs::remove_file(name);
        let _ = fs::copy(data(&format!("{}.{name}", case.model)), name);
    }
    let (target, flags) = case.arguments.split_last().expect("a type");
    let input = data(&format!("{}.gguf", case.model));
    let mut words = vec!["curtail".to_owned(), "quantize".into()];
    words.extend(flags.iter().cloned());
    words.extend([input.display().to_string(), "out.gguf".into(), target.clone()]);
    let result = commands::dispatch(Cli::parse_from(words));
    let out = Path::new("out.gguf");
    assert_eq!(out.exists(), result.is_ok());
    let found = out.exists().then(|| digest(out));
    if found.is_some() {
        fs::remove_file(out).expect("it is there");
    }
    (found, result.err().map(|e| e.to_string()).unwrap_or_default())
}

/// A process has one folder that names are relative to: this binary runs itself.
#[test]
fn small_models_come_out_as_from_llama_quantize() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "quantize::small_models_come_out_in_this_folder"])
        .current_dir(folder.path())
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
#[ignore = "the other test runs it, in a folder of its own"]
fn small_models_come_out_in_this_folder() {
    let cases: Vec<Case> = read("expected.json");
    assert!(cases.len() > 200);
    let mut wrong = Vec::new();
    for case in &cases {
        let (found, said) = run(case);
        if found != case.file {
            wrong.push(format!("{} {}: {said}", case.model, case.arguments.join(" ")));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn the_demo_model_comes_out_as_from_llama_quantize() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out.gguf");
    for case in read::<Demo>("demo.json") {
        let status = curtail(&["quantize", "--allow-requantize", &demo_model()]).arg(&out).arg(&case.r#type).status();
        assert!(status.expect("it starts").success());
        assert_eq!(digest(&out), case.file, "{}", case.r#type);
    }
}
