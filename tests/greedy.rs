//! The demo model against llama.cpp's greedy answers, through the commands that other programs would use.

mod common;

use common::{curtail, demo_model};
use serde_json::Value;

/// Every tenth reference line keeps the test short; one thread each, since the tests run side by side.
fn reference() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/smollm2_greedy.jsonl");
    let text = std::fs::read_to_string(path).expect("the reference");
    text.lines().step_by(10).map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn batch(command: &[&str], lines: &[Value]) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("batch.jsonl");
    std::fs::write(&path, lines.iter().map(|l| format!("{l}\n")).collect::<String>()).expect("written");
    let mut all = [command, &["-t", "1"]].concat();
    let (model, path) = (demo_model(), path.to_str().expect("UTF-8").to_owned());
    all.extend(["-m", &model, "--batch", &path]);
    let output = curtail(&all).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
}

#[test]
fn fed_the_reference_tokens_the_argmax_agrees() {
    let reference = reference();
    let found = batch(&["logits"], &reference);
    assert_eq!(found.len(), reference.len());
    let (mut same, mut total) = (0, 0);
    for (line, expected) in found.iter().zip(&reference) {
        let (argmax, tokens) = (line["argmax"].as_array().expect("ids"), expected["tokens"].as_array().expect("ids"));
        assert_eq!((argmax.len(), line["logprob"].as_array().expect("numbers").len()), (tokens.len(), tokens.len()));
        same += argmax.iter().zip(tokens).filter(|(a, b)| a == b).count();
        total += tokens.len();
    }
    println!("{same} of {total} agree");
    assert!(same as f64 >= 0.995 * total as f64, "{same} of {total}");
}

#[test]
fn free_answers_are_the_reference_answers() {
    let reference = reference();
    let prompts: Vec<Value> = reference.iter().map(|line| serde_json::json!({ "prompt": line["prompt"] })).collect();
    let found = batch(&["run", "--temp", "0", "-n", "32"], &prompts);
    let same = found.iter().zip(&reference).filter(|(found, expected)| {
        let (found, expected) = (found["tokens"].as_array().expect("ids"), expected["tokens"].as_array().expect("ids"));
        found[..] == expected[..expected.len().min(found.len().max(1))] && (found.len() == 32 || expected.len() <= 33)
    });
    let same = same.count();
    println!("{same} of {} answers are identical", reference.len());
    assert!(same as f64 >= 0.8 * reference.len() as f64, "{same}");
}
