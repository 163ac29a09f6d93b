//! Sorts short texts into two classes by what the model would say next, and stops each where that is sure enough. Without
//! anything fitted: `curtail train-exit` finds better places to stop, for a task of one's own.
//!
//! ```text
//! $ cargo run --release --example classify -- models/SmolLM2-135M-Instruct.Q4_1.gguf
//! a warm and funny film                  positive   97 %, after 21 of 30 layers
//! a waste of two hours                   negative   77 %, after 30 of 30 layers
//! wonderful music, wonderful pictures    positive   99 %, after 21 of 30 layers
//! i fell asleep                          negative   60 %, after 30 of 30 layers
//! ```

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use curtail::engine::{Branch, Cut, EngineParams, Sequence, TokenId, View};
use curtail::exit::{Reading, softmax_reading};
use curtail::ggml::Device;
use curtail::gguf::File;
use curtail::model::Model;
use curtail::plan::Depth;
use curtail::tokenizer::{Special, Tokenizer};

/// Solved examples, which all questions share: they are evaluated once.
const SHOTS: &str = "\
Review: a joy from start to end\nSentiment: positive\n\n\
Review: dull, loud and far too long\nSentiment: negative\n\n\
Review: the best cast in years\nSentiment: positive\n\n\
Review: i wanted my money back\nSentiment: negative\n\n";
const LABELS: [&str; 2] = [" negative", " positive"];
const REVIEWS: [&str; 4] =
    ["a warm and funny film", "a waste of two hours", "wonderful music, wonderful pictures", "i fell asleep"];

/// Earlier layers are too sure of what they would say: this is what it took here.
const SURE: f32 = 0.97;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("expected a model")?;
    let file = Arc::new(File::open(Path::new(&path))?);
    let tokenizer = Tokenizer::from_gguf(file.metadata())?;
    let n_threads = std::thread::available_parallelism()?.get();
    let model = Arc::new(Model::load(file, Device::cpu(n_threads)?)?);
    let n_layer = model.config().n_layer;
    let mut sequence = Sequence::alone(model, EngineParams { n_ctx: 512, ..EngineParams::default() })?;

    let labels: [TokenId; 2] = LABELS.map(|label| tokenizer.encode(label, Special::Plain)[0]);
    let read = |cut: &Cut| softmax_reading(&labels.map(|label| cut.logits[label as usize]));
    let shots = tokenizer.encode_with_bos(SHOTS, Special::Plain);
    let texts = REVIEWS.map(|text| tokenizer.encode(&format!("Review: {text}\nSentiment:"), Special::Plain));
    let questions: Vec<Branch> = texts.iter().map(|tokens| Branch { tokens, shown: 1 }).collect();
    let checkpoints: Vec<Depth> = (2 * n_layer / 3..n_layer).map(Depth).collect();

    let mut answers: Vec<Option<(Reading, Depth)>> = vec![None; REVIEWS.len()];
    sequence.fan_out(&shots, &questions, &checkpoints, View::Logits, &mut |cuts| {
        let stops = |cut: &Cut| {
            let reading = read(cut);
            let is_enough = reading.top > SURE || cut.depth == Depth(n_layer);
            if is_enough {
                answers[cut.branch] = Some((reading, cut.depth));
            }
            is_enough
        };
        cuts.iter().map(stops).collect()
    })?;
    for (review, answer) in REVIEWS.iter().zip(answers) {
        let (Reading { label, top, .. }, layers) = answer.ok_or("a question was not answered")?;
        println!("{review:38}{:10} {:3.0} %, after {layers} of {n_layer} layers", LABELS[label], 100.0 * top);
    }
    Ok(())
}
