//! Files that this program keeps and the small ones that it is given, changed field by field: exit files, plans, token
//! states, conversations, stored distributions, importance matrices, tasks, a hub's answers. Each gives a value or an error
//! within a second, never a panic, and takes no more memory than four times the input and a constant.

#![cfg(unix)]

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::fuzz::{self, fields, values};
use crate::common::raw::Raw;
use crate::common::tiny;
use crate::{Turn, lift_limit, limit_memory};
use curtail::classify::Task;
use curtail::engine::{EngineParams, Sequence};
use curtail::eval::{BaseFile, Chunks, packed, write_header};
use curtail::exit::{
    Checkpoint, Crf, Decision, Draft, ExitFile, Fingerprint, Input, Lens, Policy, Probe, Scorer, Svm, Target,
};
use curtail::ggml::Device;
use curtail::gguf::{File, Metadata, Value as GgufValue, Writer};
use curtail::hub::{Spec, names_in_answer};
use curtail::model::Model;
use curtail::plan::{self, LayerCount, Layers};
use curtail::sample::Sampler;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// What an input may take beside four times its size: tables, messages, and what the test itself keeps of it.
const CONSTANT: usize = 2 << 20;

/// No input of this size may take so long.
const SECOND: Duration = Duration::from_secs(1);

/// Runs a target under the bounds of time and memory. No input is longer than `most` bytes.
fn run(
    target: &str,
    default_inputs: u64,
    seeds: &[Raw],
    check: impl Fn(&[u8], &mut ChaCha8Rng) -> String + Sync,
) -> fuzz::Outcomes {
    let longest = 4 * seeds.iter().map(|Raw(bytes, _)| bytes.len()).max().unwrap_or(0);
    let in_flight = rayon::current_num_threads() * (4 * longest + CONSTANT);
    limit_memory(in_flight);
    let timed = |bytes: &[u8], rng: &mut ChaCha8Rng| {
        let again = rng.clone();
        let started = Instant::now();
        let outcome = check(bytes, rng);
        let took = started.elapsed();
        if took > SECOND {
            // Other work on the machine may have stopped it once.
            let started = Instant::now();
            check(bytes, &mut again.clone());
            assert!(started.elapsed() < SECOND, "{target}: {took:?}, and again {:?}", started.elapsed());
        }
        outcome
    };
    let outcomes = fuzz::run(target, default_inputs, seeds, timed);
    lift_limit();
    let all: u64 = outcomes.values().sum();
    let well = outcomes.get("read").copied().unwrap_or(0);
    assert!(well > all / 50, "{target}: the mutations must leave inputs that are read: {well} of {all}");
    assert!(outcomes.len() > 3 || all < 1000, "{target}: the mutations must reach checks: {outcomes:#?}");
    outcomes
}

/// What a result is counted as: its first words without names and numbers.
fn class<T, E: std::fmt::Display>(result: &Result<T, E>) -> String {
    let Err(error) = result else { return "read".to_owned() };
    let text = error.to_string();
    let quoted = text.split('`').step_by(2).collect::<Vec<_>>().join("NAME");
    let plain = |word: &&str| word.len() < 20 && word.chars().all(|c| c.is_ascii_alphabetic() || ",.:-_".contains(c));
    quoted.split_whitespace().filter(plain).take(5).collect::<Vec<_>>().join(" ")
}

/// A file for each thread to put its input into.
struct Places(tempfile::TempDir);

impl Places {
    /// In memory, where the system has a folder there: the disk would take most of the time.
    fn new() -> Places {
        let in_memory = tempfile::tempdir_in("/dev/shm");
        Places(in_memory.or_else(|_| tempfile::tempdir()).expect("a folder"))
    }

    fn put(&self, bytes: &[u8], name: &str) -> PathBuf {
        let thread = rayon::current_thread_index().unwrap_or(0);
        let path = self.0.path().join(format!("{thread}.{name}"));
        fs::write(&path, bytes).expect("written");
        path
    }
}

/// An error of a file names it.
fn assert_named<T, E: std::fmt::Display>(result: &Result<T, E>, path: &Path) {
    if let Err(error) = result {
        let name = path.file_name().expect("a name").to_string_lossy();
        assert!(error.to_string().contains(&*name), "{error}");
    }
}

#[test]
fn mutated_files_and_texts_never_panic() {
    let _turn = Turn::take();
    exit_files();
    plans();
    states();
    bases();
    imatrices();
    tasks();
    listings();
    conversations();
}

fn exit_files() {
    let places = Places::new();
    let path = places.0.path().join("seed.gguf");
    exit_file().save(&path).expect("written");
    let seed = fields::gguf(&fs::read(&path).expect("written"));
    run("exit files", 20_000, &[seed], |bytes, _| {
        let path = places.put(bytes, "exit.gguf");
        let result = ExitFile::open(&path);
        assert_named(&result, &path);
        result.iter().flat_map(|file| &file.policies).for_each(use_policy);
        class(&result)
    });
}

/// Takes a state through every checkpoint, as the decoder and `eval` do.
fn use_policy(policy: &Policy) {
    let n_in = |probe: &Probe| probe.weights.len() / probe.bias.len();
    let mut walk = Decision::default();
    for checkpoint in &policy.checkpoints {
        let x = checkpoint.lens.as_ref().map(|lens| lens.apply(&vec![0.5; lens.bias.len()]));
        assert!(x.is_none_or(|x| !x.is_empty()));
        let reading = checkpoint.probe.as_ref().map(|probe| probe.read(&vec![0.5; n_in(probe)]));
        if policy.input == Input::Confidence {
            let probe = checkpoint.probe.as_ref().expect("what a confidence is read by");
            assert!(probe.chance_of(Probe::RIGHT, &vec![0.5; n_in(probe)]).is_some());
        }
        let n_labels = if policy.input == Input::Confidence { 2 } else { policy.labels.len() };
        assert!(reading.is_none_or(|reading| reading.label < n_labels), "{reading:?}");
        let reading = curtail::exit::softmax_reading(&[0.5, 1.0]);
        walk.stops(checkpoint, &reading);
    }
}

fn exit_file() -> ExitFile {
    let plain = |layers, scorer| Checkpoint { at: LayerCount(layers), lens: None, probe: None, scorer, threshold: 0.5 };
    let probe = |n_in: usize| Some(Probe { weights: vec![0.5; 2 * n_in], bias: vec![0.0, 1.0] });
    let lens = || Some(Lens { weights: vec![0.5; 16], bias: vec![0.0; 4] });
    let svm = Svm { vectors: vec![[0.5, 0.25]; 2], alpha: vec![2.0, 1.0], rho: 0.5, width: 0.1 };
    let crf = Crf { state: [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], transition: [[1.0, 2.0], [3.0, 4.0]] };
    let linear = Scorer::Linear { weights: [1.0, 2.0], bias: 0.5 };
    let policy = |task: &str, input, n_labels: usize, checkpoints| Policy {
        task: task.into(),
        labels: (0..n_labels).map(|i| i.to_string()).collect(),
        input,
        target: Target::Model,
        n_rows: 9,
        n_shots: 0,
        checkpoints,
    };
    let with_lens = [1, 2].map(|layer| Checkpoint { lens: lens(), probe: probe(4), ..plain(layer, Scorer::Top) });
    ExitFile {
        model: Fingerprint {
            architecture: "llama".into(),
            shape: [8, 4, 10],
            vectors: "0123456789abcdef".into(),
            types: "3 f32".into(),
        },
        draft: Some(Draft { source: "lookup".into(), most: 4 }),
        policies: vec![
            policy("self", Input::Vocabulary, 0, vec![plain(1, Scorer::Svm(svm)), plain(2, linear)]),
            policy("tokens", Input::Confidence, 0, with_lens.to_vec()),
            policy("a", Input::Hidden, 2, vec![Checkpoint { probe: probe(4), ..plain(3, Scorer::Crf(crf)) }]),
            policy("b", Input::Labels, 2, vec![Checkpoint { probe: probe(2), ..plain(4, Scorer::Top) }]),
        ],
    }
}

fn plans() {
    let texts = ["0-20,21:mlp,22:mlp,23-29", "~7,5<>6,~20:attn", "8-12x2,~0-3:attn # some\n", "0,1x4097"];
    let seeds = texts.map(fields::words);
    let full = plan::full(30);
    run("plans", 100_000, &seeds, |bytes, rng| {
        let mutated = String::from_utf8_lossy(bytes).into_owned();
        let text = if rng.random_ratio(1, 2) { plan_text(rng) } else { mutated };
        let skips = Layers::parse_skips(&text).and_then(|skips| skips.leave_out(&full, &full));
        assert!(skips.is_err() || skips.is_ok_and(|steps| !steps.is_empty()));
        let steps = Layers::parse(&text).and_then(|layers| layers.steps(&full));
        if let Ok(steps) = &steps {
            assert!(
                (1..=4096).contains(&steps.len())
                    && steps.iter().all(|step| step.il < 30 && step.halves().next().is_some())
            );
            let written = plan::text(steps, &full);
            let again = Layers::parse(&written).and_then(|layers| layers.steps(&full));
            assert!(again.as_ref() == Ok(steps) || steps.len() > 2000, "{text:?}: {written:?}");
            assert!(plan::layers_of(steps, &full) <= steps.len() as f64);
        }
        assert!(steps.as_ref().is_err_and(|error| error.to_string().len() < 500) || steps.is_ok(), "{text:?}");
        class(&steps.map_err(|error| error.to_string().lines().next().unwrap_or("").to_owned()))
    });
}

/// A plan by its grammar, with numbers of any size.
fn plan_text(rng: &mut ChaCha8Rng) -> String {
    let number = |rng: &mut ChaCha8Rng| match rng.random_range(0..8) {
        0 => (1u128 << rng.random_range(0..70)).to_string(),
        1 => rng.random_range(25..40).to_string(),
        _ => rng.random_range(0..30).to_string(),
    };
    let mut items = Vec::new();
    for _ in 0..rng.random_range(1..8) {
        let mut item = if rng.random_ratio(1, 3) { "~".to_owned() } else { String::new() };
        item += &number(rng);
        match rng.random_range(0..6) {
            0 | 1 => item = format!("{item}-{}", number(rng)),
            2 => item = format!("{item}<>{}", number(rng)),
            _ => {}
        }
        item += ["", "", ":attn", ":mlp"][rng.random_range(0..4)];
        if rng.random_ratio(1, 4) {
            item = format!("{item}x{}", number(rng));
        }
        items.push(item);
    }
    items.join([",", "\n", " , "][rng.random_range(0..3)])
}

fn states() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/llama_golden/gqa-untied.gguf");
    let file = Arc::new(File::open(&path).expect("a model file"));
    let model = Arc::new(Model::load(file, Device::cpu(1).expect("a CPU")).expect("it loads"));
    let params = EngineParams { n_ctx: 32, ..EngineParams::default() };
    let mut sequence = Sequence::alone(model, params).expect("a sequence");
    let mut seeds = Vec::new();
    for n in [0, 1, 5] {
        sequence.sync(&[1, 2, 3, 4, 5][..n], &mut |_, _| ControlFlow::Continue(())).expect("it runs");
        let mut bytes = Vec::new();
        sequence.save_state(&mut bytes).expect("saved");
        let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize;
        let lengths = [&[8, 8, header][..], &vec![4; n], &[2]].concat();
        seeds.push(fields::pieces(&bytes, &lengths));
    }
    let sequence = Mutex::new(sequence);
    run("token states", 5_000, &seeds, |bytes, rng| {
        let mut sequence = sequence.lock().expect("no panic");
        let result = sequence.load_state(&mut &bytes[..]);
        match &result {
            Ok(()) if rng.random_ratio(1, 16) && !sequence.tokens().is_empty() => {
                let n = sequence.tokens().len();
                match sequence.step(&mut Sampler::greedy()) {
                    // Keys and values may hold any bits: what is no number is said, not sampled from.
                    Err(curtail::engine::Error::NotFinite { .. }) => return "no numbers".to_owned(),
                    result => _ = result.expect("room for a token"),
                }
                assert_eq!(sequence.tokens().len(), n + 1);
            }
            Ok(()) => assert!(sequence.tokens().len() < 32),
            Err(_) => assert!(sequence.tokens().is_empty(), "an error leaves nothing behind"),
        }
        class(&result)
    });
}

fn bases() {
    let places = Places::new();
    let chunks = Chunks::new((0..16).map(|i| i % 5).collect(), 8, usize::MAX).expect("two chunks");
    let mut bytes = Vec::new();
    write_header(&mut bytes, &chunks, 5).expect("written");
    (0..6).for_each(|i| bytes.extend(packed(&[0.5 * i as f32, -3.0, 2.0, 0.0, 9.0])));
    let lengths = [&[8, 4, 4, 4][..], &[4; 16], &[4, 4, 2, 2, 2, 2, 2, 2].repeat(6)].concat();
    run("stored distributions", 20_000, &[fields::pieces(&bytes, &lengths)], |bytes, _| {
        let path = places.put(bytes, "base.kld");
        let mut result = BaseFile::open(&path, usize::MAX);
        assert_named(&result, &path);
        if let Ok(base) = &mut result {
            let (mut log_probs, n) = (Vec::new(), base.chunks().len());
            for _ in 0..n {
                let rows = match base.next_chunk() {
                    Ok(rows) => rows,
                    Err(error) => {
                        assert!(error.to_string().contains("logarithms of probabilities"), "{error}");
                        return class::<(), _>(&Err(error));
                    }
                };
                (0..rows.len()).for_each(|row| _ = rows.unpack(row, &mut log_probs));
            }
        }
        class(&result)
    });
}

fn imatrices() {
    let places = Places::new();
    let seeds = [fields::gguf(&imatrix_gguf(places.0.path())), imatrix_dat()];
    run("importance matrices", 20_000, &seeds, |bytes, _| {
        let path = places.put(bytes, "imatrix.gguf");
        let result = curtail::quantize::Imatrix::open(&path);
        assert_named(&result, &path);
        let own = curtail::eval::Imatrix::open(&path);
        assert_named(&own, &path);
        if let Ok(mut own) = own {
            own.merge(own.clone(), &path).expect("sums of the same shapes");
            // Twice a large sum can be more than f32 holds; nothing else may keep what was read from being written.
            if let Err(error) = own.save(&path) {
                assert!(error.to_string().contains("finite numbers that fit in f32"), "{error}");
            }
        }
        class(&result)
    });
}

/// Of two matrices, the second with two experts.
fn imatrix_gguf(folder: &Path) -> Vec<u8> {
    let mut metadata = Metadata::new();
    metadata.insert("general.type", "imatrix");
    metadata.insert("imatrix.datasets", GgufValue::from(vec!["text.txt".to_owned()]));
    metadata.insert("imatrix.chunk_count", 7u32);
    metadata.insert("imatrix.chunk_size", 512u32);
    let mut writer = Writer::new(metadata);
    let tensors = [("a.weight", [3, 1]), ("b.weight", [2, 2])];
    for (name, [n, experts]) in tensors {
        writer.tensor(&format!("{name}.in_sum2"), &[n, experts], curtail::dtype::DType::F32).expect("a tensor");
        writer.tensor(&format!("{name}.counts"), &[1, experts], curtail::dtype::DType::F32).expect("a tensor");
    }
    let path = folder.join("seed.gguf");
    let ones = |info: &curtail::gguf::TensorInfo| Ok(1f32.to_le_bytes().repeat(info.bytes / 4).into());
    writer.write::<curtail::gguf::Error>(&path, ones).expect("written");
    fs::read(path).expect("written")
}

/// The older form: counts, names, calls, sums; behind them chunks and the text's name.
fn imatrix_dat() -> Raw {
    let text = |raw: Raw, text: &str| raw.u32(text.len() as u32).bytes(text.as_bytes());
    let entry = |raw: Raw, name: &str, n: u32| {
        let raw = text(raw, name).u32(2).u32(n);
        (0..n).fold(raw, |raw, i| raw.bytes(&(i as f32).to_le_bytes()))
    };
    let raw = entry(entry(Raw::default().u32(2), "a.weight", 3), "b.weight", 2);
    text(raw.u32(7), "text.txt")
}

fn tasks() {
    let places = Places::new();
    let rows = "{\"text\": \"x\", \"label\": 0, \"options\": [\"a\", \"b\"]}\n{\"text\": \"y\", \"label\": 1, \"options\": [\"c\"]}\n";
    fs::write(places.0.path().join("rows.jsonl"), rows.repeat(3)).expect("written");
    let common = json!({
        "name": "t", "instruction": "Say.", "prompt": "{{ text }}:", "answer": "label", "shots": 1,
        "train": "rows.jsonl", "test": ["rows.jsonl"],
    });
    let with = |more: Value| {
        let mut task = common.clone();
        let more = more.as_object().expect("an object").clone();
        task.as_object_mut().expect("an object").extend(more);
        task
    };
    let kinds = [
        with(json!({ "labels": [" a", " b"], "values": ["0", "1"] })),
        with(json!({ "choices": "options", "per_byte": true, "answer": "0" })),
        with(json!({ "answer": "text", "group": "label" })),
    ];
    let written = |value: &Value| toml::to_string(value);
    let seeds: Vec<Raw> = kinds.iter().map(|kind| fields::words(&written(kind).expect("TOML"))).collect();
    run("tasks", 4_000, &seeds, |bytes, rng| {
        let kind = values::changed(&kinds[rng.random_range(0..kinds.len())], rng);
        let text = if rng.random_ratio(1, 2) { written(&kind).ok() } else { None };
        let path = places.put(text.as_ref().map_or(bytes, |text| text.as_bytes()), "task.toml");
        let result = Task::open(&path, 1, None);
        if let Ok(task) = &result {
            task.train.iter().for_each(|item| assert!(task.prefix(&item.group).len() < 100_000));
            assert!(task.training_rows(3).len() <= 3);
        }
        class(&result)
    });
}

fn listings() {
    let sha = "ab".repeat(32);
    let file = |name: &str| json!({ "rfilename": name, "size": 5, "lfs": { "sha256": sha, "size": 5 } });
    let answer = json!({
        "sha": "0123456789abcdef0123456789abcdef01234567",
        "siblings": [
            file("m-Q4_K_M.gguf"), file("m-Q8_0-00001-of-00002.gguf"), file("m-Q8_0-00002-of-00002.gguf"),
            file("a/m-Q4_0.gguf"), { "rfilename": "README.md" },
        ],
    });
    let specs = ["o/r", "o/r:Q8_0", "o/r:Q4_0", "o/r/a/m-Q4_0.gguf"].map(|text| Spec::parse(text).expect("a spec"));
    run("hub answers", 20_000, &[fields::words(&answer.to_string())], |bytes, rng| {
        let text = match rng.random_ratio(1, 2) {
            true => values::changed(&answer, rng).to_string(),
            false => String::from_utf8_lossy(bytes).into_owned(),
        };
        let result = names_in_answer(&text, &specs[rng.random_range(0..specs.len())]);
        for name in result.iter().flatten() {
            let escapes = name.starts_with('/') || name.split('/').any(|step| matches!(step, "" | "." | ".."));
            assert!(!escapes && !name.contains(['\\', '\0', '\u{1b}']), "{name:?}");
        }
        class(&result)
    });
}

/// Files that one conversation loads, one after the other.
const AT_ONCE: usize = 250;

fn conversations() {
    let Places(folder) = Places::new();
    let model = folder.path().join("tiny.gguf");
    tiny::Tiny::new().write(&model);
    let seed = save(&model, folder.path());
    let whole: Value = serde_json::from_slice(&seed).expect("JSON");
    let waiting: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    let loaded = Mutex::new(0);
    let flush = |files: Vec<Vec<u8>>| *loaded.lock().expect("no panic") += load_all(&model, folder.path(), &files);
    fuzz::run("conversations", 500, &[fields::words(&whole.to_string())], |bytes, rng| {
        let text = match rng.random_ratio(1, 2) {
            true => values::changed(&whole, rng).to_string().into_bytes(),
            false => bytes.to_vec(),
        };
        let mut files = waiting.lock().expect("no panic");
        files.push(text);
        if files.len() == AT_ONCE {
            flush(std::mem::take(&mut *files));
        }
        "given".to_owned()
    });
    flush(std::mem::take(&mut *waiting.lock().expect("no panic")));
    let loaded = *loaded.lock().expect("no panic");
    println!("{loaded:>10}  loaded");
    assert!(loaded > 5, "the mutations must leave conversations: {loaded}");
}

fn save(model: &Path, folder: &Path) -> Vec<u8> {
    let path = folder.join("talk.json");
    chat(model, &format!("a b\nc\n/save {}\n", path.display()), 30);
    fs::read(path).expect("saved")
}

/// Loads files of which each may be anything; how many were conversations.
fn load_all(model: &Path, folder: &Path, files: &[Vec<u8>]) -> usize {
    let mut lines = String::new();
    for (i, bytes) in files.iter().enumerate() {
        let path = folder.join(format!("{i}.json"));
        fs::write(&path, bytes).expect("written");
        lines += &format!("/load {}\n", path.display());
    }
    let said = chat(model, &lines, 30);
    let of = |start: &str| said.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(of("(loaded ") + of("error: "), files.len(), "{said}");
    of("(loaded ")
}

/// A piped conversation within so many seconds, and in 1.5 GB of addresses; what it says.
fn chat(model: &Path, lines: &str, seconds: u64) -> String {
    let limited = format!("ulimit -v 1500000; exec timeout {seconds} \"$0\" \"$@\"");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &limited, env!("CARGO_BIN_EXE_curtail"), "chat", "-t", "1", "-n", "3", "-m"]).arg(model);
    command.env_remove("CURTAIL_MODEL").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let (mut stdin, lines) = (child.stdin.take().expect("a pipe"), lines.to_owned());
    let feeding = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    let _ = feeding.join();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{:?}: {said}", output.status);
    said
}
