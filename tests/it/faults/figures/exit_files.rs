//! Every field of an exit file with values that it must not have: an error with file and field, or a reason to go on.

use std::path::Path;

use curtail::dtype::DType;
use curtail::exit::{ExitFile, Fingerprint};
use curtail::gguf::Value;

use super::made::Made;
use crate::common::curtail;
use crate::common::tiny::{Tiny, TinyTensor};
use crate::common::watched;

/// What a field is replaced by.
fn values() -> Vec<(&'static str, Value)> {
    vec![
        ("0", 0u32.into()),
        ("1", 1u32.into()),
        ("2^32-1", u32::MAX.into()),
        ("2^63", (1u64 << 63).into()),
        ("-1", (-1i32).into()),
        ("NaN", f32::NAN.into()),
        ("infinity", f32::INFINITY.into()),
        ("true", true.into()),
        ("no text", "".into()),
        ("a text", "x".into()),
        ("no texts", Vec::<String>::new().into()),
        ("one text", vec!["x".to_owned()].into()),
        ("no numbers", Vec::<u32>::new().into()),
        ("[0]", vec![0u32].into()),
        ("[4]", vec![4u32].into()),
        ("[2, 1]", vec![2u32, 1].into()),
        ("[2, 2]", vec![2u32, 2].into()),
        ("[2^32-1]", vec![u32::MAX].into()),
        ("[NaN]", vec![f32::NAN].into()),
    ]
}

/// Why a value may stand; `None` where it may not.
fn reason(key: &str, name: &str) -> Option<&'static str> {
    let is_u32 = matches!(name, "0" | "1" | "2^32-1");
    let is_text = matches!(name, "no text" | "a text");
    match key.rsplit('.').next().unwrap_or(key) {
        "rows" | "shots" if is_u32 => Some("only told, or compared with the task's own"),
        "layers" if name == "no numbers" => Some("where no look pays, training leaves none"),
        "types" if is_text => Some("another quantization: a warning"),
        "task" if is_text && key != "exit.1.task" => Some("a task that others may not have"),
        "source" if is_text => Some("its words are the command line's, which reads them"),
        "source" if name == "missing" => Some("a file without drafts that pay"),
        "most" if name == "1" => Some("a number of drafts"),
        "policies" if name == "1" => Some("the policies that follow are not looked for"),
        "labels" if name == "no texts" || name == "one text" => Some("names that this input does not use"),
        _ => None,
    }
}

fn open(parts: &Tiny, path: &Path, model: &Fingerprint) -> Result<(), String> {
    parts.write(path);
    ExitFile::open_for(path, model).map(drop).map_err(|error| error.to_string())
}

#[test]
fn every_key_is_checked() {
    let made = Made::new();
    let (path, model) = (made.path("x.exit.gguf"), made.fingerprint());
    let keys: Vec<String> = made.exit_parts().metadata.iter().map(|(key, _)| key.to_owned()).collect();
    assert!(keys.len() > 30, "{keys:?}");
    for key in &keys {
        let missing = ("missing", made.exit_parts().without(key));
        let replaced = values().into_iter().map(|(name, value)| (name, made.exit_parts().with(key, value)));
        for (name, parts) in std::iter::once(missing).chain(replaced) {
            let result = open(&parts, &path, &model);
            let uses_labels = key.ends_with(".labels") && (key.contains(".2.") || key.contains(".3."));
            match (reason(key, name).filter(|_| !uses_labels), result) {
                (Some(_), Ok(())) => {}
                (None, Err(why)) => {
                    // What tells models apart has names of its own.
                    let of_model = ["architecture", "shape", "hash of the norms"].iter().any(|name| why.contains(name));
                    // What is read by confidence, only `tokens` may be; a policy too many is the one that is not there.
                    let other = match key.as_str() {
                        "exit.1.task" => why.contains("exit.1.input"),
                        "exit.policies" => why.contains("exit.4."),
                        _ => key.starts_with("exit.model.") && of_model,
                    };
                    let names_field = why.contains(key.as_str()) || other;
                    assert!(why.contains("x.exit.gguf") && names_field, "{key} {name}: {why}");
                }
                (reason, result) => panic!("{key} {name}: {reason:?}, {result:?}"),
            }
        }
    }
}

/// Makes a tensor wrong.
type Change = fn(&mut TinyTensor);

/// What a tensor is replaced by; whether it may stand for another reason than that it is well.
fn changed(name: &str) -> Vec<(&'static str, Change, bool)> {
    fn fill(tensor: &mut TinyTensor, value: f32) {
        tensor.bytes = value.to_le_bytes().repeat(tensor.bytes.len() / 4);
    }
    let is_threshold = name.ends_with(".least");
    vec![
        ("NaN", |t| fill(t, f32::NAN), false),
        // "Never" and "always" are thresholds that training chooses.
        ("infinity", |t| fill(t, f32::INFINITY), is_threshold),
        ("-infinity", |t| fill(t, f32::NEG_INFINITY), is_threshold),
        // Products that overflow are sure of nothing.
        ("3e38", |t| fill(t, 3e38), true),
        ("-3e38", |t| fill(t, -3e38), !name.ends_with(".svm")),
        ("0", |t| fill(t, 0.0), !name.ends_with(".svm")), // a kernel without a width
        (
            "a number more",
            |t| {
                t.dims[0] += 1;
                let n = t.dims.iter().product::<usize>();
                t.bytes.resize(4 * n, 0);
            },
            false,
        ),
        (
            "a dimension more",
            |t| {
                t.dims.push(2);
                t.bytes.extend_from_within(..);
            },
            false,
        ),
        ("i32", |t| t.dtype = DType::I32, false),
        (
            "f16",
            |t| {
                t.dtype = DType::F16;
                t.bytes.truncate(t.bytes.len() / 2);
            },
            false,
        ),
    ]
}

#[test]
fn every_tensor_is_checked() {
    let made = Made::new();
    let (path, model) = (made.path("x.exit.gguf"), made.fingerprint());
    let names: Vec<String> = made.exit_parts().tensors.into_iter().map(|tensor| tensor.name).collect();
    assert!(names.len() > 25, "{names:?}");
    for name in &names {
        for (what, change, may_stand) in changed(name) {
            let mut parts = made.exit_parts();
            change(parts.tensor(name));
            match open(&parts, &path, &model) {
                Ok(()) => assert!(may_stand, "{name} {what} is taken"),
                Err(why) => {
                    // Another number of support vectors is found at the one of the two that was not changed.
                    let is_named = why.contains(&format!("`{name}`")) || name.contains(".svm");
                    assert!(!may_stand && is_named && why.contains("x.exit.gguf"), "{name} {what}: {why}");
                }
            }
        }
        let mut parts = made.exit_parts();
        parts.tensors.retain(|tensor| tensor.name != *name);
        let result = open(&parts, &path, &model);
        // A checkpoint without a scorer reads the best probability itself.
        let is_scorer = [".linear", ".svm", ".crf.state"].iter().any(|ending| name.ends_with(ending));
        assert_eq!(result.is_ok(), is_scorer, "without {name}: {result:?}");
        assert!(result.is_ok() || result.is_err_and(|why| why.contains(name.as_str())), "without {name}");
    }
}

/// What an exit file may say, and what the program answers: its exit code and words.
#[test]
fn the_program_names_the_file() {
    let made = Made::new();
    let path = made.path("x.exit.gguf");
    let file = path.to_str().expect("UTF-8");
    let one_label = || {
        let mut parts = made.exit_parts().with("exit.1.input", "hidden");
        parts.metadata.insert("exit.1.labels", vec![" a".to_owned()]);
        parts
    };
    let not_tokens = || made.exit_parts().with("exit.1.task", "news");
    for (parts, code, says) in [
        (made.exit_parts(), 0, "generated 8 tokens"),
        (one_label(), 1, "exit.1.input: expected `confidence`"),
        (not_tokens(), 1, "exit.1.input: expected another input"),
        (made.exit_parts().with("exit.0.task", "tokens"), 1, "exit.0.input: expected `confidence`"),
        (made.exit_parts().with("exit.3.task", "hidden"), 1, "exit.3.task: expected a name that no other policy has"),
        (made.exit_parts().with("exit.policies", 1u32), 1, "expected a policy for `tokens`"),
        (made.exit_parts().with("exit.model.shape", vec![4u32, 64, 999]), 1, "vocabulary 999"),
        (made.exit_parts().with("exit.draft.source", "layer:4"), 1, "exit.draft.source: layer: expected 1 to 3"),
        (
            made.exit_parts().with("exit.draft.source", "skip:4:attn"),
            1,
            "exit.draft.source: skip: expected a layer below",
        ),
        (made.exit_parts().with("exit.draft.source", "often"), 1, "exit.draft.source: expected checkpoints, lookup"),
        (made.exit_parts().with("exit.draft.most", u32::MAX), 1, "exit.draft.most: expected 1 to 64, found 4294967295"),
        (made.exit_parts().with("exit.model.types", "1 \u{1b}[31m"), 0, "another quantization"),
    ] {
        parts.write(&path);
        for mode in ["fast", "verified", "auto"] {
            let mut command = curtail(&["run", "-m", &made.model, "-t", "1", "--temp", "0", "-p", "hi", "-n", "8"]);
            command.args(["--exit", mode, "--exit-file", file]);
            let ended = watched::run(&mut command, b"").with(code, &[says]);
            assert!(code == 0 || ended.stderr.contains("x.exit.gguf"), "{ended:?}");
        }
    }
}

/// A file beside the model whose drafts are deeper than what `--layers` leaves is no reason to stop.
#[test]
fn drafts_deeper_than_a_plan_are_left() {
    let made = Made::new();
    made.exit_file().save(&made.path("tiny.exit.gguf")).expect("written");
    for plan in ["0-1", "0-3", "~1:attn,~3"] {
        let args = ["run", "-m", &made.model, "-t", "1", "--temp", "0", "-p", "hi", "-n", "8", "--layers", plan];
        watched::run(&mut curtail(&args), b"").with(0, &["generated 8 tokens"]);
    }
}

/// The labels of a policy and of the task that it is used for.
#[test]
fn labels_belong_to_the_task() {
    let made = Made::new();
    let path = made.path("x.exit.gguf");
    let rows = "{\"text\": \"x\", \"label\": 0}\n{\"text\": \"y\", \"label\": 1}\n".repeat(4);
    std::fs::write(made.path("rows.jsonl"), rows).expect("written");
    let eval = |policy: &str, labels: &str, answer: &str| {
        let task = format!(
            "name = \"{policy}\"\nprompt = \"{{{{ text }}}}\"\n{labels}answer = \"{answer}\"\nshots = 0\n\
             train = \"rows.jsonl\"\ntest = \"rows.jsonl\"\n"
        );
        std::fs::write(made.path("task.toml"), task).expect("written");
        let task = made.path("task.toml");
        let args = [task.to_str().expect("UTF-8"), "--exit", path.to_str().expect("UTF-8"), "--json"];
        let args = ["eval", "-m", &made.model, "-t", "1", "--task"].into_iter().chain(args);
        watched::run(&mut curtail(&args.collect::<Vec<_>>()), b"")
    };
    let two = "labels = [\"a\", \"b\"]\n";
    made.exit_parts().write(&path);
    for policy in ["hidden", "labels", "anything"] {
        let ended = eval(policy, two, "label").with(0, &[]);
        let rows: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
        assert_eq!((&rows[0]["n"], &rows[0]["n_layer"]), (&8.into(), &4.into()), "{rows}");
    }
    let three = "labels = [\"a\", \"b\", \"c\"]\n";
    for (policy, labels, answer) in [("hidden", three, "label"), ("labels", three, "label"), ("hidden", "", "text")] {
        eval(policy, labels, answer).with(1, &["x.exit.gguf", "was trained with the labels"]);
    }
    let file = made.exit_parts().with("exit.0.input", "hidden").with("exit.0.labels", vec!["x".to_owned(); 2]);
    file.write(&path);
    eval("anything", two, "label").with(1, &["exit.0.input: expected `vocabulary`", "x.exit.gguf"]);
}
