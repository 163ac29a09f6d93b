//! Owns the secret that a worker and its clients share, and how each proves to the other that it has it, before a word of the
//! protocol. Refuses secrets that can be guessed.
//!
//! The worker sends a greeting of 8 bytes and 32 random bytes; the client answers with the same greeting, 32 random bytes of
//! its own, and the HMAC-SHA256 of both; the worker answers with another HMAC of both. What follows is ggml's protocol, neither
//! encrypted nor signed: a token keeps strangers out, not somebody who sits on the line.

use std::fmt;
use std::io::{self, Read, Write};

use ring::hmac::{self, HMAC_SHA256, Key};
use ring::rand::{SecureRandom, SystemRandom};

/// What a worker that wants a token says first. No answer of ggml's protocol begins so: it would be one of 3 * 10^18 bytes.
pub(super) const GREETING: [u8; 8] = *b"curtail*";

const NONCE: usize = 32;
const PROOF: usize = 32;

/// Names who proves, so that no proof can be sent back to the one that it came from.
const CLIENT: &[u8] = b"curtail rpc client";
const WORKER: &[u8] = b"curtail rpc worker";

/// A shared secret.
#[derive(Clone)]
pub struct Token(Key);

impl Token {
    /// Bytes of a secret, at least.
    pub const LEAST: usize = 16;

    /// None if the secret is too short.
    pub fn new(secret: &[u8]) -> Option<Token> {
        (secret.len() >= Token::LEAST).then(|| Token(Key::new(HMAC_SHA256, secret)))
    }

    /// The worker's side; whether the other side has the token too.
    pub(super) fn challenge(&self, input: &mut impl Read, output: &mut impl Write) -> io::Result<bool> {
        let mine = nonce()?;
        output.write_all(&[&GREETING[..], &mine].concat())?;
        output.flush()?;
        let (mut greeting, mut theirs, mut proof) = ([0; GREETING.len()], [0; NONCE], [0; PROOF]);
        input.read_exact(&mut greeting)?;
        if greeting != GREETING {
            return Ok(false); // it speaks ggml's protocol at once
        }
        input.read_exact(&mut theirs)?;
        input.read_exact(&mut proof)?;
        let is_right = hmac::verify(&self.0, &message(CLIENT, &mine, &theirs), &proof).is_ok();
        if is_right {
            output.write_all(hmac::sign(&self.0, &message(WORKER, &mine, &theirs)).as_ref())?;
            output.flush()?;
        }
        Ok(is_right)
    }

    /// The client's side; whether the other side has the token too.
    pub(super) fn answer(&self, input: &mut impl Read, output: &mut impl Write) -> io::Result<bool> {
        let (mut greeting, mut theirs) = ([0; GREETING.len()], [0; NONCE]);
        input.read_exact(&mut greeting)?;
        if greeting != GREETING {
            return Ok(false);
        }
        input.read_exact(&mut theirs)?;
        let mine = nonce()?;
        let proof = hmac::sign(&self.0, &message(CLIENT, &theirs, &mine));
        output.write_all(&[&GREETING[..], &mine, proof.as_ref()].concat())?;
        output.flush()?;
        let mut proof = [0; PROOF];
        input.read_exact(&mut proof)?;
        Ok(hmac::verify(&self.0, &message(WORKER, &theirs, &mine), &proof).is_ok())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

fn message(who: &[u8], of_worker: &[u8; NONCE], of_client: &[u8; NONCE]) -> Vec<u8> {
    [who, of_worker, of_client].concat()
}

fn nonce() -> io::Result<[u8; NONCE]> {
    let mut bytes = [0; NONCE];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the system has no random numbers"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// What each side finds, worker first; `None` where the connection ended.
    fn meet(worker: &[u8], client: &[u8]) -> (Option<bool>, Option<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (worker, client) = (Token::new(worker).unwrap(), Token::new(client).unwrap());
        let client = std::thread::spawn(move || {
            let stream = TcpStream::connect(address).unwrap();
            client.answer(&mut &stream, &mut &stream).ok()
        });
        let found = {
            let (stream, _) = listener.accept().unwrap();
            worker.challenge(&mut &stream, &mut &stream).ok()
        };
        (found, client.join().unwrap())
    }

    #[test]
    fn both_sides_find_out_whether_the_other_has_the_token() {
        let (a, b) = (&b"0123456789abcdef"[..], &b"0123456789abcdeg"[..]);
        assert_eq!(meet(a, a), (Some(true), Some(true)));
        assert_eq!(meet(a, b), (Some(false), None));
        assert!(Token::new(&a[1..]).is_none());
    }

    #[test]
    fn a_worker_that_proves_nothing_is_not_believed() {
        let token = Token::new(b"0123456789abcdef").unwrap();
        let said = [&GREETING[..], &[0; NONCE + PROOF]].concat();
        assert!(!token.answer(&mut &said[..], &mut Vec::new()).unwrap());
        assert!(!token.answer(&mut &[28, 0, 0, 0, 0, 0, 0, 0][..], &mut Vec::new()).unwrap(), "ggml's protocol");
        let mut sent = Vec::new();
        assert!(token.answer(&mut &said[..40], &mut sent).is_err());
        // Its own proof, sent back.
        let mine = [&GREETING[..], &sent[8..]].concat();
        assert!(!token.challenge(&mut &mine[..], &mut Vec::new()).unwrap());
    }
}
