//! Owns the saving and loading of a text with its cache rows.

use std::io::{self, Read, Write};

use super::{Error, Sequence, TokenId};
use crate::kernels::Reduction;
use crate::plan::text;

impl Sequence {
    /// Writes the text, as far as it has been through every layer, and its cache rows.
    pub fn save_state(&self, out: &mut dyn Write) -> Result<(), Error> {
        // Up to a token that deeper layers do not see: a state says nothing of that.
        let (header, n_done) = (self.fingerprint(), self.n_done().min(self.n_unmasked()));
        for number in [header.len(), n_done] {
            out.write_all(&(number as u64).to_le_bytes())?;
        }
        out.write_all(header.as_bytes())?;
        for token in &self.tokens[..n_done] {
            out.write_all(&token.to_le_bytes())?;
        }
        let executor = self.lock();
        executor.cache.read_rows(&self.cells.rows_of(n_done), &mut |bytes| out.write_all(bytes))?;
        executor.check_devices()
    }

    /// Replaces the text by one that [`Sequence::save_state`] wrote. On an error the sequence is empty.
    pub fn load_state(&mut self, input: &mut dyn Read) -> Result<(), Error> {
        self.rewind(0);
        self.revive(self.full_depth())?;
        let expected = self.fingerprint();
        let mut read_number = || read_u64(input).map_err(|e| cut(e, 0));
        let [header_bytes, n_tokens] = [read_number()?, read_number()?];
        let mut header = Vec::new();
        input.take(header_bytes.min(4096)).read_to_end(&mut header)?;
        // Rows of another model, plan or type would be read as numbers of this one's.
        if header != expected.as_bytes() {
            // A name in either may hold anything: it is shown, not sent.
            let shown = |text: &str| text.escape_debug().to_string();
            let found = shown(&String::from_utf8_lossy(&header));
            return Err(Error::State { expected: shown(&expected), found });
        }
        if n_tokens > self.n_ctx() as u64 {
            let expected = format!("at most {} tokens", self.n_ctx());
            return Err(Error::State { expected, found: n_tokens.to_string() });
        }
        // Without capacity: a number in the file costs nothing until the tokens are there.
        let mut tokens: Vec<TokenId> = Vec::new();
        for _ in 0..n_tokens {
            let mut bytes = [0; 4];
            input.read_exact(&mut bytes).map_err(|e| cut(e, n_tokens))?;
            tokens.push(TokenId::from_le_bytes(bytes));
        }
        self.check(&tokens)?;
        // Behind no prefix: the rewind gave it up.
        let rows = self.cells.row_of(0)..self.cells.row_of(tokens.len());
        let mut executor = self.lock();
        // Rows that were never written may hold NaN, which masked sums would not survive.
        executor.clear_up_to(rows.end);
        let next = &mut |n: usize| read_bytes(input, n);
        executor.cache.write_rows(rows, next).map_err(|e| cut(e, n_tokens))?;
        // More than was said is another file, or a damaged one.
        if input.read(&mut [0])? > 0 {
            let expected = format!("the end behind {n_tokens} tokens");
            return Err(Error::State { expected, found: "more".to_owned() });
        }
        executor.check_devices()?;
        drop(executor);
        // Only now: up to here an error leaves the sequence empty.
        self.extend(&tokens, Reduction::Prefill);
        let done = self.full_depth();
        self.rows.iter_mut().for_each(|row| row.depth = done);
        Ok(())
    }

    /// What a saved state must agree on.
    fn fingerprint(&self) -> String {
        let (config, params) = (self.model().config(), self.params());
        let whole = params.plan == self.model().plan();
        let plan = if whole { String::new() } else { format!(" {}", text(&params.plan, self.model().plan())) };
        format!(
            "curtail state 2: {} `{}`, {} bytes, {} layers, rows of {}+{}, {} {}{plan}",
            config.architecture,
            config.name,
            self.model().file().file_bytes(),
            config.n_layer,
            config.n_embd_k(),
            config.n_embd_v(),
            params.type_k.name(),
            params.type_v.name()
        )
    }
}

/// An end that comes too early, in words of the state.
fn cut(error: io::Error, n_tokens: u64) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            let expected = match n_tokens {
                0 => "the lengths of a state".to_owned(),
                n => format!("{n} tokens with their cache rows"),
            };
            Error::State { expected, found: "the end of the file".to_owned() }
        }
        _ => Error::Io(error),
    }
}

/// So many bytes, in memory that grows with what is there: what a header promises may not be.
fn read_bytes(input: &mut dyn Read, n: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(n as u64).read_to_end(&mut bytes)?;
    if bytes.len() == n { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn read_u64(input: &mut dyn Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
