//! Configurations: kinds of models, heads that are missing, angles of positions, chat templates.

use serde_json::{Value as Json, json};

use super::made::Made;

#[test]
fn a_missing_head_leads_to_its_setting() {
    let said = ["expected `lm_head.weight` [263, 32], found no such tensor", "hint: ", "\"tie_word_embeddings\": true"];
    for made in [Made::new(), Made::new().with("tie_word_embeddings", json!(false))] {
        made.without_tensor("lm_head.weight").write().refused(&[], &said);
    }
    let tied = Made::new().with("tie_word_embeddings", json!(true)).without_tensor("lm_head.weight");
    tied.write().converted(&[]);
}

#[test]
fn mistral_is_a_llama_and_its_window_is_kept() {
    let mistral = || Made::new().with("architectures", json!(["MistralForCausalLM"]));
    let (meta, stderr) = mistral().with("sliding_window", Json::Null).write().converted(&[]);
    assert_eq!(meta.str("general.architecture").expect("a string"), Some("llama"));
    assert!(!stderr.contains("note"), "{stderr}");
    let window = |made: Made| {
        let (meta, stderr) = made.write().converted(&[]);
        assert!(!stderr.contains("window"), "{stderr}");
        meta.u32("llama.attention.sliding_window").expect("a count")
    };
    assert_eq!(window(mistral().with("sliding_window", json!(64))), Some(64));
    // One that is no shorter than the context never shows; and transformers' default is 4096.
    assert_eq!(window(mistral().with("sliding_window", json!(256))), None);
    assert_eq!(window(mistral().with("max_position_embeddings", json!(8192))), Some(4096));
    mistral().with("sliding_window", json!(-5)).write().refused(&[], &["`sliding_window`", "found -5"]);
    // Where the number of key-value heads is not said it is 8, not as many as the 2 of this model.
    let mut made = mistral();
    made.config.as_object_mut().expect("an object").remove("num_key_value_heads");
    made.write().refused(&[], &["`num_key_value_heads`", "found 8"]);
}

/// transformers gives the attention factor itself; what GGUF has is multiplied with `1 + 0.1 ln(factor)`.
#[test]
fn yarns_attention_factor_is_kept() {
    let own = 1.0 + 0.1 * 4f32.ln();
    let mscale = |m: f32| 0.1 * m * 4f32.ln() + 1.0;
    let cases = [
        (json!({}), None),
        (json!({"attention_factor": own}), None),
        (json!({"attention_factor": 1.0}), Some(1.0 / own)),
        (json!({"attention_factor": 2.5, "mscale": 3.0, "mscale_all_dim": 1.0}), Some(2.5 / own)),
        (json!({"mscale": 0.707, "mscale_all_dim": 1.5}), Some(mscale(0.707) / mscale(1.5) / own)),
        (json!({"mscale": 0.707}), None),
        (json!({"attention_factor": 2.0, "extrapolation_factor": 0.0}), Some(2.0)),
        (json!({"attn_factor": 1.5}), Some(1.5)),
    ];
    for (more, expected) in cases {
        let mut scaling = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
        more.as_object().expect("an object").iter().for_each(|(key, value)| scaling[key] = value.clone());
        let (meta, _) = Made::new().with("rope_scaling", scaling).write().converted(&[]);
        let found = meta.f32("llama.rope.scaling.attn_factor").expect("a number");
        assert_eq!(found.is_some(), expected.is_some(), "{more}: {found:?}");
        assert!(found.zip(expected).is_none_or(|(a, b)| (a / b - 1.0).abs() < 1e-6), "{more}: {found:?}");
        // llama.cpp reads this one over the other.
        assert!(meta.get("llama.rope.scaling.yarn_attn_factor").is_none());
    }
}

#[test]
fn scaling_that_gguf_cannot_say_is_said() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "truncate": false, "mystery": 3});
    let said =
        ["`truncate` of RoPE scaling `yarn` (false) is left out", "`mystery` of RoPE scaling `yarn` (3) is left out"];
    Made::new().with("rope_scaling", yarn).write().converted(&said);
    let dynamic = json!({"type": "dynamic", "factor": 2.0});
    Made::new().with("rope_scaling", dynamic).write().converted(&["`dynamic` RoPE scaling is left out"]);
    let (_, stderr) = Made::new().with("rope_scaling", json!({"type": "linear", "factor": 2})).write().converted(&[]);
    assert!(!stderr.contains("note"), "{stderr}");
}

#[test]
fn scaling_that_cannot_be_is_refused() {
    let cases = [
        (json!({"rope_type": "longrope", "factor": 2.0}), "found `longrope`"),
        (json!({"rope_type": "linear"}), "`rope_scaling.factor`: expected a number above 0, found no such key"),
        (json!({"rope_type": "linear", "factor": 0}), "`rope_scaling.factor`"),
        (json!({"rope_type": "yarn", "factor": -1}), "`rope_scaling.factor`"),
        (json!({"rope_type": "yarn", "factor": 4, "attention_factor": -1}), "`rope_scaling.attention_factor`"),
        (json!({"rope_type": "yarn", "factor": 4, "beta_fast": -1}), "`rope_scaling.beta_fast`"),
        (json!({"rope_type": "yarn", "factor": 4, "partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (json!({"rope_type": "llama3", "factor": 1e300}), "`rope_scaling.factor`"),
    ];
    for (scaling, said) in cases {
        Made::new().with("rope_scaling", scaling).write().refused(&[], &[said]);
    }
    for theta in [json!(0), json!(-1), json!(1), json!(1e300)] {
        Made::new().with("rope_theta", theta).write().refused(&[], &["`rope_theta`"]);
    }
    Made::new().with("rms_norm_eps", json!(-1)).write().refused(&[], &["`rms_norm_eps`"]);
}

#[test]
fn the_file_of_a_template_comes_before_the_settings() {
    let template = |made: &Made, said: &[&str]| {
        let (meta, stderr) = made.write().converted(said);
        (meta.str("tokenizer.chat_template").expect("a string").map(str::to_owned), stderr)
    };
    let mut made = Made::new();
    made.files = vec![("chat_template.jinja", b"the file".to_vec())];
    assert_eq!(template(&made, &[]).0.as_deref(), Some("the file"));
    made.tokenizer_config["chat_template"] = json!("the settings");
    let (found, _) = template(&made, &["`chat_template` of `tokenizer_config.json` is left out"]);
    assert_eq!(found.as_deref(), Some("the file"));
    made.tokenizer_config["chat_template"] = json!("the file");
    assert!(!template(&made, &[]).1.contains("left out"));
    // Without settings there is a template all the same.
    made.tokenizer_config = Json::Null;
    assert_eq!(template(&made, &[]).0.as_deref(), Some("the file"));
    made.files = vec![("chat_template.json", b"{\"chat_template\": \"of a processor\"}".to_vec())];
    assert_eq!(template(&made, &[]).0.as_deref(), Some("of a processor"));
}

#[test]
fn named_templates_are_kept_in_every_form() {
    let list = json!([{"name": "default", "template": "d"}, {"name": "tool-use", "template": "t"}]);
    for named in [list, json!({"default": "d", "tool-use": "t"})] {
        let mut made = Made::new();
        made.tokenizer_config["chat_template"] = named;
        let (meta, _) = made.write().converted(&[]);
        assert_eq!(meta.str("tokenizer.chat_template").expect("a string"), Some("d"));
        assert_eq!(meta.str("tokenizer.chat_template.tool_use").expect("a string"), Some("t"));
    }
    let cases = [
        (json!([{"name": "rag", "template": "r"}]), "none of the chat templates is named `default`: rag"),
        (json!([{"name": "default"}]), "a chat template without a name or a text is left out"),
        (json!(5), "the chat template is left out: 5 is none"),
    ];
    for (named, said) in cases {
        let mut made = Made::new();
        made.tokenizer_config["chat_template"] = named;
        made.write().converted(&[said]);
    }
}
