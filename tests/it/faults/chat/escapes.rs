//! Text of files and models on its way to a terminal: shown, not sent.

use super::{chat, with};
use crate::common::curtail;
use crate::common::tiny::{N_EMBD, Tiny};
use crate::common::watched::run;

/// A window title, as an 8-bit control character, and a mark that turns the direction of writing around.
const EVIL: &str = "\x1b]0;PWNED\x07\u{9b}2J\u{202e}";
const SHOWN: &str = "\\u001b]0;PWNED\\u0007\\u009b2J\\u202e";

/// Fails unless the text is there, and nothing else that a terminal obeys.
#[track_caller]
fn harmless(text: &str) {
    let bad = text.chars().find(|&c| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}');
    assert!(bad.is_none() && text.contains("PWNED"), "{bad:?} in {text:?}");
}

#[test]
fn metadata_is_shown() {
    let run_it = |model: &str| curtail(&["run", "-m", model, "-t", "1", "-p", "hi", "-n", "1"]);
    for key in ["general.architecture", "tokenizer.ggml.pre", "tokenizer.ggml.model", "llama.rope.scaling.type"] {
        let (_folder, model) = with(&Tiny::new().with(key, EVIL));
        let ended = run(&mut run_it(&model), b"").by_itself();
        assert!(ended.stderr.contains(SHOWN), "{key}: {ended:?}");
        harmless(&ended.stderr);
    }
    let raises = format!("{{{{ raise_exception('{EVIL}') }}}}");
    let (folder, model) = with(&Tiny::new().with("tokenizer.chat_template", raises.as_str()));
    harmless(&run(&mut run_it(&model), b"").by_itself().stderr);
    let ended = run(&mut chat(folder.path(), &model, &[]), b"/show template\n/show info\n").by_itself();
    assert!(ended.stderr.contains(SHOWN), "{ended:?}");
    let (folder, model) = with(&Tiny::new().with("general.name", EVIL));
    harmless(&run(&mut chat(folder.path(), &model, &[]), b"/show info\n").with(0, &[SHOWN]).stderr);
    harmless(&run(&mut curtail(&["inspect", &model]), b"").with(0, &[]).stdout);
}

#[test]
fn names_of_files_are_shown() {
    let (folder, model) = with(&Tiny::new());
    let models = folder.path().join("models");
    std::fs::create_dir(&models).expect("a folder");
    std::fs::copy(&model, models.join(format!("{EVIL}.gguf"))).expect("copied");
    let mut list = curtail(&["list"]);
    list.current_dir(folder.path()).env("HF_HUB_CACHE", folder.path().join("none"));
    harmless(&run(&mut list, b"").with(0, &[]).stdout);
    let mut list = curtail(&["list", "--json"]);
    list.current_dir(folder.path()).env("HF_HUB_CACHE", folder.path().join("none"));
    let json = run(&mut list, b"").with(0, &[]).stdout;
    harmless(&json);
    let rows: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(rows[0]["name"].as_str().expect("a name").contains(EVIL), "JSON means the same");
    harmless(&run(&mut curtail(&["inspect", &format!("no{EVIL}")]), b"").with(1, &[SHOWN]).stderr);
}

#[test]
fn names_of_tensors_are_shown() {
    let mut tiny = Tiny::new();
    tiny.tensor("blk.1.ffn_up.weight").name = format!("blk.1.{EVIL}");
    let (_folder, model) = with(&tiny);
    harmless(&run(&mut curtail(&["inspect", &model]), b"").with(0, &[]).stdout);
    harmless(&run(&mut curtail(&["quantize", "--dry-run", &model, "Q8_0"]), b"").by_itself().stdout);
}

/// Its answers are zero bytes: all tokens are as likely, and the first one is that.
fn silent() -> Tiny {
    let mut tiny = Tiny::new();
    tiny.tensor("output_norm.weight").bytes = [0; 4 * N_EMBD].to_vec();
    tiny
}

#[test]
fn answers_are_data_in_a_pipe() {
    let (folder, model) = with(&silent());
    let ended = run(&mut chat(folder.path(), &model, &["-n", "2"]), b"hi\n").with(0, &[]);
    assert_eq!(ended.stdout, "\0\0\n");
}

#[test]
fn answers_are_shown_at_a_terminal() {
    let (folder, model) = with(&silent());
    let mut session = super::terminal::start(chat(folder.path(), &model, &["-n", "2"]));
    session.send_line("hi").expect("typed");
    session.exp_string("\\u0000\\u0000").expect("the answer, spelt");
    let mut run = curtail(&["run", "-m", &model, "-t", "1", "-p", "hi", "-n", "2", "--temp", "0"]);
    run.env("TERM", "xterm");
    let mut session = rexpect::session::spawn_command(run, Some(60_000)).expect("it starts");
    session.exp_string("\\u0000\\u0000").expect("the answer, spelt");
}
