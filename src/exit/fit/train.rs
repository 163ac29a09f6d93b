//! Owns the fitting of a policy to what full depth did: read-outs per layer, where to look, the rule that decides, and
//! thresholds that reach a wanted rate. Everything is decided on predictions for rows that the predicting fit has not seen.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::classes::fit_classes;
use super::rules::{Looks, RuleKind};
use crate::exit::{Checkpoint, Decision, Input, Lens, Probe, Reading, Scorer, Target};

/// One training row.
#[derive(Clone, Debug)]
pub struct Row {
    /// What each candidate layer gives to read, \[n_in\] each; empty where readings are given.
    pub inputs: Vec<Vec<f32>>,
    /// The reading at each candidate layer, of inputs that are not fitted.
    pub readings: Vec<Reading>,
    /// The answer of full depth.
    pub full: usize,
    /// The true answer.
    pub truth: usize,
}

/// How to fit.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is seen.
    pub input: Input,
    /// What it is fitted to.
    pub target: Target,
    /// What decides; `None` tries all and keeps the best.
    pub rule: Option<RuleKind>,
    /// Look after every layer and decide by the classifier's sign, as in the paper, instead of choosing checkpoints and
    /// thresholds for a wanted rate.
    pub plain: bool,
    /// With [`Target::Model`], the share of rows that shall get full depth's answer.
    pub agreement: f64,
    /// With [`Target::Truth`], the accuracy that may be lost against the best policy.
    pub loss: f64,
    /// What a look costs, in layers.
    pub look_cost: f64,
    /// Of folds.
    pub seed: u64,
}

/// What a rule will do, estimated on rows that neither its fit nor its thresholds have seen.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The rule.
    pub kind: RuleKind,
    /// One for all checkpoints, with depth as a feature.
    pub shared: bool,
    /// Share of rows whose answer is the target's.
    pub right: f64,
    /// Share of rows whose answer is true.
    pub accuracy: f64,
    /// Share of rows that stop before full depth.
    pub coverage: f64,
    /// Mean layers, looks not counted.
    pub mean_layers: f64,
    /// Mean layers and what the looks cost, in layers.
    pub mean_cost: f64,
}

/// A fitted policy.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Where to look, in rising order.
    pub checkpoints: Vec<Checkpoint>,
    /// The rules that were tried.
    pub tried: Vec<Tried>,
    /// The one that was kept.
    pub kept: usize,
    /// Of each candidate layer: the share of rows where its best answer is the target's.
    pub right_by_layer: Vec<f64>,
    /// Of each candidate layer: the share of rows that stop there.
    pub stops_by_layer: Vec<f64>,
}

const FOLDS: usize = 5;

/// Strengths of regularization that are tried for read-outs of many inputs.
const ALPHAS: [f64; 4] = [1.0, 10.0, 100.0, 1000.0];

/// Rates at which readings shall be right where they stop: what thresholds are chosen for, from the boldest on.
const RATES: [f64; 26] = {
    let mut rates = [0.0; 26];
    let mut i = 0;
    while i < 26 {
        rates[i] = 0.75 + 0.01 * i as f64;
        i += 1;
    }
    rates
};

/// Every rule, per checkpoint and shared; thresholds on top need no fit.
const RULES: [(RuleKind, bool); 9] = [
    (RuleKind::Threshold, false),
    (RuleKind::Logistic, false),
    (RuleKind::Logistic, true),
    (RuleKind::SvmLinear, false),
    (RuleKind::SvmLinear, true),
    (RuleKind::Svm, false),
    (RuleKind::Svm, true),
    (RuleKind::Crf, false),
    (RuleKind::Crf, true),
];

/// Fits checkpoints at the candidate `layers` (rising) of a model with `n_layer` layers; `lenses`, where there are any, are
/// theirs.
pub fn train(
    rows: &[Row],
    layers: &[usize],
    n_layer: usize,
    lenses: &[Lens],
    options: &Options,
) -> Result<Trained, String> {
    let is_model = options.target == Target::Model;
    let targets: Vec<usize> = rows.iter().map(|r| if is_model { r.full } else { r.truth }).collect();
    let n_labels = targets.iter().max().map_or(0, |m| m + 1);
    if rows.len() < 10 * FOLDS || n_labels < 2 {
        let least = 10 * FOLDS;
        return Err(format!("expected at least {least} rows and two answers, found {} and {n_labels}", rows.len()));
    }
    let folds = folds(rows.len(), options.seed);
    let alpha = if options.input == Input::Hidden { strength(rows, &targets, layers.len())? } else { 1.0 };
    let readings = if options.input.is_fitted() {
        probe_readings(rows, &targets, &folds, layers.len(), alpha)?
    } else {
        (0..layers.len()).map(|i| rows.iter().map(|row| row.readings[i]).collect()).collect()
    };
    let share = |of_layer: &Vec<Reading>| {
        of_layer.iter().zip(&targets).filter(|(r, t)| r.label == **t).count() as f64 / targets.len() as f64
    };
    let right_by_layer: Vec<f64> = readings.iter().map(share).collect();
    let all = Case { rows, targets: &targets, folds: &folds, n_layer, options };
    let chosen = if options.plain {
        (0..layers.len()).collect()
    } else {
        all.choose_checkpoints(&Places::of(&readings, layers, &(0..layers.len()).collect::<Vec<_>>()))
    };
    let places = Places::of(&readings, layers, &chosen);
    let rules: Vec<(RuleKind, bool)> = match options.rule {
        Some(rule) => RULES.into_iter().filter(|(kind, shared)| *kind == rule && (!options.plain || !shared)).collect(),
        None => RULES.to_vec(),
    };
    let mut trials = Vec::new();
    for (kind, shared) in rules {
        match all.try_rule(&places, kind, shared) {
            Ok(trial) => trials.push(trial),
            // Among all rules one may have no fit for these rows: a solver can fail.
            Err(_) if options.rule.is_none() => {}
            Err(why) => return Err(why),
        }
    }
    let kept = best(&trials, options);
    let Trial { scores, scorers, tried: Tried { kind, .. } } = &trials[kept];
    let everybody: Vec<usize> = (0..rows.len()).collect();
    let thresholds = all.thresholds(&places, scores, &everybody);
    let walked = all.decide(&places, scores, &thresholds, &everybody);
    let mut checkpoints = Vec::new();
    let mut stops_by_layer = vec![0.0; layers.len()];
    for (j, scorer) in scorers.iter().cloned().enumerate() {
        let i = chosen[j];
        stops_by_layer[i] = walked.stops[j] as f64 / rows.len() as f64;
        // A chain needs every look; others need none where nobody stops.
        if walked.stops[j] == 0 && !options.plain && *kind != RuleKind::Crf {
            continue;
        }
        let probe = options.input.is_fitted().then(|| fit_layer(rows, &targets, i, None, alpha)).transpose()?;
        let lens = lenses.get(i).cloned();
        checkpoints.push(Checkpoint { layer: layers[i], lens, probe, scorer, threshold: thresholds[j] });
    }
    let tried = trials.into_iter().map(|trial| trial.tried).collect();
    Ok(Trained { checkpoints, tried, kept, right_by_layer, stops_by_layer })
}

/// Fits checkpoints for tokens of any text ([`Input::Confidence`]): `rows` have a normed hidden state and a reading of the
/// whole vocabulary at each of the candidate `layers`. How sure the readings are is read from the hidden state instead.
pub fn train_confidence(
    rows: &[Row],
    layers: &[usize],
    n_layer: usize,
    lenses: &[Lens],
    options: &Options,
) -> Result<Trained, String> {
    /// Of few rows a strong regularization predicts best.
    const ALPHA: f64 = 300.0;
    let folds = folds(rows.len(), options.seed);
    let is_right = |i: usize| rows.iter().map(move |row| usize::from(row.readings[i].label == row.full));
    let right: Vec<Vec<usize>> = (0..layers.len()).map(|i| is_right(i).collect()).collect();
    let fit = |i: usize, without| fit_layer(rows, &right[i], i, without, ALPHA);
    let fits: Vec<(usize, usize)> = (0..layers.len()).flat_map(|i| (0..FOLDS).map(move |fold| (i, fold))).collect();
    let probes: Vec<Probe> =
        fits.into_par_iter().map(|(i, fold)| fit(i, Some((&folds[..], fold)))).collect::<Result<_, String>>()?;
    let sure = |(r, row): (usize, &Row)| {
        let at = |(i, reading): (usize, &Reading)| {
            let top = probes[i * FOLDS + folds[r]].chance_of(1, &row.inputs[i]).unwrap_or(0.0);
            Reading { label: reading.label, top, gap: 2.0 * top - 1.0 }
        };
        Row { inputs: Vec::new(), readings: row.readings.iter().enumerate().map(at).collect(), ..*row }
    };
    let sure: Vec<Row> = rows.iter().enumerate().map(sure).collect();
    let mut trained = train(&sure, layers, n_layer, lenses, options)?;
    for checkpoint in &mut trained.checkpoints {
        let i = layers.iter().position(|layer| *layer == checkpoint.layer).expect("a candidate");
        checkpoint.probe = Some(fit(i, None)?);
    }
    Ok(trained)
}

/// Which fold each row belongs to.
fn folds(n: usize, seed: u64) -> Vec<usize> {
    let mut folds: Vec<usize> = (0..n).map(|i| i % FOLDS).collect();
    folds.shuffle(&mut StdRng::seed_from_u64(seed));
    folds
}

/// By layer, by row: readings of probes fitted without the row's fold.
fn probe_readings(
    rows: &[Row],
    targets: &[usize],
    folds: &[usize],
    n_layers: usize,
    alpha: f64,
) -> Result<Vec<Vec<Reading>>, String> {
    let fits: Vec<(usize, usize)> = (0..n_layers).flat_map(|i| (0..FOLDS).map(move |fold| (i, fold))).collect();
    let probes: Vec<Probe> = fits
        .into_par_iter()
        .map(|(i, fold)| fit_layer(rows, targets, i, Some((folds, fold)), alpha))
        .collect::<Result<_, String>>()?;
    let read = |i: usize, r: usize| probes[i * FOLDS + folds[r]].read(&rows[r].inputs[i]);
    Ok((0..n_layers).into_par_iter().map(|i| (0..rows.len()).map(|r| read(i, r)).collect()).collect())
}

/// Fits the inputs of candidate layer `i` to the targets; with `without`, leaves out one fold.
fn fit_layer(
    rows: &[Row],
    targets: &[usize],
    i: usize,
    without: Option<(&[usize], usize)>,
    alpha: f64,
) -> Result<Probe, String> {
    let kept: Vec<usize> = (0..rows.len()).filter(|&r| without.is_none_or(|(folds, fold)| folds[r] != fold)).collect();
    let x: Vec<&[f32]> = kept.iter().map(|&r| rows[r].inputs[i].as_slice()).collect();
    let y: Vec<usize> = kept.iter().map(|&r| targets[r]).collect();
    let mut probe = fit_classes(&x, &y, alpha)?;
    // All of a policy's read-outs have all labels.
    let n_labels = targets.iter().max().map_or(0, |m| m + 1).max(2);
    probe.weights.resize(n_labels * x[0].len(), 0.0);
    probe.bias.resize(n_labels, -1e3);
    Ok(probe)
}

/// The strength of regularization that predicts held-out rows best, by their log-likelihood at three of the layers.
fn strength(rows: &[Row], targets: &[usize], n_layers: usize) -> Result<f64, String> {
    let cut = rows.len() * 4 / 5;
    let likelihood = |alpha: f64, i: usize| {
        let x: Vec<&[f32]> = rows.iter().map(|row| row.inputs[i].as_slice()).collect();
        let probe = fit_classes(&x[..cut], &targets[..cut], alpha)?;
        let of_row = |(x, &y): (&&[f32], &usize)| {
            let reading = probe.read(x);
            let p = if reading.label == y { reading.top } else { 1.0 - reading.top };
            f64::from(p.max(1e-6)).ln()
        };
        Ok(x[cut..].iter().zip(&targets[cut..]).map(of_row).sum::<f64>())
    };
    let places = [n_layers / 4, n_layers / 2, n_layers * 3 / 4];
    let tried: Vec<(f64, f64)> = ALPHAS
        .into_par_iter()
        .map(|alpha| Ok((places.iter().map(|&i| likelihood(alpha, i)).sum::<Result<f64, String>>()?, alpha)))
        .collect::<Result<_, String>>()?;
    Ok(tried.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).map_or(ALPHAS[0], |best| best.1))
}

/// The rule that costs least of those that reach the wanted rate (within a standard error, the estimate being one); of
/// target truth, of those whose accuracy is within the loss of the best. If none does, the one that is right most often.
fn best(trials: &[Trial], options: &Options) -> usize {
    const NEAR: f64 = 0.005;
    let most = trials.iter().map(|trial| trial.tried.right).fold(0.0, f64::max);
    let wanted = match options.target {
        Target::Model => options.agreement - NEAR,
        Target::Truth => most - options.loss.max(NEAR),
    };
    let enough = |t: &Tried| t.right >= wanted.min(most);
    let cost = |i: &usize| trials[*i].tried.mean_cost;
    (0..trials.len()).filter(|&i| enough(&trials[i].tried)).min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or(0)
}

/// A rule that was tried.
struct Trial {
    /// By checkpoint and row, of fits without the row's fold.
    scores: Vec<Vec<f32>>,
    /// Fitted to all rows, one for each checkpoint.
    scorers: Vec<Scorer>,
    tried: Tried,
}

/// Candidate checkpoints with their readings.
struct Places {
    readings: Vec<Vec<Reading>>,
    layers: Vec<usize>,
}

impl Places {
    fn of(readings: &[Vec<Reading>], layers: &[usize], chosen: &[usize]) -> Places {
        Places {
            readings: chosen.iter().map(|&i| readings[i].clone()).collect(),
            layers: chosen.iter().map(|&i| layers[i]).collect(),
        }
    }

    fn without(&self, i: usize) -> Places {
        let mut places = Places { readings: self.readings.clone(), layers: self.layers.clone() };
        places.readings.remove(i);
        places.layers.remove(i);
        places
    }

    fn tops(&self) -> Vec<Vec<f32>> {
        self.readings.iter().map(|of_layer| of_layer.iter().map(|r| r.top).collect()).collect()
    }
}

/// What happens to rows.
struct Walked {
    right: usize,
    true_: usize,
    layers: usize,
    looks: usize,
    early: usize,
    stops: Vec<usize>,
}

struct Case<'a> {
    rows: &'a [Row],
    targets: &'a [usize],
    folds: &'a [usize],
    n_layer: usize,
    options: &'a Options,
}

impl Case<'_> {
    /// Leaves out, one by one, the checkpoint whose looks cost more than it saves.
    fn choose_checkpoints(&self, places: &Places) -> Vec<usize> {
        let everybody: Vec<usize> = (0..self.rows.len()).collect();
        let cost_of = |places: &Places, rate: f64| {
            let scores = places.tops();
            let thresholds = self.thresholds_at(places, &scores, &everybody, rate);
            let walked = self.decide(places, &scores, &thresholds, &everybody);
            walked.layers as f64 + self.options.look_cost * walked.looks as f64
        };
        let scores = places.tops();
        let rate = self.best_rate(places, &scores, &everybody);
        let mut chosen: Vec<usize> = (0..places.layers.len()).collect();
        let mut now = Places { readings: places.readings.clone(), layers: places.layers.clone() };
        let mut cost = cost_of(&now, rate);
        while chosen.len() > 1 {
            let last = if self.options.target == Target::Truth { chosen.len() - 1 } else { chosen.len() };
            let without = (0..last).into_par_iter().map(|i| (cost_of(&now.without(i), rate), i));
            match without.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))) {
                Some((less, i)) if less <= cost => {
                    (cost, now) = (less, now.without(i));
                    chosen.remove(i);
                }
                _ => break,
            }
        }
        chosen
    }

    fn fit_rule(&self, places: &Places, kind: RuleKind, shared: bool, rows: &[usize]) -> Result<Vec<Scorer>, String> {
        let is_right =
            |of_layer: &Vec<Reading>| of_layer.iter().zip(self.targets).map(|(r, t)| r.label == *t).collect();
        let right: Vec<Vec<bool>> = places.readings.iter().map(is_right).collect();
        let depths: Vec<f32> = places.layers.iter().map(|&layer| layer as f32 / self.n_layer as f32).collect();
        let looks = Looks { readings: &places.readings, right: &right, depths: &depths };
        kind.fit(&looks, rows, shared, self.options.seed)
    }

    /// Scores by checkpoint and row, of a rule fitted without the row's fold; and what it does to rows whose fold its
    /// thresholds have not seen either.
    fn try_rule(&self, places: &Places, kind: RuleKind, shared: bool) -> Result<Trial, String> {
        let mut scores = vec![vec![0.0; self.rows.len()]; places.layers.len()];
        let in_fold = |fold: usize| (0..self.rows.len()).filter(move |&r| self.folds[r] == fold);
        let others = |fold: usize| (0..self.rows.len()).filter(|&r| self.folds[r] != fold).collect::<Vec<_>>();
        let fitted: Vec<Vec<Scorer>> = (0..FOLDS)
            .into_par_iter()
            .map(|fold| self.fit_rule(places, kind, shared, &others(fold)))
            .collect::<Result<_, String>>()?;
        for row in 0..self.rows.len() {
            let mut decision = Decision::default();
            for (i, scorer) in fitted[self.folds[row]].iter().enumerate() {
                scores[i][row] = decision.score(scorer, &places.readings[i][row]);
            }
        }
        let decisions: Vec<Walked> = (0..FOLDS)
            .into_par_iter()
            .map(|fold| {
                let thresholds = self.thresholds(places, &scores, &others(fold));
                self.decide(places, &scores, &thresholds, &in_fold(fold).collect::<Vec<_>>())
            })
            .collect();
        let mean = |of: fn(&Walked) -> usize| decisions.iter().map(of).sum::<usize>() as f64 / self.rows.len() as f64;
        let mean_layers = mean(|w| w.layers);
        let tried = Tried {
            kind,
            shared,
            right: mean(|w| w.right),
            accuracy: mean(|w| w.true_),
            coverage: mean(|w| w.early),
            mean_layers,
            mean_cost: mean_layers + self.options.look_cost * mean(|w| w.looks),
        };
        let everybody: Vec<usize> = (0..self.rows.len()).collect();
        Ok(Trial { scores, scorers: self.fit_rule(places, kind, shared, &everybody)?, tried })
    }

    /// The scores that are enough, chosen on `rows`.
    fn thresholds(&self, places: &Places, scores: &[Vec<f32>], rows: &[usize]) -> Vec<f32> {
        if self.options.plain {
            return vec![0.0; places.layers.len()];
        }
        self.thresholds_at(places, scores, rows, self.best_rate(places, scores, rows))
    }

    /// The rate at which readings must be right where they stop, so that the wanted share of rows gets the target's answer
    /// at the least cost.
    fn best_rate(&self, places: &Places, scores: &[Vec<f32>], rows: &[usize]) -> f64 {
        let decisions: Vec<Walked> = RATES
            .iter()
            .map(|&rate| self.decide(places, scores, &self.thresholds_at(places, scores, rows, rate), rows))
            .collect();
        let right = |w: &Walked| w.right as f64 / rows.len() as f64;
        let wanted = match self.options.target {
            Target::Model => self.options.agreement,
            Target::Truth => decisions.iter().map(right).fold(0.0, f64::max) - self.options.loss,
        };
        let cost = |w: &Walked| w.layers as f64 + self.options.look_cost * w.looks as f64;
        let enough = decisions.iter().zip(RATES).filter(|(w, _)| right(w) >= wanted);
        enough.min_by(|a, b| cost(a.0).total_cmp(&cost(b.0))).map_or(1.0, |(_, rate)| rate)
    }

    /// For every checkpoint the lowest score from which on its readings of the rows still there are right at this rate.
    fn thresholds_at(&self, places: &Places, scores: &[Vec<f32>], rows: &[usize], rate: f64) -> Vec<f32> {
        /// Fewer rows than this say nothing about a rate.
        const LEAST: usize = 10;
        let mut remaining = rows.to_vec();
        let mut thresholds = Vec::new();
        for (of_layer, scores) in places.readings.iter().zip(scores) {
            remaining.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let (mut right, mut n_stop) = (0, 0);
            for (i, &row) in remaining.iter().enumerate() {
                right += usize::from(of_layer[row].label == self.targets[row]);
                if i + 1 >= LEAST && right as f64 >= rate * (i + 1) as f64 {
                    n_stop = i + 1;
                }
            }
            // Between the last row that stops and the first that goes on.
            let last = n_stop.checked_sub(1).map(|i| scores[remaining[i]]);
            let next = remaining.get(n_stop).map(|&row| scores[row]);
            let threshold = match (last, next) {
                (None, _) => f32::INFINITY,
                (Some(last), Some(next)) => (last + next) / 2.0,
                (Some(_), None) => f32::NEG_INFINITY,
            };
            thresholds.push(threshold);
            remaining.retain(|&row| scores[row] < threshold);
        }
        // Fitted to the truth, the last read-out knows more than full depth: whoever is left stops there.
        if self.options.target == Target::Truth
            && self.options.input.is_fitted()
            && let Some(last) = thresholds.last_mut()
        {
            *last = f32::NEG_INFINITY;
        }
        thresholds
    }

    fn decide(&self, places: &Places, scores: &[Vec<f32>], thresholds: &[f32], rows: &[usize]) -> Walked {
        let n = places.layers.len();
        let mut walked = Walked { right: 0, true_: 0, layers: 0, looks: 0, early: 0, stops: vec![0; n] };
        for &row in rows {
            let (target, truth) = (self.targets[row], self.rows[row].truth);
            let (answer, layers) = match (0..n).find(|&i| scores[i][row] >= thresholds[i]) {
                Some(i) => {
                    walked.stops[i] += 1;
                    walked.early += 1;
                    walked.looks += i + 1;
                    (places.readings[i][row].label, places.layers[i])
                }
                None => {
                    walked.looks += n;
                    (self.rows[row].full, self.n_layer)
                }
            };
            walked.layers += layers;
            walked.right += usize::from(answer == target);
            walked.true_ += usize::from(answer == truth);
        }
        walked
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    /// Rows whose first input says the label better from layer to layer.
    fn rows(n: usize) -> Vec<Row> {
        let mut rng = StdRng::seed_from_u64(7);
        let row = |_| {
            let truth = rng.random_range(0..2usize);
            let sign = if truth == 1 { 1.0 } else { -1.0 };
            let mut input = |clarity: f32| {
                (0..4).map(|i| rng.random_range(-1.0..1.0) + if i == 0 { sign * clarity } else { 0.0 }).collect()
            };
            Row { inputs: vec![input(0.3), input(0.8), input(2.0)], readings: Vec::new(), full: truth, truth }
        };
        (0..n).map(row).collect()
    }

    fn options() -> Options {
        Options {
            input: Input::Hidden,
            target: Target::Model,
            rule: None,
            plain: false,
            agreement: 0.97,
            loss: 0.0,
            look_cost: 0.01,
            seed: 1,
        }
    }

    #[test]
    fn the_best_rule_reaches_the_wanted_rate_and_saves_layers() {
        let trained = train(&rows(400), &[2, 4, 6], 8, &[], &options()).unwrap();
        let kept = &trained.tried[trained.kept];
        assert!(trained.tried.len() == 9 && kept.right >= 0.965, "{:?}", trained.tried);
        assert!(kept.mean_layers < 6.0 && kept.coverage > 0.9, "{kept:?}");
        assert!(trained.right_by_layer.is_sorted(), "{trained:?}");
        let again = train(&rows(400), &[2, 4, 6], 8, &[], &options()).unwrap();
        assert_eq!(again.checkpoints, trained.checkpoints, "the same seed gives the same policy");
    }

    #[test]
    fn looks_that_cost_more_than_they_save_are_left_out() {
        let cheap = Options { rule: Some(RuleKind::Threshold), ..options() };
        let dear = Options { look_cost: 1.0, ..cheap.clone() };
        let layers = |options: &Options| {
            let trained = train(&rows(400), &[2, 4, 6], 8, &[], options).unwrap();
            trained.checkpoints.iter().map(|c| c.layer).collect::<Vec<_>>()
        };
        assert_eq!((layers(&cheap), layers(&dear)), (vec![2, 4, 6], vec![4, 6]));
    }

    #[test]
    fn true_labels_stop_everybody_and_may_cost_accuracy() {
        let truth = Options { target: Target::Truth, rule: Some(RuleKind::Threshold), loss: 0.02, ..options() };
        let trained = train(&rows(400), &[2, 4, 6], 8, &[], &truth).unwrap();
        assert!(trained.tried[0].coverage == 1.0 && trained.tried[0].accuracy >= 0.95, "{:?}", trained.tried);
    }

    #[test]
    fn the_plain_way_looks_everywhere_and_decides_by_sign() {
        let plain = Options { plain: true, rule: Some(RuleKind::Svm), input: Input::Vocabulary, ..options() };
        let with_readings = |mut row: Row| {
            let reading = |x: &Vec<f32>| Reading { label: usize::from(x[0] > 0.0), top: x[0].abs() / 3.0, gap: 0.1 };
            row.readings = row.inputs.drain(..).map(|x| reading(&x)).collect();
            row
        };
        let rows: Vec<Row> = rows(400).into_iter().map(with_readings).collect();
        let trained = train(&rows, &[2, 4, 6], 8, &[], &plain).unwrap();
        assert!(trained.checkpoints.len() == 3 && trained.checkpoints.iter().all(|c| c.threshold == 0.0));
        assert!(trained.tried.len() == 1 && trained.tried[0].right > trained.right_by_layer[0], "{trained:?}");
    }

    #[test]
    fn too_few_rows_are_refused() {
        let error = train(&rows(20), &[2, 4, 6], 8, &[], &options()).unwrap_err();
        assert_eq!(error, "expected at least 50 rows and two answers, found 20 and 2");
    }
}
