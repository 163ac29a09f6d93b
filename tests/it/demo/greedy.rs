//! The demo model against llama.cpp's greedy answers (tests/makers/make_greedy_golden.py), at every level of instructions that this
//! machine has, through the commands that other programs would use.

use crate::common::{curtail, demo_model, golden_of};
use curtail::ggml::{Isa, usable_isas};
use serde_json::Value;

/// Levels for which there are answers.
fn levels() -> impl Iterator<Item = Isa> {
    let levels: Vec<Isa> = usable_isas().into_iter().filter(|&isa| isa >= Isa::Avx2).collect();
    assert!(!levels.is_empty(), "this test has answers for processors with AVX2 and better");
    levels.into_iter()
}

/// Every tenth reference line keeps the test short; one thread each, since the tests run side by side.
fn reference(isa: Isa) -> Vec<Value> {
    let text = std::fs::read_to_string(golden_of(isa, "smollm2_greedy", "jsonl")).expect("the reference");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let step = lines.len() / 8;
    lines.into_iter().step_by(step).collect()
}

fn batch(isa: Isa, command: &[&str], lines: &[Value]) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("batch.jsonl");
    std::fs::write(&path, lines.iter().map(|l| format!("{l}\n")).collect::<String>()).expect("written");
    let mut all = [command, &["-t", "1"]].concat();
    let (model, path) = (demo_model(), path.to_str().expect("UTF-8").to_owned());
    all.extend(["-m", &model, "--batch", &path]);
    let output = curtail(&all).env("CURTAIL_ISA", isa.name()).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
}

#[test]
fn fed_the_reference_tokens_the_argmax_agrees() {
    for isa in levels() {
        let reference = reference(isa);
        let found = batch(isa, &["logits"], &reference);
        assert_eq!(found.len(), reference.len());
        let (mut same, mut total) = (0, 0);
        for (line, expected) in found.iter().zip(&reference) {
            let [argmax, logprob, tokens] = [&line["argmax"], &line["logprob"], &expected["tokens"]];
            let [argmax, logprob, tokens] = [argmax, logprob, tokens].map(|list| list.as_array().expect("a list"));
            assert_eq!((argmax.len(), logprob.len()), (tokens.len(), tokens.len()));
            same += argmax.iter().zip(tokens).filter(|(a, b)| a == b).count();
            total += tokens.len();
        }
        println!("{isa}: {same} of {total} agree");
        assert!(same as f64 >= 0.995 * total as f64, "{isa}: {same} of {total}");
    }
}

#[test]
fn free_answers_are_the_reference_answers() {
    for isa in levels() {
        let reference = reference(isa);
        let prompts: Vec<Value> =
            reference.iter().map(|line| serde_json::json!({ "prompt": line["prompt"] })).collect();
        let found = batch(isa, &["run", "--temp", "0", "-n", "32"], &prompts);
        let same = found.iter().zip(&reference).filter(|(found, expected)| {
            let [found, expected] = [found, expected].map(|line| line["tokens"].as_array().expect("ids"));
            found[..] == expected[..expected.len().min(found.len().max(1))]
                && (found.len() == 32 || expected.len() <= 33)
        });
        let same = same.count();
        println!("{isa}: {same} of {} answers are identical", reference.len());
        assert!(same as f64 >= 0.8 * reference.len() as f64, "{isa}: {same}");
    }
}
