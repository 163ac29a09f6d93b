//! Owns what the early-exit flags mean for a model: its exit file, the mode, where drafts come from.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{Usage, note};
use crate::cli::{DraftArg, ExitArg, ExitArgs, KvArg, Switch};
use crate::engine::EngineParams;
use crate::exit::{Checkpoint, Draft, ExitFile, Fingerprint, Policy, placed};
use crate::generate::{Decoder, Kv, Mode, Options, Source};
use crate::gguf::File;
use crate::model::{LayerStep, Model};
use crate::plan::{LayerCount, depth_after};

/// The flags, resolved for a model.
pub(crate) struct Exits {
    pub(crate) decoder: Decoder,
    draft_plan: Vec<LayerStep>,
    shortlist: bool,
}

impl Exits {
    /// For sequences on `model` that run `plan`.
    pub(crate) fn new(args: &ExitArgs, file: &File, model: &Model, plan: &[LayerStep]) -> anyhow::Result<Exits> {
        let Found { checkpoints, draft } = in_file(args, file, model)?;
        // A file counts layers of the model; with `--layers` they end at other depths.
        let checkpoints = placed(checkpoints, |layers| depth_after(plan, layers));
        let (of_file, most) = draft.map_or((None, MOST), |(draft, most)| (Some(draft), most));
        let default = if checkpoints.is_empty() { DraftArg::Lookup } else { DraftArg::Checkpoints };
        let (draft_plan, source) = match (&args.draft, of_file) {
            (Some(draft), _) => resolve(draft, model, plan)?,
            // What pays at full depth may be deeper than all that `--layers` leaves.
            (None, Some(draft)) => resolve(&draft, model, plan).or_else(|_| resolve(&default, model, plan))?,
            (None, None) => resolve(&default, model, plan)?,
        };
        let chosen = match args.exit {
            None if args.draft.is_some() => ExitArg::Verified,
            None if checkpoints.is_empty() => ExitArg::Off,
            None => ExitArg::Auto,
            Some(chosen) => chosen,
        };
        let mode = mode(chosen, args.draft.is_some().then_some(source));
        anyhow::ensure!(!needs_checkpoints(mode) || !checkpoints.is_empty(), Usage(NEEDS.into()));
        let kv = match args.kv {
            KvArg::Deferred => Kv::Deferred,
            KvArg::Propagate => Kv::Propagate,
            KvArg::Mask => Kv::Mask,
        };
        let options = Options { mode, source, checkpoints, kv, most: args.draft_max.unwrap_or(most) };
        let decoder = Decoder::new(options);
        Ok(Exits { decoder, draft_plan, shortlist: args.shortlist == Switch::On })
    }

    /// The same sequence, ready for such drafts.
    pub(crate) fn params(&self, params: EngineParams) -> EngineParams {
        let (draft_plan, probes) = (self.draft_plan.clone(), self.decoder.probes());
        EngineParams { draft_plan, probes, shortlist: self.shortlist, ..params }
    }
}

/// Drafts at once, where nobody says.
const MOST: usize = 8;

/// The mode of a flag. Verified drafts come from the source that `--draft` asks for, always; else from what pays.
pub(crate) fn mode(arg: ExitArg, asked: Option<Source>) -> Mode {
    match arg {
        ExitArg::Off => Mode::Off,
        ExitArg::Fast => Mode::Fast,
        ExitArg::Verified => asked.map_or(Mode::Measured, Mode::Verified),
        ExitArg::Auto => Mode::Auto,
    }
}

/// Whether a mode cannot be without an exit file.
pub(crate) fn needs_checkpoints(mode: Mode) -> bool {
    mode == Mode::Fast || mode == Mode::Verified(Source::Checkpoints)
}

/// The plan that drafts for a sequence that runs `plan`, where one does, and the source that `--draft` names.
pub(crate) fn resolve(draft: &DraftArg, model: &Model, plan: &[LayerStep]) -> anyhow::Result<(Vec<LayerStep>, Source)> {
    Ok(match draft {
        DraftArg::Checkpoints => (Vec::new(), Source::Checkpoints),
        DraftArg::Lookup => (Vec::new(), Source::Lookup),
        DraftArg::Layer(layer) => {
            let most = model.config().n_layer - 1;
            let depth = depth_after(plan, LayerCount(*layer)).filter(|_| *layer <= most);
            let wrong =
                || Usage(format!("--draft layer: expected 1 to {most}, less than all that runs, found {layer}"));
            (Vec::new(), Source::Depth(depth.ok_or_else(wrong)?))
        }
        DraftArg::Skip(list) => {
            let rest = list.leave_out(plan, model.plan()).map_err(|e| Usage(format!("--draft skip: {e}")))?;
            (rest, Source::Plan)
        }
    })
}

/// What an exit file says about tokens.
#[derive(Default)]
struct Found {
    checkpoints: Vec<Checkpoint>,
    draft: Option<(DraftArg, usize)>,
}

/// What is said where checkpoints are missing.
pub(crate) const NEEDS: &str = "there is no exit file for this model\nhint: `curtail train-exit --task self -o MODEL.exit.gguf` makes one, --exit-file names it";

fn in_file(args: &ExitArgs, file: &File, model: &Model) -> anyhow::Result<Found> {
    let Some(path) = path(args.exit_file.as_deref(), file.path()) else {
        return Ok(Found::default());
    };
    let (exit_file, warning) = ExitFile::open_for(&path, &Fingerprint::of(file)?)?;
    if let Some(warning) = warning {
        note(format_args!("warning: {warning}"));
    }
    let policy = exit_file.policies.into_iter().find(|policy| policy.task == Policy::TOKENS);
    anyhow::ensure!(
        policy.is_some() || args.exit_file.is_none(),
        "`{}`: expected a policy for `{}`\nhint: `curtail train-exit --task self` writes one",
        path.display(),
        Policy::TOKENS
    );
    let draft = exit_file.draft.map(|draft| {
        let source = source_of(&draft, model);
        let source = source.map_err(|why| anyhow::anyhow!("`{}`: exit.draft.source: {why}", path.display()))?;
        anyhow::Ok((source, draft.most as usize))
    });
    let checkpoints = policy.map_or_else(Vec::new, |policy| policy.checkpoints);
    Ok(Found { checkpoints, draft: draft.transpose()? })
}

/// The exit file that is read: the one named, else the one beside the model, if it is there.
pub(crate) fn path(named: Option<&Path>, model: &Path) -> Option<PathBuf> {
    named.map(Path::to_owned).or_else(|| Some(beside(model)).filter(|path| path.exists()))
}

/// The source that a file names, if this model has its layers.
fn source_of(draft: &Draft, model: &Model) -> Result<DraftArg, String> {
    let source = DraftArg::from_str(&draft.source)?;
    match resolve(&source, model, model.plan()) {
        Ok(_) => Ok(source),
        Err(why) => Err(why.to_string().trim_start_matches("--draft ").to_owned()),
    }
}

/// `model.exit.gguf` for `model.gguf`.
fn beside(model: &Path) -> PathBuf {
    model.with_extension("exit.gguf")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Scorer;
    use crate::plan::{Layers, full};

    #[test]
    fn checkpoints_stand_where_as_many_layers_have_run() {
        let at = |layers| Checkpoint {
            at: LayerCount(layers),
            lens: None,
            probe: None,
            scorer: Scorer::Top,
            threshold: 0.5,
        };
        let plan = Layers::parse("~3-5,~9:attn").unwrap().steps(&full(10)).unwrap();
        let placed = placed([2, 3, 4, 6, 7, 9].map(at).to_vec(), |layers| depth_after(&plan, layers));
        assert_eq!(placed.iter().map(|checkpoint| checkpoint.at.0).collect::<Vec<_>>(), [2, 3, 4, 6]);
        assert_eq!(beside(Path::new("a/m.Q4_1.gguf")), Path::new("a/m.Q4_1.exit.gguf"));
    }
}
