//! OPT with packed weights: early exit and drafts as on Llama, commands on a model without a chat template.

use std::borrow::Cow;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;

use crate::common::curtail;
use crate::common::golden::{cut_model, load_file, path};
use curtail::dtype::DType;
use curtail::engine::{Branch, Cut, EngineParams, Sequence, TokenId, View};
use curtail::exit::{Checkpoint, Probe, Scorer};
use curtail::generate::{Decoder, Kv, Mode, Options, Source};
use curtail::ggml::dequantize;
use curtail::gguf::{Error, File, Metadata, Writer};
use curtail::model::{LayerStep, Model};
use curtail::plan::{Depth, Half};
use curtail::sample::{Sampler, SamplerParams};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

const N_VOCAB: usize = 104;
const N_CTX: usize = 512;
const N_EMBD: usize = 128;
const N_FF: usize = 192;
const N_LAYER: usize = 6;

/// The forms of OPT.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    PreNorm,
    /// As opt-350m.
    PostNorm,
    Galactica,
}

const FORMS: [Form; 3] = [Form::PreNorm, Form::PostNorm, Form::Galactica];

impl Form {
    fn n_word(self) -> usize {
        if self == Form::PostNorm { 64 } else { N_EMBD }
    }

    fn metadata(self) -> Metadata {
        // The vocabulary of the golden files: letters, and OPT's special tokens.
        let golden = File::open(&path("opt_golden", "pre-norm.gguf")).expect("a golden file");
        let mut meta = golden.metadata().clone();
        for (key, value) in [
            ("context_length", N_CTX),
            ("embedding_length", N_EMBD),
            ("word_embed_proj_dim", self.n_word()),
            ("block_count", N_LAYER),
            ("feed_forward_length", N_FF),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 2),
        ] {
            meta.insert(format!("opt.{key}"), value as u32);
        }
        meta.insert("opt.activation", if self == Form::Galactica { "gelu" } else { "relu" });
        meta.insert("opt.do_layer_norm_before", self != Form::PostNorm);
        meta
    }

    /// Names, shapes and types of all tensors. Types of q, k and v differ from layer to layer, so that they lie together in
    /// every way there is.
    fn tensors(self) -> Vec<(String, Vec<usize>, DType)> {
        let (q8, q4) = (DType::Q8_0, DType::Q4_0);
        let mut tensors = vec![
            ("token_embd.weight".to_owned(), vec![self.n_word(), N_VOCAB], q8),
            ("position_embd.weight".to_owned(), vec![N_EMBD, N_CTX], DType::F16),
        ];
        if self == Form::PostNorm {
            tensors.push(("token_embd_proj_in.weight".to_owned(), vec![self.n_word(), N_EMBD], q8));
            tensors.push(("token_embd_proj_out.weight".to_owned(), vec![N_EMBD, self.n_word()], q8));
        } else {
            tensors.push(("output_norm.weight".to_owned(), vec![N_EMBD], DType::F32));
            tensors.push(("output_norm.bias".to_owned(), vec![N_EMBD], DType::F32));
        }
        for il in 0..N_LAYER {
            let [q, k, v] = [[q8, q8, q8], [q8, q8, q4], [q8, q4, q8], [q4, q8, q8]][il % 4];
            for (name, n_in, n_out, dtype) in [
                ("attn_norm", 0, N_EMBD, DType::F32),
                ("attn_q", N_EMBD, N_EMBD, q),
                ("attn_k", N_EMBD, N_EMBD, k),
                ("attn_v", N_EMBD, N_EMBD, v),
                ("attn_output", N_EMBD, N_EMBD, q8),
                ("ffn_norm", 0, N_EMBD, DType::F32),
                ("ffn_up", N_EMBD, N_FF, q4),
                ("ffn_down", N_FF, N_EMBD, DType::Q4_1),
            ] {
                let shape = if n_in == 0 { vec![n_out] } else { vec![n_in, n_out] };
                tensors.push((format!("blk.{il}.{name}.weight"), shape, dtype));
                if self != Form::Galactica {
                    tensors.push((format!("blk.{il}.{name}.bias"), vec![n_out], DType::F32));
                }
            }
        }
        tensors
    }

    /// Writes a model with random weights; `gain` says how much a layer changes.
    fn write(self, path: &Path, gain: f32) {
        let mut rng = StdRng::seed_from_u64(11);
        let mut writer = Writer::new(self.metadata());
        for (name, shape, dtype) in self.tensors() {
            writer.tensor(&name, &shape, dtype).expect("a tensor");
        }
        let data = |tensor: &curtail::gguf::TensorInfo| {
            let is_inner = tensor.name.contains("attn_output") || tensor.name.contains("ffn_down");
            let size = if is_inner { gain } else { 1.0 } / (tensor.shape[0] as f32).sqrt();
            let n = tensor.elements();
            Ok(Cow::Owned(match tensor.dtype {
                DType::F32 => {
                    let mean = if tensor.name.ends_with("norm.weight") { 1.0 } else { 0.0 };
                    (0..n).flat_map(|_| (mean + rng.random_range(-0.2f32..0.2)).to_le_bytes()).collect()
                }
                DType::F16 => {
                    let value = |rng: &mut StdRng| half::f16::from_f32(rng.random_range(-0.1f32..0.1)).to_le_bytes();
                    (0..n).flat_map(|_| value(&mut rng)).collect()
                }
                dtype => random_blocks(dtype, n / 32, size, &mut rng),
            }))
        };
        writer.write::<Error>(path, data).expect("written");
    }
}

/// Blocks whose numbers have about this standard deviation.
fn random_blocks(dtype: DType, n: usize, size: f32, rng: &mut StdRng) -> Vec<u8> {
    let half = |x: f32| half::f16::from_f32(x).to_le_bytes().to_vec();
    let mut block = || match dtype {
        DType::Q8_0 => [half(size / 74.0), rng.random::<[u8; 32]>().to_vec()].concat(),
        DType::Q4_0 => [half(size / 4.6), rng.random::<[u8; 16]>().to_vec()].concat(),
        // Scale and minimum.
        _ => [half(size / 4.6), half(-7.5 * size / 4.6), rng.random::<[u8; 16]>().to_vec()].concat(),
    };
    (0..n).flat_map(|_| block()).collect()
}

/// A copy of a model file in f32.
fn widen(path: &Path, to: &Path) {
    let file = File::open(path).expect("a model file");
    let mut writer = Writer::new(file.metadata().clone());
    for tensor in file.tensors() {
        writer.tensor(&tensor.name, tensor.dims(), DType::F32).expect("it was read");
    }
    let data = |tensor: &curtail::gguf::TensorInfo| {
        let info = file.tensor(&tensor.name).expect("it was there");
        let values = dequantize(info.dtype, file.data(info));
        Ok(Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect()))
    };
    writer.write::<Error>(to, data).expect("written");
}

fn sequence(model: &Arc<Model>) -> Sequence {
    let draft_plan = (0..N_LAYER)
        .map(LayerStep::whole)
        .map(|step| if step.il == 3 { step.only(Half::FeedForward).expect("a half") } else { step })
        .collect();
    Sequence::alone(model.clone(), EngineParams { draft_plan, ..EngineParams::default() }).expect("a sequence")
}

fn start(sequence: &mut Sequence, prompt: &[TokenId]) {
    sequence.sync(prompt, &mut |_, _| ControlFlow::Continue(())).expect("it runs");
}

fn tokens(n: usize, seed: u64) -> Vec<TokenId> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(4..N_VOCAB as TokenId)).collect()
}

#[test]
fn packed_weights_give_about_what_wide_ones_give() {
    let folder = tempfile::tempdir().expect("a folder");
    let (packed, wide) = (folder.path().join("packed.gguf"), folder.path().join("wide.gguf"));
    for form in FORMS {
        form.write(&packed, 0.5);
        widen(&packed, &wide);
        for n_threads in [1, 2] {
            let mut found = Vec::new();
            for path in [&packed, &wide] {
                let mut sequence = sequence(&load_file(path, n_threads));
                start(&mut sequence, &tokens(40, 1));
                let of_prompt = sequence.logits().expect("logits").to_vec();
                sequence.push(7).expect("room");
                found.push([of_prompt, sequence.logits().expect("logits").to_vec()].concat());
            }
            let largest = found[1].iter().map(|x| x.abs()).fold(0.0, f32::max);
            let mean = found[0].iter().zip(&found[1]).map(|(a, b)| (a - b).abs()).sum::<f32>() / found[0].len() as f32;
            println!("{form:?}: mean difference {mean:e}, logits up to {largest}");
            // Activations are rounded to 8 bits, a step of 1/127 of the largest of 32, before each product.
            assert!(mean < 0.01 * largest, "{form:?}: {mean} of {largest}");
        }
    }
}

#[test]
fn a_stop_gives_what_a_model_with_no_more_layers_gives_to_the_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, cut) = (folder.path().join("whole.gguf"), folder.path().join("cut.gguf"));
    for form in FORMS {
        form.write(&whole, 0.5);
        let (model, prompt) = (load_file(&whole, 1), tokens(30, 2));
        for k in [1, 4] {
            cut_model(&whole, k, &cut);
            let mut of_cut = sequence_without_draft(&load_file(&cut, 1));
            start(&mut of_cut, &prompt);
            let expected = of_cut.logits().expect("logits");
            let mut found = Vec::new();
            let at_cut = &mut |cuts: &[Cut]| {
                found = cuts[0].logits.clone();
                vec![true]
            };
            let question = Branch { tokens: &prompt, shown: 1 };
            sequence(&model).fan_out(&[], &[question], &[Depth(k)], View::Logits, at_cut).expect("it runs");
            assert!(found == expected, "{form:?} after layer {k}");
        }
    }
}

fn sequence_without_draft(model: &Arc<Model>) -> Sequence {
    Sequence::alone(model.clone(), EngineParams::default()).expect("a sequence")
}

/// Tokens that stopped early settle to what full depth gives, and what is made of early states is another thing.
#[test]
fn early_tokens_catch_up_to_the_bit_and_may_be_propagated_or_hidden() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("opt.gguf");
    for form in FORMS {
        form.write(&path, 0.5);
        let model = load_file(&path, 1);
        let (mut plain, mut early) = (sequence(&model), sequence(&model));
        start(&mut plain, &tokens(10, 3));
        start(&mut early, &tokens(10, 3));
        for (i, token) in tokens(12, 4).into_iter().enumerate() {
            plain.push(token).expect("room");
            plain.logits().expect("logits");
            early.push(token).expect("room");
            early.hidden_state_at(Depth(1 + i % (N_LAYER - 1))).expect("it runs");
        }
        let expected = plain.logits().expect("logits").to_vec();
        assert!(early.logits().expect("logits") == expected, "{form:?}");
        for end in [|sequence: &mut Sequence| sequence.propagate_kv().expect("it runs"), Sequence::mask_kv] {
            let mut sequence = sequence(&model);
            start(&mut sequence, &tokens(10, 3));
            sequence.push(20).expect("room");
            sequence.hidden_state_at(Depth(2)).expect("it runs");
            end(&mut sequence);
            assert_eq!(sequence.n_pending(), 0);
            sequence.push(30).expect("room");
            assert!(sequence.logits().expect("logits").iter().all(|x| x.is_finite()), "{form:?}");
        }
    }
}

#[test]
fn verified_text_is_full_depths_whatever_drafts_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("opt.gguf");
    let mut rng = StdRng::seed_from_u64(5);
    let mut checkpoint = |at| Checkpoint {
        at: Depth(at),
        lens: None,
        probe: Some(Probe {
            weights: (0..2 * N_EMBD).map(|_| rng.random_range(-0.1..0.1)).collect(),
            bias: vec![0.0; 2],
        }),
        scorer: Scorer::Top,
        threshold: 0.5,
    };
    let checkpoints = vec![checkpoint(2), checkpoint(4)];
    let sources = [Source::Checkpoints, Source::Depth(Depth(3)), Source::Plan, Source::Lookup];
    for form in FORMS {
        form.write(&path, 0.3);
        let model = load_file(&path, 1);
        for (i, mode) in sources.map(Mode::Verified).into_iter().chain([Mode::Auto]).enumerate() {
            let params =
                SamplerParams { temperature: [0.0, 0.7][i % 2], seed: Some(i as u64), ..SamplerParams::default() };
            let (mut plain_sampler, mut sampler) = (Sampler::new(params.clone()), Sampler::new(params));
            let (mut plain, mut drafted) = (sequence(&model), sequence(&model));
            let options =
                Options { mode, source: Source::Lookup, checkpoints: checkpoints.clone(), kv: Kv::Deferred, most: 4 };
            let mut decoder = Decoder::new(options);
            start(&mut plain, &tokens(12, 6));
            start(&mut drafted, &tokens(12, 6));
            // More than the tokens after which the shortlist comes in.
            for n in 0..240 {
                let expected = plain.step(&mut plain_sampler).expect("a token").token;
                let found = decoder.step(&mut drafted, &mut sampler).expect("a token").token;
                assert_eq!(found, expected, "{form:?}, {mode:?}, token {n}");
            }
        }
    }
}

fn run(arguments: &[&str]) -> Output {
    curtail(arguments).output().expect("it starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn with_input(arguments: &[&str], input: &str) -> Output {
    let mut command = curtail(arguments);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("it starts");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

#[test]
fn a_model_without_a_template_visibly_continues_the_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("opt.gguf");
    Form::PreNorm.write(&path, 0.5);
    let model = path.to_str().expect("UTF-8");
    let note = "note: the model brings no chat template. Completion mode: it continues the text that it is given.";

    let ids = run(&["tokenize", "-m", model, "-p", "the sky", "--json"]);
    let ids: Value = serde_json::from_slice(&ids.stdout).expect("JSON");
    let ids: Vec<u64> = ids.to_string().split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
    assert_eq!((ids[0], ids.iter().filter(|&&id| id == 2).count()), (2, 1), "`</s>` begins the text, once: {ids:?}");

    let flags = ["-m", model, "-t", "1", "--temp", "0", "-n", "12"];
    let ran = run(&[&["run", "-p", "the sky"], &flags[..]].concat());
    assert!(ran.status.success() && stderr(&ran).contains(note), "{}", stderr(&ran));
    let raw = run(&[&["run", "--raw", "-p", "the sky"], &flags[..]].concat());
    assert!(raw.stdout == ran.stdout && !stderr(&raw).contains(note), "{}", stderr(&raw));
    let chatted = with_input(&[&["chat"], &flags[..]].concat(), "the sky\n");
    assert!(chatted.status.success() && stderr(&chatted).contains(note), "{}", stderr(&chatted));
    assert_eq!(chatted.stdout, ran.stdout, "the same text is continued, and no template's");
    let refused = run(&[&["run", "-p", "the sky", "--system", "Be brief."], &flags[..]].concat());
    assert!(!refused.status.success() && stderr(&refused).contains("a system prompt has no place"));

    // A conversation longer than the learned positions forgets its beginning.
    let flags = ["chat", "-m", model, "-t", "1", "--seed", "1", "-n", "200", "--context-shift"];
    let long = with_input(&flags, "the sky\nand the sea\nand the land\nand all else\n");
    assert_eq!(long.status.code(), Some(0), "{}", stderr(&long));
    assert!(!stderr(&long).contains("error"), "{}", stderr(&long));
    let too_long = run(&["run", "-m", model, "-p", "the sky", "-c", "513"]);
    let expected = "`ctx-size`: expected at most 512 tokens: this model has learned no positions beyond, found 513";
    assert!(!too_long.status.success() && stderr(&too_long).contains(expected), "{}", stderr(&too_long));
    // -c cannot help where there is no position beyond.
    let too_long = run(&["run", "-m", model, "-p", &"the sky ".repeat(100)]);
    let said = stderr(&too_long);
    assert!(!too_long.status.success() && said.contains("the context only 512\n"), "{said}");
    let inspected = run(&["inspect", model]);
    assert!(String::from_utf8_lossy(&inspected.stdout).contains("\narchitecture     opt\n"));
}

/// Rows of letters, of which a random model makes one vowel or another.
fn task(folder: &Path) -> String {
    let mut rng = StdRng::seed_from_u64(8);
    let mut rows = |n: usize| -> String {
        let mut row = || {
            let text: String = (0..6).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect();
            let label = ["a", "e", "o", "u"][rng.random_range(0..4)];
            json!({ "text": text, "label": label }).to_string() + "\n"
        };
        (0..n).map(|_| row()).collect()
    };
    std::fs::write(folder.join("train.jsonl"), rows(400)).expect("written");
    std::fs::write(folder.join("test.jsonl"), rows(60)).expect("written");
    let path = folder.join("task.toml");
    let labels = r#"["a", "e", "o", "u"]"#;
    let description = format!(
        "name = \"vowel\"\nprompt = \"{{{{ text }}}}\"\nlabels = {labels}\nanswer = \"label\"\nvalues = {labels}\n\
         shots = 2\ntrain = \"train.jsonl\"\ntest = \"test.jsonl\"\n"
    );
    std::fs::write(&path, description).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn exit_files_are_trained_and_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let task = task(folder.path());
    for form in FORMS {
        let (path, exit) = (folder.path().join("opt.gguf"), folder.path().join("opt.exit.gguf"));
        form.write(&path, 0.12);
        let (model, exit) = (path.to_str().expect("UTF-8"), exit.to_str().expect("UTF-8"));
        let common = ["-m", model, "-t", "1"];
        let train = |how: &[&str]| {
            let trained = run(&[&["train-exit", "-o", exit, "--from-layer", "1"], how, &common].concat());
            assert!(trained.status.success(), "{form:?}, {how:?}: {}", stderr(&trained));
        };
        for input in [&["--input", "hidden"][..], &["--input", "labels"], &["--input", "labels", "--lens"]] {
            train(&[&["--task", &task, "--rule", "logistic"], input].concat());
            let measured = run(&[&["eval", "--task", &task, "--exit", exit, "--json"], &common[..]].concat());
            assert!(measured.status.success(), "{form:?}, {input:?}: {}", stderr(&measured));
            let rows: Value = serde_json::from_slice(&measured.stdout).expect("JSON");
            println!("{form:?}, {input:?}: {}", rows[0]);
            assert_eq!(rows[0]["n_layer"], json!(N_LAYER));
            assert!(rows[0]["agreement"].as_f64().expect("a number") >= 0.8, "{form:?}, {input:?}: {}", rows[0]);
        }
        train(&["--task", "self", "--rows", "80", "--rule", "threshold"]);
        // The file lies beside the model: it is found.
        let text = |how: &[&str]| {
            let ran = run(&[&["run", "-p", "the sky", "--temp", "0", "-n", "60"], how, &common].concat());
            assert!(ran.status.success(), "{form:?}, {how:?}: {}", stderr(&ran));
            (ran.stdout.clone(), stderr(&ran))
        };
        let full = text(&["--exit", "off"]).0;
        for how in
            [&["--exit", "verified"][..], &["--exit", "auto"], &["--draft", "checkpoints"], &["--draft", "layer:4"]]
        {
            assert_eq!(text(how).0, full, "{form:?}, {how:?}");
        }
        let (_, said) = text(&["--exit", "fast"]);
        println!("{form:?}, fast: {said}");
        let bench = run(&[&["bench", "-p", "0", "-n", "8", "-r", "1", "--exit-layers", "2,6,4"], &common[..]].concat());
        assert!(bench.status.success(), "{form:?}: {}", stderr(&bench));
    }
}
