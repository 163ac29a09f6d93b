//! Takes the last token of a text through the layers in stages, and shows after each what the model would say next: where
//! that no longer changes, the layers behind are not needed.
//!
//! ```text
//! $ cargo run --release --example stop_at_layer -- models/SmolLM2-135M-Instruct.Q4_1.gguf "The capital of France is"
//! after layer 15: " ", 82.1 %
//! after layer 18: " ", 87.7 %
//! after layer 21: " ", 92.9 %
//! after layer 24: ".", 45.5 %
//! after layer 27: " the", 60.4 %
//! after layer 30: " Paris", 76.8 %
//! ```

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use curtail::engine::{EngineParams, Sequence, TokenId};
use curtail::exit::softmax_reading;
use curtail::ggml::Device;
use curtail::gguf::File;
use curtail::model::Model;
use curtail::plan::Depth;
use curtail::tokenizer::{Special, Tokenizer};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(text)) = (arguments.next(), arguments.next()) else {
        return Err("expected a model and a text".into());
    };
    let file = Arc::new(File::open(Path::new(&path))?);
    let tokenizer = Tokenizer::from_gguf(file.metadata())?;
    let n_threads = std::thread::available_parallelism()?.get();
    let model = Arc::new(Model::load(file, Device::cpu(n_threads)?)?);
    let n_layer = model.config().n_layer;
    let mut sequence = Sequence::alone(model, EngineParams { n_ctx: 512, ..EngineParams::default() })?;

    for token in tokenizer.encode_with_bos(&text, Special::Plain) {
        sequence.push(token)?;
    }
    for depth in (n_layer / 2..n_layer).step_by(3) {
        // No layer runs twice: the state waits at one depth, and goes on from there.
        let hidden = sequence.hidden_state_at(Depth(depth))?;
        show(&tokenizer, depth, &sequence.logits_of_states(&hidden)?);
    }
    show(&tokenizer, n_layer, sequence.logits()?);
    Ok(())
}

fn show(tokenizer: &Tokenizer, depth: usize, logits: &[f32]) {
    let best = softmax_reading(logits);
    let next = String::from_utf8_lossy(&tokenizer.decode(&[best.label as TokenId])).into_owned();
    println!("after layer {depth:2}: {next:?}, {:.1} %", 100.0 * best.top);
}
