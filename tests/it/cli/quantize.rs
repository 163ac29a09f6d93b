//! How `quantize` treats files: what it refuses, what it leaves behind, and how its parts make a whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{curtail, demo_model};
use curtail::dtype::DType;
use curtail::gguf::{Error, File, Metadata, Value, Writer};

fn mix() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/quantize/mix.gguf")
}

fn quantize(folder: &Path, arguments: &[&str]) -> Output {
    curtail(&["quantize"]).args(arguments).current_dir(folder).output().expect("it starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A model of the given tensors in F32, all numbers the same; opt's names and keys.
fn write_model(path: &Path, tensors: &[(&str, &[usize])], number: f32) {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "opt");
    metadata.insert("opt.block_count", 1u32);
    let mut writer = Writer::new(metadata);
    tensors.iter().for_each(|(name, dims)| writer.tensor(name, dims, DType::F32).unwrap());
    let data = |bytes| number.to_le_bytes().repeat(bytes / 4);
    writer.write::<Error>(path, |tensor| Ok(data(tensor.bytes).into())).unwrap();
}

/// An importance matrix with these entries.
fn write_imatrix(path: &Path, entries: &[(&str, usize)]) {
    let mut metadata = Metadata::new();
    metadata.insert("imatrix.datasets", Value::from(vec!["text".to_owned()]));
    metadata.insert("imatrix.chunk_count", 1u32);
    metadata.insert("imatrix.chunk_size", 512u32);
    let mut writer = Writer::new(metadata);
    for (name, n) in entries {
        writer.tensor(&format!("{name}.in_sum2"), &[*n], DType::F32).unwrap();
        writer.tensor(&format!("{name}.counts"), &[1], DType::F32).unwrap();
    }
    writer.write::<Error>(path, |tensor| Ok(1f32.to_le_bytes().repeat(tensor.bytes / 4).into())).unwrap();
}

#[test]
fn what_cannot_be_done_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    write_model(&at.join("nan.gguf"), &[("blk.0.attn_q.weight", &[256, 4])], f32::NAN);
    write_model(&at.join("large.gguf"), &[("blk.0.attn_q.weight", &[256, 4])], 1e30);
    write_model(&at.join("odd.gguf"), &[("token_embd.weight", &[100, 4])], 1.0);
    write_imatrix(&at.join("other.gguf"), &[("blk.0.attn_q.weight", 512)]);
    write_imatrix(&at.join("foreign.gguf"), &[("blk.99.attn_q.weight", 256)]);
    write_imatrix(&at.join("partly.gguf"), &[("blk.0.attn_q.weight", 256)]);
    fs::write(at.join("types.txt"), "attn_q=q8_0\nattn_k=q99").unwrap();
    let before = names(at);
    let (mix, demo) = (mix(), demo_model());
    for (code, arguments, expected) in [
        (2, &[mix, "out.gguf", "Q9_K"][..], "`Q9_K` is not a file type"),
        (2, &[mix, "-", "Q8_0"], "not written to stdout"),
        (2, &[mix, "out.gguf", "Q8_0", "none"], "number of threads"),
        (2, &["--tensor-type", "attn_q=q8_1", mix, "out.gguf", "Q8_0"], "`q8_1` is not a type that tensors"),
        (2, &["--include-weights", "a", mix, "out.gguf", "Q8_0"], "--imatrix"),
        (1, &["missing.gguf", "out.gguf", "Q8_0"], "cannot open `missing.gguf`"),
        (1, &["--tensor-type-file", "types.txt", mix, "out.gguf", "Q8_0"], "types.txt: `attn_k=q99`"),
        (1, &[&demo, "out.gguf", "Q8_0"], "--allow-requantize"),
        (1, &[mix, "out.gguf", "IQ2_XS"], "needs an importance matrix, found none\nhint: "),
        (1, &[mix, "out.gguf", "Q2_K_S"], "needs an importance matrix"),
        (1, &["--token-embedding-type", "iq2_xxs", mix, "out.gguf", "Q4_0"], "`token_embd.weight`: iq2_xxs needs an"),
        (1, &["--token-embedding-type", "q4_K", "odd.gguf", "out.gguf", "Q4_0"], "expected rows of a multiple of 256"),
        (1, &["--imatrix", "other.gguf", mix, "out.gguf", "Q4_K"], "expected 256 numbers, one per column, found 512"),
        (1, &["--imatrix", "foreign.gguf", mix, "out.gguf", "Q4_K"], "is it another model's?"),
        (1, &["--imatrix", "partly.gguf", mix, "out.gguf", "IQ2_XS"], "found none for this tensor in it"),
        (1, &["--imatrix", mix, mix, "out.gguf", "Q4_K"], "`imatrix.datasets`"),
        (1, &["--imatrix", "partly.gguf", "--exclude-weights", "attn", mix, "out.gguf", "Q4_K"], "no entry is left"),
        (1, &["nan.gguf", "out.gguf", "Q4_K"], "`blk.0.attn_q.weight`, row 0: expected finite numbers"),
        (1, &["nan.gguf", "out.gguf", "COPY"], "`blk.0.attn_q.weight`: expected finite numbers"),
        (1, &["large.gguf", "out.gguf", "F16"], "expected numbers that fit"),
        (1, &[mix, "no/such/out.gguf", "Q8_0"], "cannot write `no/such/out.gguf`"),
        (1, &[mix, ".", "Q8_0"], "it is a directory"),
    ] {
        let output = quantize(at, arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
        assert_eq!(names(at), before, "{arguments:?}");
    }
}

#[test]
fn an_input_is_never_the_output() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fs::copy(mix(), at.join("in.gguf")).unwrap();
    fs::hard_link(at.join("in.gguf"), at.join("hard.gguf")).unwrap();
    std::os::unix::fs::symlink("in.gguf", at.join("soft.gguf")).unwrap();
    write_imatrix(&at.join("im.gguf"), &[("blk.0.attn_q.weight", 256)]);
    let before: Vec<(String, Vec<u8>)> =
        names(at).into_iter().map(|n| (n.clone(), fs::read(at.join(n)).unwrap())).collect();
    for output in ["in.gguf", "./in.gguf", "hard.gguf", "soft.gguf", "im.gguf"] {
        let said = quantize(at, &["--imatrix", "im.gguf", "in.gguf", output, "Q8_0"]);
        assert_eq!(said.status.code(), Some(1), "{output}");
        assert!(stderr(&said).contains("inputs are never changed"), "{output}: {}", stderr(&said));
        let after: Vec<_> = names(at).into_iter().map(|n| (n.clone(), fs::read(at.join(n)).unwrap())).collect();
        assert!(before == after, "{output}");
    }
    // A part of a split input is an input too.
    assert!(quantize(at, &["--split-max-tensors", "60", "in.gguf", "parts.gguf", "COPY"]).status.success());
    let parts = names(at).iter().filter(|n| n.starts_with("parts-")).count();
    assert_eq!(parts, 3);
    let said = quantize(at, &["parts-00001-of-00003.gguf", "parts-00002-of-00003.gguf", "Q8_0"]);
    assert!(stderr(&said).contains("inputs are never changed"), "{}", stderr(&said));
}

#[test]
fn an_old_output_is_replaced_by_a_complete_one_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fs::write(at.join("out.gguf"), "old").unwrap();
    write_model(&at.join("nan.gguf"), &[("a.weight", &[256, 4]), ("b.weight", &[256, 4])], f32::NAN);
    assert_eq!(quantize(at, &["nan.gguf", "out.gguf", "Q8_0"]).status.code(), Some(1));
    assert_eq!(fs::read(at.join("out.gguf")).unwrap(), b"old");
    assert!(quantize(at, &[mix(), "out.gguf", "Q8_0", "1"]).status.success());
    assert_eq!(
        File::open(&at.join("out.gguf")).unwrap().tensors().len(),
        File::open(Path::new(mix())).unwrap().tensors().len()
    );
    // Without a name the output lies beside the input, as llama-quantize puts it.
    assert_eq!(quantize(at, &["out.gguf", "copy"]).status.code(), Some(0));
    assert_eq!(names(at), ["ggml-model-COPY.gguf", "nan.gguf", "out.gguf"]);
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = env!("CARGO_BIN_EXE_curtail");
    // A limit on the size of files stands for the end of the disk; the signal would end the program before it could say so.
    let script = format!("trap '' XFSZ; ulimit -f 64; exec {program} quantize {} out.gguf F32", mix());
    let output = Command::new("sh").args(["-c", &script]).current_dir(folder.path()).output().expect("a shell");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("cannot write `out.gguf`: "), "{}", stderr(&output));
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
}

#[test]
fn an_interruption_leaves_nothing_behind() {
    // 128 and the signal; of several that come at once any may be the one that ends it.
    for (signals, codes) in [(&["INT"][..], &[130][..]), (&["TERM"], &[143]), (&["INT", "INT", "TERM"], &[130, 143])] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = curtail(&["quantize", "--allow-requantize", &demo_model(), "out.gguf", "IQ4_NL", "1"])
            .current_dir(folder.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let start = Instant::now();
        // The temporary file shows that the work has begun.
        while names(folder.path()).is_empty() {
            assert!(start.elapsed() < Duration::from_secs(20), "it never began");
            std::thread::sleep(Duration::from_millis(5));
        }
        for signal in signals {
            let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).status();
            assert!(sent.expect("a shell").success(), "{signal}: it had ended");
        }
        let code = child.wait().expect("it ends").code();
        assert!(code.is_some_and(|code| codes.contains(&code)), "{signals:?}: {code:?}");
        assert!(names(folder.path()).is_empty(), "{signals:?}: {:?}", names(folder.path()));
    }
}

#[test]
fn parts_hold_what_the_whole_holds() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    assert!(quantize(at, &[mix(), "whole.gguf", "Q4_K"]).status.success());
    let whole = File::open(&at.join("whole.gguf")).unwrap();
    for (flags, expected) in [(["--split-max-tensors", "50"], 3), (["--split-max-size", "1M"], 1)] {
        let name = format!("parts{expected}.gguf");
        assert!(quantize(at, &[flags[0], flags[1], mix(), &name, "Q4_K"]).status.success());
        let first = at.join(format!("parts{expected}-00001-of-{expected:05}.gguf"));
        assert_holds_the_same(&File::open(&first).unwrap(), &whole, expected);
    }
    // As many parts as the input, each with the tensors of its counterpart.
    let kept =
        quantize(at, &["--allow-requantize", "--keep-split", "parts3-00001-of-00003.gguf", "again.gguf", "COPY"]);
    assert!(kept.status.success(), "{}", stderr(&kept));
    assert_holds_the_same(&File::open(&at.join("again-00001-of-00003.gguf")).unwrap(), &whole, 3);
    let size = |name: &str| File::open(&at.join(name)).unwrap().file_bytes();
    assert_eq!(size("again-00001-of-00003.gguf"), size("parts3-00001-of-00003.gguf"));
    // And back to one file.
    assert!(quantize(at, &["parts3-00001-of-00003.gguf", "back.gguf", "COPY"]).status.success());
    assert!(fs::read(at.join("back.gguf")).unwrap() == fs::read(at.join("whole.gguf")).unwrap());
}

fn assert_holds_the_same(parts: &File, whole: &File, n_parts: usize) {
    assert_eq!(parts.n_parts(), n_parts);
    assert_eq!(parts.tensors().len(), whole.tensors().len());
    for (a, b) in parts.tensors().iter().zip(whole.tensors()) {
        assert_eq!((&a.name, a.dims(), a.dtype), (&b.name, b.dims(), b.dtype));
        assert!(parts.data(a) == whole.data(b), "{}", a.name);
    }
    let own = |file: &File| {
        file.metadata()
            .iter()
            .filter(|(k, _)| !k.starts_with("split."))
            .map(|(k, v)| (k.to_owned(), v.clone()))
            .collect()
    };
    let (a, b): (Vec<(String, Value)>, Vec<_>) = (own(parts), own(whole));
    assert_eq!(a, b);
}

#[test]
fn a_dry_run_tells_the_sizes_and_writes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let told = quantize(at, &["--dry-run", "--json", mix(), "out.gguf", "Q5_K_M"]);
    assert!(told.status.success() && names(at).is_empty(), "{}", stderr(&told));
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    let made = quantize(at, &["--json", mix(), "out.gguf", "Q5_K_M"]);
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(told, made);
    assert_eq!(told["file_bytes"], fs::metadata(at.join("out.gguf")).unwrap().len());
    let file = File::open(&at.join("out.gguf")).unwrap();
    for (t, line) in file.tensors().iter().zip(told["tensors"].as_array().unwrap()) {
        assert_eq!((line["name"].as_str(), line["to"].as_str()), (Some(&*t.name), Some(t.dtype.name())));
        assert_eq!(line["bytes"], t.bytes);
    }
    // Without the importance matrix that it would need, the sizes are known too.
    let told = quantize(at, &["--dry-run", mix(), "IQ2_XXS"]);
    assert!(told.status.success() && stderr(&told).contains("needs an importance matrix"), "{}", stderr(&told));
    assert!(String::from_utf8_lossy(&told.stdout).contains("blk.0.attn_q.weight"));
}

#[test]
fn opt_keeps_positions_biases_and_norms() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("opt.gguf");
    let matrices =
        ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"].map(|p| format!("blk.0.{p}.weight"));
    let biases = ["attn_q", "ffn_up", "attn_norm"].map(|p| format!("blk.0.{p}.bias"));
    let mut tensors: Vec<(&str, &[usize])> = vec![
        ("token_embd.weight", &[256, 8]),
        ("position_embd.weight", &[256, 4]),
        ("token_embd_proj_in.weight", &[256, 256]),
        ("token_embd_proj_out.weight", &[256, 256]),
        ("output_norm.weight", &[256]),
        ("output_norm.bias", &[256]),
    ];
    tensors.extend(matrices.iter().map(|name| (name.as_str(), &[256, 4][..])));
    tensors.extend(biases.iter().map(|name| (name.as_str(), &[256][..])));
    write_model(&model, &tensors, 0.5);
    let output = quantize(folder.path(), &["opt.gguf", "out.gguf", "Q4_K_S"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let file = File::open(&folder.path().join("out.gguf")).unwrap();
    let dtype = |name: &str| file.tensor(name).unwrap().dtype;
    // The embedding is the head as well.
    assert_eq!(dtype("token_embd.weight"), DType::Q6_K);
    assert_eq!(dtype("position_embd.weight"), DType::F32);
    assert_eq!(dtype("token_embd_proj_in.weight"), DType::Q4_K);
    assert_eq!(dtype("blk.0.attn_v.weight"), DType::Q5_K);
    assert_eq!(dtype("blk.0.attn_q.weight"), DType::Q4_K);
    assert!(biases.iter().all(|name| dtype(name) == DType::F32) && dtype("output_norm.weight") == DType::F32);
}

#[test]
fn large_models_take_little_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let model: PathBuf = folder.path().join("large.gguf");
    // 256 MB of numbers.
    write_model(&model, &[("blk.0.ffn_up.weight", &[4096, 8192]), ("blk.0.ffn_down.weight", &[4096, 8192])], 0.25);
    let mut child =
        curtail(&["quantize", "large.gguf", "out.gguf", "Q4_K", "2"]).current_dir(folder.path()).spawn().unwrap();
    let mut peak_kb = 0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak_kb = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(peak_kb);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success());
    assert!(peak_kb > 0 && peak_kb < 100_000, "{peak_kb} kB");
}
