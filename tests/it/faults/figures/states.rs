//! Saved conversations and token states that were not written here, or not to the end.

use std::path::Path;

use serde_json::{Value, json};

use super::made::Made;
use crate::common::curtail;
use crate::common::watched::{self, Ended};

/// A conversation of one turn, saved as `talk.json` and `talk.state`.
fn saved() -> Made {
    let made = Made::new();
    chat(&made, &["-n", "4"], &format!("hi\n/save {}\n", made.path("talk.json").display())).with(0, &["(saved `"]);
    made
}

fn chat(made: &Made, arguments: &[&str], lines: &str) -> Ended {
    let mut command = curtail(&["chat", "-m", &made.model, "-t", "1", "--temp", "0"]);
    watched::run(command.args(arguments), lines.as_bytes())
}

/// Loads every file in one conversation, and answers once more: what each is said of. The exit code tells that a line failed.
fn load(made: &Made, files: &[&str]) -> (Vec<String>, Ended) {
    let lines: String = files.iter().map(|file| format!("/load {}\n", made.path(file).display())).collect();
    let ended = chat(made, &["-n", "2"], &format!("{lines}hi\n")).by_itself();
    assert!(matches!(ended.code, Some(0 | 1)), "{ended:?}");
    assert!(ended.stderr.contains("generated 2 tokens") || ended.stderr.contains("generated 1 token"), "{ended:?}");
    let is_said = |line: &&str| line.starts_with("error: ") || line.starts_with("(loaded ");
    let said: Vec<String> = ended.stderr.lines().filter(is_said).map(str::to_owned).collect();
    assert_eq!(said.len(), files.len(), "{ended:?}");
    (said, ended)
}

fn write(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).expect("written");
}

#[test]
fn conversations_that_were_not_written_here_are_refused_by_name() {
    let made = saved();
    let whole: Value =
        serde_json::from_str(&std::fs::read_to_string(made.path("talk.json")).expect("saved")).expect("JSON");
    let with = |pointer: &str, value: Value| {
        let mut changed = whole.clone();
        *changed.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} in {whole}")) = value;
        changed
    };
    let cases = [
        (with("/format", json!("x\u{1b}[31m")), "found \"x\\u{1b}[31m\" version 1"),
        (with("/version", json!(2)), "version 1, found \"curtail conversation\" version 2"),
        (with("/version", json!(-1)), "invalid value: integer `-1`"),
        (with("/version", json!(1e300)), "invalid type: floating point"),
        (with("/state", json!("../talk.state")), "state: expected a file name, found \"../talk.state\""),
        (with("/state", json!("/dev/zero")), "state: expected a file name"),
        (with("/state", json!("")), "state: expected a file name"),
        (with("/model/n_vocab", json!(-1)), "invalid value"),
        (with("/model", json!([])), "is not a saved conversation"),
        (with("/conversation/messages/0/role", json!("assistant")), "messages[0].role: expected \"user\""),
        (
            with("/conversation/messages/1/role", json!("\u{7}")),
            "messages[1].role: expected \"assistant\", found \"\\u{7}\"",
        ),
        (with("/conversation/messages", json!({})), "is not a saved conversation"),
        (with("/conversation/forgotten", json!(3)), "forgotten: expected at most 2, the messages, found 3"),
        (with("/conversation/forgotten", json!(u64::MAX)), "forgotten: expected at most 2"),
        (with("/conversation/forgotten", json!(-1)), "invalid value"),
        (with("/conversation/pieces/0/tokens/0", json!(262)), "pieces[0].tokens: expected ids below 262, found 262"),
        (with("/conversation/pieces/0/tokens/0", json!(u32::MAX)), "pieces[0].tokens: expected ids below 262"),
        (with("/conversation/pieces/0/tokens/0", json!(1u64 << 32)), "invalid value"),
        (with("/conversation/pieces/0/tokens/0", json!(-1)), "invalid value"),
        (with("/conversation/pieces/0/text", json!(7)), "invalid type"),
    ];
    let names: Vec<String> = (0..cases.len()).map(|i| format!("case{i}.json")).collect();
    cases.iter().zip(&names).for_each(|((value, _), name)| write(&made.path(name), value));
    let (said, _) = load(&made, &names.iter().map(String::as_str).collect::<Vec<_>>());
    for ((name, said), (_, says)) in names.iter().zip(&said).zip(&cases) {
        assert!(said.contains(name.as_str()) && said.contains(says), "{says:?} and {name} in {said:?}");
        assert!(!said.contains('\u{1b}') && !said.contains('\u{7}'), "{said:?}");
    }
}

#[test]
fn files_that_are_no_conversation_are_refused_by_name() {
    let made = saved();
    let whole = std::fs::read(made.path("talk.json")).expect("saved");
    let deep = |open: &str| format!("{{\"format\": {}", open.repeat(100_000)).into_bytes();
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("cut.json", whole[..whole.len() / 2].to_vec(), "EOF while parsing"),
        ("none.json", Vec::new(), "EOF while parsing"),
        ("lists.json", deep("["), "is not a saved conversation"),
        ("deep.json", [b"{\"x\": ".to_vec(), "[".repeat(100_000).into_bytes()].concat(), "EOF while parsing a list"),
        (
            "objects.json",
            [b"{\"x\": ".to_vec(), "{\"a\":".repeat(100_000).into_bytes()].concat(),
            "EOF while parsing a value",
        ),
        ("bytes.json", vec![0xff; 100], "line 1 is not valid UTF-8"),
        ("twice.json", [&whole[..], &whole[..]].concat(), "trailing characters"),
    ];
    cases.iter().for_each(|(name, bytes, _)| std::fs::write(made.path(name), bytes).expect("written"));
    std::fs::create_dir(made.path("folder.json")).expect("a folder");
    let fifo = std::process::Command::new("mkfifo").arg(made.path("fifo.json")).status();
    assert!(fifo.expect("mkfifo").success());
    let names: Vec<&str> = cases.iter().map(|case| case.0).chain(["folder.json", "fifo.json", "absent.json"]).collect();
    let expected = cases.iter().map(|case| case.2).chain(["it is a folder", "pipe", "cannot read"]);
    let (said, _) = load(&made, &names);
    for ((name, said), says) in names.iter().zip(&said).zip(expected) {
        assert!(said.contains(name) && said.contains(says), "{says:?} and {name} in {said:?}");
    }
}

/// A state that cannot be used costs an evaluation, not the conversation.
#[test]
fn states_that_do_not_fit_are_named_and_evaluated_again() {
    let made = saved();
    let talk = std::fs::read_to_string(made.path("talk.json")).expect("saved");
    let state = std::fs::read(made.path("talk.state")).expect("saved");
    let header = u64::from_le_bytes(state[..8].try_into().expect("eight bytes")) as usize;
    let n_tokens = u64::from_le_bytes(state[8..16].try_into().expect("eight bytes"));
    let at = |place: usize, bytes: &[u8]| [&state[..place], bytes, &state[place + bytes.len()..]].concat();
    let number = |place: usize, n: u64| at(place, &n.to_le_bytes());
    let first_row = 16 + header + 4 * n_tokens as usize;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("cut in its head", state[..10].to_vec(), "expected the lengths of a state, found the end"),
        ("empty", Vec::new(), "expected the lengths of a state, found the end"),
        ("cut in its tokens", state[..16 + header + 2].to_vec(), "with their cache rows, found the end"),
        ("cut in its rows", state[..state.len() - 1].to_vec(), "with their cache rows, found the end"),
        ("longer", [&state[..], &[0]].concat(), "expected the end behind"),
        ("a header of 2^64-1", number(0, u64::MAX), "expected curtail state 2"),
        ("a header of 2^40", number(0, 1 << 40), "expected curtail state 2"),
        ("2^64-1 tokens", number(8, u64::MAX), "expected at most 256 tokens, found 18446744073709551615"),
        ("257 tokens", number(8, 257), "expected at most 256 tokens, found 257"),
        ("256 tokens", number(8, 256), "expected"),
        ("a token more", number(8, n_tokens + 1), "expected"),
        (
            "a token beyond the vocabulary",
            at(16 + header, &262u32.to_le_bytes()),
            "token 262: expected an id below 262",
        ),
        ("escapes in its header", at(16, b"\x1b[31m"), "found \\u{1b}[31m"),
    ];
    for (what, bytes, says) in &cases {
        std::fs::write(made.path("talk.state"), bytes).expect("written");
        let (said, _) = load(&made, &["talk.json"]);
        let expected = ["(loaded 2 messages; the next turn evaluates them again", "talk.state", says];
        expected.iter().for_each(|text| assert!(said[0].contains(text), "{what}: {text:?} in {said:?}"));
        assert!(!said[0].contains('\u{1b}'), "{what}: {said:?}");
    }
    // Rows of any bits are numbers of a kind: the answer is bad, or refused, and the program goes on.
    for fill in [0xff, 0x7c, 0x00] {
        let rows = vec![fill; state.len() - first_row];
        std::fs::write(made.path("talk.state"), at(first_row, &rows)).expect("written");
        let lines = format!("/load {}\nhi\n/clear\nhi\n", made.path("talk.json").display());
        chat(&made, &["-n", "2"], &lines).by_itself();
    }
    let elsewhere = talk.replace("talk.state", "folder");
    std::fs::create_dir(made.path("folder")).expect("a folder");
    std::fs::write(made.path("talk.json"), elsewhere).expect("written");
    assert!(load(&made, &["talk.json"]).0[0].contains("expected a regular file, found a directory"));
}

#[test]
fn a_whole_state_is_used() {
    let made = saved();
    let (said, ended) = load(&made, &["talk.json"]);
    assert!(said[0].starts_with("(loaded 2 messages, "), "{said:?}");
    assert!(ended.code == Some(0), "{ended:?}");
}

/// What a scan of the layers left to go on from.
#[test]
fn scans_that_do_not_fit_are_refused_by_name() {
    let made = Made::new();
    let (text, kept) = (made.path("text.txt"), made.path("scan.json"));
    std::fs::write(&text, "the th he ".repeat(20)).expect("written");
    let scan = || {
        let (text, kept) = (text.to_str().expect("UTF-8"), kept.to_str().expect("UTF-8"));
        let args = ["layers", "scan", "-m", &made.model, "-t", "1", "-f", text, "--window", "32", "--resume", kept];
        watched::run(&mut curtail(&args), b"")
    };
    scan().with(0, &[]);
    let whole: Value = serde_json::from_str(&std::fs::read_to_string(&kept).expect("kept")).expect("JSON");
    let window = &whole["state"]["windows"][0];
    let with = |name: &str, value: Value| {
        let mut changed = whole.clone();
        changed["state"]["windows"][0][name] = value;
        changed
    };
    let many = vec![window.clone(); 1000];
    let mut of = whole.clone();
    of["of"] = json!("another \u{1b}[31m");
    let mut windows = whole.clone();
    windows["state"]["windows"] = json!(many);
    for (value, says) in [
        (of, "found one of \"another \\u{1b}[31m\""),
        (windows, "state.windows: expected at most"),
        (with("lens", json!([])), "state.windows[0].lens: expected 4, the steps, found 0"),
        (with("cosines", json!([])), "state.windows[0].cosines: expected 4"),
        (with("changes", json!({ "99": window["full"] })), "state.windows[0].changes: expected numbers below"),
        (with("full", Value::Null), "state.windows[0].lens: expected 0"),
        (with("lens", json!([window["lens"][0], window["lens"][0], window["lens"][0], { "n": 1 }])), "is no scan"),
        (
            with(
                "changes",
                json!({ "0": { "n": u64::MAX, "kld": 0, "kld_squares": 0, "same_top": 0, "entropy": 0, "loss": 0 } }),
            ),
            "places, found one over 18446744073709551615",
        ),
    ] {
        write(&kept, &value);
        let ended = scan().with(1, &["scan.json", says]);
        assert!(!ended.stderr.contains('\u{1b}'), "{ended:?}");
    }
}
