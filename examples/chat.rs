//! Answers one question, as a chat does: the model's own chat template, tokens one by one, text as it comes.
//!
//! ```text
//! $ cargo run --release --example chat -- models/SmolLM2-135M-Instruct.Q4_1.gguf "What is 2 + 2?"
//! The answer to this classic math problem is 4.
//! ```

use std::error::Error;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use curtail::engine::{EngineParams, Sequence};
use curtail::ggml::Device;
use curtail::gguf::File;
use curtail::model::Model;
use curtail::sample::Sampler;
use curtail::tokenizer::{ChatTemplate, Message, Tokenizer};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(question)) = (arguments.next(), arguments.next()) else {
        return Err("expected a model and a question".into());
    };
    let file = Arc::new(File::open(Path::new(&path))?);
    let tokenizer = Tokenizer::from_gguf(file.metadata())?;
    let template = ChatTemplate::from_gguf(file.metadata())?.ok_or("the model brings no chat template")?;
    let n_threads = std::thread::available_parallelism()?.get();
    let model = Arc::new(Model::load(file, Device::cpu(n_threads)?)?);
    let mut sequence = Sequence::alone(model, EngineParams { n_ctx: 2048, ..EngineParams::default() })?;

    let message = Message { role: "user".to_owned(), content: question };
    let prompt = tokenizer.encode_rendered_with_bos(&template.render(&[message], true)?);
    sequence.sync(&prompt, &mut |_, _| ControlFlow::Continue(()))?;
    let mut sampler = Sampler::greedy();
    let mut text = tokenizer.stream();
    for _ in 0..256 {
        let token = sequence.step(&mut sampler)?.token;
        if tokenizer.is_end_of_generation(token) {
            break;
        }
        // A character may take several tokens: what comes back is whole characters.
        print!("{}", text.push(token));
        std::io::stdout().flush()?;
    }
    println!("{}", text.finish());
    Ok(())
}
