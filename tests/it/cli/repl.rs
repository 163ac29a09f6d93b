//! The conversation at a terminal, driven through a pseudo-terminal.
#![cfg(unix)]

use std::time::Duration;

use crate::common::terminal::{PROMPT, start, type_in};
use crate::common::{curtail, demo_model};
use rexpect::session::PtySession;

/// Long enough for a slow machine; a test that passes never waits for it.
const PATIENCE_MS: u64 = 90_000;

/// A chat whose history goes to `state`. One thread: tests run beside each other, and waiting threads spin.
fn chat(state: &std::path::Path, arguments: &[&str]) -> PtySession {
    let model = demo_model();
    let mut command = curtail(&["chat", "-m", &model, "-t", "1", "--temp", "0"]);
    command.args(arguments).env("XDG_STATE_HOME", state).env("TERM", "xterm").env("NO_COLOR", "1");
    start(command, PATIENCE_MS)
}

fn leaves_with(session: &PtySession, code: i32) {
    for _ in 0..PATIENCE_MS / 50 {
        // The status has a type that its crate does not show.
        match session.process().status().map(|status| format!("{status:?}")) {
            Some(status) if status.starts_with("StillAlive") => std::thread::sleep(Duration::from_millis(50)),
            Some(status) => {
                let exited = status.starts_with("Exited") && status.ends_with(&format!(" {code})"));
                return assert!(exited, "exit code {code}, not {status}");
            }
            None => panic!("no such process"),
        }
    }
    panic!("it does not end");
}

#[test]
fn a_conversation_is_typed_saved_and_continued() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("talk.json");
    let mut first = chat(folder.path(), &["-n", "8"]);
    first.send_line("Name a colour.").expect("typed");
    first.exp_string("(stopped: -n").expect("an answer of 8 tokens");
    first.exp_string(PROMPT).expect("a prompt");
    first.send_line(&format!("/save {}", file.display())).expect("typed");
    first.exp_string("(saved ").expect("saved");
    first.exp_string(PROMPT).expect("a prompt");
    first.send_control('d').expect("typed");
    leaves_with(&first, 0);

    let mut second = chat(folder.path(), &["-n", "8"]);
    // The arrow brings back the last line of the first chat.
    type_in(&mut second, "\x1b[A");
    second.exp_string("/save ").expect("the history");
    second.send_control('u').expect("typed");
    second.send_line(&format!("/load {}", file.display())).expect("typed");
    second.exp_string("(loaded 2 messages, ").expect("loaded");
    second.exp_string(PROMPT).expect("a prompt");
    second.send_line("Another one.").expect("typed");
    second.exp_string(PROMPT).expect("the prompt after the answer");
    second.send_line("/stats").expect("typed");
    let (_, evaluated) = second.exp_regex("prompt [0-9]+ tokens").expect("statistics");
    let evaluated: usize = evaluated.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a count");
    assert!(evaluated < 25, "only the new message is read, not {evaluated} tokens");
    second.send_line("/exit").expect("typed");
    leaves_with(&second, 0);
}

#[test]
fn an_interrupt_stops_the_answer_and_keeps_what_was_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("talk.json");
    let mut session = chat(folder.path(), &[]);
    session.send_line("Write a long story about a dragon and a castle.").expect("typed");
    session.exp_regex("(?s)castle\\..*[a-z]{3}.*[a-z]{3}").expect("the answer begins");
    session.send_control('c').expect("typed");
    session.exp_string("(stopped)").expect("it stops");
    session.exp_string(PROMPT).expect("a prompt");
    session.send_line(&format!("/save {}", file.display())).expect("typed");
    session.exp_string("(saved ").expect("saved");
    session.send_control('d').expect("typed");
    leaves_with(&session, 0);
    let saved: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).expect("saved")).expect("JSON");
    let messages = saved["conversation"]["messages"].as_array().expect("a list");
    assert_eq!(messages.len(), 2, "{saved}");
    assert!(!messages[1]["content"].as_str().expect("text").is_empty(), "{saved}");
}

#[test]
fn lines_join_and_tab_completes() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("talk.json");
    let mut session = chat(folder.path(), &["-n", "2"]);
    type_in(&mut session, "/sta\t");
    session.exp_string("/stats").expect("the rest of the name");
    session.send_line("").expect("typed");
    session.exp_string("prompt 0 tokens").expect("statistics");
    session.exp_string(PROMPT).expect("a prompt");
    session.send_line("\"\"\"two").expect("typed");
    session.send_line("lines\"\"\"").expect("typed");
    session.exp_string("(stopped: -n").expect("an answer");
    session.exp_string(PROMPT).expect("a prompt");
    session.send_line("and \\").expect("typed");
    session.send_line("two more").expect("typed");
    session.exp_string("(stopped: -n").expect("an answer");
    session.exp_string(PROMPT).expect("a prompt");
    // A pasted text may have several lines.
    type_in(&mut session, "\x1b[200~pasted\nlines\x1b[201~");
    session.send_line("").expect("typed");
    session.exp_string("(stopped: -n").expect("an answer");
    session.exp_string(PROMPT).expect("a prompt");
    session.send_line(&format!("/save {}", file.display())).expect("typed");
    session.exp_string("(saved ").expect("saved");
    // Two at the prompt leave.
    session.send_control('c').expect("typed");
    session.exp_string("Ctrl-D").expect("a hint");
    session.send_control('c').expect("typed");
    leaves_with(&session, 130);
    let saved: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).expect("saved")).expect("JSON");
    let said: Vec<&str> = saved["conversation"]["messages"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|m| m["role"] == "user")
        .map(|m| m["content"].as_str().expect("text"))
        .collect();
    assert_eq!(said, ["two\nlines", "and \ntwo more", "pasted\nlines"]);
}
