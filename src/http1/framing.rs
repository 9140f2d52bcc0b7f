//! Where the body of a message ends (RFC 9112, section 6). Pure.

use std::io;

use bytes::{Bytes, BytesMut};

use super::chunk::Chunk;

/// What is still to come of a message's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Nothing.
    Ended,
    /// This many bytes.
    Length(u64),
    /// Chunks, and what frames them: so much more of it is read.
    Chunks(Chunk, u32),
    /// Whatever comes until the connection closes; a response only.
    UntilClose,
}

/// A body that does not come whole.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Its chunks could be read in two ways, or in none.
    #[error("the chunks of the body make no sense")]
    Chunks,
    /// The connection closed before its end.
    #[error("the body breaks off")]
    Cut,
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
}

/// What the bytes at hand bring.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A piece of the body.
    Data(Bytes),
    /// Nothing yet.
    More,
    /// Its end.
    End,
}

/// Bytes of chunk extensions and trailers that are passed over, in all.
const OVERHEAD: u32 = 16 * 1024;

impl Framing {
    /// A body of chunks.
    pub const CHUNKED: Self = Self::Chunks(Chunk::FIRST, OVERHEAD);

    /// A body of this length.
    pub fn of(length: u64) -> Self {
        if length == 0 { Self::Ended } else { Self::Length(length) }
    }

    /// Whether nothing more is to come.
    pub fn is_ended(self) -> bool {
        self == Self::Ended
    }

    /// The length of what is to come, if anybody can know.
    pub fn exact(self) -> Option<u64> {
        match self {
            Self::Ended => Some(0),
            Self::Length(left) => Some(left),
            Self::Chunks(..) | Self::UntilClose => None,
        }
    }

    /// Takes the next piece off `input`, without what frames it.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Step, Fault> {
        loop {
            match *self {
                Self::Ended => return Ok(Step::End),
                _ if input.is_empty() => return Ok(Step::More),
                Self::UntilClose => return Ok(Step::Data(input.split().freeze())),
                Self::Length(left) => {
                    let (piece, left) = piece(input, left);
                    *self = Self::of(left);
                    return Ok(Step::Data(piece));
                }
                Self::Chunks(Chunk::Data(left), spare) => {
                    let (piece, left) = piece(input, left);
                    let next = if left == 0 { Chunk::DataCr } else { Chunk::Data(left) };
                    *self = Self::Chunks(next, spare);
                    return Ok(Step::Data(piece));
                }
                Self::Chunks(chunk, spare) => *self = frame(chunk, spare, input)?,
            }
        }
    }
}

/// Passes over what frames the data, as much of it as there is.
fn frame(chunk: Chunk, spare: u32, input: &mut BytesMut) -> Result<Framing, Fault> {
    let (mut chunk, mut spare, mut read) = (chunk, spare, 0);
    for byte in input.iter() {
        if matches!(chunk, Chunk::Data(_)) {
            break;
        }
        read += 1;
        if matches!(chunk, Chunk::Extension { .. } | Chunk::Trailer | Chunk::InTrailer) {
            spare = spare.checked_sub(1).ok_or(Fault::Chunks)?;
        }
        let Some(next) = chunk.step(*byte).map_err(|_| Fault::Chunks)? else {
            drop(input.split_to(read));
            return Ok(Framing::Ended);
        };
        chunk = next;
    }
    drop(input.split_to(read));
    Ok(Framing::Chunks(chunk, spare))
}

/// At most `left` bytes off `input`, and how many are then to come.
fn piece(input: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let most = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
    let taken = u64::try_from(most).unwrap_or(left);
    (input.split_to(most).freeze(), left.saturating_sub(taken))
}

#[cfg(test)]
mod tests;
