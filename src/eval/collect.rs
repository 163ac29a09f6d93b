//! Owns what training needs: every row at full depth, with what each candidate layer shows; lenses; what a look costs.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::features::FeatureExtractor;
use super::questions::{Asked, Questions};
use super::{Error, Item};
use crate::engine::{Branch, Cut, Sequence, TokenId, View};
use crate::exit::{Input, Lens, LensFit, Row, softmax_reading};
use crate::sample::Sampler;
use crate::tokenizer::Tokenizer;

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// After which layers, in rising order.
    pub layers: &'a [usize],
    /// What is read there.
    pub input: Input,
    /// Through what, a lens for each layer; empty for none.
    pub lenses: &'a [Lens],
}

/// Runs training rows at full depth and keeps what is looked at. `progress` hears how many are done.
pub fn collect(
    sequence: &mut Sequence,
    questions: &Questions<'_>,
    items: &[Item],
    sight: Sight<'_>,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Row>, Error> {
    let model = sequence.model().clone();
    let extractor = FeatureExtractor::new(sight.input, questions, of_layers(sight.layers, sight.lenses), &model)?;
    let mut rows = Vec::new();
    for item in items {
        let asked = questions.of_item(item);
        rows.push(
            extractor.with_view(|view| collect_one(sequence, questions, &extractor, &asked, sight.layers, view))?,
        );
        progress(rows.len());
    }
    Ok(rows)
}

fn of_layers<'l>(layers: &[usize], lenses: &'l [Lens]) -> Vec<(usize, &'l Lens)> {
    layers.iter().copied().zip(lenses).collect()
}

fn collect_one(
    sequence: &mut Sequence,
    questions: &Questions<'_>,
    extractor: &FeatureExtractor<'_>,
    asked: &Asked,
    layers: &[usize],
    view: View<'_>,
) -> Result<Row, Error> {
    let mut row = Row { inputs: Vec::new(), readings: Vec::new(), full: 0, truth: 0 };
    let n_layer = sequence.n_steps();
    let parts: Vec<Branch<'_>> = asked.questions().collect();
    sequence.fan_out(&asked.prefix, &parts, layers, view, &mut |cuts| {
        let cuts: Vec<&Cut> = cuts.iter().collect();
        if cuts[0].layers_run < n_layer {
            let seen = extractor.extract(asked, &cuts);
            row.readings.extend(seen.reading);
            row.inputs.push(seen.input);
            return Vec::new();
        }
        let answer = questions.read(asked, &cuts).label;
        if extractor.input == Input::Vocabulary {
            // As in the paper, the answer is a token.
            row.full = softmax_reading(&cuts[0].logits).label;
            let label = |answer: usize| questions.label_ids().get(answer).map(|&id| id as usize);
            row.truth = label(asked.truth(answer)).unwrap_or_else(|| asked.truth(row.full));
        } else {
            (row.full, row.truth) = (answer, asked.truth(answer));
        }
        Vec::new()
    })?;
    Ok(row)
}

/// Prompts for a policy that needs no task: everyday questions and requests.
pub fn own_prompts() -> impl Iterator<Item = &'static str> {
    include_str!("prompts.txt").lines()
}

/// What is shown of a text: tokens after a prefix.
pub type Excerpt = (Vec<TokenId>, Vec<TokenId>);

/// The model's greedy answer to a prompt, of at most `n` tokens, without its last: after the prompt without *its* last, so
/// that every token shown has one that was chosen after it.
pub fn own_answer(
    sequence: &mut Sequence,
    tokenizer: &Tokenizer,
    prompt: &[TokenId],
    n: usize,
) -> Result<Excerpt, Error> {
    sequence.sync(prompt, &mut |_, _| ControlFlow::Continue(()))?;
    let mut greedy = Sampler::greedy();
    for _ in 0..n {
        if tokenizer.is_end_of_generation(sequence.step(&mut greedy)?.token) {
            break;
        }
    }
    let (prefix, answer) = sequence.tokens().split_at(prompt.len() - 1);
    Ok((prefix.to_vec(), answer[..answer.len() - 1].to_vec()))
}

/// Keeps, for every token of excerpts, the normed hidden state after each of the `layers` and what it says there, through
/// `lenses` if there are any; at most `n_rows`. `progress` hears how many rows are done.
pub fn collect_own(
    sequence: &mut Sequence,
    excerpts: &[Excerpt],
    layers: &[usize],
    lenses: &[Lens],
    n_rows: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Row>, Error> {
    let model = sequence.model().clone();
    let extractor = FeatureExtractor::of_tokens(of_layers(layers, lenses), &model);
    let (n_layer, n_vocab, n_embd) = (sequence.n_steps(), model.config().n_vocab, model.config().n_embd);
    let mut rows: Vec<Row> = Vec::new();
    for (prefix, part) in excerpts {
        let shown = part.len();
        let first = rows.len();
        rows.resize(first + shown, Row { inputs: Vec::new(), readings: Vec::new(), full: 0, truth: 0 });
        extractor.with_view(|view| {
            sequence.fan_out(prefix, &[Branch { tokens: part, shown }], layers, view, &mut |cuts| {
                let states = cuts[0].hidden.chunks_exact(n_embd).zip(cuts[0].logits.chunks_exact(n_vocab));
                for (row, (hidden, logits)) in rows[first..].iter_mut().zip(states) {
                    let reading = softmax_reading(logits);
                    if cuts[0].layers_run < n_layer {
                        row.readings.push(reading);
                        row.inputs.push(extractor.normed(hidden));
                    } else {
                        (row.full, row.truth) = (reading.label, reading.label);
                    }
                }
                Vec::new()
            })
        })?;
        progress(rows.len().min(n_rows));
        if rows.len() >= n_rows {
            break;
        }
    }
    rows.truncate(n_rows);
    Ok(rows)
}

/// Rows that lenses are fitted to at most.
const LENS_ROWS: usize = 24_576;

/// Fits a lens for each of the `layers` to the tokens of excerpts, as a stream. `progress` hears how many excerpts are done.
pub fn fit_lenses(
    sequence: &mut Sequence,
    excerpts: &[Excerpt],
    layers: &[usize],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Lens>, Error> {
    let model = sequence.model().clone();
    let (n_embd, n_layer) = (model.config().n_embd, sequence.n_steps());
    let extractor = FeatureExtractor::of_tokens(Vec::new(), &model);
    let mut fits: Vec<LensFit> = layers.iter().map(|_| LensFit::new(n_embd)).collect();
    let mut n_rows = 0;
    for (done, (prefix, part)) in excerpts.iter().enumerate() {
        let mut seen: Vec<Vec<f32>> = Vec::new();
        let normed =
            |cut: &Cut| cut.hidden.chunks_exact(n_embd).flat_map(|row| extractor.normed(row)).collect::<Vec<_>>();
        let question = Branch { tokens: part, shown: part.len() };
        sequence.fan_out(prefix, &[question], layers, View::Hidden, &mut |cuts| {
            if cuts[0].layers_run < n_layer {
                seen.push(normed(&cuts[0]));
            } else {
                let last = normed(&cuts[0]);
                fits.par_iter_mut().zip(&seen).for_each(|(fit, x)| fit.add(x, &last));
            }
            Vec::new()
        })?;
        n_rows += part.len();
        progress(done + 1);
        if n_rows >= LENS_ROWS {
            break;
        }
    }
    let wrong = || Error::Task { place: "lens".to_owned(), why: "there is nothing to fit it to".to_owned() };
    fits.par_iter().map(|fit| fit.solve().ok_or_else(wrong)).collect()
}

/// The questions of rows as excerpts.
pub fn excerpts(questions: &Questions<'_>, items: &[Item]) -> Vec<Excerpt> {
    let excerpt = |item: &Item| {
        let mut asked = questions.of_item(item);
        (asked.prefix, asked.parts.swap_remove(0))
    };
    items.iter().map(excerpt).collect()
}

/// What a look costs, in layers: questions that are looked at after all of the layers beside questions that are not.
pub fn look_cost(
    sequence: &mut Sequence,
    questions: &Questions<'_>,
    items: &[Item],
    sight: Sight<'_>,
) -> Result<f64, Error> {
    const ROUNDS: usize = 7;
    let model = sequence.model().clone();
    let layers = sight.layers;
    let extractor = FeatureExtractor::new(sight.input, questions, of_layers(layers, sight.lenses), &model)?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for item in items.iter().take(ROUNDS) {
        let asked = questions.of_item(item);
        for (cuts, times) in [(&[][..], &mut without), (layers, &mut with)] {
            let start = Instant::now();
            extractor.with_view(|view| collect_one(sequence, questions, &extractor, &asked, cuts, view))?;
            times.push(start.elapsed());
        }
    }
    let (without, with) = (median(without), median(with));
    let layer = without.as_secs_f64() / sequence.n_steps() as f64;
    let looks = with.saturating_sub(without).as_secs_f64();
    Ok(if layer > 0.0 { looks / layers.len() as f64 / layer } else { 0.0 })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
