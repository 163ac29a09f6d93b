//! Files as editors of other systems write them: byte-order marks, `\r\n`, UTF-16.

use std::fs;
use std::path::Path;

use super::{chat, said, with_model};
use crate::common::curtail;
use crate::common::watched::run;

/// The text in all forms that must read alike.
fn forms(text: &str) -> [Vec<u8>; 4] {
    let dos = text.replace('\n', "\r\n");
    [text.to_owned(), dos.clone(), format!("\u{feff}{text}"), format!("\u{feff}{dos}")].map(String::into_bytes)
}

/// What the command prints with each form in the file, which must be one and the same.
#[track_caller]
fn same(file: &Path, text: &str, arguments: &[&str]) -> String {
    let outputs = forms(text).map(|form| {
        fs::write(file, form).expect("written");
        run(&mut curtail(arguments), b"").with(0, &[]).stdout
    });
    outputs.iter().for_each(|output| assert_eq!(output, &outputs[0], "{arguments:?}"));
    let [first, ..] = outputs;
    first
}

#[test]
fn prompts_and_lines_read_alike() {
    let (folder, model) = with_model();
    let file = folder.path().join("text");
    let path = file.to_str().expect("UTF-8");
    let ids = same(&file, "Hello\nthe end\n", &["tokenize", "-m", &model, "--json", "--no-bos", "-f", path]);
    // `the` is one token of the tiny model, 258, and so no stand-in for anything that was dropped.
    assert_eq!(ids, "[72,101,108,108,111,10,258,32,101,110,100]\n");
    for form in forms("Hello\nthe end\n") {
        let ended = run(&mut curtail(&["tokenize", "-m", &model, "--json", "--no-bos"]), &form);
        assert_eq!(ended.with(0, &[]).stdout, ids);
    }
    let run_it = ["run", "-m", &model, "-t", "1", "-n", "3", "--temp", "0"];
    same(&file, "Hello\n", &[&run_it[..], &["-f", path]].concat());
    let lines =
        same(&file, "{\"text\": \"hi\"}\n\n{\"prompt\": [1, 2]}\n", &[&run_it[..], &["--batch", path]].concat());
    assert_eq!(lines.lines().count(), 2);
    same(&file, "{\"prompt\": [1], \"tokens\": [2]}\n", &["logits", "-m", &model, "-t", "1", "--batch", path]);
    let plan = same(&file, "0-1\n", &[&run_it[..], &["-p", "hi", "--layers", &format!("@{path}")]].concat());
    assert!(!plan.is_empty());
}

#[test]
fn files_of_settings_read_alike() {
    let (folder, model) = with_model();
    let file = folder.path().join("types");
    let path = file.to_str().expect("UTF-8");
    let dry = ["quantize", "--dry-run", "--json", "--tensor-type-file", path, &model, "Q8_0"];
    let plan = same(&file, "attn_q=f16\nffn_down=f32\n", &dry);
    assert!(plan.contains("\"to\":\"f16\""), "{plan}");
}

#[test]
fn a_chat_reads_them_too() {
    let (folder, model) = with_model();
    for (i, form) in forms("/set n-predict 2\nhi\n/save talk\n").into_iter().enumerate() {
        let place = folder.path().join(i.to_string());
        fs::create_dir(&place).expect("a folder");
        run(chat(&place, &model, &[]).current_dir(&place), &form).with(0, &["(n-predict = 2)"]);
        assert_eq!(said(&place.join("talk.json")), ["hi"]);
        let saved = fs::read_to_string(place.join("talk.json")).expect("saved");
        for form in forms(&saved) {
            fs::write(place.join("talk.json"), form).expect("written");
            run(chat(&place, &model, &[]).current_dir(&place), b"/load talk\n").with(0, &["(loaded 2 messages, "]);
        }
    }
}

#[test]
fn a_checkpoint_converts_alike() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/convert/llama-bpe");
    let folder = tempfile::tempdir().expect("a folder");
    let written: Vec<Vec<u8>> = (0..4)
        .map(|form| {
            let checkpoint = folder.path().join(form.to_string()).join("model");
            fs::create_dir_all(&checkpoint).expect("a folder");
            for entry in fs::read_dir(&source).expect("a folder") {
                let path = entry.expect("an entry").path();
                let name = path.file_name().expect("a name");
                let bytes = fs::read(&path).expect("read");
                let bytes = match path.extension().is_some_and(|e| e == "json") {
                    true => forms(&String::from_utf8(bytes).expect("text"))[form].clone(),
                    false => bytes,
                };
                fs::write(checkpoint.join(name), bytes).expect("written");
            }
            let output = folder.path().join(format!("{form}.gguf"));
            let [from, to] = [&checkpoint, &output].map(|path| path.to_str().expect("UTF-8"));
            run(&mut curtail(&["convert", from, "-o", to]), b"").with(0, &[]);
            fs::read(output).expect("written")
        })
        .collect();
    assert!(written.iter().all(|bytes| *bytes == written[0]));
}

#[test]
fn what_cannot_be_read_is_said() {
    let (folder, model) = with_model();
    let file = folder.path().join("text");
    let path = file.to_str().expect("UTF-8");
    let tokenize = || curtail(&["tokenize", "-m", &model, "-f", path]);
    fs::write(&file, b"\xff\xfeh\0i\0").expect("written");
    run(&mut tokenize(), b"").with(1, &["UTF-16", "hint: save it as UTF-8"]);
    fs::write(&file, b"one\ntwo \xe9\n").expect("written");
    run(&mut tokenize(), b"").with(1, &[path, "line 2 is not valid UTF-8: byte 0xe9 in column 5"]);
    fs::write(&file, b"{\"text\": \"caf\xe9\"}\n").expect("written");
    run(&mut curtail(&["run", "-m", &model, "-t", "1", "--batch", path]), b"").with(1, &["text:1: not valid UTF-8"]);
    run(&mut curtail(&["tokenize", "-m", &model, "-f", "/"]), b"").with(1, &["`/`", "it is a folder"]);
    run(&mut curtail(&["tokenize", "-m", &model, "-f", "/dev/zero"]), b"").with(1, &["`/dev/zero`", "it is a device"]);
}
