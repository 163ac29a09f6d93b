//! Owns the fitting of a policy to what full depth did: read-outs per layer, where to look, the rule that decides, and
//! thresholds that reach a wanted rate. Everything is decided on predictions for rows that the predicting fit has not seen.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::probes::{fit_probe, probe_readings, strength};
use super::rules::RuleKind;
use super::simulate::{Case, Places, Trial};
use super::{FOLDS, Options, Row, Trained, Tried};
use crate::exit::{Checkpoint, Input, Lens, Probe, Reading, Target};
use crate::plan::Depth;

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

/// Fits checkpoints at the candidate `depths` (rising) of a plan that ends at `full`; `lenses`, where there are any, are theirs.
pub fn train(
    rows: &[Row],
    depths: &[Depth],
    full: Depth,
    lenses: &[Lens],
    options: &Options,
) -> Result<Trained, String> {
    let is_model = options.target == Target::Model;
    // What full depth says, or what is true: a policy is fitted to one of them.
    let targets: Vec<usize> = rows.iter().map(|r| if is_model { r.full } else { r.truth }).collect();
    let n_labels = targets.iter().max().map_or(0, |m| m + 1);
    if rows.len() < 10 * FOLDS || n_labels < 2 {
        let least = 10 * FOLDS;
        return Err(format!("expected at least {least} rows and two answers, found {} and {n_labels}", rows.len()));
    }
    let folds = folds(rows.len(), options.seed);
    // A state has hundreds of inputs and needs a strength of its own; label logits are few.
    let alpha = if options.input == Input::Hidden { strength(rows, &targets, depths.len())? } else { 1.0 };
    let readings = if options.input.is_fitted() {
        probe_readings(rows, &targets, &folds, depths.len(), alpha)?
    } else {
        (0..depths.len()).map(|i| rows.iter().map(|row| row.readings[i]).collect()).collect()
    };
    let share = |of_candidate: &Vec<Reading>| {
        of_candidate.iter().zip(&targets).filter(|(r, t)| r.label == **t).count() as f64 / targets.len() as f64
    };
    let right_by_candidate: Vec<f64> = readings.iter().map(share).collect();
    let case = Case { rows, targets: &targets, folds: &folds, full, options };
    let everywhere: Vec<usize> = (0..depths.len()).collect();
    // The paper looks everywhere.
    let chosen = match options.plain {
        true => everywhere,
        false => case.choose_checkpoints(&Places::of(&readings, depths, &everywhere)),
    };
    let places = Places::of(&readings, depths, &chosen);
    let trials = try_rules(&case, &places)?;
    // By what each did to rows that it has not seen, not by how well it fits.
    let kept = best(&trials, options);
    let (walked, thresholds) = case.decide_all(&places, &trials[kept].scores);
    let mut checkpoints = Vec::new();
    let mut stops_by_candidate = vec![0.0; depths.len()];
    for (j, scorer) in trials[kept].scorers.iter().cloned().enumerate() {
        let i = chosen[j];
        stops_by_candidate[i] = walked.stops[j] as f64 / rows.len() as f64;
        // A chain needs every look; others need none where nobody stops.
        if walked.stops[j] == 0 && !options.plain && trials[kept].tried.kind != RuleKind::Crf {
            continue;
        }
        let probe = options.input.is_fitted().then(|| fit_probe(rows, &targets, i, None, alpha)).transpose()?;
        // The lens that the readings came through, or the look would see something else.
        let lens = lenses.get(i).cloned();
        checkpoints.push(Checkpoint { at: depths[i], lens, probe, scorer, threshold: thresholds[j] });
    }
    let tried = trials.into_iter().map(|trial| trial.tried).collect();
    Ok(Trained { checkpoints, tried, kept, right_by_candidate, stops_by_candidate })
}

/// Tries the rule that is asked for, or all.
fn try_rules(case: &Case<'_>, places: &Places) -> Result<Vec<Trial>, String> {
    let options = case.options;
    let rules: Vec<(RuleKind, bool)> = match options.rule {
        Some(rule) => RULES.into_iter().filter(|(kind, shared)| *kind == rule && (!options.plain || !shared)).collect(),
        None => RULES.to_vec(),
    };
    let mut trials = Vec::new();
    for (kind, shared) in rules {
        match case.try_rule(places, kind, shared) {
            Ok(trial) => trials.push(trial),
            // Among all rules one may have no fit for these rows: a solver can fail.
            Err(_) if options.rule.is_none() => {}
            Err(why) => return Err(why),
        }
    }
    Ok(trials)
}

/// Fits checkpoints for tokens of any text ([`Input::Confidence`]): `rows` have a normed hidden state and a reading of the
/// whole vocabulary at each of the candidate `depths`. How sure the readings are is read from the hidden state instead.
pub fn train_confidence(
    rows: &[Row],
    depths: &[Depth],
    full: Depth,
    lenses: &[Lens],
    options: &Options,
) -> Result<Trained, String> {
    /// Of few rows a strong regularization predicts best.
    const ALPHA: f64 = 300.0;
    let folds = folds(rows.len(), options.seed);
    let is_right = |i: usize| rows.iter().map(move |row| usize::from(row.readings[i].label == row.full));
    let right: Vec<Vec<usize>> = (0..depths.len()).map(|i| is_right(i).collect()).collect();
    // Its labels are "wrong" and "right", at every candidate of its own.
    let fit = |i: usize, without| fit_probe(rows, &right[i], i, without, ALPHA);
    let fits: Vec<(usize, usize)> = (0..depths.len()).flat_map(|i| (0..FOLDS).map(move |fold| (i, fold))).collect();
    let probes: Vec<Probe> =
        fits.into_par_iter().map(|(i, fold)| fit(i, Some((&folds[..], fold)))).collect::<Result<_, String>>()?;
    let sure = |(r, row): (usize, &Row)| {
        let at = |(i, reading): (usize, &Reading)| {
            let chance = probes[i * FOLDS + folds[r]].chance_of(Probe::RIGHT, &row.inputs[i]);
            Reading::of_chance(reading.label, chance.unwrap_or(0.0))
        };
        Row { inputs: Vec::new(), readings: row.readings.iter().enumerate().map(at).collect(), ..*row }
    };
    let sure: Vec<Row> = rows.iter().enumerate().map(sure).collect();
    let mut trained = train(&sure, depths, full, lenses, options)?;
    for checkpoint in &mut trained.checkpoints {
        let i = depths.iter().position(|depth| *depth == checkpoint.at).expect("a candidate");
        // What is kept has seen all rows; only what was judged by must not.
        checkpoint.probe = Some(fit(i, None)?);
    }
    Ok(trained)
}

/// Which fold each row belongs to.
fn folds(n: usize, seed: u64) -> Vec<usize> {
    // As equal as can be, then shuffled: neighbouring rows are often alike.
    let mut folds: Vec<usize> = (0..n).map(|i| i % FOLDS).collect();
    folds.shuffle(&mut StdRng::seed_from_u64(seed));
    folds
}

/// The rule that costs least of those that reach the wanted rate (within a standard error, the estimate being one); of
/// target truth, of those whose accuracy is within the loss of the best. If none does, the one that is right most often.
fn best(trials: &[Trial], options: &Options) -> usize {
    const NEAR: f64 = 0.005;
    // Nothing may reach the rate that is wanted: then the best that there is counts.
    let most = trials.iter().map(|trial| trial.tried.right).fold(0.0, f64::max);
    let wanted = match options.target {
        Target::Model => options.agreement - NEAR,
        Target::Truth => most - options.loss.max(NEAR),
    };
    let enough = |t: &Tried| t.right >= wanted.min(most);
    let cost = |i: &usize| trials[*i].tried.mean_cost;
    (0..trials.len()).filter(|&i| enough(&trials[i].tried)).min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    const AT: [Depth; 3] = [Depth(2), Depth(4), Depth(6)];
    const FULL: Depth = Depth(8);

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
        let trained = train(&rows(400), &AT, FULL, &[], &options()).unwrap();
        let kept = &trained.tried[trained.kept];
        assert!(trained.tried.len() == 9 && kept.right >= 0.965, "{:?}", trained.tried);
        assert!(kept.mean_steps < 6.0 && kept.coverage > 0.9, "{kept:?}");
        assert!(trained.right_by_candidate.is_sorted(), "{trained:?}");
        let again = train(&rows(400), &AT, FULL, &[], &options()).unwrap();
        assert_eq!(again.checkpoints, trained.checkpoints, "the same seed gives the same policy");
    }

    #[test]
    fn looks_that_cost_more_than_they_save_are_left_out() {
        let cheap = Options { rule: Some(RuleKind::Threshold), ..options() };
        let dear = Options { look_cost: 1.0, ..cheap.clone() };
        let layers = |options: &Options| {
            let trained = train(&rows(400), &AT, FULL, &[], options).unwrap();
            trained.checkpoints.iter().map(|c| c.at.0).collect::<Vec<_>>()
        };
        assert_eq!((layers(&cheap), layers(&dear)), (vec![2, 4, 6], vec![4, 6]));
    }

    #[test]
    fn true_labels_stop_everybody_and_may_cost_accuracy() {
        let truth = Options { target: Target::Truth, rule: Some(RuleKind::Threshold), loss: 0.02, ..options() };
        let trained = train(&rows(400), &AT, FULL, &[], &truth).unwrap();
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
        let trained = train(&rows, &AT, FULL, &[], &plain).unwrap();
        assert!(trained.checkpoints.len() == 3 && trained.checkpoints.iter().all(|c| c.threshold == 0.0));
        assert!(trained.tried.len() == 1 && trained.tried[0].right > trained.right_by_candidate[0], "{trained:?}");
    }

    #[test]
    fn too_few_rows_are_refused() {
        let error = train(&rows(20), &AT, FULL, &[], &options()).unwrap_err();
        assert_eq!(error, "expected at least 50 rows and two answers, found 20 and 2");
    }
}
