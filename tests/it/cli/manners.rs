//! How the commands behave without a terminal.

use std::io::Write;
use std::process::{Output, Stdio};

use crate::common::{curtail, demo_model};

fn with_input(arguments: &[&str], input: &str) -> Output {
    let mut child = curtail(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn piped_lines_are_turns_without_prompt_or_colour() {
    let model = demo_model();
    let output = with_input(&["chat", "-m", &model, "--temp", "0", "-n", "8"], "Name a colour.\nAnother one.\n");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    assert!(!text.trim().is_empty() && !text.contains('\x1b') && !text.contains("> "), "{text:?}");
    assert!(stderr(&output).contains("layers 30.00 of 30 per token"), "{}", stderr(&output));
    let again = with_input(&["chat", "-m", &model, "--temp", "0", "-n", "8"], "Name a colour.\nAnother one.\n");
    assert_eq!(output.stdout, again.stdout);
}

#[test]
fn a_saved_conversation_continues_at_once() {
    let model = demo_model();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("talk.json");
    let file = file.to_str().expect("UTF-8");
    let arguments = ["chat", "-m", &model, "--temp", "0", "-n", "8"];
    let straight = with_input(&arguments, "Name a colour.\nAnother one.\n");
    let first = with_input(&arguments, &format!("Name a colour.\n/save {file}\n"));
    let second = with_input(&arguments, &format!("/load {file}\nAnother one.\n"));
    assert!(stderr(&second).contains("(loaded 2 messages, "), "{}", stderr(&second));
    assert_eq!([first.stdout, second.stdout.clone()].concat(), straight.stdout);
    // Only the new message was read, not the conversation so far.
    let prompt: usize =
        stderr(&second).split("prompt ").nth(1).and_then(|s| s.split(' ').next()?.parse().ok()).expect("a count");
    assert!(prompt < 25, "{}", stderr(&second));
}

#[test]
fn commands_of_a_chat_answer_and_their_mistakes_do_not_end_it() {
    let model = demo_model();
    let input = "/help\n/nonsense\n/set temp hot\n/set temp 0\n/system Be brief.\nName a colour.\n/regen\n/undo\n/undo\n/show system\n/exit\nnever read\n";
    let output = with_input(&["chat", "-m", &model, "-n", "4"], input);
    let said = stderr(&output);
    // Two of the lines failed.
    assert_eq!(output.status.code(), Some(1), "{said}");
    for expected in [
        "/regen",
        "error: stdin:2: unknown command `/nonsense`",
        "error: stdin:3: `temperature`: expected a number from 0 up, found `hot`",
        "(temp = 0)",
        "(taken back)",
        "(nothing was said yet)",
        "Be brief.",
    ] {
        assert!(said.contains(expected), "{expected:?} in {said}");
    }
    let answers = String::from_utf8(output.stdout).expect("UTF-8");
    let lines: Vec<&str> = answers.lines().collect();
    assert_eq!(lines.len(), 2, "{answers:?}");
    assert_eq!(lines[0], lines[1], "the same greedy answer again");
}

#[test]
fn exit_codes_and_messages() {
    let usage = curtail(&["frobnicate"]).output().expect("it starts");
    assert_eq!(usage.status.code(), Some(2));
    let missing = curtail(&["inspect", "no-such-file.gguf"]).output().expect("it starts");
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).starts_with("error: cannot open `no-such-file.gguf`"), "{}", stderr(&missing));
    let folder = tempfile::tempdir().expect("a folder");
    let bad = folder.path().join("bad.jsonl");
    std::fs::write(&bad, "{\"prompt\": [1]}\n{\"promt\": [1]}\n").expect("written");
    let model = demo_model();
    let bad = bad.to_str().expect("UTF-8");
    let output = curtail(&["run", "-m", &model, "--batch", bad, "-n", "1", "--temp", "0"]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("bad.jsonl:2: unknown field `promt`"), "{}", stderr(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1);
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let model = demo_model();
    let run = |seed: &str| {
        let output = curtail(&["run", "-m", &model, "-p", "Tell me a story.", "-n", "12", "--seed", seed]).output();
        output.expect("it starts").stdout
    };
    assert_eq!(run("5"), run("5"));
    assert_ne!(run("5"), run("6"));
}

#[test]
fn drafts_do_not_change_a_chat() {
    let model = demo_model();
    // Longer than the context: it shifts. Taken back and answered anew in between.
    let input = "Tell me about dogs.\n/regen\nAnd about cats?\n/undo\nWhy is the sky blue?\nSay that again.\n/regen\n";
    let chat = |draft: &[&str]| {
        let flags = ["chat", "-m", &model, "-n", "24", "-c", "128", "--context-shift", "--seed", "5", "-t", "1"];
        let output = with_input(&[&flags[..], draft].concat(), input);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let plain = chat(&["--exit", "off"]);
    assert!(plain.len() > 400, "{plain}");
    for draft in [
        &["--draft", "lookup"][..],
        &["--draft", "layer:27", "--draft-max", "3"],
        &["--draft", "skip:20-24:attn,26:mlp"],
    ] {
        assert_eq!(chat(draft), plain, "{draft:?}");
    }
}

#[test]
fn the_exit_mode_is_told_and_changed_in_a_chat() {
    let model = demo_model();
    let input = "/exit-mode\n/exit-mode fast\n/exit-mode auto\n/exit-mode\n/exit-mode often\n/depth on\n/exit\n";
    let output = with_input(&["chat", "-m", &model, "--exit", "off"], input);
    let said = stderr(&output);
    // No exit file, and no mode of that name.
    assert_eq!(output.status.code(), Some(1), "{said}");
    for expected in
        ["exit mode: off", "there is no exit file for this model", "exit mode: auto", "often", "no colour here"]
    {
        assert!(said.contains(expected), "{expected:?} in {said}");
    }
}
