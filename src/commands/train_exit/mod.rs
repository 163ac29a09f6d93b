//! `train-exit`: runs tasks at full depth, fits when to stop, writes the exit file.

mod drafts;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, anyhow};

use super::shared::depth::Saved;
use super::shared::open::Opened;
use super::shared::output::Inputs;
use super::shared::progress;
use super::shared::{Usage, note, screen, template};
use crate::classify::{Answers, Questions, Task};
use crate::cli::{InputArg, PresetArg, RuleArg, TargetArg, TemplateArgs, TrainExitArgs};
use crate::engine::Sequence;
use crate::eval::{Excerpt, Sight, collect, collect_own, excerpts, fit_lenses, look_cost, own_answer, own_prompts};
use crate::exit::{
    Checkpoint, ExitFile, Fingerprint, Input, Lens, Options, Policy, Row, RuleKind, Target, Trained, Tried, train,
    train_confidence,
};
use crate::plan::{Depth, LayerCount, layers_before};
use crate::tokenizer::{Message, Special};

/// The name of the task that needs no file, and of its policy for short answers.
pub(super) const OWN: &str = Policy::OWN;

/// The name of its policy for the tokens of a text.
const TOKENS: &str = Policy::TOKENS;

pub(super) fn run(args: &TrainExitArgs) -> anyhow::Result<ExitCode> {
    let open = |path: &std::path::PathBuf| match path.as_os_str() == OWN {
        true => Ok(None),
        false => Task::open(path, args.seed, args.shots).map(Some),
    };
    let tasks: Vec<Option<Task>> = args.task.iter().map(open).collect::<Result<_, _>>()?;
    let named = args.task.iter().filter(|path| path.as_os_str() != OWN);
    let rows = tasks.iter().flatten().flat_map(|task| &task.files);
    Inputs::load(&args.load)?.and(named).and(rows).allow([args.output.as_path()])?;
    check_names(&tasks)?;
    let mut engine = Opened::open(&args.load)?;
    let searches = args.search_drafts && args.load.layers.is_some();
    anyhow::ensure!(!searches, Usage("--search-drafts: expected full depth, found --layers".into()));
    let plan = engine.sequence.plan();
    let rises = plan.is_sorted_by(|a, b| a.il < b.il);
    anyhow::ensure!(rises, Usage("--layers: expected layers in rising order, each once, to fit stops to".into()));
    let candidates = Candidates::new(args, &engine.sequence)?;
    let model = Fingerprint::of(&engine.file)?;
    let mut policies = Vec::new();
    let mut draft = None;
    for task in &tasks {
        let name = task.as_ref().map_or(OWN, |task| &task.name);
        let fitted = match task {
            Some(task) => fit_task(task, &mut engine, args, &candidates).map(|policy| vec![policy]),
            None => fit_own(&mut engine, args, &candidates).and_then(|(policies, others)| {
                if args.search_drafts {
                    draft = drafts::search(&engine, &policies[1].checkpoints, &others)?;
                }
                Ok(policies.into())
            }),
        };
        policies.extend(fitted.with_context(|| format!("task `{name}`"))?);
    }
    // Policies count the model's layers; what was looked at are steps of the plan.
    let plan = engine.sequence.plan();
    let in_layers = |policy: Policy<Depth>| policy.placed(|depth| Some(layers_before(plan, depth)));
    let policies = policies.into_iter().map(in_layers).collect();
    ExitFile { model, draft, policies }.save(&args.output)?;
    note(format_args!("(written `{}`)", args.output.display()));
    Ok(ExitCode::SUCCESS)
}

/// Refuses tasks whose policies could not be told apart in the file.
fn check_names(tasks: &[Option<Task>]) -> anyhow::Result<()> {
    let names: Vec<&str> = tasks.iter().map(|task| task.as_ref().map_or(OWN, |task| &task.name)).collect();
    for (i, (name, task)) in names.iter().zip(tasks).enumerate() {
        let is_ours = task.is_some() && [OWN, TOKENS].contains(name);
        anyhow::ensure!(!is_ours, "task `{name}`: expected another name: the policy `{name}` is for anything");
        anyhow::ensure!(!names[..i].contains(name), "task `{name}`: expected a name that no other task has");
    }
    Ok(())
}

/// Where stopping is considered on a plan.
struct Candidates {
    depths: Vec<Depth>,
    /// Of each: what an exit file will say.
    layers: Vec<LayerCount>,
    /// The depth that is full.
    full: Depth,
    /// What depth is counted in: steps where `--layers` leaves other ones than the model has.
    unit: &'static str,
}

impl Candidates {
    fn new(args: &TrainExitArgs, sequence: &Sequence) -> anyhow::Result<Candidates> {
        let (plan, full) = (sequence.plan(), sequence.full_depth());
        let layers_at = |depth: Depth| layers_before(plan, depth);
        let every = (1..full.0).map(Depth);
        // A layer that is named is the model's; a share is of what runs.
        let (first, depths): (usize, Vec<Depth>) = match (args.from_layer, args.preset) {
            (Some(first), _) => (first, every.filter(|&depth| layers_at(depth) >= LayerCount(first)).collect()),
            (None, Some(PresetArg::Adainfer)) => (1, every.collect()),
            (None, None) => {
                let first = (full.0 / 5).max(1);
                (first, every.filter(|&depth| depth >= Depth(first)).collect())
            }
        };
        let most = layers_at(Depth(full.0 - 1));
        anyhow::ensure!(!depths.is_empty(), "`--from-layer`: expected at most {most}, found {first}");
        let layers = depths.iter().map(|&depth| layers_at(depth)).collect();
        let unit = if plan == sequence.model().plan() { "layers" } else { "steps" };
        Ok(Candidates { depths, layers, full, unit })
    }

    /// Those of the later half.
    fn later(&self) -> Candidates {
        let n_early = self.depths.partition_point(|depth| 2 * depth.0 < self.full.0);
        let (depths, layers) = (self.depths[n_early..].to_vec(), self.layers[n_early..].to_vec());
        Candidates { depths, layers, ..*self }
    }
}

fn options(args: &TrainExitArgs, input: Input, look_cost: f64) -> Options {
    let is_paper = args.preset == Some(PresetArg::Adainfer);
    let is_truth = args.target == TargetArg::Truth && !is_paper;
    Options {
        input,
        target: if is_truth { Target::Truth } else { Target::Model },
        rule: if is_paper { Some(RuleKind::Svm) } else { rule(args.rule) },
        plain: is_paper,
        // Label logits know less than the hidden state: they pay for the last point with many layers.
        agreement: args.agreement.map_or(if input == Input::Labels { 0.97 } else { 0.98 }, f64::from),
        loss: args.loss.into(),
        look_cost,
        seed: args.seed,
    }
}

fn rule(rule: RuleArg) -> Option<RuleKind> {
    match rule {
        RuleArg::Auto => None,
        RuleArg::Threshold => Some(RuleKind::Threshold),
        RuleArg::Logistic => Some(RuleKind::Logistic),
        RuleArg::SvmLinear => Some(RuleKind::SvmLinear),
        RuleArg::Svm => Some(RuleKind::Svm),
        RuleArg::Crf => Some(RuleKind::Crf),
    }
}

/// What the checkpoints of a task read.
fn input(task: &Task, args: &TrainExitArgs) -> anyhow::Result<Input> {
    let wanted = match (args.preset, args.input) {
        (Some(PresetArg::Adainfer), _) => Some(InputArg::Vocabulary),
        (None, wanted) => wanted,
    };
    let (input, possible) = match (&task.answers, wanted) {
        (Answers::Labels(_), None | Some(InputArg::Hidden)) => (Input::Hidden, true),
        (Answers::Labels(_), Some(InputArg::Labels)) => (Input::Labels, true),
        (Answers::Labels(_), Some(InputArg::Vocabulary)) => (Input::Vocabulary, true),
        (Answers::Choices { .. }, wanted) => (Input::Choices, wanted.is_none() || args.preset.is_some()),
        (Answers::Open, wanted) => (Input::Vocabulary, matches!(wanted, None | Some(InputArg::Vocabulary))),
    };
    anyhow::ensure!(possible, "`--input`: this task has no labels; its checkpoints read `{}`", input.name());
    Ok(input)
}

fn fit_task(
    task: &Task,
    engine: &mut Opened,
    args: &TrainExitArgs,
    candidates: &Candidates,
) -> anyhow::Result<Policy<Depth>> {
    let input = input(task, args)?;
    let questions = Questions::new(task, &engine.tokenizer)?;
    let items = task.training_rows(args.rows);
    anyhow::ensure!(!items.is_empty(), "there are no training rows beside the {} shots", task.shots);
    let sequence = &mut engine.sequence;
    let start = Instant::now();
    let lenses = match args.lens {
        true => {
            let bar = progress::counted(items.len(), &format!("{}: lenses", task.name));
            let excerpts = excerpts(&questions, &items);
            fit_lenses(sequence, &excerpts, &candidates.depths, &mut |n| bar.set_position(n as u64))?
        }
        false => Vec::new(),
    };
    let bar = progress::counted(items.len(), &task.name);
    let progress = &mut |n| bar.set_position(n as u64);
    let sight = Sight { depths: &candidates.depths, input, lenses: &lenses };
    let rows = collect(sequence, &questions, &items, sight, progress)?;
    let look_cost = look_cost(sequence, &questions, &items, sight)?;
    bar.finish_and_clear();
    note(format_args!("{} rows collected in {:.1} s", rows.len(), start.elapsed().as_secs_f64()));
    let options = options(args, input, look_cost);
    let checkpoints = fit(&task.name, task.shots, &rows, candidates, &lenses, &options)?;
    Ok(Policy {
        task: task.name.clone(),
        labels: task.labels().to_vec(),
        input,
        target: options.target,
        n_rows: rows.len(),
        n_shots: task.shots,
        checkpoints,
    })
}

/// Tokens of an own answer at most.
const OWN_TOKENS: usize = 160;

/// Of them, those that a read-out is fitted to: more prompts say more than longer answers.
const SHOWN_TOKENS: usize = 64;

/// Rows that the confidence of tokens is fitted to at most: a read-out of many inputs needs more than a threshold does.
const CONFIDENCE_ROWS: usize = 4000;

/// The policies for anything, and the answers that no lens was fitted to.
type Own = ([Policy<Depth>; 2], Vec<Excerpt>);

/// The policies for anything: for short answers, and for the tokens of a text. Both are fitted to the model's own answers to
/// built-in prompts; the lenses of tokens to the answers to every second prompt, the rest to the others, which come along.
fn fit_own(engine: &mut Opened, args: &TrainExitArgs, candidates: &Candidates) -> anyhow::Result<Own> {
    anyhow::ensure!(
        matches!(args.input, None | Some(InputArg::Vocabulary)) && args.target == TargetArg::Model,
        "the task `{OWN}` has no labels: its checkpoints read the vocabulary, and their target is the model"
    );
    let answers = own_answers(engine, &args.template, args.prompts.unwrap_or(usize::MAX))?;
    let sequence = &mut engine.sequence;
    let (with_lens, others): (Vec<_>, Vec<_>) = answers.into_iter().enumerate().partition(|(i, _)| i % 2 == 0);
    let [with_lens, others] = [with_lens, others].map(|some| some.into_iter().map(|(_, answer)| answer).collect());
    let (with_lens, mut others): (Vec<Excerpt>, Vec<Excerpt>) = (with_lens, others);
    others.iter_mut().for_each(|(_, answer)| answer.truncate(SHOWN_TOKENS));

    let start = Instant::now();
    // Before the middle a state says too little about the next token.
    let later = candidates.later();
    let bar_lens = progress::counted(with_lens.len(), "tokens: lenses");
    let lenses = fit_lenses(sequence, &with_lens, &later.depths, &mut |n| bar_lens.set_position(n as u64))?;
    bar_lens.finish_and_clear();
    let bar_rows = progress::counted(CONFIDENCE_ROWS, "tokens");
    let progress = &mut |n| bar_rows.set_position(n as u64);
    let rows = collect_own(sequence, &others, &later.depths, &lenses, CONFIDENCE_ROWS, progress)?;
    bar_rows.finish_and_clear();
    note(format_args!("{} rows collected in {:.1} s", rows.len(), start.elapsed().as_secs_f64()));
    let threshold = Options { rule: Some(RuleKind::Threshold), ..options(args, Input::Confidence, TOKEN_LOOK_COST) };
    let tokens = fit(TOKENS, 0, &rows, &later, &lenses, &threshold)?;

    let start = Instant::now();
    let bar_rows = progress::counted(args.rows, OWN);
    let progress = &mut |n| bar_rows.set_position(n as u64);
    let rows = collect_own(sequence, &others, &candidates.depths, &[], args.rows, progress)?;
    bar_rows.finish_and_clear();
    note(format_args!("{} rows collected in {:.1} s", rows.len(), start.elapsed().as_secs_f64()));
    // After a prompt a look costs little; what it costs depends on the prompt.
    let checkpoints = fit(OWN, 0, &rows, candidates, &[], &options(args, Input::Vocabulary, 0.0))?;
    let policy = |task: &str, input, checkpoints| Policy {
        task: task.to_owned(),
        labels: Vec::new(),
        input,
        target: Target::Model,
        n_rows: rows.len(),
        n_shots: 0,
        checkpoints,
    };
    let policies = [policy(OWN, Input::Vocabulary, checkpoints), policy(TOKENS, Input::Confidence, tokens)];
    Ok((policies, others))
}

/// What a look at a token costs, in layers: the border between two graphs, and a few products.
const TOKEN_LOOK_COST: f64 = 0.15;

fn own_answers(engine: &mut Opened, args: &TemplateArgs, n_prompts: usize) -> anyhow::Result<Vec<Excerpt>> {
    let template = engine.template(args)?;
    let bar = progress::counted(own_prompts().take(n_prompts).count(), "own answers");
    let Opened { sequence, tokenizer, .. } = engine;
    let mut answers = Vec::new();
    for prompt in own_prompts().take(n_prompts) {
        let tokens = match &template {
            Some(template) => {
                let message = Message { role: "user".to_owned(), content: prompt.to_owned() };
                tokenizer.encode_rendered_with_bos(&template::render(template, &[message])?)
            }
            None => tokenizer.encode_with_bos(prompt, Special::Plain),
        };
        let answer = own_answer(sequence, tokenizer, &tokens, OWN_TOKENS)?;
        // An answer that is only an end shows nothing.
        if !answer.1.is_empty() {
            answers.push(answer);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(answers)
}

fn fit(
    name: &str,
    shots: usize,
    rows: &[Row],
    candidates: &Candidates,
    lenses: &[Lens],
    options: &Options,
) -> anyhow::Result<Vec<Checkpoint<Depth>>> {
    let start = Instant::now();
    let train = if options.input == Input::Confidence { train_confidence } else { train };
    let trained = train(rows, &candidates.depths, candidates.full, lenses, options).map_err(|why| anyhow!(why))?;
    let full = rows.iter().filter(|r| r.full == r.truth).count() as f64 / rows.len() as f64;
    let mut out = screen::stdout();
    writeln!(out, "{name}: {} rows, {shots} shots, full depth right at {:.1} %", rows.len(), 100.0 * full)?;
    by_layer(&mut out, &candidates.layers, &trained, options)?;
    rules(&mut out, candidates, &trained, options)?;
    note(format_args!("fitted in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(trained.checkpoints)
}

fn by_layer(out: &mut dyn Write, layers: &[LayerCount], trained: &Trained, options: &Options) -> io::Result<()> {
    let target = options.target.name();
    writeln!(out, "\n| after layer | best answer is the {target}'s | stop here |\n|--:|--:|--:|")?;
    for ((layer, right), stops) in layers.iter().zip(&trained.right_by_candidate).zip(&trained.stops_by_candidate) {
        writeln!(out, "| {layer} | {:.1} % | {:.1} % |", 100.0 * right, 100.0 * stops)?;
    }
    writeln!(out, "\nA look costs {:.3} layers. {} looks were kept.", options.look_cost, trained.checkpoints.len())
}

fn rules(out: &mut dyn Write, candidates: &Candidates, trained: &Trained, options: &Options) -> io::Result<()> {
    let (target, Candidates { full, unit, .. }) = (options.target.name(), candidates);
    writeln!(
        out,
        "\nOn rows that neither the fit nor its thresholds have seen:\n\n\
         | rule | the {target}'s answer | stop early | mean {unit} | saved | accuracy | |\n|---|--:|--:|--:|--:|--:|---|"
    )?;
    for (i, tried) in trained.tried.iter().enumerate() {
        writeln!(
            out,
            "| {} | {:.1} % | {:.1} % | {:.1} of {full} | {} | {:.1} % | {} |",
            name_of(tried),
            100.0 * tried.right,
            100.0 * tried.coverage,
            tried.mean_steps,
            Saved::of(tried.mean_steps, full.0 as f64),
            100.0 * tried.accuracy,
            if i == trained.kept { "kept" } else { "" }
        )?;
    }
    writeln!(out)
}

fn name_of(tried: &Tried) -> String {
    let kind = match tried.kind {
        RuleKind::Threshold => return "threshold on the top probability".to_owned(),
        RuleKind::Logistic => "logistic regression",
        RuleKind::SvmLinear => "linear SVM",
        RuleKind::Svm => "Gaussian SVM",
        RuleKind::Crf => "CRF",
    };
    format!("{kind}, {}", if tried.shared { "one with depth" } else { "per checkpoint" })
}
