//! Importance matrices beside llama.cpp's (tests/makers/make_perplexity_golden.py), and beside sums taken from the file by hand.

use std::path::{Path, PathBuf};

use crate::common::{curtail, demo_model};
use curtail::eval::Imatrix;
use curtail::ggml::dequantize;
use curtail::gguf::File;
use curtail::tokenizer::{Special, Tokenizer};

fn data(name: &str) -> String {
    format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn tiny() -> String {
    data("llama_golden/gqa-untied.gguf")
}

/// What `curtail imatrix` writes.
fn made(arguments: &[&str], target: &Path) -> Imatrix {
    let output = curtail(&[&["imatrix"], arguments].concat()).arg("-o").arg(target).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Imatrix::open(target).expect("it was written")
}

fn of_letters(more: &[&str], target: &Path) -> Imatrix {
    let (model, text) = (tiny(), data("perplexity/letters.txt"));
    let exact = ["--cache-type-k", "f32", "--cache-type-v", "f32", "-t", "1"];
    made(&[&["-m", &model, "-f", &text, "-c", "32"], &exact[..], more].concat(), target)
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("imatrix.gguf");
    (folder, path)
}

/// The largest difference, of the larger value of each pair.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / a.abs().max(b.abs()).max(f64::MIN_POSITIVE)).fold(0.0, f64::max)
}

#[test]
fn the_sums_are_llama_cpps() {
    let (_folder, path) = scratch();
    let own = of_letters(&[], &path);
    let theirs = Imatrix::open(Path::new(&data("perplexity/imatrix.gguf"))).expect("the golden file");
    assert_eq!((own.chunk_size, own.n_chunks()), (theirs.chunk_size, theirs.n_chunks()));
    assert!(own.entries.keys().eq(theirs.entries.keys()), "{:?}", own.entries.keys());
    let mut largest = 0.0;
    for (name, entry) in &own.entries {
        assert_eq!(entry.counts, theirs.entries[name].counts, "{name}");
        largest = f64::max(largest, apart(&entry.squares, &theirs.entries[name].squares));
    }
    println!("largest difference: {largest:e} of the value");
    // 768 squares added up in f32 there, in f64 here; logits of the two differ by up to 1.6e-5 of 4.
    assert!(largest < 1e-5, "{largest}");
}

#[test]
fn files_add_up() {
    let ((_folder, once), (_other, twice)) = (scratch(), scratch());
    let own = of_letters(&[], &once);
    let once = once.to_str().expect("UTF-8");
    let theirs = data("perplexity/imatrix.gguf");
    let both = made(&["--in-file", once, "--in-file", once], &twice);
    assert_eq!((both.n_chunks(), both.datasets.len()), (2 * own.n_chunks(), 2));
    let doubled: Vec<f64> = own.entries["blk.1.ffn_down.weight"].squares.iter().map(|x| 2.0 * x).collect();
    assert_eq!(both.entries["blk.1.ffn_down.weight"].squares, doubled);
    // Read again on top of llama.cpp's file, which has no plain sums: neither has the result.
    let on_top = of_letters(&["--in-file", &theirs], &twice);
    let entry = &on_top.entries["blk.1.ffn_down.weight"];
    assert!(apart(&entry.squares, &doubled) < 1e-5 && entry.sums.is_empty());
}

#[test]
fn chunks_are_skipped_and_copies_kept() {
    let (folder, path) = scratch();
    let first = of_letters(&["--chunks", "3", "--save-frequency", "2"], &path);
    let copy = Imatrix::open(&folder.path().join("imatrix.gguf.at_2")).expect("a copy");
    assert_eq!((first.n_chunks(), copy.n_chunks()), (3, 2));
    let rest = of_letters(&["--chunk", "3"], &path);
    assert_eq!(rest.n_chunks(), 21);
    let whole = of_letters(&[], &path);
    let of = |imatrix: &Imatrix| imatrix.entries["blk.0.ffn_up.weight"].squares.clone();
    let sum: Vec<f64> = of(&first).iter().zip(of(&rest)).map(|(a, b)| a + b).collect();
    // Each file holds f32.
    assert!(apart(&sum, &of(&whole)) < 1e-6);
}

/// What enters the first layer's q, k and v are the embeddings, normed: sums that the file alone gives. The demo model's weights are packed, with
/// the norm inside and q, k and v in one tensor.
#[test]
fn the_first_layer_sees_normed_embeddings() {
    let ((_folder, path), text) = (scratch(), data("perplexity/passage.txt"));
    let model = demo_model();
    let own = made(&["-m", &model, "-f", &text, "-c", "64", "--chunks", "2", "--process-output"], &path);
    // 7 matrices of each of 30 layers, and the embeddings, which are the head.
    assert_eq!((own.entries.len(), own.entries.contains_key("token_embd.weight")), (211, true));

    let file = File::open(Path::new(&model)).expect("the model");
    let floats = |name: &str| {
        let tensor = file.tensor(name).expect("a tensor");
        dequantize(tensor.dtype, file.data(tensor))
    };
    let (embeddings, norm) = (floats("token_embd.weight"), floats("blk.0.attn_norm.weight"));
    let eps = f64::from(file.metadata().need_f32("llama.attention.layer_norm_rms_epsilon").expect("a number"));
    let tokenizer = Tokenizer::from_gguf(file.metadata()).expect("a tokenizer");
    let text = std::fs::read_to_string(&text).expect("text");
    let mut tokens = tokenizer.encode(&text, Special::Plain);
    tokens.truncate(128);
    assert_eq!(tokenizer.leading_bos(), None, "nothing begins a text of this model");
    let (mut sums, mut squares) = (vec![0.0; norm.len()], vec![0.0; norm.len()]);
    for token in tokens {
        let row = &embeddings[token as usize * norm.len()..][..norm.len()];
        let mean: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / norm.len() as f64;
        for (i, (&x, &w)) in row.iter().zip(&norm).enumerate() {
            let y = f64::from(x) * f64::from(w) / (mean + eps).sqrt();
            sums[i] += y;
            squares[i] += y * y;
        }
    }
    for name in ["attn_q", "attn_k", "attn_v"] {
        let entry = &own.entries[&format!("blk.0.{name}.weight")];
        assert_eq!(entry.counts, [128.0]);
        // The norm is computed in f32, and the file holds f32.
        assert!(apart(&entry.squares, &squares) < 1e-5, "{name}");
        let largest = squares.iter().fold(0.0f64, |a, &b| a.max(b)).sqrt();
        assert!(entry.sums.iter().zip(&sums).all(|(a, b)| (a - b).abs() < 1e-5 * largest.max(1.0)), "{name}");
    }
    let of = |name: &str| &own.entries[name].squares;
    assert_eq!(of("blk.7.ffn_gate.weight"), of("blk.7.ffn_up.weight"));
    assert_ne!(of("blk.7.ffn_gate.weight"), of("blk.7.attn_q.weight"));
}

#[test]
fn what_cannot_be_collected_is_said() {
    let (folder, path) = scratch();
    let (model, text) = (tiny(), data("perplexity/letters.txt"));
    for (arguments, code, expected) in [
        (&["-f", &text, "-c", "32", "--chunk", "40"][..], 2, "--chunk: expected fewer than 25 chunks, found 40"),
        (&["--in-file", &model], 1, "`general.type`: expected `imatrix`, found "),
        (&["-f", &text], 1, "expected a text of at least 1024 tokens"),
    ] {
        let output =
            curtail(&[&["imatrix", "-m", &model], arguments].concat()).arg("-o").arg(&path).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(expected), "{arguments:?}: {said}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
}
