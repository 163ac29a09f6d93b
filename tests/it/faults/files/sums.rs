//! Importance matrices: every key and every sum with what it should not be.

use std::borrow::Cow;
use std::path::Path;

use curtail::dtype::DType;
use curtail::eval;
use curtail::gguf::{Array, Error, Metadata, Value, Writer};
use curtail::quantize;

use super::OnDisk;
use crate::common::curtail;
use crate::common::tiny::{N_EMBD, Tiny};
use crate::common::watched::run;

const MATRIX: &str = "blk.0.ffn_up.weight";

fn write(path: &Path, key: &str, value: Option<Value>, sums: &[f32], counts: &[f32]) {
    let mut metadata = Metadata::new();
    metadata.insert("general.type", "imatrix");
    metadata.insert("imatrix.datasets", vec!["text.txt".to_owned()]);
    metadata.insert("imatrix.chunk_count", 7u32);
    metadata.insert("imatrix.chunk_size", 512u32);
    if let Some(value) = value {
        metadata.insert(key, value);
    }
    let mut writer = Writer::new(metadata);
    writer.tensor(&format!("{MATRIX}.in_sum2"), &[sums.len(), 1], DType::F32).expect("a tensor");
    writer.tensor(&format!("{MATRIX}.counts"), &[1, counts.len()], DType::F32).expect("a tensor");
    let mut data = [sums, counts].into_iter();
    let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    writer.write::<Error>(path, |_| Ok(Cow::Owned(bytes(data.next().expect("two"))))).expect("written");
}

#[test]
fn any_value_of_a_key_is_an_answer_or_an_error_with_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, out) = (folder.path().join("odd.gguf"), folder.path().join("out.gguf"));
    let values = [
        Value::U32(0),
        Value::I32(-1),
        Value::U64(u64::MAX),
        Value::F32(f32::NAN),
        "x".into(),
        Value::Bool(true),
        Value::Array(Array::U32(vec![])),
        Value::Array(Array::String(vec![])),
        Value::Array(Array::U64(vec![1 << 62])),
    ];
    for key in ["general.type", "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"] {
        for value in &values {
            write(&path, key, Some(value.clone()), &[1.0; N_EMBD], &[2.0]);
            let merged = match eval::Imatrix::open(&path) {
                Ok(imatrix) => imatrix.save(&out).map(|()| imatrix.n_chunks()),
                Err(error) => Err(error),
            };
            let read = quantize::Imatrix::open(&path).map(|imatrix| imatrix.n_chunks());
            for message in [merged.err().map(|e| e.to_string()), read.err().map(|e| e.to_string())].iter().flatten() {
                assert!(message.contains(key) && message.contains("odd.gguf"), "{key}: {message}");
            }
        }
    }
}

#[test]
fn sums_that_are_no_numbers_are_refused_by_name() {
    let model = OnDisk::new(&Tiny::new());
    let (path, out) = (model.beside("sums.gguf"), model.beside("out.gguf"));
    let [path_name, out_name] = [&path, &out].map(|path| path.to_str().expect("UTF-8").to_owned());
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        write(&path, "", None, &[bad; N_EMBD], &[1.0]);
        let quantize = ["quantize", "--imatrix", &path_name, model.name(), &out_name, "Q4_0"];
        run(&mut curtail(&quantize), b"").with(1, &[MATRIX, "sums.gguf"]);
        if !bad.is_finite() {
            let merge = ["imatrix", "--in-file", &path_name, "-o", &out_name];
            run(&mut curtail(&merge), b"").with(1, &[MATRIX, "sums.gguf"]);
        }
    }
    // Two that are finite alone.
    write(&path, "", None, &[3e38; N_EMBD], &[1.0]);
    let merge = ["imatrix", "--in-file", &path_name, "--in-file", &path_name, "-o", &out_name];
    run(&mut curtail(&merge), b"").with(1, &[MATRIX, "fit in f32"]);
    assert!(!out.exists());
}
