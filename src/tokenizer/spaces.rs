//! Owns where a text gets a space that it does not have, and how a GGUF file says so: `convert` writes it, the tokenizer reads it.

use super::{Error, keys};
use crate::gguf::Metadata;

/// What a space is in a SentencePiece vocabulary.
pub(crate) const SPACE: &str = "\u{2581}";

/// Where text starts with a space that it does not have. Text is cut at special tokens first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Prefix {
    Never,
    /// Every part does, whatever it starts with: GGUF's rule.
    Every,
    /// Every part that does not start with a space: Hugging Face's `always`. This one and the next two come after
    /// user-defined tokens are found.
    Always,
    /// The same, but only what the whole text starts with: `first`.
    First,
    /// Every part, whatever it starts with; between user-defined tokens in it, as `Always`.
    Last,
}

impl Prefix {
    pub(super) fn from_gguf(meta: &Metadata) -> Result<Prefix, Error> {
        match (meta.bool(keys::SPACE_PREFIX)?.unwrap_or(true), meta.str(keys::PREFIX_SCHEME)?) {
            (false, _) => Ok(Prefix::Never),
            (true, None) => Ok(Prefix::Every),
            (true, Some("always")) => Ok(Prefix::Always),
            (true, Some("first")) => Ok(Prefix::First),
            (true, Some("last")) => Ok(Prefix::Last),
            (true, Some(other)) => {
                let expected = "`always`, `first` or `last`";
                Err(Error::invalid(meta, keys::PREFIX_SCHEME, expected, format!("`{other}`")))
            }
        }
    }

    /// Puts it into the metadata of a file.
    pub(crate) fn write(self, meta: &mut Metadata) {
        let (add, scheme) = match self {
            Prefix::Never => (false, None),
            Prefix::Every => (true, None),
            Prefix::Always => (true, Some("always")),
            Prefix::First => (true, Some("first")),
            Prefix::Last => (true, Some("last")),
        };
        if !add || meta.get(keys::SPACE_PREFIX).is_some() {
            meta.insert(keys::SPACE_PREFIX, add); // where it is not said it is done
        }
        if let Some(scheme) = scheme {
            meta.insert(keys::PREFIX_SCHEME, scheme);
        }
    }
}
