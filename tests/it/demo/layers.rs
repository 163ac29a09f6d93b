//! Plans of layers beside model files that were rewritten to the same effect, and the commands that make and use plans.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::golden::{f32_cache, largest_difference, last_logits, load, load_file, logits, path, prompt};
use crate::common::{curtail, demo_model};
use curtail::engine::{EngineParams, Sequence, Shown, TokenId};
use curtail::eval::layers::{Change, Scan, ScanState, windows};
use curtail::gguf::{self, File, Writer};
use curtail::model::{LayerStep, Model};
use curtail::plan::{Depth, Half, Layers, full};
use curtail::sample::Sampler;
use serde_json::Value;

/// The weights whose zeros make a half contribute nothing.
fn output_of(half: Half) -> &'static str {
    match half {
        Half::Attention => "attn_output.",
        Half::FeedForward => "ffn_down.",
    }
}

/// A copy of a model file that has a layer for every step, all whole; a half that a step lacks contributes zero.
fn rewrite(from: &Path, steps: &[LayerStep], to: &Path) {
    let file = File::open(from).expect("a model file");
    let mut metadata = file.metadata().clone();
    let architecture = metadata.need_str("general.architecture").expect("named").to_owned();
    metadata.insert(format!("{architecture}.block_count"), steps.len() as u32);
    let mut writer = Writer::new(metadata);
    let mut sources: Vec<(String, bool)> = Vec::new();
    for tensor in file.tensors() {
        let Some(rest) = tensor.name.strip_prefix("blk.") else {
            writer.tensor(&tensor.name, tensor.dims(), tensor.dtype).expect("it was read");
            sources.push((tensor.name.clone(), false));
            continue;
        };
        let (il, name) = rest.split_once('.').expect("a layer's tensor");
        for (i, step) in steps.iter().enumerate().filter(|(_, step)| step.il.to_string() == il) {
            writer.tensor(&format!("blk.{i}.{name}"), tensor.dims(), tensor.dtype).expect("it was read");
            let zero = |half| !step.has(half) && name.starts_with(output_of(half));
            sources.push((tensor.name.clone(), zero(Half::Attention) || zero(Half::FeedForward)));
        }
    }
    let mut sources = sources.into_iter();
    let bytes = |_: &gguf::TensorInfo| {
        let (name, zero) = sources.next().expect("one for each");
        let bytes = file.data(file.tensor(&name).expect("it was there"));
        // All types at hand have a scale, or numbers, of zero where all bytes are zero.
        Ok::<_, gguf::Error>(if zero { Cow::Owned(vec![0; bytes.len()]) } else { Cow::Borrowed(bytes) })
    };
    writer.write(to, bytes).expect("written");
}

fn with_plan(plan: &[LayerStep]) -> EngineParams {
    f32_cache().with_plan(plan.to_vec())
}

fn steps(text: &str, n_layer: usize) -> Vec<LayerStep> {
    Layers::parse(text).and_then(|layers| layers.steps(&full(n_layer))).unwrap_or_else(|e| panic!("{e}"))
}

/// Every change of tiny models of both architectures, and repetitions, token by token and in one batch.
#[test]
fn plans_give_the_logits_of_rewritten_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let rewritten = folder.path().join("rewritten.gguf");
    let models = [
        ("llama_golden", "gqa-untied"),
        ("llama_golden", "biases"),
        ("llama_golden", "head-dim"),
        ("llama_golden", "rope-llama3"),
        ("opt_golden", "pre-norm"),
    ];
    for (kind, name) in models {
        let (model, tokens) = (load(kind, name, 1), prompt(kind, name));
        let n_layer = model.config().n_layer;
        let mut plans: Vec<Vec<LayerStep>> =
            Change::all(model.plan()).into_iter().map(|change| change.apply(model.plan())).collect();
        plans.extend(["0x2", "0-1x3", "1,0,1,1:mlp,0:attn"].map(|text| steps(text, n_layer)));
        for plan in plans {
            rewrite(&path(kind, &format!("{name}.gguf")), &plan, &rewritten);
            let expected = logits(&load_file(&rewritten, 1), &tokens, f32_cache());
            let found = logits(&model, &tokens, with_plan(&plan));
            let largest = largest_difference(&found, &expected);
            // A half that adds zero, and rows that leave before it or behind it, round differently: 1 in 10^6.
            assert!(largest < 1e-5, "{name}, {plan:?}: {largest}");
            for n_batch in [5, 512] {
                let last = last_logits(&model, &tokens, EngineParams { n_batch, ..with_plan(&plan) });
                let end = &expected[expected.len() - last.len()..];
                let largest = largest_difference(&last, end);
                assert!(largest < 1e-4, "{name}, {plan:?}, batches of {n_batch}: {largest}");
            }
        }
    }
}

fn demo() -> Arc<Model> {
    load_file(Path::new(&demo_model()), 1)
}

fn spread(n: u32) -> Vec<TokenId> {
    (0..n).map(|i| 100 + (i * 7919) % 40_000).collect()
}

#[test]
fn the_demo_model_without_layers_is_its_rewritten_file_to_the_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let rewritten = folder.path().join("rewritten.gguf");
    let (model, tokens) = (demo(), spread(40));
    for text in ["~7", "12<>13", "~20:attn", "~3:mlp", "~29", "8-10x2", "~22-29:attn,~2:mlp,~14"] {
        let plan = steps(text, 30);
        rewrite(Path::new(&demo_model()), &plan, &rewritten);
        let last = |model: &Arc<Model>, plan: Vec<LayerStep>| {
            let mut sequence =
                Sequence::alone(model.clone(), EngineParams::default().with_plan(plan)).expect("a sequence");
            sequence.sync(&tokens, &mut |_, _| ControlFlow::Continue(())).expect("it runs");
            sequence.logits().expect("logits").to_vec()
        };
        let found = last(&model, plan);
        assert!(found == last(&load_file(&rewritten, 1), Vec::new()), "{text}");
        assert!(found != last(&model, Vec::new()), "{text} changes something");
    }
}

/// What a scan says of each change, against the definitions, on files that were rewritten.
#[test]
fn a_scan_measures_what_rewritten_files_predict() {
    let folder = tempfile::tempdir().expect("a folder");
    let rewritten = folder.path().join("rewritten.gguf");
    let (kind, name) = ("llama_golden", "gqa-untied");
    let (model, tokens) = (load(kind, name, 1), prompt(kind, name));
    let parts = windows(&tokens, &[], 20);
    let mut sequence = Sequence::alone(model.clone(), f32_cache()).expect("a sequence");
    let mut state = ScanState::default();
    let done = Scan::new(&mut sequence, &parts).run(&mut state, &mut |_| ControlFlow::Continue(()));
    let done = done.expect("it runs").expect("to its end");
    assert_eq!((done.changes.len(), done.lens.len(), done.cosines.len()), (7, 2, 2));
    let n_vocab = model.config().n_vocab;
    let log_probs = |model: &Arc<Model>| -> Vec<Vec<f64>> {
        let mut rows = Vec::new();
        for part in &parts {
            let all = logits(model, &part.tokens, f32_cache());
            for &i in &part.shown {
                let row: Vec<f64> = all[i * n_vocab..(i + 1) * n_vocab].iter().map(|&x| f64::from(x)).collect();
                let sum: f64 = row.iter().map(|x| x.exp()).sum();
                rows.push(row.iter().map(|x| x - sum.ln()).collect());
            }
        }
        rows
    };
    let next: Vec<usize> = parts.iter().flat_map(|part| &part.next).map(|&token| token as usize).collect();
    let base = log_probs(&model);
    let near = |a: f64, b: f64, what: &str| assert!((a - b).abs() < 1e-4, "{what}: {a} {b}");
    near(done.full.loss, -base.iter().zip(&next).map(|(row, &t)| row[t]).sum::<f64>(), "loss at full depth");
    for (change, sums) in &done.changes {
        rewrite(&path(kind, &format!("{name}.gguf")), &change.apply(model.plan()), &rewritten);
        let changed = log_probs(&load_file(&rewritten, 1));
        let kld = |p: &Vec<f64>, q: &Vec<f64>| p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        near(sums.kld, base.iter().zip(&changed).map(|(p, q)| kld(p, q)).sum(), change.name());
        near(sums.loss, -changed.iter().zip(&next).map(|(row, &t)| row[t]).sum::<f64>(), change.name());
        let entropy = |q: &Vec<f64>| -q.iter().map(|q| q.exp() * q).sum::<f64>();
        near(sums.entropy, changed.iter().map(entropy).sum(), change.name());
        let top = |row: &Vec<f64>| (0..n_vocab).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        let same = base.iter().zip(&changed).filter(|(p, q)| top(p) == top(q)).count();
        assert_eq!((sums.same_top, sums.n), (same, base.len()), "{}", change.name());
    }
    // After the first layer only: a file of one layer; and before it the embedding alone.
    rewrite(&path(kind, &format!("{name}.gguf")), &full(1), &rewritten);
    let shallow = log_probs(&load_file(&rewritten, 1));
    near(done.lens[1].loss, -shallow.iter().zip(&next).map(|(row, &t)| row[t]).sum::<f64>(), "lens");
    let cosines: Vec<f64> = done.cosines.iter().map(|c| c.layer / c.n as f64).collect();
    assert!(cosines.iter().all(|c| (-1.0..=1.0).contains(c)), "{cosines:?}");
}

/// A scan that is stopped after every run and goes on from what it kept.
#[test]
fn a_scan_in_pieces_is_the_same_scan() {
    let (model, tokens) = (load("llama_golden", "tied", 1), prompt("llama_golden", "tied"));
    let parts = windows(&tokens, &[1], 16);
    let mut sequence = Sequence::alone(model, f32_cache()).expect("a sequence");
    let mut whole = ScanState::default();
    Scan::new(&mut sequence, &parts).run(&mut whole, &mut |_| ControlFlow::Continue(())).expect("it runs");
    let (mut pieces, mut n_pieces) = (ScanState::default(), 0);
    loop {
        let mut scan = Scan::new(&mut sequence, &parts);
        assert_eq!(scan.n_done(&pieces), n_pieces);
        if scan.run(&mut pieces, &mut |_| ControlFlow::Break(())).expect("it runs").is_some() {
            break;
        }
        n_pieces += 1;
        // As a file would have it.
        pieces = serde_json::from_str(&serde_json::to_string(&pieces).expect("written")).expect("read");
    }
    assert_eq!((n_pieces, Scan::new(&mut sequence, &parts).n_runs()), (24, 24));
    let [a, b] = [whole, pieces].map(|state| serde_json::to_value(state).expect("a value"));
    same_numbers(&a, &b);
}

/// Numbers may lose their last digit in a file.
fn same_numbers(a: &Value, b: &Value) {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => {
            let (x, y) = (x.as_f64().expect("a number"), y.as_f64().expect("a number"));
            assert!((x - y).abs() <= 1e-12 * x.abs().max(1.0), "{x} {y}");
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).for_each(|(x, y)| same_numbers(x, y))
        }
        (Value::Object(x), Value::Object(y)) if x.len() == y.len() => {
            x.iter().zip(y).for_each(|((i, x), (j, y))| {
                assert_eq!(i, j);
                same_numbers(x, y);
            });
        }
        _ => assert_eq!(a, b),
    }
}

/// What comes before a change is the unchanged model's: entering there gives what the changed plan gives from its beginning.
#[test]
fn a_window_goes_on_from_any_depth_to_the_same_bits() {
    let (model, tokens) = (demo(), spread(33));
    let mut sequence = Sequence::alone(model.clone(), EngineParams::default()).expect("a sequence");
    let (mut out, mut states) = (Shown::default(), Vec::new());
    let shown = [8, 30, 32];
    sequence.trace(&tokens, &shown, &mut out, &mut |state| states.push(state)).expect("it runs");
    let whole = out.clone();
    assert_eq!((states.len(), whole.logits.len(), whole.hidden.len()), (30, 3 * 49152, 3 * 576));
    for depth in [0, 1, 17, 29] {
        sequence.resume(&tokens, Depth(depth), &states[depth], &shown, &mut out).expect("it runs");
        assert!(out.logits == whole.logits && out.hidden == whole.hidden, "from {depth}");
    }
    sequence.replan(steps("~21", 30)).expect("a plan");
    sequence.resume(&tokens, Depth(0), &[], &shown, &mut out).expect("it runs");
    let from_the_beginning = out.clone();
    sequence.resume(&tokens, Depth(21), &states[21], &shown, &mut out).expect("it runs");
    assert!(out.logits == from_the_beginning.logits && out.logits != whole.logits);
    // The last layer gone: nothing is left to run.
    sequence.replan(steps("~29", 30)).expect("a plan");
    sequence.resume(&tokens, Depth(29), &states[29], &shown, &mut out).expect("it runs");
    sequence.resume(&tokens, Depth(0), &[], &shown, &mut whole.clone()).expect("it runs");
    assert_eq!(out.logits.len(), whole.logits.len());
}

#[test]
fn skipped_attention_has_no_cache() {
    let model = load("llama_golden", "tied", 1);
    let bytes = |text: &str| {
        let params = EngineParams { n_ctx: 64, ..with_plan(&steps(text, 2)) };
        Sequence::alone(model.clone(), params).expect("a sequence").engine().cache_bytes()
    };
    let one = bytes("0");
    assert!(one > 0);
    assert_eq!((bytes("0-1"), bytes("~1:attn"), bytes("0-1:mlp"), bytes("0x3,1")), (2 * one, one, 0, 4 * one));
}

#[test]
fn sequences_refuse_what_the_model_or_the_plan_lacks() {
    let model = load("llama_golden", "tied", 1);
    let error = |params: EngineParams| Sequence::alone(model.clone(), params).err().expect("refused").to_string();
    let beyond = error(with_plan(&full(3)));
    assert!(beyond.starts_with("`plan`: expected layers below 2"), "{beyond}");
    let draft = error(EngineParams { draft_plan: full(2), ..with_plan(&steps("~1:attn", 2)) });
    assert!(draft.starts_with("`draft_plan`: expected attention of steps that the plan runs too"), "{draft}");
}

/// Stops, drafts and approximations on a plan: what is verified is the plan's own text.
#[test]
fn early_stops_and_drafts_compose_with_plans() {
    let model = demo();
    let plan = steps("~25-28:attn,~9,~14:mlp", 30);
    let params = EngineParams { n_ctx: 128, ..EngineParams::default() }.with_plan(plan.clone());
    let tokens = spread(24);
    let plain = {
        let mut sequence = Sequence::alone(model.clone(), params.clone()).expect("a sequence");
        sequence.sync(&tokens, &mut |_, _| ControlFlow::Continue(())).expect("it runs");
        let mut greedy = Sampler::greedy();
        (0..24).map(|_| sequence.step(&mut greedy).expect("a step").token).collect::<Vec<_>>()
    };
    let draft_plan =
        Layers::parse_skips("20-24:attn,9,3").expect("a list").leave_out(&plan, model.plan()).expect("left");
    let mut sequence = Sequence::alone(model, EngineParams { draft_plan, ..params }).expect("a sequence");
    sequence.sync(&tokens, &mut |_, _| ControlFlow::Continue(())).expect("it runs");
    let (mut greedy, mut found, mut right) = (Sampler::greedy(), Vec::new(), 0);
    while found.len() < plain.len() {
        let step = sequence.step(&mut greedy).expect("a step");
        right += usize::from(step.was_drafted);
        found.push(step.token);
        // What was drafted rightly has been to the end already.
        if found.len() % 3 == 0 && !sequence.has_logits() {
            sequence.hidden_state_at(Depth(10 + found.len() % 18)).expect("it runs");
        }
        let logits = sequence.run_draft_plan().expect("a draft");
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("a token");
        sequence.draft(best as TokenId, Depth(20)).expect("a draft");
    }
    assert_eq!(found, plain);
    assert!(right > 0, "no draft was right");
    // Cache rows made of early states: steps without attention have none to be made.
    sequence.push(100).expect("room");
    sequence.hidden_state_at(Depth(12)).expect("it runs");
    sequence.propagate_kv().expect("it runs");
    sequence.step(&mut greedy).expect("a step");
}

fn run(arguments: &[&str]) -> (String, String, bool) {
    let output = curtail(arguments).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.success())
}

#[test]
fn malformed_plans_are_pointed_at() {
    let model = path("llama_golden", "tied.gguf");
    let model = model.to_str().expect("UTF-8");
    let refused = |plan: &str| {
        let (_, error, success) = run(&["run", "-m", model, "--raw", "-p", "a", "-n", "1", "--layers", plan]);
        assert!(!success, "{plan}");
        error
    };
    assert!(refused("0,1:atn").contains("found `atn`\n  0,1:atn\n      ^\n"));
    assert!(refused("0-7").contains("--layers: expected a layer below 2, found 7\n  0-7\n    ^\n"));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("plan.txt");
    std::fs::write(&file, "# two layers\n0\n1x\n").expect("written");
    let at = format!("@{}", file.display());
    assert!(refused(&at).contains("plan.txt: line 3: expected 2 or more times, found the end\n  1x\n    ^\n"));
    assert!(refused("@").contains("expected a file behind `@`"));
    let (_, error, _) = run(&["run", "-m", model, "--raw", "-p", "a", "--draft", "skip:0,5"]);
    assert!(error.contains("--draft skip: expected a layer below 2, found 5\n  0,5\n    ^\n"), "{error}");
}

/// Plain text of some length: the head of this repository's own description.
fn text_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")
}

#[test]
fn what_prune_writes_runs_as_its_plan_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (model, text) = (demo_model(), text_file());
    let text = text.to_str().expect("UTF-8");
    let measure = ["-m", &model, "-t", "1", "-f", text, "--tokens", "128", "--window", "32", "--at-context", "8"];
    let generate = ["--raw", "-p", "The sky is blue because", "--temp", "0", "-n", "12", "-t", "1"];
    for (name, how) in [
        ("halves", &["--method", "latter", "--skip", "4"][..]),
        ("layers", &["--method", "measured", "--parts", "layers", "--skip", "2"]),
        ("greedy", &["--parts", "mlp", "--skip", "2", "--tries", "2"]),
    ] {
        let (plan, smaller, page) = (file(&format!("{name}.plan")), file(&format!("{name}.gguf")), file("page.html"));
        let outputs = ["-o", &plan, "--write", &smaller, "--report", &page, "--json"];
        let (json, error, success) = run(&[&["layers", "prune"], &measure[..], how, &outputs].concat());
        assert!(success, "{name}: {error}");
        let found: Value = serde_json::from_str(&json).expect("JSON");
        let points = found["points"].as_array().expect("the way there");
        let last = &points[points.len() - 1];
        assert_eq!(last["plan"], found["plan"]);
        assert!(last["expected_speed"].as_f64().expect("a number") > 1.0, "{last}");
        assert_eq!(points[0]["checks"]["agreement"], 1.0);
        if name == "halves" {
            assert_eq!(found["plan"], "~26-29:attn");
        }
        let (by_plan, error, success) =
            run(&[&["run", "-m", &model, "--layers", &format!("@{plan}")], &generate[..]].concat());
        assert!(success, "{error}");
        let (by_file, error, success) = run(&[&["run", "-m", &smaller], &generate[..]].concat());
        assert!(success, "{error}");
        assert_eq!(by_plan, by_file, "{name}");
        let bytes = |path: &str| std::fs::metadata(path).expect("a file").len();
        assert!(bytes(&smaller) < bytes(&model), "{name}");
        assert!(std::fs::read_to_string(&page).expect("written").contains("<svg"));
    }
    let file_of = |name: &str| File::open(Path::new(&file(name))).expect("a model file");
    assert_eq!(file_of("layers.gguf").metadata().need_u32("llama.block_count").expect("there"), 28);
    assert_eq!(
        file_of("halves.gguf").metadata().i32s("curtail.lacks.attention").expect("i32"),
        Some(&[26, 27, 28, 29][..])
    );
    let (_, error, success) =
        run(&[&["run", "-m", &file("halves.gguf"), "--layers", "0-25,26:attn"], &generate[..]].concat());
    assert!(!success && error.contains("found 26, which has none in this model\n  0-25,26:attn\n       ^"), "{error}");
    let (_, error, success) = run(&[&["layers", "prune"], &measure[..], &["--skip", "1", "--write", &model]].concat());
    assert!(!success && error.contains("is the input"), "{error}");
}

#[test]
fn scan_prints_and_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (model, text, kept, page) = (demo_model(), text_file(), file("scan.json"), file("page.html"));
    let text = text.to_str().expect("UTF-8");
    let scan = |more: &[&str]| {
        let common = ["layers", "scan", "-m", &model, "-t", "1", "-f", text, "--tokens", "20"];
        run(&[&common, more].concat())
    };
    let (json, error, success) = scan(&["--json", "--resume", &kept, "--report", &page]);
    assert!(success, "{error}");
    let found: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(found["changes"].as_array().map(Vec::len), Some(119));
    assert_eq!((found["lens"].as_array().map(Vec::len), found["full"]["n"].as_u64()), (Some(30), Some(10)));
    let kld = |layer: usize| found["changes"][4 * layer]["kld"].as_f64().expect("a number");
    assert!(kld(0) > 2.0 * kld(15), "the first layer is vital");
    assert!(std::fs::read_to_string(&page).expect("written").matches("<svg").count() == 7);
    // Everything is there: what follows only shows it.
    let (again, _, _) = scan(&["--json", "--resume", &kept]);
    same_numbers(&found, &serde_json::from_str(&again).expect("JSON"));
    let (_, error, success) = scan(&["--resume", &kept, "--window", "10"]);
    assert!(!success && error.contains("window 10") && error.contains("hint: another file"), "{error}");
}

#[test]
fn bench_times_plans_behind_a_context() {
    let model = path("llama_golden", "tied.gguf");
    let model = model.to_str().expect("UTF-8");
    let bench = ["bench", "-m", model, "-t", "1", "-p", "8", "-n", "4", "-d", "0,16", "-r", "2", "-o", "json"];
    let (json, error, success) = run(&[&bench[..], &["--layers", "~1:attn", "--layers", "0"]].concat());
    assert!(success, "{error}");
    let rows: Value = serde_json::from_str(&json).expect("JSON");
    let plans: Vec<&str> = rows.as_array().expect("rows").iter().filter_map(|row| row["layers"].as_str()).collect();
    assert_eq!(plans, ["0-1", "0,1:mlp", "0"].repeat(4));
    let depths: Vec<u64> = rows.as_array().expect("rows").iter().filter_map(|row| row["n_depth"].as_u64()).collect();
    assert_eq!(depths, [[0; 6], [16; 6]].concat());
    assert_eq!(rows[0]["of_full_depth"], 1.0);
    assert!(rows[2]["weights_gb_s"].as_f64() > Some(0.0));
}
