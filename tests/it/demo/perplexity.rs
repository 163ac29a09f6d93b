//! Perplexity and divergences beside llama.cpp's numbers (tests/makers/make_perplexity_golden.py), and of depths beside each other.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::common::{curtail, demo_model, golden_of};
use curtail::engine::{EngineParams, Sequence, TokenId};
use curtail::eval::{Against, Chunks, Divergence, Place, Reading, score};
use curtail::exit::{Checkpoint, Probe, Scorer};
use curtail::generate::{Decoder, Kv, Mode, Options};
use curtail::ggml::{Device, isa};
use curtail::gguf::File;
use curtail::model::{LayerStep, Model};
use curtail::plan::Depth;
use serde_json::Value;

fn data(name: &str) -> String {
    format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn tiny(name: &str) -> String {
    data(&format!("llama_golden/{name}.gguf"))
}

fn golden() -> Value {
    let path = golden_of(isa(), "perplexity/golden", "json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the golden file")).expect("JSON")
}

/// What `curtail perplexity --json` prints.
fn found(arguments: &[&str]) -> Value {
    let output = curtail(&[&["perplexity", "--json", "-t", "1"], arguments].concat()).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let output = curtail(&[&["perplexity"], arguments].concat()).stdin(Stdio::null()).output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// An f32 cache without flash attention: only the order of sums differs.
const EXACT: [&str; 4] = ["--cache-type-k", "f32", "--cache-type-v", "f32"];

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number, not {value}"))
}

/// llama.cpp prints so many digits behind the point.
fn assert_near(what: &str, found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{what}: {found}, expected {expected} within {tolerance}");
}

#[test]
fn the_demo_model_foretells_as_with_llama_cpp() {
    let (model, text) = (demo_model(), data("perplexity/passage.txt"));
    let ppl = &found(&["-m", &model, "-f", &text, "-c", "128"])["ppl"];
    let expected = &golden()["demo"]["ppl"];
    println!("{ppl} beside {expected}");
    // On the processor that made the golden file all printed digits are the same. Other instruction sets add up in another
    // order: flash attention alone moves it by 1e-3.
    let tolerance = 2e-4 * number(&expected["value"]);
    assert_near("PPL", number(&ppl["value"]), number(&expected["value"]), tolerance);
    assert_near("its error", number(&ppl["error"]), number(&expected["error"]), tolerance);
}

/// Base written by llama.cpp, statistics printed by llama.cpp: those of another model, and of the same.
#[test]
fn the_statistics_are_llama_cpps() {
    let base = data("perplexity/base.kld");
    for (name, model) in [("other", "tied"), ("same", "gqa-untied")] {
        let arguments = ["-m", &tiny(model), "--kl-divergence", "--kl-divergence-base", &base];
        let found = &found(&[&arguments, &EXACT[..]].concat())["divergence"];
        let expected = &golden()[name];
        for (field, digits) in [
            ("ppl", 6),
            ("ppl_base", 6),
            ("ln_ppl_ratio", 6),
            ("ppl_ratio", 6),
            ("ppl_difference", 6),
            ("kld", 6),
            ("delta_p", 5),
            ("delta_p_rms", 5),
            ("same_top", 5),
        ] {
            // Of nearly equal models llama.cpp takes the root of a difference that is all cancellation: noise, or negative.
            let is_noise = name == "same" && ["ln_ppl_ratio", "ppl_ratio", "ppl_difference"].contains(&field);
            let parts: &[&str] = if is_noise { &["value"] } else { &["value", "error"] };
            for part in parts {
                let (found, expected) = (number(&found[field][part]), number(&expected[field][part]));
                // The last printed digit, and what single precision loses: llama.cpp rounds each surprise to f32, which moves
                // a perplexity by some 1e-8 of itself, and so a difference of two.
                let rounded =
                    if field == "ppl_difference" { 6e-8 * number(&golden()[name]["ppl"]["value"]) } else { 0.0 };
                let tolerance = 2.0 * 10f64.powi(-digits) + 3e-6 * expected.abs() + rounded;
                assert_near(&format!("{name}: {part} of {field}"), found, expected, tolerance);
            }
        }
        let correlation = ["ln_ppl_correlation"].map(|f| (number(&found[f]), number(&expected[f])))[0];
        assert_near("correlation", correlation.0, correlation.1, 0.6e-4);
        for (field, tolerance) in [("kld_quantiles", 2e-6), ("delta_p_quantiles", 1e-5)] {
            let (found, expected) =
                (found[field].as_array().expect("a list"), expected[field].as_array().expect("a list"));
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                let what = format!("{name}: {field} at {}", found["share"]);
                let expected = number(expected);
                assert_near(&what, number(&found["value"]), expected, tolerance + 3e-6 * expected.abs());
            }
        }
    }
}

#[test]
fn the_file_written_is_llama_cpps_but_for_rounding() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("own.kld");
    let (model, text) = (tiny("gqa-untied"), data("perplexity/letters.txt"));
    let path_text = path.to_str().expect("UTF-8");
    let arguments = ["-m", &model, "-f", &text, "-c", "32", "--save-all-logits", path_text];
    found(&[&arguments, &EXACT[..]].concat());
    let (own, theirs) =
        (std::fs::read(&path).expect("it was written"), std::fs::read(data("perplexity/base.kld")).expect("golden"));
    assert_eq!(own.len(), theirs.len());
    // Header and tokens to the byte.
    let n_head = 20 + 4 * 32 * 24;
    assert_eq!(own[..n_head], theirs[..n_head]);
    let rows = |bytes: &[u8]| bytes[n_head..].chunks_exact(8 + 2 * 96).map(<[u8]>::to_vec).collect::<Vec<_>>();
    for (own, theirs) in rows(&own).iter().zip(&rows(&theirs)) {
        for at in [0, 4] {
            let float = |row: &[u8]| f32::from_le_bytes(row[at..at + 4].try_into().expect("four bytes"));
            // Logits differ by up to 1.6e-5 (tests/data/README.md), and scale is a 65535th of a difference.
            assert!((float(own) - float(theirs)).abs() < 4e-5, "{} {}", float(own), float(theirs));
        }
        for (own, theirs) in own[8..].chunks_exact(2).zip(theirs[8..].chunks_exact(2)) {
            let number = |b: &[u8]| i32::from(u16::from_le_bytes([b[0], b[1]]));
            // A step is about 1e-4 here.
            assert!((number(own) - number(theirs)).abs() <= 2, "{} {}", number(own), number(theirs));
        }
    }
}

#[test]
fn a_base_of_another_text_or_vocabulary_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, base, text) = (tiny("tied"), data("perplexity/base.kld"), folder.path().join("text.txt"));
    std::fs::write(&text, "letters".repeat(40)).expect("written");
    let text = text.to_str().expect("UTF-8");
    let with_base = |more: &[&str]| {
        refused(&[&["-m", &model, "--kl-divergence", "--kl-divergence-base", &base][..], more].concat())
    };
    let (code, said) = with_base(&["-f", text]);
    assert!(code == Some(1) && said.contains("found those of another text"), "{said}");
    let (code, said) = with_base(&["-c", "64"]);
    assert!(code == Some(2) && said.contains("-c: expected 32, as stored, found 64"), "{said}");
    let demo = demo_model();
    let (code, said) = refused(&["-m", &demo, "--kl-divergence", "--kl-divergence-base", &base]);
    assert!(code == Some(1) && said.contains("n_vocab: expected 49152, the model's, found 96"), "{said}");
}

#[test]
fn what_cannot_be_measured_is_said() {
    let (model, text) = (tiny("tied"), data("perplexity/letters.txt"));
    for (arguments, code, expected) in [
        (&["-f", &text, "-c", "400"][..], 1, "expected a text of at least 800 tokens, two chunks of 400, found 775"),
        (&["-f", &text, "-c", "3"], 1, "expected a context of at least 4 tokens"),
        (&["-f", &text, "-c", "32", "--exit-layers", "3"], 2, "--exit-layers: expected at most 2, found 3"),
        (&["-f", &text, "-c", "32", "--exit", "fast"], 2, "there is no exit file for this model"),
        (&["-f", &text, "--exit-layers", "1", "--save-all-logits", "x"], 2, "expected --kl-divergence beside"),
        (&["-f", &text, "--kl-divergence"], 2, "--kl-divergence-base"),
        (&["-f", &text, "--exit-file", "x"], 2, "--exit"),
        (&["-f", &text, "--chunks", "-2"], 2, "expected a whole number from 0 to 2147483647, or -1"),
    ] {
        let (found, said) = refused(&[&["-m", &model], arguments].concat());
        assert!(found == Some(code) && said.contains(expected), "{arguments:?}: {found:?} {said}");
    }
}

#[test]
fn all_layers_do_not_diverge_and_fewer_do() {
    let (model, text) = (tiny("gqa-untied"), data("perplexity/letters.txt"));
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("page.html");
    let page_text = page.to_str().expect("UTF-8");
    let at =
        |layers: &str| found(&["-m", &model, "-f", &text, "-c", "32", "--exit-layers", layers, "--report", page_text]);
    let (whole, one, turns) = (at("2"), at("1"), at("1,2"));
    // The very same computation; the logarithms of 96 probabilities are rounded to f32, each to 6e-8 of itself.
    assert!(number(&whole["divergence"]["kld"]["value"]).abs() < 1e-6, "{whole}");
    assert_eq!((number(&whole["divergence"]["same_top"]["value"]), number(&whole["mean_layers"])), (1.0, 2.0));
    assert!(number(&one["divergence"]["kld"]["value"]) > 0.1, "{one}");
    assert_eq!(one["divergence"]["ppl_base"], whole["divergence"]["ppl_base"]);
    // Of 15 places of a chunk, 8 stop after the first layer.
    assert_near("mean layers", number(&turns["mean_layers"]), (8.0 + 2.0 * 7.0) / 15.0, 1e-12);
    let shares = |found: &Value| number(&found["divergence"]["same_top"]["value"]);
    assert!(shares(&one) < shares(&turns) && shares(&turns) < 1.0, "{one} {turns}");
    let html = std::fs::read_to_string(&page).expect("the page was written");
    assert!(html.contains("Layers per token") && html.contains("full depth"));
}

fn load(path: &str) -> Arc<Model> {
    let file = Arc::new(File::open(Path::new(path)).expect("a model file"));
    Arc::new(Model::load(file, Device::cpu(1).expect("a CPU")).expect("it loads"))
}

/// A checkpoint after one layer, without a lens, that is sure above `least`.
fn decoder(model: &Model, mode: Mode, threshold: f32, kv: Kv) -> Decoder {
    let probe = Probe { weights: vec![0.0; 2 * model.config().n_embd], bias: vec![0.0; 2] }; // it always says 0.5
    let checkpoint = Checkpoint { at: Depth(1), lens: None, probe: Some(probe), scorer: Scorer::Top, threshold };
    let options =
        Options { mode, source: curtail::generate::Source::Lookup, checkpoints: vec![checkpoint], kv, most: 64 };
    Decoder::new(options)
}

fn places(reading: &mut Reading, chunks: &Chunks, against: Against<'_>) -> Vec<Place> {
    score(reading, chunks, 1, Some(1), against, &mut |_| {}).expect("it runs")
}

/// Deferred rows leave no trace, so that tokens that always stop are read as forced stops are, and tokens that never stop as
/// at full depth, to the bit.
#[test]
fn fast_reading_is_forced_reading_where_it_always_stops() {
    let model = load(&tiny("gqa-untied"));
    let params = EngineParams {
        type_k: curtail::dtype::DType::F32,
        type_v: curtail::dtype::DType::F32,
        ..EngineParams::default()
    };
    let sequence = |plan: Vec<LayerStep>| Sequence::alone(model.clone(), params.with_plan(plan)).expect("a sequence");
    let tokens: Vec<TokenId> = (0..64).map(|i| 3 + (i * 37 % 90)).collect();
    let chunks = Chunks::new(tokens, 32, usize::MAX).expect("two chunks");
    let by_token =
        |mode, threshold, kv| Reading::Tokens(sequence(Vec::new()), Box::new(decoder(&model, mode, threshold, kv)));
    let surprises = |places: &[Place]| places.iter().map(|p| p.compared.surprise).collect::<Vec<_>>();

    let dense = places(&mut by_token(Mode::Off, 0.0, Kv::Deferred), &chunks, Against::Nothing);
    let never = places(&mut by_token(Mode::Fast, 2.0, Kv::Deferred), &chunks, Against::Nothing);
    assert_eq!(dense, never);
    let batches = places(&mut Reading::Batches(sequence(Vec::new())), &chunks, Against::Nothing);
    let largest = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    // Kernels for many rows add up in another order.
    assert!(largest(&surprises(&dense), &surprises(&batches)) < 1e-4);

    let forced = sequence(vec![LayerStep::whole(0)]);
    let mut forced = Reading::Forced { turns: vec![Depth(1)], sequences: vec![(Depth(1), forced)] };
    let forced = places(&mut forced, &chunks, Against::Nothing);
    let always = places(&mut by_token(Mode::Fast, 0.0, Kv::Deferred), &chunks, Against::Nothing);
    assert!(always.iter().all(|place| place.depth == Depth(1)) && forced.iter().all(|place| place.depth == Depth(1)));
    assert!(largest(&surprises(&always), &surprises(&forced)) < 1e-4);
    assert!(largest(&surprises(&always), &surprises(&dense)) > 0.1, "stopping early changes something");

    // Against its own logits nothing diverges.
    let mut logits = Vec::new();
    let mut reading = by_token(Mode::Fast, 0.0, Kv::Propagate);
    reading
        .chunk(&chunks.input(1, Some(1)), chunks.scored(), &mut |_, rows| logits.extend_from_slice(rows))
        .expect("it runs");
    let again = places(&mut reading, &chunks, Against::Logits(&logits));
    let statistics = Divergence::of(&again.iter().map(|p| p.compared).collect::<Vec<_>>());
    assert!(statistics.kld.value.abs() < 1e-6 && statistics.same_top.value == 1.0, "{statistics:?}");
}

/// Ctrl-C while distributions are written: 130, and no file.
#[cfg(unix)]
#[test]
fn an_interrupt_leaves_no_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, text): (String, PathBuf) = (demo_model(), folder.path().join("text.txt"));
    let mut file = std::fs::File::create(&text).expect("a file");
    (0..4000).for_each(|i| writeln!(file, "Line {i} of a long text that takes minutes to read.").expect("written"));
    for command in ["perplexity", "imatrix"] {
        let target = folder.path().join("out");
        let flag = if command == "imatrix" { "-o" } else { "--save-all-logits" };
        let mut child = curtail(&[command, "-m", &model, "-c", "64", flag])
            .arg(&target)
            .arg("-f")
            .arg(&text)
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        std::thread::sleep(Duration::from_millis(1500));
        let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
        assert!(kill.success());
        assert_eq!(child.wait().expect("it ends").code(), Some(130), "{command}");
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).expect("a folder").map(|e| e.expect("an entry").path()).collect();
        assert_eq!(left, std::slice::from_ref(&text), "{command}");
    }
}
