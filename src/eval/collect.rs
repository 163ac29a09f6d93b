//! Owns what training needs: every row at full depth, with what each candidate layer shows; lenses; what a look costs.

use std::ops::ControlFlow;
use std::time::Instant;

use rayon::prelude::*;

use super::Error;
use crate::classify::{Asked, Item, Questions};
use crate::engine::{AnswerTokens, Branch, Cut, FeatureExtractor, Sequence, TokenId, View};
use crate::exit::{Features, Input, Lens, LensFit, Row, softmax_reading};
use crate::generate::median;
use crate::plan::Depth;
use crate::sample::Sampler;
use crate::tokenizer::Tokenizer;

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// At which depths, in rising order.
    pub depths: &'a [Depth],
    /// What is read there.
    pub input: Input,
    /// Through what, a lens for each depth; empty for none.
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
    let extractor = sight.extractor(questions, sequence)?;
    let mut rows = Vec::new();
    for item in items {
        let asked = questions.of_item(item);
        rows.push(collect_one(sequence, questions, &extractor, &asked, sight.depths)?);
        progress(rows.len());
    }
    Ok(rows)
}

impl<'a> Sight<'a> {
    fn extractor(&self, questions: &Questions<'_>, sequence: &Sequence) -> Result<FeatureExtractor<'a>, Error> {
        let (lenses, labels) = (at(self.depths, self.lenses), questions.label_ids());
        Ok(FeatureExtractor::of_questions(self.input, labels, lenses, sequence.model())?)
    }
}

fn at<'l>(depths: &[Depth], lenses: &'l [Lens]) -> Vec<(Depth, &'l Lens)> {
    depths.iter().copied().zip(lenses).collect()
}

fn collect_one(
    sequence: &mut Sequence,
    questions: &Questions<'_>,
    extractor: &FeatureExtractor<'_>,
    asked: &Asked,
    depths: &[Depth],
) -> Result<Row, Error> {
    let mut row = Row { inputs: Vec::new(), readings: Vec::new(), full: 0, truth: 0 };
    let full = sequence.full_depth();
    let question = asked.question();
    let mut see = |cuts: &[Cut]| {
        if cuts[0].depth < full {
            match extractor.extract(question.answers, cuts) {
                Features::Read { reading, .. } => row.readings.push(reading),
                // Rows are looked at without probes: those are what will be fitted to them.
                Features::Vector(x) | Features::Chances(x) => row.inputs.push(x),
            }
            return Vec::new();
        }
        let answer = question.answers.read(cuts).label;
        if extractor.input() == Input::Vocabulary {
            // As in the paper, the answer is a token.
            row.full = AnswerTokens::Any.read(cuts).label;
            let label = |answer: usize| questions.label_ids().get(answer).map(|&id| id as usize);
            row.truth = label(asked.truth(answer)).unwrap_or_else(|| asked.truth(row.full));
        } else {
            (row.full, row.truth) = (answer, asked.truth(answer));
        }
        Vec::new()
    };
    extractor.with_view(|view| sequence.fan_out(&asked.prefix, &question.branches, depths, view, &mut see))?;
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

/// Keeps, for every token of excerpts, the normed hidden state at each of the `depths` and what it says there, through
/// `lenses` if there are any; at most `n_rows`. `progress` hears how many rows are done.
pub fn collect_own(
    sequence: &mut Sequence,
    excerpts: &[Excerpt],
    depths: &[Depth],
    lenses: &[Lens],
    n_rows: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Row>, Error> {
    let model = sequence.model().clone();
    let extractor = FeatureExtractor::of_tokens(Input::Vocabulary, at(depths, lenses), &model);
    let (full, n_vocab, n_embd) = (sequence.full_depth(), model.config().n_vocab, model.config().n_embd);
    let mut rows: Vec<Row> = Vec::new();
    for (prefix, part) in excerpts {
        let shown = part.len();
        let first = rows.len();
        rows.resize(first + shown, Row { inputs: Vec::new(), readings: Vec::new(), full: 0, truth: 0 });
        extractor.with_view(|view| {
            sequence.fan_out(prefix, &[Branch { tokens: part, shown }], depths, view, &mut |cuts| {
                let states = cuts[0].hidden.chunks_exact(n_embd).zip(cuts[0].logits.chunks_exact(n_vocab));
                for (row, (hidden, logits)) in rows[first..].iter_mut().zip(states) {
                    let reading = softmax_reading(logits);
                    if cuts[0].depth < full {
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

/// Fits a lens for each of the `depths` to the tokens of excerpts, as a stream. `progress` hears how many excerpts are done.
pub fn fit_lenses(
    sequence: &mut Sequence,
    excerpts: &[Excerpt],
    depths: &[Depth],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Lens>, Error> {
    let model = sequence.model().clone();
    let (n_embd, full) = (model.config().n_embd, sequence.full_depth());
    let extractor = FeatureExtractor::of_tokens(Input::Confidence, Vec::new(), &model);
    let mut fits: Vec<LensFit> = depths.iter().map(|_| LensFit::new(n_embd)).collect();
    let mut n_rows = 0;
    for (done, (prefix, part)) in excerpts.iter().enumerate() {
        let mut seen: Vec<Vec<f32>> = Vec::new();
        let normed =
            |cut: &Cut| cut.hidden.chunks_exact(n_embd).flat_map(|row| extractor.normed(row)).collect::<Vec<_>>();
        let question = Branch { tokens: part, shown: part.len() };
        sequence.fan_out(prefix, &[question], depths, View::Hidden, &mut |cuts| {
            if cuts[0].depth < full {
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
    fits.par_iter().map(|fit| fit.solve().ok_or(Error::Nothing { what: "lens" })).collect()
}

/// The questions of rows as excerpts.
pub fn excerpts(questions: &Questions<'_>, items: &[Item]) -> Vec<Excerpt> {
    let excerpt = |item: &Item| {
        let mut asked = questions.of_item(item);
        (asked.prefix, asked.parts.swap_remove(0))
    };
    items.iter().map(excerpt).collect()
}

/// What a look costs, in steps of the plan: questions that are looked at after all of the depths beside questions that are not.
pub fn look_cost(
    sequence: &mut Sequence,
    questions: &Questions<'_>,
    items: &[Item],
    sight: Sight<'_>,
) -> Result<f64, Error> {
    const ROUNDS: usize = 7;
    let extractor = sight.extractor(questions, sequence)?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for item in items.iter().take(ROUNDS) {
        let asked = questions.of_item(item);
        for (cuts, times) in [(&[][..], &mut without), (sight.depths, &mut with)] {
            let start = Instant::now();
            collect_one(sequence, questions, &extractor, &asked, cuts)?;
            times.push(start.elapsed().as_secs_f64());
        }
    }
    let (without, with) = (median(without).unwrap_or(0.0), median(with).unwrap_or(0.0));
    let step = without / sequence.n_steps() as f64;
    let looks = (with - without).max(0.0);
    Ok(if step > 0.0 { looks / sight.depths.len() as f64 / step } else { 0.0 })
}
