//! A model that is named and not on the disk: found in the cache of models, or pulled there, with its progress shown.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use indicatif::{HumanBytes, ProgressBar};

use super::{interrupt, note, progress, screen};
use crate::hub::{self, Event, Hub, Part, Pulled, Spec};

/// The file that `-m` means: the one at this path, else the one of this name in the cache, which is pulled where it is not there.
pub(crate) fn named_model(path: &Path) -> anyhow::Result<PathBuf> {
    // What cannot be looked at is told by whoever opens it.
    if path.try_exists().unwrap_or(true) {
        return Ok(path.to_owned());
    }
    let text = path.to_string_lossy();
    let spec = Spec::parse(&text).ok().filter(|spec| !is_path(path, spec));
    let Some(spec) = spec else {
        bail!(
            "cannot open `{text}`: no such file\nhint: a model of the hub is named ORG/REPO or ORG/REPO:QUANT; {CERTAIN}"
        );
    };
    let hub = Hub::from_env()?;
    if let Some(found) = hub.cache.find(&spec, None)? {
        return Ok(found.files[0].clone());
    }
    ensure!(!hub.offline, hub::Error::Offline { what: spec.to_string() });
    Ok(pull(&hub, &spec, "main")?.files[0].path.clone())
}

const CERTAIN: &str = "`hf.co/` before it makes that certain";

/// Whether a text that could name a model of the hub is meant as a path: the folder that it would lie in is there.
fn is_path(path: &Path, spec: &Spec) -> bool {
    !matches!(spec.part, Part::Tag(_)) && path.parent().is_some_and(Path::is_dir)
}

/// Downloads what is missing, with progress on stderr. Ctrl-C ends it, and what has come so far is kept.
pub(crate) fn pull(hub: &Hub, spec: &Spec, revision: &str) -> anyhow::Result<Pulled> {
    let mut display = Display::new(spec);
    let mut watch = |event: Event| {
        display.show(event);
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let pulled = interrupt::during(|| hub::pull(hub, spec, revision, &mut watch));
    display.bar.finish_and_clear();
    Ok(pulled?)
}

/// The progress bar.
struct Display<'a> {
    spec: &'a Spec,
    bar: ProgressBar,
    /// Bytes of the files before the one that comes, and of that one.
    before: u64,
    at: u64,
    waits: bool,
}

impl Display<'_> {
    fn new(spec: &Spec) -> Display<'_> {
        Display { spec, bar: ProgressBar::hidden(), before: 0, at: 0, waits: false }
    }

    fn show(&mut self, event: Event) {
        match event {
            Event::Begin { bytes, have, files } => self.begin(bytes, have, files),
            Event::File(name) => {
                (self.before, self.at) = (self.before + self.at, 0);
                self.bar.set_message(screen::shown(name.rsplit('/').next().unwrap_or(name)).into_owned());
            }
            Event::At(bytes) => {
                self.at = bytes;
                self.bar.set_position(self.before + bytes);
            }
            Event::Again(why) => self.say(&format!("({why}; trying again)")),
            Event::Waiting if !self.waits => {
                self.waits = true;
                self.say("(another program downloads this file: waiting for it)");
            }
            Event::Waiting => {}
            Event::Tick => self.bar.tick(),
        }
    }

    fn begin(&mut self, bytes: u64, have: u64, files: usize) {
        let files = if files == 1 { String::new() } else { format!(" in {files} files") };
        let have = if have == 0 { String::new() } else { format!(", {} of them are there", HumanBytes(have)) };
        note(format_args!("(pulling `{}`: {}{files}{have})", self.spec, HumanBytes(bytes)));
        self.bar = progress::bytes(bytes, "");
    }

    /// A line above the bar.
    fn say(&self, line: &str) {
        self.bar.suspend(|| note(line));
    }
}
