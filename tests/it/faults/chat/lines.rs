//! A chat in a pipe, and the two streams that every command writes to.

use std::fs::File;
use std::process::Stdio;

use super::{chat, said, with_model};
use crate::common::curtail;
use crate::common::watched::run;

#[test]
fn a_byte_that_is_no_utf_8_is_marked_and_said() {
    let (folder, model) = with_model();
    let file = folder.path().join("talk.json");
    let input = [b"caf\xe9\nhello\n/save ", file.to_str().expect("UTF-8").as_bytes()].concat();
    run(&mut chat(folder.path(), &model, &["-n", "2"]), &input)
        .with(0, &["note: stdin:1: not valid UTF-8: byte 0xe9 in column 4, read as U+FFFD"]);
    assert_eq!(said(&file), ["caf\u{fffd}", "hello"]);
}

#[test]
fn a_line_that_fails_leaves_the_others_running() {
    let (folder, model) = with_model();
    let talk = folder.path().join("talk");
    let long = "x".repeat(60);
    let input = format!("{long}\n/nonsense\n/set temp hot\n/load nowhere\nhi\n/save {}\n", talk.display());
    let ended = run(&mut chat(folder.path(), &model, &["-n", "2", "-c", "48"]), input.as_bytes()).with(
        1,
        &[
            "error: stdin:1: the conversation has ",
            "error: stdin:2: unknown command `/nonsense`",
            "error: stdin:3: `temperature`",
            "error: stdin:4: ",
            "(saved ",
        ],
    );
    assert_eq!(said(&folder.path().join("talk.json")), ["hi"]);
    // The same without the lines that fail.
    let alone = run(&mut chat(folder.path(), &model, &["-n", "2", "-c", "48"]), b"hi\n").with(0, &[]);
    assert_eq!(ended.stdout, alone.stdout);
}

#[test]
fn an_answer_that_cannot_be_written_is_the_last() {
    let (folder, model) = with_model();
    let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("Linux has it"));
    let mut command = chat(folder.path(), &model, &["-n", "2"]);
    let mut child = command.stdin(Stdio::piped()).stdout(full()).stderr(Stdio::piped()).spawn().expect("it starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), b"one\ntwo\n").expect("written");
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), stderr.matches("cannot write the answer").count()), (Some(1), 1), "{stderr}");
    for arguments in [
        &["tokenize", "-m", &model, "-p", "hi"][..],
        &["tokenize", "-m", &model, "-p", "hi", "--json"],
        &["inspect", &model],
        &["inspect", &model, "--json"],
        &["run", "-m", &model, "-t", "1", "-p", "hi", "-n", "1"],
        &["completions", "bash"],
        &["quantize", "--dry-run", &model, "Q8_0"],
    ] {
        let output = curtail(arguments).stdout(full()).stdin(Stdio::null()).output().expect("it starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains("No space left"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_full_stderr_takes_nothing_away() {
    let model = crate::common::tiny::Tiny::new().without("tokenizer.ggml.pre");
    let (folder, model) = super::with(&model);
    let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("Linux has it"));
    let of = |arguments: &[&str], stderr: Stdio| {
        let output = curtail(arguments).stdin(Stdio::null()).stderr(stderr).output().expect("it starts");
        (output.status.code(), output.stdout)
    };
    for arguments in [
        &["tokenize", "-m", &model, "-p", "hi"][..],
        &["run", "-m", &model, "-t", "1", "-p", "hi", "-n", "3", "--temp", "0"],
        &["chat", "-m", &model, "-t", "1"],
    ] {
        let alone = of(arguments, Stdio::piped());
        assert_eq!(alone.0, Some(0), "{arguments:?}");
        assert_eq!(of(arguments, full()), alone, "{arguments:?}");
    }
    assert_eq!(of(&["inspect", "no-such-file"], full()).0, Some(1));
    drop(folder);
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly() {
    let (_folder, model) = with_model();
    for arguments in
        [&["inspect", &model][..], &["tokenize", "-m", &model, "-p", "hi", "--json"], &["completions", "zsh"]]
    {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = curtail(arguments).stdout(writer).stdin(Stdio::null()).output().expect("it starts");
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()), "{arguments:?}");
    }
}
