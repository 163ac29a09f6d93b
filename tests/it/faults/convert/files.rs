//! What lies in a checkpoint's folder and is no file, or has no end, or says more than it has.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::made::{Made, safetensors};
use crate::common::watched;

/// As many bytes of memory as this are enough for any small checkpoint.
const MEMORY_KIB: u64 = 1 << 20;

/// Converts below a limit of memory.
fn converted(checkpoint: &Path, options: &str) -> watched::Ended {
    let script = format!(
        "ulimit -v {MEMORY_KIB}; exec '{}' convert '{}' -o '{}.gguf' {options}",
        env!("CARGO_BIN_EXE_curtail"),
        checkpoint.display(),
        checkpoint.display()
    );
    watched::run_within(Command::new("sh").args(["-c", &script]), b"", Duration::from_secs(20))
}

fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("it runs").success());
}

#[test]
fn pipes_and_devices_are_no_files_of_a_checkpoint() {
    let needed = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "chat_template.jinja"];
    for name in needed {
        let folder = Made::new().write();
        let path = folder.file(name);
        let _ = fs::remove_file(&path);
        pipe(&path);
        folder.refused(&[], &["kind of file: expected a regular file, found a pipe", name]);
        fs::remove_file(&path).expect("the pipe");
        symlink("/dev/zero", &path).expect("a link");
        converted(folder.file("").as_path(), "").with(1, &["found a device", name]);
    }
}

#[test]
fn what_is_not_needed_is_left_out_when_it_is_no_file() {
    for (name, said) in
        [("README.md", "the model card is left out"), ("generation_config.json", "sampling are left out")]
    {
        let folder = Made::new().write();
        pipe(&folder.file(name));
        folder.converted(&[said, "found a pipe"]);
    }
    let mut made = Made::new();
    made.files = vec![("generation_config.json", b"{\"temperature\": \"warm\"}".to_vec())];
    made.write().converted(&["sampling are left out: `temperature`"]);
}

#[test]
fn a_checkpoint_that_is_no_folder_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    pipe(&path);
    converted(&path, "").with(1, &["checkpoint: expected a folder, or a file of llama2.c, found a pipe"]);
    converted(&folder.path().join("none"), "").with(1, &["cannot open", "No such file"]);
    let empty = converted(folder.path(), "").with(1, &["cannot open", "config.json", "No such file"]);
    assert!(!empty.stderr.contains("entity"), "{empty:?}");
}

#[test]
fn llama2c_takes_its_vocabulary_from_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.bin");
    let mut bytes = Vec::new();
    [8i32, 8, 1, 2, 2, 4, 4].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
    // Embedding, two norms of the layer and the last, attention, feed-forward, angles.
    bytes.resize(28 + 4 * (4 * 8 + 3 * 8 + 4 * 64 + 3 * 64 + 2 * 4 * 2), 0);
    fs::write(&path, &bytes).expect("it can be written");
    pipe(&folder.path().join("pipe"));
    let option = format!("--tokenizer '{}'", folder.path().join("pipe").display());
    converted(&path, &option).with(1, &["a regular file, found a pipe"]);
    converted(&path, "--tokenizer /dev/zero").with(1, &["a regular file, found a device"]);
    // Seven of the weights: NaN.
    bytes[28 + 4 * 9..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, &bytes).expect("it can be written");
    let tokens: Vec<u8> = (0..4u8).flat_map(|i| [&[0; 4][..], &1i32.to_le_bytes(), &[b'a' + i]].concat()).collect();
    let vocabulary = folder.path().join("tokenizer.bin");
    fs::write(&vocabulary, [&[1, 0, 0, 0][..], &tokens].concat()).expect("it can be written");
    let option = format!("--tokenizer '{}'", vocabulary.display());
    converted(&path, &option).with(1, &["tensor `token_embd.weight`: expected finite numbers, found NaN at [1, 1]"]);
}

#[test]
fn json_is_bounded_in_size_depth_and_number_of_values() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let many = format!("{{\"a\":[{}0]}}", "0,".repeat(400_000));
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(9 << 20));
    for (text, said) in [(deep, "recursion limit"), (many, "at most 262144 values"), (long, "at most 8388608 bytes")] {
        for name in ["config.json", "tokenizer_config.json"] {
            let folder = Made::new().write();
            fs::write(folder.file(name), &text).expect("it can be written");
            converted(folder.file("").as_path(), "").with(1, &[said, name]);
        }
    }
}

#[test]
fn directories_of_tensors_are_bounded() {
    let folder = Made::new().write();
    let write = |header: &str, data: &[u8]| {
        fs::write(folder.file("model.safetensors"), safetensors(header, data)).expect("it can be written");
    };
    let empty = |i: usize| format!("\"{i}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}");
    write(&format!("{{{}}}", (0..70_000).map(empty).collect::<Vec<_>>().join(",")), &[]);
    converted(folder.file("").as_path(), "").with(1, &["more than 65536 tensors"]);
    let junk = format!("{{\"__metadata__\":[{}0],\"a\":{{\"x\":[{}0]}}}}", "0,".repeat(9 << 20), "[],".repeat(9 << 20));
    write(&junk, &[]);
    converted(folder.file("").as_path(), "").with(1, &["`dtype` of tensor `a`", "no such key"]);
    let shape = format!("{{\"a\":{{\"dtype\":\"F32\",\"shape\":[{}1],\"data_offsets\":[0,4]}}}}", "1,".repeat(9 << 20));
    write(&shape, &[0; 4]);
    converted(folder.file("").as_path(), "").with(1, &["`shape` of tensor `a`", "an array of counts"]);
    write(&format!("{{\"a\":{}", "[".repeat(1 << 20)), &[]);
    converted(folder.file("").as_path(), "").with(1, &["header: expected JSON"]);
}

/// An `OrderedDict` of a list of pairs, called thousands of times: each call would copy the list.
#[test]
fn a_pickle_cannot_copy_what_it_has_over_and_over() {
    let pairs = b"K\x01K\x02\x86".repeat(20_000);
    let call = b"ccollections\nOrderedDict\nq\x01";
    let pickle = [b"](".as_slice(), &pairs, b"eq\x00", call, &b"h\x01h\x00\x85R".repeat(20_000), b"."].concat();
    let folder = Made::new().write();
    fs::remove_file(folder.file("model.safetensors")).expect("it is there");
    let file = fs::File::create(folder.file("pytorch_model.bin")).expect("a file");
    let mut archive = zip::ZipWriter::new(file);
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("archive/data.pkl", stored).expect("a member");
    archive.write_all(&pickle).expect("its bytes");
    archive.finish().expect("an archive");
    converted(folder.file("").as_path(), "").with(1, &["pickle: expected no more values", "it repeats itself"]);
}

#[test]
fn counts_of_a_configuration_are_bounded_by_the_tensors() {
    for (key, value) in
        [("num_hidden_layers", 4_000_000_000u32), ("vocab_size", 4_000_000_000), ("num_hidden_layers", 12)]
    {
        Made::new().with(key, json!(value)).write().refused(&[], &[]);
    }
}

#[test]
fn more_threads_than_cores_are_not_started() {
    let folder = Made::new().write();
    folder.convert(&["--outtype", "f32"]).with(0, &[]);
    let (input, output) = (folder.output().display().to_string(), folder.file("q.gguf").display().to_string());
    for threads in ["100000", "2147483647"] {
        let arguments = ["quantize", &input, &output, "Q8_0", threads];
        watched::run(&mut crate::common::curtail(&arguments), b"").with(0, &["NTHREADS: expected at most", "taking "]);
    }
}

#[test]
fn one_tensor_is_one() {
    let folder = Made::new().write();
    folder.convert(&["--outtype", "f32"]).with(0, &[]);
    let (input, output) = (folder.output().display().to_string(), folder.file("q.gguf").display().to_string());
    // Rows of 32 are no multiple of Q4_K's 256; of one tensor alone it is asked.
    let arguments = ["quantize", "--tensor-type", "ffn_up=q4_k", &input, &output, "Q8_0"];
    let ended = watched::run(&mut crate::common::curtail(&arguments), b"");
    assert!(!ended.stderr.contains("1 tensors"), "{ended:?}");
}
