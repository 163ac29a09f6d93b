//! Owns reading a SentencePiece model: the pieces and the settings that matter, out of its protobuf. Refuses files
//! that are cut short, and the unigram algorithm, which GGUF's `llama` tokenizer does not have.

use std::path::Path;

use super::{Error, Kind};

/// A SentencePiece model.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) pieces: Vec<Piece>,
    /// Whether a space is put before a text.
    pub(super) add_dummy_prefix: bool,
    /// Whether runs of spaces become one, and those at the ends go.
    remove_extra_whitespaces: bool,
    /// The rules by which characters are replaced, by name; none where they stay.
    charsmap: Option<String>,
    escapes_spaces: bool,
    /// Whether a word ends with its space, not starts.
    suffix: bool,
}

impl Model {
    /// Says what GGUF has no keys for.
    pub(super) fn remark(&self, notices: &mut Vec<String>) {
        let mut say = |what: &str| notices.push(format!("the tokenizer {what}: token ids may differ"));
        if self.remove_extra_whitespaces {
            say("removes spaces at the ends of texts and double ones, GGUF's keeps them");
        }
        if let Some(rules) = &self.charsmap {
            say(&format!("replaces characters by the rules `{rules}`, GGUF's has none"));
        }
        if !self.escapes_spaces {
            say("has spaces in its tokens as they are, GGUF's has marks for them");
        }
        if self.suffix {
            say("puts a space behind a text, GGUF's before it");
        }
    }
}

/// One entry of the vocabulary.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: Kind,
}

/// Reads a model; `path` is for the messages.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Model, Error> {
    let mut model = Model {
        pieces: Vec::new(),
        add_dummy_prefix: true,
        remove_extra_whitespaces: true,
        charsmap: None,
        escapes_spaces: true,
        suffix: false,
    };
    let mut algorithm = UNIGRAM;
    let mut fields = Fields { path, bytes, at: 0 };
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Field::Bytes(_)) if model.pieces.len() == MAX_PIECES => {
                return Err(Error::invalid(path, "pieces", format_args!("at most {MAX_PIECES}"), "more"));
            }
            (1, Field::Bytes(bytes)) => model.pieces.push(piece(path, bytes, model.pieces.len())?),
            (2, Field::Bytes(bytes)) => algorithm = trainer(path, bytes, &mut model)?,
            (3, Field::Bytes(bytes)) => normalizer(path, bytes, &mut model)?,
            _ => {}
        }
    }
    if model.pieces.is_empty() {
        let error = Error::invalid(path, "pieces", "a vocabulary", "none");
        return Err(
            error.with_hint("this is no SentencePiece model; if it is tiktoken's, remove it and keep `tokenizer.json`")
        );
    }
    if algorithm != BPE {
        return Err(Error::invalid(path, "algorithm", "2 (byte-pair encoding)", algorithm));
    }
    Ok(model)
}

/// The largest known vocabulary has a quarter of a million.
const MAX_PIECES: usize = 1 << 21;

/// Values of `TrainerSpec.model_type`.
const UNIGRAM: u64 = 1;
const BPE: u64 = 2;

fn piece(path: &Path, bytes: &[u8], id: usize) -> Result<Piece, Error> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    let mut fields = Fields { path, bytes, at: 0 };
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Field::Bytes(text)) => {
                let text = std::str::from_utf8(text);
                let wrong = |_| Error::invalid(path, format_args!("piece {id}"), "valid UTF-8", "an invalid sequence");
                piece.text = text.map_err(wrong)?.to_owned();
            }
            (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Field::Varint(kind)) => {
                let wrong = || Error::invalid(path, format_args!("type of piece {id}"), "1 to 6", kind);
                piece.kind = Kind::from_id(kind.into()).filter(|&kind| kind != Kind::Undefined).ok_or_else(wrong)?;
            }
            _ => {}
        }
    }
    Ok(piece)
}

fn trainer(path: &Path, bytes: &[u8], model: &mut Model) -> Result<u64, Error> {
    let mut algorithm = UNIGRAM;
    let mut fields = Fields { path, bytes, at: 0 };
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (3, Field::Varint(kind)) => algorithm = kind,
            (24, Field::Varint(v)) => model.suffix = v != 0,
            _ => {}
        }
    }
    Ok(algorithm)
}

fn normalizer(path: &Path, bytes: &[u8], model: &mut Model) -> Result<(), Error> {
    let mut fields = Fields { path, bytes, at: 0 };
    let (mut name, mut has_map) = (String::new(), false);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Field::Bytes(text)) => name = String::from_utf8_lossy(text).chars().take(40).collect(),
            (2, Field::Bytes(map)) => has_map = !map.is_empty(),
            (3, Field::Varint(v)) => model.add_dummy_prefix = v != 0,
            (4, Field::Varint(v)) => model.remove_extra_whitespaces = v != 0,
            (5, Field::Varint(v)) => model.escapes_spaces = v != 0,
            _ => {}
        }
    }
    model.charsmap = has_map.then_some(name);
    Ok(())
}

/// The fields of one message of a protobuf, in their order.
struct Fields<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

enum Field<'a> {
    Varint(u64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32(u32),
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, Error> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => self.take(8).map(|_| Field::Fixed64)?,
            2 => {
                let n = self.varint()?;
                Field::Bytes(self.take(usize::try_from(n).unwrap_or(usize::MAX))?)
            }
            5 => {
                let bytes = self.take(4)?;
                Field::Fixed32(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            other => return Err(Error::invalid(self.path, "protobuf", "a wire type of 0, 1, 2 or 5", other)),
        };
        Ok(Some((key >> 3, field)))
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::invalid(self.path, "protobuf", "a number of at most 10 bytes", "a longer one"))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Error> {
        let rest = &self.bytes[self.at..];
        let Some(bytes) = rest.get(..n) else {
            let found = format!("the end of the message after {}", rest.len());
            return Err(Error::invalid(self.path, "protobuf", format_args!("{n} bytes"), found));
        };
        self.at += n;
        Ok(bytes)
    }
}
