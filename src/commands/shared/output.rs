//! Owns the writing of files that a user names: what may be written, and that each appears complete or not at all.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::open::find_model;
use crate::cli::{LayersArg, LoadArgs};
use crate::files::{self, Output};
use crate::gguf;

/// Writes to a temporary file beside the target and renames it once everything is on the disk. A device or a pipe is written
/// into.
pub(crate) fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let context = || format!("cannot write `{}`", path.display());
    let output = Output::create(path).with_context(context)?;
    let mut buffer = BufWriter::with_capacity(1 << 20, output.file());
    write(&mut buffer).with_context(context)?;
    buffer.flush().with_context(context)?;
    drop(buffer);
    output.close().and_then(files::Closed::publish).with_context(context)
}

/// What a command reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inputs(Vec<PathBuf>);

impl Inputs {
    /// All parts of a model, by its path.
    pub(crate) fn model(path: &Path) -> Inputs {
        Inputs(gguf::part_paths(path))
    }

    /// What is loaded: the model, and where a file says which layers run, that.
    pub(crate) fn load(args: &LoadArgs) -> anyhow::Result<Inputs> {
        Ok(Inputs::model(&find_model(&args.model)?).and_layers(args.layers.as_ref()))
    }

    /// And these; `-` is no file.
    pub(crate) fn and<P: AsRef<Path>>(mut self, paths: impl IntoIterator<Item = P>) -> Inputs {
        let paths = paths.into_iter().map(|path| path.as_ref().to_owned());
        self.0.extend(paths.filter(|path| path != Path::new("-")));
        self
    }

    /// And the file of a plan.
    pub(crate) fn and_layers<'l>(self, layers: impl IntoIterator<Item = &'l LayersArg>) -> Inputs {
        let file = |layers: &'l LayersArg| match layers {
            LayersArg::File(path) => Some(path),
            LayersArg::Plan(_) => None,
        };
        self.and(layers.into_iter().filter_map(file))
    }

    /// Refuses outputs that are an input, under whatever name, that are the same file, or that no file can be. To be asked
    /// before the work begins.
    pub(crate) fn allow<'o>(&self, outputs: impl IntoIterator<Item = &'o Path>) -> anyhow::Result<()> {
        let mut before: Vec<&Path> = Vec::new();
        for output in outputs {
            let name = output.display();
            if let Some(input) = self.0.iter().find(|input| files::is_same(input, output)) {
                // What is there twice is no loss: a terminal, `/dev/null`.
                ensure!(
                    files::is_special(output),
                    "the output `{name}` is the input `{}`\nhint: inputs are never changed; name another output",
                    input.display()
                );
            }
            if files::is_special(output) {
                continue;
            }
            if let Err(error) = files::check_place(output) {
                bail!("cannot write `{name}`: {error}");
            }
            let twice = before.iter().any(|other| files::is_same(other, output));
            ensure!(!twice, "`{name}` would be written twice\nhint: each output needs a name of its own");
            before.push(output);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        std::fs::write(&path, "old").unwrap();
        let failed = write_whole(&path, |w| {
            w.write_all(b"half")?;
            bail!("disk full")
        });
        assert!(format!("{:#}", failed.unwrap_err()).contains("disk full"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        write_whole(&path, |w| Ok(w.write_all(b"new")?)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn inputs_and_outputs_are_told_apart_by_the_file_and_not_by_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second, other] =
            ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "n"].map(|name| folder.path().join(name));
        for path in [&first, &second] {
            std::fs::write(path, "").unwrap();
        }
        let inputs = Inputs::model(&first).and(["-"]);
        let error = |outputs: &[&Path]| inputs.allow(outputs.iter().copied()).unwrap_err().to_string();
        assert!(error(&[&folder.path().join("./m-00002-of-00002.gguf")]).contains("is the input"));
        assert!(error(&[&other, &folder.path().join("./n")]).contains("written twice"));
        assert!(error(&[folder.path()]).ends_with("it is a directory"));
        inputs.allow([other.as_path()]).unwrap();
    }
}
