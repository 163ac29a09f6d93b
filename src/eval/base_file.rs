//! Owns the file of stored distributions, as llama.cpp's `--kl-divergence-base` writes and reads it. Refuses files whose
//! length is not what their header says.
//!
//! The layout, little-endian: `_logits_`; i32 n_ctx, n_vocab, n_chunk; the tokens of all chunks, i32; then for every scored
//! place of every chunk a row: f32 scale, f32 least, n_vocab numbers of 16 bits, one more if n_vocab is odd. The logarithm of a
//! token's probability is number * scale + least; what lies more than 16 below the best is rounded up to there.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use super::Error;
use super::divergence::Base;
use super::perplexity::{Chunks, normalizer};
use crate::engine::TokenId;
use crate::files;

const MAGIC: &[u8; 8] = b"_logits_";

/// Logarithms this far below the best logit are all stored as one.
const REACH: f32 = 16.0;

/// Stored logarithms at or below this do not count for a divergence: most of them stand for smaller ones.
const FLOOR: f32 = -16.0;

/// Scale and least of a row.
const ROW_HEAD: usize = 2 * size_of::<f32>();

/// Bytes of a row.
fn row_bytes(n_vocab: usize) -> usize {
    ROW_HEAD + n_vocab.next_multiple_of(2) * size_of::<u16>()
}

/// Begins a file of the chunks' distributions over `n_vocab` tokens: rows follow.
pub fn write_header(out: &mut dyn Write, chunks: &Chunks, n_vocab: usize) -> io::Result<()> {
    out.write_all(MAGIC)?;
    for n in [chunks.n_ctx(), n_vocab, chunks.len()] {
        out.write_all(&(n as i32).to_le_bytes())?;
    }
    chunks.tokens().iter().try_for_each(|&token| out.write_all(&(token as i32).to_le_bytes()))
}

/// The row of a place, of its logits \[n_vocab\].
pub fn packed(logits: &[f32]) -> Vec<u8> {
    let (max, _, log_sum) = normalizer(logits);
    let least = logits.iter().copied().fold(f32::INFINITY, f32::min).max(max - REACH);
    let scale = (max - least) / f32::from(u16::MAX);
    let mut row = Vec::with_capacity(row_bytes(logits.len()));
    row.extend(scale.to_le_bytes());
    row.extend((least - max - log_sum as f32).to_le_bytes());
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    // Conversion to u16 saturates: what lies below the least becomes 0.
    row.extend(logits.iter().flat_map(|&x| (((x - least) * inverse).round_ties_even() as u16).to_le_bytes()));
    row.resize(row_bytes(logits.len()), 0);
    row
}

/// Rows of stored distributions, one after the other.
#[derive(Clone, Debug)]
pub struct Rows {
    bytes: Vec<u8>,
    n_vocab: usize,
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.bytes.len() / row_bytes(self.n_vocab)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The step between the numbers of row `i`, and the least of them.
    fn scale(&self, i: usize) -> (f32, f32) {
        let head = &self.bytes[i * row_bytes(self.n_vocab)..][..ROW_HEAD];
        let float = |at: usize| f32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        (float(0), float(4))
    }

    /// Row `i`, unpacked into `log_probs`.
    pub fn unpack<'b>(&self, i: usize, log_probs: &'b mut Vec<f32>) -> Base<'b> {
        let n = row_bytes(self.n_vocab);
        let numbers = &self.bytes[i * n..][..n][ROW_HEAD..];
        let (scale, least) = self.scale(i);
        let numbers = numbers.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        log_probs.clear();
        log_probs.extend(numbers.take(self.n_vocab).map(|number| scale * f32::from(number) + least));
        Base { log_probs, floor: FLOOR }
    }
}

/// An open file of stored distributions.
#[derive(Debug)]
pub struct BaseFile {
    path: PathBuf,
    input: BufReader<File>,
    chunks: Chunks,
    n_vocab: usize,
}

impl BaseFile {
    /// Opens a file; the first `most` of its chunks are used.
    pub fn open(path: &Path, most: usize) -> Result<BaseFile, Error> {
        let io = |e| Error::io(path, "read", e);
        let file = files::open_regular(path).map_err(|e| Error::io(path, "open", e))?;
        let bytes = file.metadata().map_err(io)?.len();
        let mut input = BufReader::with_capacity(1 << 20, file);
        let mut magic = [0; 8];
        // A file shorter than this is no such file either.
        let _ = input.read_exact(&mut magic);
        if &magic != MAGIC {
            let found = String::from_utf8_lossy(&magic).escape_debug().to_string();
            return Err(Error::invalid(path, "the first 8 bytes", "`_logits_`", format!("`{found}`")));
        }
        let [n_ctx, n_vocab, n_chunk] = ["n_ctx", "n_vocab", "n_chunk"].map(|name| positive(path, name, &mut input));
        let (n_ctx, n_vocab, n_chunk) = (n_ctx?, n_vocab?, n_chunk?);
        let scored = (n_ctx - n_ctx / 2).saturating_sub(1) as u64;
        // Three numbers of 31 bits: their product fits in 128.
        let of_chunk = u128::from(scored) * row_bytes(n_vocab) as u128 + 4 * n_ctx as u128;
        let expected = 20 + n_chunk as u128 * of_chunk;
        if u128::from(bytes) != expected || n_ctx < 4 {
            let expected = format!("{expected} for {n_chunk} chunks of {n_ctx} tokens, {n_vocab} tokens of vocabulary");
            return Err(Error::invalid(path, "length", expected, bytes.to_string()));
        }
        let mut tokens = Vec::with_capacity(n_ctx * n_chunk);
        for i in 0..n_ctx * n_chunk {
            let token = i32_of(&mut input).map_err(io)?;
            let known = TokenId::try_from(token).ok().filter(|&token| (token as usize) < n_vocab);
            let expected = || format!("an id below {n_vocab}");
            tokens
                .push(known.ok_or_else(|| Error::invalid(path, format!("token {i}"), expected(), token.to_string()))?);
        }
        Ok(BaseFile { path: path.to_owned(), input, chunks: Chunks::stored(tokens, n_ctx, most), n_vocab })
    }

    /// The text whose distributions are stored.
    pub fn chunks(&self) -> &Chunks {
        &self.chunks
    }

    /// Size of the vocabulary.
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// The rows of the next chunk.
    pub fn next_chunk(&mut self) -> Result<Rows, Error> {
        let mut bytes = vec![0; self.chunks.scored().len() * row_bytes(self.n_vocab)];
        self.input.read_exact(&mut bytes).map_err(|e| Error::io(&self.path, "read", e))?;
        let rows = Rows { bytes, n_vocab: self.n_vocab };
        for i in 0..rows.len() {
            let (scale, least) = rows.scale(i);
            let most = scale * f32::from(u16::MAX) + least;
            // The logarithm of a probability is at most 0, but for rounding.
            if !(scale >= 0.0 && least.is_finite() && most < 1.0) {
                let found = format!("numbers from {least:?} on in steps of {scale:?}");
                let field = format!("distribution {i} of a chunk");
                return Err(Error::invalid(&self.path, field, "logarithms of probabilities", found));
            }
        }
        Ok(rows)
    }
}

fn i32_of(input: &mut impl Read) -> io::Result<i32> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(i32::from_le_bytes(bytes))
}

fn positive(path: &Path, name: &str, input: &mut impl Read) -> Result<usize, Error> {
    let n = i32_of(input).map_err(|e| Error::io(path, "read", e))?;
    let wrong = || Error::invalid(path, name, "a number above 0", n.to_string());
    usize::try_from(n).ok().filter(|&n| n > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks() -> Chunks {
        Chunks::new((0..10).map(|i| i % 5).collect(), 5, usize::MAX).unwrap()
    }

    fn logits(place: usize) -> Vec<f32> {
        (0..5).map(|i| ((i * 7 + place * 3) % 11) as f32 - if i == 4 { 40.0 } else { 0.0 }).collect()
    }

    fn written() -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write_header(&mut file, &chunks(), 5).unwrap();
        (0..4).for_each(|place| file.write_all(&packed(&logits(place))).unwrap());
        file
    }

    #[test]
    fn what_is_written_is_read() {
        let file = written();
        let mut base = BaseFile::open(file.path(), usize::MAX).unwrap();
        assert_eq!((base.chunks(), base.n_vocab()), (&chunks(), 5));
        let (mut found, mut exact) = (Vec::new(), Vec::new());
        for chunk in 0..2 {
            let rows = base.next_chunk().unwrap();
            assert_eq!(rows.len(), 2);
            for row in 0..2 {
                rows.unpack(row, &mut found);
                super::super::divergence::log_softmax(&logits(2 * chunk + row), &mut exact);
                for (i, (found, exact)) in found.iter().zip(&exact).enumerate() {
                    // Half a step of 16 / 65535; the last token lies below the reach and is raised to it.
                    let tolerance = if i == 4 { 40.0 } else { 1.3e-4 };
                    assert!((found - exact).abs() < tolerance, "{found} {exact}");
                }
                assert!(found[4] <= FLOOR);
            }
        }
        assert_eq!(BaseFile::open(file.path(), 1).unwrap().chunks().len(), 1);
    }

    #[test]
    fn equal_logits_are_stored_without_a_scale() {
        let rows = Rows { bytes: packed(&[2.0; 4]), n_vocab: 4 };
        let mut found = Vec::new();
        rows.unpack(0, &mut found);
        assert!(found.iter().all(|x| (x + 4f32.ln()).abs() < 1e-6), "{found:?}");
    }

    #[test]
    fn files_that_are_none_are_refused() {
        let good = std::fs::read(written().path()).unwrap();
        let error = |bytes: &[u8]| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            BaseFile::open(file.path(), usize::MAX).unwrap_err().to_string()
        };
        assert!(error(b"_logi").contains("expected `_logits_`"));
        assert!(error(&good[..good.len() - 1]).contains("length: expected "), "{}", error(&good[..good.len() - 1]));
        assert!(error(&good[..10]).contains("read"));
        let with = |at: usize, n: i32| [&good[..at], &n.to_le_bytes(), &good[at + 4..]].concat();
        for at in [8, 12, 16] {
            for n in [0, -1, 3, i32::MAX] {
                assert!(!error(&with(at, n)).is_empty());
            }
        }
        assert!(error(&with(20, 5)).contains("token 0: expected an id below 5, found 5"), "{}", error(&with(20, 5)));
    }
}
