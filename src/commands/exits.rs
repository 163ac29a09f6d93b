//! Owns what the early-exit flags mean for a model: its exit file, the mode, where guesses come from.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::train_exit::TOKENS;
use super::{Usage, note};
use crate::cli::{DraftArg, ExitArg, ExitArgs, KvArg, Skip, Switch};
use crate::decode::{Decoder, Kv, Mode, Options, Source};
use crate::exit::{Checkpoint, ExitFile, Fingerprint};
use crate::gguf::File;
use crate::model::{Config, LayerStep};
use crate::session::SessionParams;

/// The flags, resolved for a model.
pub(super) struct Exits {
    pub(super) decoder: Decoder,
    draft_plan: Vec<LayerStep>,
    shortlist: bool,
}

impl Exits {
    pub(super) fn new(args: &ExitArgs, file: &File, config: &Config) -> anyhow::Result<Exits> {
        let Found { checkpoints, draft } = in_file(args, file)?;
        let (of_file, most) = draft.map_or((None, MOST), |(draft, most)| (Some(draft), most));
        let default = if checkpoints.is_empty() { DraftArg::Lookup } else { DraftArg::Checkpoints };
        let draft = args.draft.clone().or(of_file).unwrap_or(default);
        let (draft_plan, source) = resolve(&draft, config.n_layer)?;
        let chosen = match args.exit {
            None if args.draft.is_some() => ExitArg::Verified,
            None if checkpoints.is_empty() => ExitArg::Off,
            None => ExitArg::Auto,
            Some(chosen) => chosen,
        };
        let mode = match (chosen, args.draft.is_some()) {
            (ExitArg::Verified, true) => Mode::Verified(source),
            (chosen, _) => mode(chosen),
        };
        let needs = mode == Mode::Fast || mode == Mode::Verified(Source::Checkpoints);
        anyhow::ensure!(!needs || !checkpoints.is_empty(), Usage(NEEDS.into()));
        let kv = match args.kv {
            KvArg::Deferred => Kv::Deferred,
            KvArg::Propagate => Kv::Propagate,
            KvArg::Mask => Kv::Mask,
        };
        let options = Options { mode, source, checkpoints, kv, most: args.draft_max.unwrap_or(most) };
        let decoder = Decoder::new(options);
        Ok(Exits { decoder, draft_plan, shortlist: args.shortlist == Switch::On })
    }

    /// The same session, ready for such guesses.
    pub(super) fn params(&self, params: SessionParams) -> SessionParams {
        SessionParams { draft_plan: self.draft_plan.clone(), shortlist: self.shortlist, ..params }
    }
}

/// Guesses at once, where nobody says.
const MOST: usize = 8;

/// The mode of a flag. Where no source of guesses was asked for, verified is what auto is.
pub(super) fn mode(arg: ExitArg) -> Mode {
    match arg {
        ExitArg::Off => Mode::Off,
        ExitArg::Fast => Mode::Fast,
        ExitArg::Verified | ExitArg::Auto => Mode::Auto,
    }
}

/// The plan that guesses, where one does, and the source that `--draft` names.
pub(super) fn resolve(draft: &DraftArg, n_layer: usize) -> anyhow::Result<(Vec<LayerStep>, Source)> {
    Ok(match draft {
        DraftArg::Checkpoints => (Vec::new(), Source::Checkpoints),
        DraftArg::Lookup => (Vec::new(), Source::Lookup),
        DraftArg::Layer(layer) => {
            let most = n_layer - 1;
            anyhow::ensure!(*layer <= most, Usage(format!("--draft layer: expected 1 to {most}, found {layer}")));
            (Vec::new(), Source::Layer(*layer))
        }
        DraftArg::Skip(skips) => (plan_without(skips, n_layer)?, Source::Plan),
    })
}

/// What an exit file says about tokens.
#[derive(Default)]
struct Found {
    checkpoints: Vec<Checkpoint>,
    draft: Option<(DraftArg, usize)>,
}

/// What is said where checkpoints are missing.
pub(super) const NEEDS: &str = "there is no exit file for this model\nhint: `curtail train-exit --task self -o MODEL.exit.gguf` makes one, --exit-file names it";

fn in_file(args: &ExitArgs, file: &File) -> anyhow::Result<Found> {
    let beside = beside(file.path());
    let Some(path) = args.exit_file.as_ref().or(Some(&beside).filter(|path| path.exists())) else {
        return Ok(Found::default());
    };
    let (exit_file, warning) = ExitFile::open_for(path, &Fingerprint::of(file)?)?;
    if let Some(warning) = warning {
        note(format_args!("warning: {warning}"));
    }
    let policy = exit_file.policies.into_iter().find(|policy| policy.task == TOKENS);
    anyhow::ensure!(
        policy.is_some() || args.exit_file.is_none(),
        "`{}`: expected a policy for `{TOKENS}`\nhint: `curtail train-exit --task self` writes one",
        path.display()
    );
    let draft = exit_file.draft.map(|draft| match DraftArg::from_str(&draft.source) {
        Ok(source) => Ok((source, draft.most as usize)),
        Err(why) => Err(anyhow::anyhow!("`{}`: exit.draft.source: {why}", path.display())),
    });
    let checkpoints = policy.map_or_else(Vec::new, |policy| policy.checkpoints);
    Ok(Found { checkpoints, draft: draft.transpose()? })
}

/// `model.exit.gguf` for `model.gguf`.
fn beside(model: &Path) -> PathBuf {
    model.with_extension("exit.gguf")
}

fn plan_without(skips: &[Skip], n_layer: usize) -> anyhow::Result<Vec<LayerStep>> {
    if let Some(skip) = skips.iter().find(|skip| skip.il >= n_layer) {
        anyhow::bail!(Usage(format!("--draft skip: expected layers below {n_layer}, found {}", skip.il)));
    }
    let runs = |il: usize, part: fn(&Skip) -> bool| !skips.iter().any(|skip| skip.il == il && part(skip));
    let step = |il| LayerStep { il, attention: runs(il, |s| s.attention), feed_forward: runs(il, |s| s.feed_forward) };
    let plan: Vec<LayerStep> = (0..n_layer).map(step).filter(|step| step.attention || step.feed_forward).collect();
    anyhow::ensure!(!plan.is_empty(), Usage("--draft skip: expected some layers to stay".into()));
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_leaves_out_what_is_named() {
        let skip = |il, attention, feed_forward| Skip { il, attention, feed_forward };
        let plan = plan_without(&[skip(1, true, true), skip(2, true, false)], 4).unwrap();
        let half = LayerStep { il: 2, attention: false, feed_forward: true };
        assert_eq!(plan, [LayerStep::whole(0), half, LayerStep::whole(3)]);
        assert!(plan_without(&[skip(4, true, true)], 4).is_err());
        assert!(plan_without(&[skip(0, true, true)], 1).is_err());
        assert_eq!(beside(Path::new("a/m.Q4_1.gguf")), Path::new("a/m.Q4_1.exit.gguf"));
    }
}
