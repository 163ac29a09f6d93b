//! Vocabularies that do not fit their model or themselves: both kinds go by one rule. What has no place is left out, and said.

use curtail::tokenizer::{Special, Tokenizer};
use serde_json::{Value as Json, json};

use super::made::{Made, N_VOCAB};

/// SentencePiece as `tokenizer.json`, in the place of byte-level BPE: the bytes, and `a`, `b`, `ab`.
fn pieces() -> Made {
    let mut made = Made::new();
    let special = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let texts = special.into_iter().chain((0..256).map(|b| format!("<0x{b:02X}>")));
    let texts: Vec<String> = texts.chain(["a", "b", "ab"].map(str::to_owned)).collect();
    let vocab: serde_json::Map<String, Json> = texts.iter().cloned().zip((0..).map(Json::from)).collect();
    let added: Vec<Json> = (0..3).map(|id| json!({"id": id, "content": texts[id], "special": true})).collect();
    made.tokenizer = json!({
        "added_tokens": added, "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": []},
        "model": {"type": "BPE", "byte_fallback": true, "unk_token": "<unk>", "vocab": vocab, "merges": ["a b"]},
    });
    made.with("bos_token_id", json!(1)).with("eos_token_id", json!(2))
}

/// Both kinds, with a text that is one token and its ids.
fn both() -> [(Made, &'static str, Vec<u32>); 2] {
    [(Made::new(), "the", vec![258]), (pieces(), "ab", vec![261])]
}

fn ids(made: &Made, text: &str, said: &[&str]) -> (Vec<u32>, String) {
    let (meta, stderr) = made.write().converted(said);
    (Tokenizer::from_gguf(&meta).expect("a tokenizer").encode(text, Special::Parse), stderr)
}

#[test]
fn tokens_without_a_row_are_left_out() {
    for (mut made, text, expected) in both() {
        made.add_token(N_VOCAB, "<pad>", true);
        made.tokenizer["model"]["vocab"]["far"] = json!(100_000);
        made.tokenizer["model"]["merges"].as_array_mut().expect("a list").push(json!("f ar"));
        let said = ["2 tokens without a row in the model left out: \"far\", \"<pad>\"", "\"f ar\""];
        assert_eq!(ids(&made, text, &said).0, expected);
    }
}

#[test]
fn many_are_counted_and_few_are_named() {
    for (mut made, text, expected) in both() {
        (0..1000).for_each(|i| made.add_token(N_VOCAB + i, &format!("<{i}>"), false));
        let (found, stderr) = ids(&made, text, &["1000 tokens without a row", "\"<0>\", \"<1>\", \"<2>\", ..."]);
        assert_eq!((found, stderr.contains("<3>")), (expected, false));
    }
}

#[test]
fn of_two_tokens_for_an_id_and_of_two_ids_for_a_token_the_first_stays() {
    for (mut made, text, expected) in both() {
        made.resize(N_VOCAB + 2);
        made.tokenizer["model"]["vocab"]["second"] = json!(expected[0]);
        made.add_token(N_VOCAB, text, false);
        let said = ["token whose id another one has left out: \"second\"", "token whose text another one has left out"];
        assert_eq!(ids(&made, text, &said).0, expected);
    }
}

#[test]
fn merges_of_unknown_tokens_are_left_out() {
    for (mut made, text, expected) in both() {
        let merges = made.tokenizer["model"]["merges"].as_array_mut().expect("a list");
        merges.extend([json!(["\u{1F600}", "a"]), json!("zz a")]);
        let said = ["2 merges of tokens that are not in the vocabulary left out: \"\u{1F600} a\", \"zz a\""];
        assert_eq!(ids(&made, text, &said).0, expected);
    }
}

#[test]
fn special_ids_out_of_range_are_left_out() {
    for (made, text, expected) in both() {
        let made = made
            .with("pad_token_id", json!(70_000))
            .with("eos_token_id", json!(80_000))
            .with("sep_token_id", json!(-1));
        let mut made = made;
        made.tokenizer_config = json!({});
        let (found, stderr) = ids(&made, text, &["the pad token 70000 has no row", "the eos token 80000 has no row"]);
        assert_eq!((found, stderr.contains("sep")), (expected, false));
    }
}

/// Padding has names of its own, whatever the tokens are called.
#[test]
fn a_token_may_be_called_as_padding_is() {
    for (mut made, text, expected) in both() {
        made.resize(N_VOCAB + 2);
        made.add_token(N_VOCAB, &format!("[PAD{}]", N_VOCAB + 1), false);
        let (meta, _) = made.write().converted(&[]);
        let tokenizer = Tokenizer::from_gguf(&meta).expect("a tokenizer");
        assert_eq!(tokenizer.encode(text, Special::Parse), expected);
        assert_eq!(tokenizer.token_id(&format!("[PAD{}]", N_VOCAB + 1)), Some(N_VOCAB as u32));
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_json() {
    let made = Made::new();
    let folder = made.write();
    let text = [b"\xEF\xBB\xBF".as_slice(), made.config.to_string().as_bytes()].concat();
    std::fs::write(folder.file("config.json"), text).expect("it can be written");
    folder.converted(&[]);
}

#[test]
fn tokens_that_end_an_answer_besides_eos_have_keys_of_their_own() {
    let mut made = Made::new().with("eos_token_id", json!([260, 261, 262]));
    made.files = vec![("generation_config.json", b"{\"eos_token_id\": [260, 261, 262, 5]}".to_vec())];
    let (meta, stderr) = made.write().converted(&["also ends an answer; left out"]);
    let tokenizer = Tokenizer::from_gguf(&meta).expect("a tokenizer");
    let ends: Vec<u32> = (0..N_VOCAB as u32).filter(|&id| tokenizer.is_end_of_generation(id)).collect();
    assert_eq!((ends.len(), ends.contains(&260)), (3, true), "{stderr}");
}
