//! SIGTERM, SIGHUP and SIGXFSZ, whatever the program does: it ends as it should, with what was said, and nothing half-written.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{chat, named, said, with_model};
use crate::common::watched::run;
use crate::common::{curtail, demo_model};

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(sent.expect("kill is there").success());
}

/// The exit code, which must come soon.
#[track_caller]
fn code(child: &mut Child) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return status.code().unwrap_or_else(|| panic!("signal {:?}", status.signal()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("a child of ours");
    panic!("it lives on");
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}

#[test]
fn who_waits_for_a_pipe_ends() {
    let (folder, model) = with_model();
    let all = [("TERM", 143), ("HUP", 129), ("INT", 130)];
    for (name, expected) in all {
        for mut command in [
            chat(folder.path(), &model, &[]),
            curtail(&["run", "-m", &model, "-t", "1", "--batch", "-"]),
            curtail(&["run", "-m", &model, "-t", "1"]),
            curtail(&["tokenize", "-m", &model]),
        ] {
            let mut child = spawn(&mut command);
            // Until it listens: it opens the model before it reads.
            std::thread::sleep(Duration::from_millis(400));
            signal(&child, name);
            assert_eq!(code(&mut child), expected, "{name}: {command:?}");
        }
    }
    assert_eq!(named(&folder.path().join("curtail"), "ended").len(), 0, "nothing was said");
}

#[test]
fn what_was_said_in_a_pipe_is_kept() {
    let (folder, model) = with_model();
    let mut child = spawn(&mut chat(folder.path(), &model, &["-n", "2"]));
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"hi\n").expect("it reads");
    let mut answers = BufReader::new(child.stdout.take().expect("a pipe"));
    answers.read_line(&mut String::new()).expect("an answer");
    std::thread::sleep(Duration::from_millis(100));
    signal(&child, "TERM");
    assert_eq!(code(&mut child), 143);
    let kept = named(&folder.path().join("curtail"), "ended");
    assert_eq!(said(&kept[0]), ["hi"]);
    let input = format!("/load {}\nmore\n", kept[0].display());
    run(&mut chat(folder.path(), &model, &["-n", "2"]), input.as_bytes()).with(0, &["(loaded 2 messages; "]);
}

#[test]
fn an_answer_ends_and_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, expected) in [("TERM", 143), ("HUP", 129)] {
        let mut child = spawn(&mut chat(folder.path(), &demo_model(), &[]));
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(b"Write a long story about a dragon.\nnever answered\n").expect("it reads");
        let mut some = [0; 8];
        std::io::Read::read_exact(child.stdout.as_mut().expect("a pipe"), &mut some).expect("an answer");
        signal(&child, name);
        assert_eq!(code(&mut child), expected);
        let kept = named(&folder.path().join("curtail"), "ended");
        assert_eq!(said(&kept[0]), ["Write a long story about a dragon."]);
        let text = std::fs::read_to_string(&kept[0]).expect("kept");
        assert!(
            text.contains("\"assistant\"") && text.contains(std::str::from_utf8(&some).expect("text").trim()),
            "{text}"
        );
        std::fs::remove_file(&kept[0]).expect("removed");
    }
}

#[test]
fn nohup_outlives_its_terminal() {
    let (folder, model) = with_model();
    let program = env!("CARGO_BIN_EXE_curtail");
    let script = format!("trap '' HUP; exec '{program}' chat -m '{model}' -t 1 -n 2");
    let mut child = spawn(Command::new("sh").args(["-c", &script]).env("XDG_STATE_HOME", folder.path()));
    std::thread::sleep(Duration::from_millis(400));
    signal(&child, "HUP");
    std::thread::sleep(Duration::from_millis(200));
    child.stdin.take().expect("a pipe").write_all(b"hi\n").expect("it reads on");
    assert_eq!(code(&mut child), 0);
}

/// Begins to write a file and sends signals as soon as it is there.
fn ended_while_writing(folder: &Path, signals: &[&str]) -> i32 {
    let output = folder.join("out.gguf");
    let output = output.to_str().expect("UTF-8");
    let mut child = spawn(&mut curtail(&["quantize", "--allow-requantize", &demo_model(), output, "Q6_K", "1"]));
    let deadline = Instant::now() + Duration::from_secs(20);
    while named(folder, ".part").is_empty() {
        assert!(Instant::now() < deadline && child.try_wait().expect("a child of ours").is_none(), "no file is begun");
        std::thread::sleep(Duration::from_millis(2));
    }
    signals.iter().for_each(|name| signal(&child, name));
    code(&mut child)
}

#[test]
fn half_a_file_does_not_stay() {
    let folder = tempfile::tempdir().expect("a folder");
    for (signals, expected) in [(&["TERM"][..], 143), (&["HUP"], 129), (&["INT", "INT"], 130), (&["INT", "TERM"], 143)]
    {
        let code = ended_while_writing(folder.path(), signals);
        // The first Ctrl-C may have been enough.
        assert!(code == expected || (code == 130 && signals[0] == "INT"), "{signals:?}: {code}");
        assert_eq!(named(folder.path(), "").len(), 0, "{signals:?}");
    }
}

#[test]
fn a_limit_on_files_is_an_error_like_a_full_disk() {
    let (folder, model) = with_model();
    let program = env!("CARGO_BIN_EXE_curtail");
    let out = folder.path().join("out");
    std::fs::create_dir(&out).expect("a folder");
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/convert/llama-hf");
    let limited = |arguments: &str, input: &str, codes: &[i32]| {
        // Blocks of 512 bytes, or of 1024: too small for any of these files.
        let script = format!("ulimit -f 4; exec '{program}' {arguments}");
        let ended = run(Command::new("sh").args(["-c", &script]).current_dir(&out), input.as_bytes()).by_itself();
        assert!(codes.contains(&ended.code.unwrap_or(-1)) && ended.stderr.contains("File too large"), "{ended:?}");
        assert_eq!(named(&out, "").len(), 0, "{ended:?}");
    };
    limited(&format!("quantize '{model}' q.gguf Q8_0 1"), "", &[1]);
    limited(&format!("convert '{}' -o c.gguf", checkpoint.display()), "", &[1]);
    limited(&format!("chat -m '{model}' -t 1 -n 2"), "hi\n/save t.json\n", &[1]);
}

#[test]
fn a_message_names_the_file_and_no_temporary_one() {
    let (folder, model) = with_model();
    let mut command = chat(folder.path(), &model, &["-n", "2"]);
    let ended =
        run(&mut command, b"hi\n/save /no-such-folder/talk.json\n").with(1, &["cannot write `/no-such-folder/talk."]);
    assert!(!ended.stderr.contains(".tmp") && !ended.stderr.contains(".part"), "{ended:?}");
}
