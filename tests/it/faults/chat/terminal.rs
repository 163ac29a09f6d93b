//! A chat at a terminal: what is typed at any time, and what is no text.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rexpect::session::PtySession;

use super::{chat, named, said, with_model};
use crate::common::demo_model;
use crate::common::terminal::{self, PROMPT, type_in};

/// A chat at its prompt.
pub(super) fn start(command: Command) -> PtySession {
    terminal::start(command, 60_000)
}

/// Saves the conversation, leaves, and tells what the user said.
fn saved(session: &mut PtySession, folder: &Path) -> Vec<String> {
    let file = folder.join("talk.json");
    session.send_line(&format!("/save {}", file.display())).expect("typed");
    session.exp_string("(saved ").expect("saved");
    session.exp_string(PROMPT).expect("a prompt");
    session.send_control('d').expect("typed");
    session.exp_eof().expect("it leaves");
    said(&file)
}

/// Begins an answer that is long enough to type in.
fn answering(folder: &Path) -> PtySession {
    let mut session = start(chat(folder, &demo_model(), &["-n", "48"]));
    session.send_line("Write a long story about a dragon and a castle.").expect("typed");
    session.exp_regex("(?s)castle\\..*[a-z]{3}").expect("the answer begins");
    session
}

#[test]
fn a_byte_that_is_no_utf_8_ends_nothing() {
    let (folder, model) = with_model();
    let mut session = start(chat(folder.path(), &model, &["-n", "2"]));
    let mut keys = session.process().get_file_handle().expect("the terminal");
    keys.write_all(b"caf\xe9 au lait\r").expect("typed");
    session.exp_string("(stopped: -n").expect("an answer");
    session.exp_string(PROMPT).expect("a prompt");
    assert_eq!(saved(&mut session, folder.path()), ["caf\u{fffd} au lait"]);
}

#[test]
fn lines_typed_at_once_are_inputs_one_by_one() {
    let (folder, model) = with_model();
    let mut session = start(chat(folder.path(), &model, &["-n", "2"]));
    type_in(&mut session, "one\r\"\"\"two\rthree\"\"\"\r/stats\rfour\r");
    session.exp_string("prompt tokens reused").expect("statistics");
    session.exp_string("four").expect("the last input");
    session.exp_string("(stopped: -n").expect("its answer");
    session.exp_string(PROMPT).expect("a prompt");
    assert_eq!(saved(&mut session, folder.path()), ["one", "two\nthree", "four"]);
}

#[test]
fn what_is_typed_during_an_answer_is_the_next_input() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut session = answering(folder.path());
    type_in(&mut session, "And the ");
    std::thread::sleep(Duration::from_millis(80));
    type_in(&mut session, "princess?\r");
    let answer = session.exp_string("(stopped: -n").expect("the first answer ends");
    assert!(!answer.contains("princess?"), "echoed into the answer: {answer}");
    session.exp_string("And the princess?").expect("the next input");
    session.exp_string("(stopped: -n").expect("its answer");
    session.exp_string(PROMPT).expect("a prompt");
    let said = saved(&mut session, folder.path());
    assert_eq!(said[1..], ["And the princess?"]);
}

#[test]
fn a_paste_during_an_answer_is_one_input() {
    let lines: Vec<String> =
        (0..200).map(|i| format!("line {i} of a paste that is longer than a terminal's line buffer")).collect();
    let (as_keys, text) = (lines.join("\r"), lines.join("\n"));
    let folder = tempfile::tempdir().expect("a folder");
    // As old terminals bring it, and as those do that tell a paste from keys.
    for paste in [format!("{as_keys}\r"), format!("\x1b[200~{as_keys}\x1b[201~\r")] {
        let mut command = chat(folder.path(), &demo_model(), &["-n", "16", "-c", "8192"]);
        command.env("COLUMNS", "200");
        let mut session = start(command);
        session.send_line("/set n-predict 64").expect("typed");
        session.exp_string("(n-predict = 64)").expect("set");
        session.send_line("Write a long story about a castle.").expect("typed");
        session.exp_regex("(?s)castle\\..*[a-z]{3}").expect("the answer begins");
        type_in(&mut session, &paste);
        session.exp_string("(stopped: -n").expect("the answer ends");
        session.exp_string("line 199 of a paste").expect("the next input");
        session.send_control('c').expect("typed");
        // Its answer is stopped, or, where its reading was, it is taken back.
        session.exp_regex("\\(stopped").expect("it stops");
        session.exp_string(PROMPT).expect("a prompt");
        session.send_control('d').expect("typed");
        session.exp_eof().expect("it leaves");
        let history = std::fs::read_to_string(folder.path().join("curtail/history")).expect("a history");
        let last = history.lines().last().expect("a line").replace("\\n", "\n");
        assert_eq!(last, text);
    }
}

#[test]
fn a_stopped_answer_sends_nothing_off_that_waits() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut session = start(chat(folder.path(), &demo_model(), &["-n", "200"]));
    session.send_line("Write a long story about a dragon and a castle.").expect("typed");
    session.exp_regex("(?s)castle\\..*[a-z]{3}").expect("the answer begins");
    type_in(&mut session, "first\rsecond\r");
    std::thread::sleep(Duration::from_millis(80));
    session.send_control('c').expect("typed");
    session.exp_string("(stopped)").expect("it stops");
    session.exp_string("second").expect("what waited");
    type_in(&mut session, "!\r");
    session.exp_regex("(?s)!.*\n.*[a-z]{3}.*> ").expect("an answer and a prompt");
    assert_eq!(saved(&mut session, folder.path())[1..], ["first\nsecond!"]);
}

#[test]
fn a_signal_ends_it_at_the_prompt_and_in_an_answer() {
    use rexpect::process::Signal;

    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let folder = tempfile::tempdir().expect("a folder");
        let (models, model) = with_model();
        let mut idle = start(chat(models.path(), &model, &["-n", "2"]));
        let mut busy = answering(folder.path());
        for session in [&mut idle, &mut busy] {
            session.process_mut().signal(signal).expect("sent");
            session.exp_eof().expect("it ends");
            let status = format!("{:?}", session.process_mut().wait().expect("it ended"));
            assert!(status.contains(&format!(", {})", 128 + signal as i32)), "{status}");
        }
        let kept = named(&folder.path().join("curtail"), "ended");
        assert_eq!(said(&kept[0]), ["Write a long story about a dragon and a castle."]);
    }
}

#[test]
fn a_history_that_is_no_file_is_said_and_left_alone() {
    let (folder, model) = with_model();
    let state = folder.path().join("curtail");
    std::fs::create_dir(&state).expect("a folder");
    let history = state.join("history");
    assert!(Command::new("mkfifo").arg(&history).status().expect("mkfifo is there").success());
    for _ in 0..2 {
        let mut session = rexpect::session::spawn_command(chat(folder.path(), &model, &["-n", "2"]), Some(20_000))
            .expect("it starts");
        session.exp_string("note: no history").expect("it is said");
        session.exp_string(PROMPT).expect("a prompt");
        session.send_line("hi").expect("typed");
        session.exp_string("(stopped: -n").expect("an answer");
        session.exp_string(PROMPT).expect("a prompt");
        session.send_control('d').expect("typed");
        session.exp_eof().expect("it leaves");
        std::fs::remove_file(&history).expect("removed");
        std::os::unix::fs::symlink("/dev/full", &history).expect("linked");
    }
}
