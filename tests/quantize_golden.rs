//! What `quantize` writes is, to the byte, what llama-quantize writes (tests/make_quantize_golden.py): same order, types,
//! blocks and metadata, for every type, with and without importance, for odd rows, experts and wishes.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{curtail, demo_model};
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

/// Runs the case in a folder where the files have the names that the metadata will hold.
fn run(case: &Case) -> (Option<String>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["imatrix.gguf", "imatrix.dat"] {
        // Not every model has both.
        let _ = fs::copy(data(&format!("{}.{name}", case.model)), folder.path().join(name));
    }
    let (target, flags) = case.arguments.split_last().expect("a type");
    let input = data(&format!("{}.gguf", case.model));
    let output = curtail(&["quantize"])
        .args(flags)
        .arg(&input)
        .args(["out.gguf", target])
        .current_dir(folder.path())
        .output()
        .expect("it starts");
    let out = folder.path().join("out.gguf");
    assert_eq!(out.exists(), output.status.success());
    (out.exists().then(|| digest(&out)), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn small_models_come_out_as_from_llama_quantize() {
    let cases: Vec<Case> = read("expected.json");
    assert!(cases.len() > 200);
    let mut wrong = Vec::new();
    for case in &cases {
        let (found, said) = run(case);
        if found != case.file {
            wrong.push(format!("{} {}: {}", case.model, case.arguments.join(" "), said.lines().last().unwrap_or("")));
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
