//! Questions that stop at a layer, beside full depth and beside models that have no more layers.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use crate::common::golden::cut_model;
use crate::common::{curtail, demo_model};
use curtail::classify::Task;
use curtail::engine::{Branch, Cut, EngineParams, Sequence, TokenId, View};
use curtail::ggml::{Device, Isa, isa};
use curtail::gguf::File;
use curtail::model::{LayerStep, Model};
use curtail::plan::Depth;
use serde_json::{Value, json};

const TOKENS: [TokenId; 20] = [1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 41, 45, 49, 53, 57, 61, 65, 69, 73, 77];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/llama_golden").join(name)
}

fn sequence(path: &Path, n_batch: usize) -> Sequence {
    let file = Arc::new(File::open(path).expect("a model file"));
    let model = Arc::new(Model::load(file, Device::cpu(1).expect("a CPU")).expect("it loads"));
    Sequence::alone(model, EngineParams { n_batch, ..EngineParams::default() }).expect("a sequence")
}

fn full_depth(path: &Path, n_batch: usize) -> Vec<f32> {
    let mut sequence = sequence(path, n_batch);
    sequence.sync(&TOKENS, &mut |_, _| ControlFlow::Continue(())).expect("it runs");
    sequence.logits().expect("logits").to_vec()
}

/// What a question has at a cut: how deep it is, hidden state, logits.
type Seen = (usize, Vec<f32>, Vec<f32>);

/// Asks questions after a prefix; each stops at its own layer, or never.
fn ask(
    sequence: &mut Sequence,
    prefix: &[TokenId],
    questions: &[&[TokenId]],
    cuts: &[usize],
    stops: &[usize],
) -> Vec<Seen> {
    let mut last = vec![(0, Vec::new(), Vec::new()); questions.len()];
    let at_cut = &mut |seen: &[Cut]| {
        let mut look = |cut: &Cut| {
            last[cut.branch] = (cut.depth.0, cut.hidden.clone(), cut.logits.clone());
            cut.depth.0 == stops[cut.branch]
        };
        seen.iter().map(&mut look).collect()
    };
    let questions: Vec<Branch<'_>> = questions.iter().map(|tokens| Branch { tokens, shown: 1 }).collect();
    let cuts: Vec<Depth> = cuts.iter().copied().map(Depth).collect();
    sequence.fan_out(prefix, &questions, &cuts, View::Logits, at_cut).expect("it runs");
    last
}

const NEVER: usize = usize::MAX;

/// Hidden state and logits, whichever a question shows.
fn seen((_, hidden, logits): &Seen) -> Vec<f32> {
    [&hidden[..], logits].concat()
}

/// Fails unless two rows point the same way but for rounding.
#[track_caller]
fn assert_close(a: &[f32], b: &[f32]) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum::<f64>();
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    assert!(a.len() == b.len() && cosine > 0.999, "{cosine}");
}

#[test]
fn without_a_stop_a_question_is_a_plain_prompt_to_the_bit() {
    for path in [golden("gqa-untied.gguf"), PathBuf::from(demo_model())] {
        for n_batch in [7, 512] {
            let plain = full_depth(&path, n_batch);
            let n_layer = sequence(&path, n_batch).model().config().n_layer;
            for cuts in [vec![], vec![1], (1..n_layer).collect()] {
                let mut sequence = sequence(&path, n_batch);
                let found = ask(&mut sequence, &[], &[&TOKENS], &cuts, &[NEVER]);
                assert_eq!(found[0].0, n_layer);
                assert_eq!(found[0].2, plain, "{} cut at {cuts:?}", path.display());
            }
        }
    }
}

#[test]
fn a_stop_gives_what_a_model_with_no_more_layers_gives() {
    let folder = tempfile::tempdir().expect("a folder");
    let cut = folder.path().join("cut.gguf");
    for (path, layers) in [(golden("gqa-untied.gguf"), vec![1]), (PathBuf::from(demo_model()), vec![1, 16, 29])] {
        for k in layers {
            cut_model(&path, k, &cut);
            let expected = full_depth(&cut, 512);
            let mut sequence = sequence(&path, 512);
            let found = ask(&mut sequence, &[], &[&TOKENS], &[k], &[k]);
            assert_eq!(found[0].0, k);
            let largest = found[0].2.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // The rows of a cut model's last layer run alone; ggml's f32 kernels, which the tiny model uses, then add up in
            // another order. The packed ones do not.
            let tolerance = if path == golden("gqa-untied.gguf") { 1e-5 } else { 0.0 };
            assert!(largest <= tolerance, "{} after layer {k}: {largest}", path.display());
        }
    }
}

#[test]
fn questions_side_by_side_leave_at_their_own_depth_with_what_they_get_alone() {
    let path = PathBuf::from(demo_model());
    let spread = |seed: u32, n: u32| (0..n).map(|i| 100 + (i * 7919 + seed * 104_729) % 40_000).collect::<Vec<_>>();
    let (prefix, rest) = (spread(1, 60), spread(2, 20));
    let (prefix, rest) = (&prefix[..], &rest[..]);
    let (long, other) = (spread(3, 80), spread(4, 33));
    let questions: [&[TokenId]; 6] = [rest, &rest[..4], &long, &[7], &rest[2..], &other];
    let (cuts, stops) = ([5, 10, 20], [10, NEVER, 5, 20, NEVER, NEVER]);
    for n_batch in [16, 512] {
        let together = ask(&mut sequence(&path, n_batch), prefix, &questions, &cuts, &stops);
        for (i, question) in questions.iter().enumerate() {
            let alone = ask(&mut sequence(&path, n_batch), prefix, &[question], &cuts, &stops[i..=i]);
            assert_eq!(together[i].0, stops[i].min(30));
            // Without AVX2 attention has no kernel of ours, and ggml's adds up by where rows lie in the cache.
            match isa() >= Isa::Avx2 {
                true => assert!(together[i] == alone[0], "question {i} in batches of {n_batch}"),
                false => assert_close(&seen(&together[i]), &seen(&alone[0])),
            }
        }
    }
}

#[test]
fn every_shown_row_has_what_it_has_as_the_last() {
    let path = PathBuf::from(demo_model());
    let (prefix, rest) = TOKENS.split_at(12);
    let mut seen = Vec::new();
    let question = Branch { tokens: rest, shown: 3 };
    let mut sequence = sequence(&path, 512);
    let at_cut = &mut |cuts: &[Cut]| {
        seen.extend(cuts.to_vec());
        Vec::new()
    };
    sequence.fan_out(prefix, &[question], &[Depth(7)], View::Through(&|_, h| h.to_vec()), at_cut).expect("it runs");
    for (i, cut) in seen.iter().enumerate() {
        for back in 0..3 {
            let found = ask(&mut sequence, prefix, &[&rest[..rest.len() - back]], &[7], &[[7, NEVER][i]]);
            let at = |all: &[f32], n: usize| all[(2 - back) * n..(3 - back) * n].to_vec();
            assert_eq!((cut.hidden.len(), cut.logits.len()), (3 * 576, 3 * 49152));
            assert!(at(&cut.logits, 49152) == found[0].2 && at(&cut.hidden, 576) == found[0].1, "cut {i}, {back} back");
        }
    }
}

#[test]
fn a_prefix_goes_no_deeper_than_its_questions_and_later_as_deep_as_needed() {
    let path = PathBuf::from(demo_model());
    let mut sequence = sequence(&path, 512);
    let (prefix, rest) = TOKENS.split_at(12);
    // Stops early, a bit later, never: the prefix follows, and a plain continuation takes it from there.
    for stop in [4, 15, 8, NEVER] {
        let found = ask(&mut sequence, prefix, &[rest], &[4, 8, 15], &[stop]);
        let fresh = ask(&mut self::sequence(&path, 512), prefix, &[rest], &[4, 8, 15], &[stop]);
        assert!(found == fresh, "stop at {stop}");
        assert_eq!(sequence.tokens(), prefix);
    }
    ask(&mut sequence, &TOKENS[..15], &[&TOKENS[15..]], &[4], &[4]);
    sequence.sync(&TOKENS, &mut |_, _| ControlFlow::Continue(())).expect("it runs");
    assert_eq!(sequence.logits().expect("logits"), full_depth(&path, 512));
    let mut error = |tokens, shown, cuts: &[Depth]| {
        let question = Branch { tokens, shown };
        sequence.fan_out(prefix, &[question], cuts, View::Hidden, &mut |_| Vec::new()).unwrap_err().to_string()
    };
    assert_eq!(error(rest, 1, &[Depth(0)]), "`cuts`: expected layers between 1 and 29, rising, found [0]");
    assert_eq!(error(&[], 1, &[]), "there is no token to continue from");
    assert_eq!(error(&[5], 2, &[]), "`shown`: expected between 1 and 1, found 2");
}

#[test]
fn a_plan_without_layers_is_a_model_without_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let cut = folder.path().join("cut.gguf");
    let path = PathBuf::from(demo_model());
    cut_model(&path, 20, &cut);
    let file = Arc::new(File::open(&path).expect("a model file"));
    let model = Arc::new(Model::load(file, Device::cpu(1).expect("a CPU")).expect("it loads"));
    let plan: Vec<LayerStep> = (0..20).map(LayerStep::whole).collect();
    let mut sequence = Sequence::alone(model, EngineParams { plan, ..EngineParams::default() }).expect("a sequence");
    let found = ask(&mut sequence, &[], &[&TOKENS], &[], &[NEVER]);
    assert_eq!((found[0].0, &found[0].2), (20, &full_depth(&cut, 512)));
}

/// Words for small and for large numbers of things: easy enough for a short training.
fn task(folder: &Path) -> PathBuf {
    let animals = ["cat", "dog", "horse", "cow", "sheep", "goat", "pig", "wolf", "fox", "bear", "mouse", "deer"];
    let cities =
        ["Paris", "London", "Berlin", "Madrid", "Rome", "Vienna", "Tokyo", "Cairo", "Lima", "Oslo", "Delhi", "Boston"];
    let frames =
        ["The {} again.", "I saw the {}.", "We like {} best.", "About {}, nothing new.", "{} it is.", "Where is {}?"];
    let mut rows = Vec::new();
    for frame in frames {
        for (word, label) in animals.iter().map(|w| (w, "animal")).chain(cities.iter().map(|w| (w, "city"))) {
            rows.push(json!({ "text": frame.replace("{}", word), "label": label }).to_string());
        }
    }
    let (test, train): (Vec<_>, Vec<_>) = rows.into_iter().enumerate().partition(|(i, _)| i % 4 == 0);
    for (name, rows) in [("train.jsonl", train), ("test.jsonl", test)] {
        let lines: String = rows.into_iter().map(|(_, row)| row + "\n").collect();
        std::fs::write(folder.join(name), lines).expect("written");
    }
    let path = folder.join("task.toml");
    let description = r#"
        name = "kind"
        prompt = "Text: {{ text }}\nKind:"
        labels = [" animal", " city"]
        answer = "label"
        values = ["animal", "city"]
        shots = 4
        train = "train.jsonl"
        test = "test.jsonl"
    "#;
    std::fs::write(&path, description).expect("written");
    path
}

fn run(arguments: &[&str]) -> Output {
    curtail(arguments).output().expect("it starts")
}

/// Words with the category that they belong to, as a choice and as an open answer.
#[test]
fn choices_open_answers_and_own_answers_stop_early_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let words = ["cat", "dog", "horse", "cow", "sheep", "goat", "pig", "wolf", "fox", "bear", "mouse", "deer", "lion"];
    let cities = ["Paris", "London", "Berlin", "Madrid", "Rome", "Vienna", "Tokyo", "Cairo", "Lima", "Oslo", "Delhi"];
    let row = |(i, word): (usize, &str)| {
        let right = if i < words.len() { "an animal" } else { "a city" };
        json!({ "word": word, "kinds": ["an animal", "a city", "a number"], "kind": right }).to_string()
    };
    let all: Vec<String> = words.into_iter().chain(cities).enumerate().map(row).collect();
    let train: String = all.iter().chain(&all).chain(&all).map(|row| row.clone() + "\n").collect();
    std::fs::write(folder.path().join("train.jsonl"), train).expect("written");
    std::fs::write(folder.path().join("test.jsonl"), all.join("\n")).expect("written");
    let rest = "prompt = \"{{ word }} is\"\nshots = 4\ntrain = \"train.jsonl\"\ntest = \"test.jsonl\"\n";
    let choices = "name = \"choices\"\nchoices = \"kinds\"\nvalues = [\"an animal\", \"a city\", \"a number\"]\nanswer = \"kind\"\n";
    let open = "name = \"open\"\nanswer = \"kind\"\n";
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("{text}{rest}")).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (choices, open) = (write("choices.toml", choices), write("open.toml", open));
    let (model, exit) = (demo_model(), folder.path().join("demo.exit.gguf"));
    let exit = exit.to_str().expect("UTF-8");
    let common = ["-m", &model, "-t", "1"];
    let train = ["train-exit", "--task", &choices, &open, "-o", exit, "--from-layer", "27", "--rule", "logistic"];
    let trained = run(&[&train, &common[..], &["--rows", "60"]].concat());
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    let measured = run(&[&["eval", "--task", &choices, &open, "--exit", exit, "--json"][..], &common].concat());
    assert!(measured.status.success(), "{}", String::from_utf8_lossy(&measured.stderr));
    let rows: Value = serde_json::from_slice(&measured.stdout).expect("JSON");
    for row in rows.as_array().expect("one for each task") {
        assert!(row["accuracy_dense"].as_f64().expect("a number") >= 0.6, "{row}");
        assert!(row["agreement"].as_f64().expect("a number") >= 0.9, "{row}");
    }
    let own = ["train-exit", "--task", "self", "-o", exit, "--from-layer", "27", "--rows", "60", "--prompts", "8"];
    let own = run(&[&own, &common[..]].concat());
    assert!(own.status.success(), "{}", String::from_utf8_lossy(&own.stderr));
    let measured = run(&[&["eval", "--task", &open, "--exit", exit, "--json"][..], &common].concat());
    assert!(String::from_utf8_lossy(&measured.stderr).contains("taking `self`"));
    let refused = run(&[&["eval", "--task", &choices, "--exit", exit][..], &common].concat());
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("expected a policy for `choices`, found self"), "{message}");
}

#[test]
fn the_example_descriptions_read_files_as_they_are_exported() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().expect("a folder");
    let data = root.join("tests/data/tasks");
    for file in ["sst2", "ag_news", "mmlu", "commonsense_qa", "squad"] {
        std::fs::create_dir(folder.path().join(file)).expect("made");
        for part in std::fs::read_dir(data.join(file)).expect("a folder") {
            let part = part.expect("a file").path();
            std::fs::copy(&part, folder.path().join(file).join(part.file_name().expect("a name"))).expect("copied");
        }
    }
    // The last lines of the solved examples with the question; the right answer.
    let expected = [
        ("sst2", "Review: a delight from start to end 11\nSentiment:", " positive"),
        ("ag-news", "Article: Chip number 11 makes news\nTopic:", " Technology"),
        ("mmlu", "What is 0 + 1 in anatomy?\nA. 0\nB. 1\nC. 7000\nD. none\nAnswer:", " B"),
        ("commonsense-qa", "Question: Where would you put book 7?\nAnswer:", " library"),
        ("squad", "Context: River 7 is 7 miles long.\nQuestion: How long is river 7?\nAnswer:", " 7 miles"),
    ];
    for (name, prompt, answer) in expected {
        let description = root.join(format!("models/examples/{name}.toml"));
        let copy = folder.path().join("task.toml");
        std::fs::copy(description, &copy).expect("copied");
        let task = Task::open(&copy, 1, None).unwrap_or_else(|e| panic!("{name}: {e}"));
        let item = &task.test[0];
        assert_eq!(item.prompt, prompt, "{name}");
        let answers = [task.labels(), &item.choices, &item.accepted].concat();
        assert_eq!(answers[item.answer], answer, "{name}");
        let prefix = task.prefix(&item.group);
        let start = prompt.split([' ', '\n']).next().expect("a word");
        assert_eq!(prefix.matches(start).count(), task.shots, "{name}: {prefix}");
    }
}

/// What `train-exit` and `eval` of the demo model are given for one small task.
struct Trial {
    folder: tempfile::TempDir,
    model: String,
    task: String,
}

impl Trial {
    fn new() -> Trial {
        let folder = tempfile::tempdir().expect("a folder");
        let task = task(folder.path()).to_str().expect("UTF-8").to_owned();
        Trial { folder, model: demo_model(), task }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    fn train(&self, exit: &str, how: &[&str]) -> Output {
        let common = ["train-exit", "-m", &self.model, "-t", "1", "--task", &self.task, "--rows", "60", "-o", exit];
        let trained = run(&[&common[..], how].concat());
        assert!(trained.status.success(), "{how:?}: {}", String::from_utf8_lossy(&trained.stderr));
        trained
    }

    fn eval(&self, exit: &str, how: &[&str]) -> Value {
        let common = ["eval", "-m", &self.model, "-t", "1", "--task", &self.task, "--exit", exit, "--json"];
        let measured = run(&[&common[..], how].concat());
        assert!(measured.status.success(), "{how:?}: {}", String::from_utf8_lossy(&measured.stderr));
        serde_json::from_slice(&measured.stdout).expect("JSON")
    }
}

#[test]
fn an_exit_file_is_trained_used_and_refused() {
    let trial = Trial::new();
    let exit = &trial.path("demo.exit.gguf");
    let from_20 = ["--from-layer", "20"];
    let trained = trial.train(exit, &from_20);
    assert!(
        String::from_utf8_lossy(&trained.stdout).contains("On rows that neither the fit nor its thresholds have seen")
    );
    let bytes = std::fs::read(exit).expect("written");
    trial.train(exit, &from_20);
    assert!(std::fs::read(exit).expect("written") == bytes, "the same seed gives the same file");
    assert_measured(&trial, exit);
    assert_ways_beside(&trial, exit);

    let other = golden("gqa-untied.gguf");
    let other = other.to_str().expect("UTF-8");
    let refused = run(&["eval", "-m", other, "--task", &trial.task, "--exit", exit]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("was trained on another model: shape"), "{message}");
    std::fs::write(exit, &bytes[..bytes.len() / 2]).expect("written");
    let refused = run(&["eval", "-m", &trial.model, "--task", &trial.task, "--exit", exit]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("demo.exit.gguf"), "{message}");
}

/// An early stop is measured, with its page, and gives the same beside other questions.
fn assert_measured(trial: &Trial, exit: &str) {
    let page = &trial.path("report.html");
    let beside = trial.eval(exit, &["--rows", "9", "--parallel", "7"]);
    let rows = trial.eval(exit, &["--rows", "9", "--report", page]);
    let row = &rows[0];
    assert_eq!((&row["task"], &row["n"], &row["n_layer"]), (&json!("kind"), &json!(9), &json!(30)));
    assert!(row["agreement"].as_f64().expect("a number") >= 0.9, "{row}");
    assert!(row["mean_layers"].as_f64().expect("a number") < 30.0, "{row}");
    for field in ["accuracy_dense", "accuracy_exit", "accuracy_skip", "agreement", "mean_layers", "var_layers"] {
        assert_eq!(row[field], beside[0][field], "side by side or alone, the same {field}");
    }
    assert!(row["flop_share"].as_f64().expect("a number") < 1.0, "{row}");
    let page = std::fs::read_to_string(page).expect("written");
    assert!(page.matches("<svg").count() == 3 && page.contains("Layers per answer"));
}

/// Fewer layers, an early stop and another file beside full depth; the other file is the same here.
fn assert_ways_beside(trial: &Trial, exit: &str) {
    let rows = trial.eval(exit, &["--layers", "~21:attn,~22", "--beside", &trial.model, "--rows", "6"]);
    let ways = rows[0]["ways"].as_array().expect("all ways");
    let name = |i: usize| ways[i]["way"].as_str().expect("a name");
    let file = "SmolLM2-135M-Instruct.Q4_1.gguf: ";
    for (i, expected) in
        ["full depth", "full depth, early stop", "~21:attn,~22", "~21:attn,~22, early stop"].iter().enumerate()
    {
        assert_eq!((name(i), name(i + 4)), (*expected, &format!("{file}{expected}")[..]));
        assert_eq!(
            (&ways[i]["accuracy"], &ways[i]["mean_steps"]),
            (&ways[i + 4]["accuracy"], &ways[i + 4]["mean_steps"])
        );
    }
    let steps: Vec<f64> = ways.iter().map(|way| way["mean_steps"].as_f64().expect("a number")).collect();
    assert_eq!((steps[0], steps[2], &ways[0]["agreement"]), (30.0, 29.0, &json!(1.0)));
    assert!(steps[1] < 30.0 && steps[3] < 29.0, "{steps:?}");
}

/// Policies count the model's layers.
#[test]
fn an_exit_file_is_fitted_to_a_plan_and_used_with_it() {
    let trial = Trial::new();
    let pruned = &trial.path("pruned.exit.gguf");
    let fitted = trial.train(pruned, &["--layers", "~10-12", "--from-layer", "20"]);
    // Layers of the model, not steps of the plan: from the one that is named to the last before full depth.
    let looked_at: Vec<usize> = String::from_utf8_lossy(&fitted.stdout)
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(looked_at, (20..30).collect::<Vec<_>>());
    let rows = trial.eval(pruned, &["--rows", "6", "--layers", "~10-12"]);
    let [plan, early] = [2, 3].map(|i| rows[0]["ways"][i]["accuracy"].as_f64().expect("a number"));
    assert!((plan - early).abs() <= 0.25, "{rows}");
    assert!(rows[0]["ways"][3]["mean_steps"].as_f64() < Some(27.0), "{rows}");
}

#[test]
fn other_inputs_targets_and_rules_are_fitted() {
    let trial = Trial::new();
    let exit = &trial.path("lens.exit.gguf");
    for how in
        [&["--input", "labels", "--lens"][..], &["--preset", "adainfer"], &["--target", "truth", "--rule", "crf"]]
    {
        trial.train(exit, &[&["--from-layer", "26"], how].concat());
        let rows = trial.eval(exit, &["--rows", "6"]);
        assert!(rows[0]["agreement"].as_f64().expect("a number") >= 0.75, "{how:?}: {rows}");
    }
}
