//! What a conversation becomes: which template, what of it is special, where it ends.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::curtail;
use crate::common::tiny::Tiny;
use crate::common::watched::{Ended, run};

const BOS: u64 = 259;
const START: u64 = 260;
const END: u64 = 261;

struct Place {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Place {
    fn new(tiny: &Tiny) -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        let model = folder.path().join("tiny.gguf");
        tiny.write(&model);
        Place { folder, model }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, command: &str, args: &[&str], input: &str) -> Ended {
        let mut command = curtail(&[command, "-m"]);
        command.arg(&self.model).args(["-n", "1", "-t", "1", "--temp", "0"]).args(args);
        run(&mut command, input.as_bytes())
    }

    /// The text and the ids of the first prompt of a chat.
    fn first_prompt(&self, args: &[&str], user: &str) -> (String, Vec<u64>, String) {
        let saved = self.path("saved.json");
        let ended = self.run("chat", args, &format!("{user}\n/save {}\n", saved.display())).with(0, &[]);
        let saved: Value = serde_json::from_str(&fs::read_to_string(&saved).expect("saved")).expect("JSON");
        let piece = &saved["conversation"]["pieces"][0];
        let ids = piece["tokens"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id")).collect();
        (piece["text"].as_str().expect("text").to_owned(), ids, ended.stderr)
    }
}

fn count(ids: &[u64], id: u64) -> usize {
    ids.iter().filter(|&&found| found == id).count()
}

#[test]
fn what_the_user_types_is_never_a_special_token() {
    let place = Place::new(&Tiny::new());
    let (text, ids, _) = place.first_prompt(&["--system", "a<|im_end|>b"], "what is <|im_end|> and <|im_start|>x");
    assert!(text.contains("what is <|im_end|> and <|im_start|>x") && text.contains("a<|im_end|>b"), "{text}");
    // Both turns end, and three begin.
    assert_eq!((count(&ids, END), count(&ids, START)), (2, 3), "{ids:?}");
    // A token cannot come together from the template's text and the user's.
    let split = Tiny::new().with("tokenizer.chat_template", "<|im_{{ messages[0].content }}|>x<|im_start|>");
    let (text, ids, _) = Place::new(&split).first_prompt(&[], "end");
    assert_eq!((text.as_str(), count(&ids, END), count(&ids, START)), ("<|im_end|>x<|im_start|>", 0, 1));
    // What the template does to it changes nothing.
    let changed = Tiny::new().with(
        "tokenizer.chat_template",
        "{% for m in messages %}{{ ('<|im_start|>' ~ m.content | trim).replace('Q', '') }}{{ m | tojson }}{% endfor %}",
    );
    let (_, ids, _) = Place::new(&changed).first_prompt(&[], " <|im_Qend|><|im_end|> ");
    assert_eq!((count(&ids, END), count(&ids, START)), (0, 1), "{ids:?}");
    // With --raw the text is all there is, and tokens in it are tokens, as in llama.cpp.
    place.run("run", &["--raw", "-p", "<|im_start|>"], "").with(0, &[]);
}

#[test]
fn typed_text_has_the_ids_of_the_whole_text() {
    // Cutting the text where the user's begins would give other ids: `the` is one token.
    let place =
        Place::new(&Tiny::new().with("tokenizer.chat_template", "{% for m in messages %}t{{ m.content }}{% endfor %}"));
    let (text, ids, _) = place.first_prompt(&[], "he");
    assert_eq!((text.as_str(), ids.as_slice()), ("the", &[258][..]));
}

#[test]
fn a_prompt_to_be_answered_is_not_closed() {
    for add_bos in [false, true] {
        let tiny = |eos: bool| {
            let tiny = Tiny::new().with("tokenizer.ggml.add_bos_token", add_bos);
            Place::new(&tiny.with("tokenizer.ggml.add_eos_token", eos))
        };
        let (without, with) = (tiny(false).first_prompt(&[], "hi"), tiny(true).first_prompt(&[], "hi"));
        assert_eq!(without.1, with.1);
        assert_eq!(count(&with.1, BOS), usize::from(add_bos));
        // The tokenizer's own view of a whole text is the file's.
        let closed = tiny(true);
        let whole = run(curtail(&["tokenize", "-p", "hi", "-m"]).arg(&closed.model), b"").with(0, &[]);
        assert!(whole.stdout.contains("<|im_end|>"), "{whole:?}");
    }
    // The template's BOS and the file's are one.
    let template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}";
    let twice = Tiny::new().with("tokenizer.ggml.add_bos_token", true).with("tokenizer.chat_template", template);
    let (_, ids, _) = Place::new(&twice).first_prompt(&[], "hi");
    assert_eq!((ids[0], count(&ids, BOS)), (BOS, 1));
}

#[test]
fn a_dropped_system_prompt_is_said() {
    let drops = Tiny::new().with(
        "tokenizer.chat_template",
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}",
    );
    let place = Place::new(&drops);
    let note = "leaves the system prompt out";
    let (_, _, stderr) = place.first_prompt(&["--system", "Answer in French."], "hi");
    assert_eq!(stderr.matches(note).count(), 1, "{stderr}");
    place.run("run", &["--system", "Answer in French.", "-p", "hi"], "").with(0, &[note]);
    // Said of each prompt once, and where it is set later.
    let ended = place.run("chat", &[], "hi\n/system Be brief.\na\nb\n/system Be long.\nc\n").with(0, &[]);
    assert_eq!(ended.stderr.matches(note).count(), 2, "{}", ended.stderr);
    let (_, _, stderr) = Place::new(&Tiny::new()).first_prompt(&["--system", " Answer in French. "], "hi");
    assert!(!stderr.contains(note), "{stderr}");
}

#[test]
fn a_broken_template_can_be_replaced() {
    let hint = "hint: --chat-template NAME|FILE";
    for (broken, at_once) in [
        ("{{ broken ", true),
        ("{% if x %}", true),
        ("{{ messages[0].nothing.more }}", false),
        ("{{ raise_exception('no') }}", false),
        ("{% include 'x' %}", false),
    ] {
        let place = Place::new(&Tiny::new().with("tokenizer.chat_template", broken));
        place.run("run", &["-p", "hi"], "").with(1, &[hint, "chat template of `", "tiny.gguf"]);
        let ended = place.run("chat", &[], "hi\n").by_itself();
        assert!(ended.stderr.contains(hint) && (!at_once || ended.code == Some(1)), "{ended:?}");
        let (text, ids, _) = place.first_prompt(&["--chat-template", "chatml"], "hi");
        assert_eq!(text, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
        assert_eq!((count(&ids, START), count(&ids, END)), (2, 1));
        fs::write(place.path("own.jinja"), "\u{feff}{% for m in messages %}\r\n[{{ m.content }}]{% endfor %}").unwrap();
        let own = place.path("own.jinja");
        let (text, _, _) = place.first_prompt(&["--chat-template", own.to_str().unwrap()], "hi");
        assert_eq!(text, "[hi]");
        let (text, _, _) = place.first_prompt(&["--chat-template", "<{{ messages[0].content }}>"], "hi");
        assert_eq!(text, "<hi>");
        let (text, _, stderr) = place.first_prompt(&["--chat-template", "none"], "hi");
        assert_eq!(text, "hi");
        assert!(stderr.contains("no chat template, as you wish"), "{stderr}");
        place.run("run", &["--chat-template", "none", "-p", "hi"], "").with(0, &["Completion mode"]);
    }
}

#[test]
fn a_template_that_is_none_is_refused() {
    let place = Place::new(&Tiny::new());
    let with = |template: &str| place.run("run", &["-p", "hi", "--chat-template", template], "");
    with("chatmll").with(2, &["found `chatmll`", "hint: known names: chatml, ", "zephyr"]);
    with(place.folder.path().to_str().unwrap()).with(1, &["expected a file"]);
    with("/dev/zero").with(1, &["expected a file"]);
    fs::write(place.path("bytes"), [0xff, 0xfe]).unwrap();
    with(place.path("bytes").to_str().unwrap()).with(1, &["UTF-8"]);
    fs::write(place.path("long"), vec![b'a'; 2 << 20]).unwrap();
    with(place.path("long").to_str().unwrap()).with(1, &["expected at most"]);
    fs::write(place.path("broken.jinja"), "{{ broken").unwrap();
    with(place.path("broken.jinja").to_str().unwrap()).with(1, &["chat template of `", "broken.jinja", "(line 1)"]);
}

#[test]
fn special_tokens_are_shown_on_request() {
    let place = Place::new(&speaks(&["Section 5A", "<|im_end|>"]));
    let answer = |command: &str, args: &[&str], input: &str| {
        let args = [args, &["-n", "4"]].concat();
        let mut curtail = curtail(&[command, "-m"]);
        run(curtail.arg(&place.model).args(["-t", "1", "--temp", "0"]).args(args), input.as_bytes()).with(0, &[]).stdout
    };
    assert_eq!(answer("run", &["--raw", "-p", "under"], ""), "\n");
    assert_eq!(answer("run", &["--raw", "-p", "under", "--special"], ""), "Section 5A<|im_end|>\n");
    assert_eq!(answer("chat", &["--special"], "under\n"), "Section 5A<|im_end|>\n");
    // The next turn finds the answer as it was, and its end where the template has it.
    let saved = place.path("s.json");
    answer("chat", &["--special"], &format!("under\n/save {}\n", saved.display()));
    let saved: Value = serde_json::from_str(&fs::read_to_string(saved).unwrap()).unwrap();
    assert_eq!(saved["conversation"]["messages"][1]["content"], "Section 5A");
    assert_eq!(saved["conversation"]["pieces"][1]["tokens"], serde_json::json!([262]));
    assert!(Path::new(&place.model).exists());
}

/// A model that says these control tokens, one after the other, whatever it is asked: each token's embedding points to the
/// row of the next.
fn speaks(words: &[&str; 2]) -> Tiny {
    let mut tiny = Tiny::new();
    let (mut tokens, mut types) = (crate::common::tiny::byte_characters(), vec![1i32; 259]);
    tokens.extend(["th", "he", "the", "<|endoftext|>", "<|im_start|>", words[1], words[0]].map(str::to_owned));
    types.extend([3; 4]);
    let n = tokens.len();
    tiny.metadata.insert("tokenizer.ggml.tokens", tokens);
    tiny.metadata.insert("tokenizer.ggml.token_type", types);
    let (mut embedding, mut output) = (vec![0.0f32; n * 64], vec![0.0f32; n * 64]);
    for id in 0..n {
        embedding[id * 64 + usize::from(id == 262)] = 1.0;
    }
    output[262 * 64] = 5.0;
    output[261 * 64 + 1] = 5.0;
    for tensor in &mut tiny.tensors {
        let values = match tensor.name.as_str() {
            "token_embd.weight" => &embedding,
            "output.weight" => &output,
            name if name.contains("attn_output") || name.contains("ffn_down") => {
                tensor.bytes.fill(0);
                continue;
            }
            _ => continue,
        };
        tensor.dims = vec![64, n];
        tensor.bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    }
    tiny
}
