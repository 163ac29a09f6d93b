//! Owns how messages come in and go out: bounded lengths, read as they arrive. Refuses to take memory for a length that was only
//! announced.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};

use super::{Parting, wrong};

/// Bytes taken at once.
const PIECE: usize = 1 << 20;

/// A connection's two directions.
pub(super) struct Channel<R, W> {
    input: BufReader<R>,
    output: W,
}

impl<R: Read, W: Write> Channel<R, W> {
    pub(super) fn new(input: R, output: W) -> Channel<R, W> {
        Channel { input: BufReader::with_capacity(1 << 16, input), output }
    }

    pub(super) fn parts(&mut self) -> (&mut impl Read, &mut W) {
        (&mut self.input, &mut self.output)
    }

    /// The next request's command and length; `None` when the client has left. Between requests it may take its time.
    pub(super) fn command(&mut self) -> Result<Option<(u8, u64)>, Parting> {
        loop {
            match self.input.fill_buf() {
                Ok([]) => return Ok(None),
                Ok(_) => break,
                Err(error) if is_late(&error) || error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let [command] = self.exactly()?;
        Ok(Some((command, u64::from_le_bytes(self.exactly()?))))
    }

    pub(super) fn exactly<const N: usize>(&mut self) -> Result<[u8; N], Parting> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// A body of one length.
    pub(super) fn fixed<const N: usize>(&mut self, len: u64) -> Result<[u8; N], Parting> {
        if len != N as u64 {
            return Err(wrong(format!("expected a message of {N} bytes, found {len}")));
        }
        self.exactly()
    }

    /// A body of any length up to `most`. Memory grows as it comes in.
    pub(super) fn body(&mut self, len: u64, most: usize) -> Result<Vec<u8>, Parting> {
        if len > most as u64 {
            return Err(wrong(format!("expected a message of up to {most} bytes, found {len}")));
        }
        let mut bytes = Vec::new();
        self.input.by_ref().take(len).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == len { Ok(bytes) } else { Err(io::Error::from(ErrorKind::UnexpectedEof).into()) }
    }

    /// The next `len` bytes, piece by piece.
    pub(super) fn pieces(
        &mut self,
        len: usize,
        mut take: impl FnMut(&[u8]) -> Result<(), Parting>,
    ) -> Result<(), Parting> {
        let mut piece = vec![0; PIECE.min(len)];
        let mut left = len;
        while left > 0 {
            let piece = &mut piece[..PIECE.min(left)];
            self.input.read_exact(piece)?;
            take(piece)?;
            left -= piece.len();
        }
        Ok(())
    }

    /// Answers a request.
    pub(super) fn answer(&mut self, body: &[u8]) -> Result<(), Parting> {
        let len = (body.len() as u64).to_le_bytes();
        self.output.write_all(&[&len[..], body].concat())?;
        Ok(self.output.flush()?)
    }

    /// Answers with `len` bytes that `give` puts into pieces.
    pub(super) fn answer_pieces(
        &mut self,
        len: usize,
        mut give: impl FnMut(usize, &mut [u8]) -> Result<(), Parting>,
    ) -> Result<(), Parting> {
        let mut piece = (len as u64).to_le_bytes().to_vec();
        for start in (0..len).step_by(PIECE) {
            let at = piece.len();
            piece.resize(at + PIECE.min(len - start), 0);
            give(start, &mut piece[at..])?;
            self.output.write_all(&piece)?;
            piece.clear();
        }
        self.output.write_all(&piece)?;
        Ok(self.output.flush()?)
    }
}

/// Whether a read ended since nothing came.
pub(super) fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
