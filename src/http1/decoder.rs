//! Where the body of a message ends (RFC 9112, section 6). Pure.

use std::io;

use bytes::{Bytes, BytesMut};

use super::chunk::ChunkState;

/// What is still to come of a message's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyDecoder {
    /// Nothing.
    Done,
    /// This many bytes.
    Length(u64),
    /// Chunks, and what frames them: so much more of it is read.
    Chunked(ChunkState, u32),
    /// Whatever comes until the connection closes; a response only.
    CloseDelimited,
}

/// A body that does not come whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Its chunks could be read in two ways, or in none.
    #[error("malformed chunked body")]
    Malformed,
    /// The connection closed before its end.
    #[error("connection closed before the end of the body")]
    Truncated,
    /// The connection error.
    #[error("connection error")]
    Io(#[from] io::Error),
}

/// What the bytes at hand bring.
#[derive(Debug, PartialEq, Eq)]
pub enum DecodeResult {
    /// A piece of the body.
    Data(Bytes),
    /// Nothing yet.
    NeedMore,
    /// Its end.
    End,
}

/// Bytes of chunk extensions and trailers that are passed over, in all.
const OVERHEAD: u32 = 16 * 1024;

impl BodyDecoder {
    /// A body of chunks.
    pub const CHUNKED: Self = Self::Chunked(ChunkState::FIRST, OVERHEAD);

    /// A body of this length.
    pub fn of(length: u64) -> Self {
        if length == 0 { Self::Done } else { Self::Length(length) }
    }

    /// Whether nothing more is to come.
    pub fn is_ended(self) -> bool {
        self == Self::Done
    }

    /// The length of what is to come, if anybody can know.
    pub fn exact(self) -> Option<u64> {
        match self {
            Self::Done => Some(0),
            Self::Length(left) => Some(left),
            Self::Chunked(..) | Self::CloseDelimited => None,
        }
    }

    /// Takes the next piece off `input`, without what frames it.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<DecodeResult, BodyError> {
        loop {
            match *self {
                Self::Done => return Ok(DecodeResult::End),
                _ if input.is_empty() => return Ok(DecodeResult::NeedMore),
                Self::CloseDelimited => return Ok(DecodeResult::Data(input.split().freeze())),
                Self::Length(left) => {
                    let (piece, left) = piece(input, left);
                    *self = Self::of(left);
                    return Ok(DecodeResult::Data(piece));
                }
                Self::Chunked(ChunkState::Data(left), spare) => {
                    let (piece, left) = piece(input, left);
                    let next = if left == 0 { ChunkState::DataCr } else { ChunkState::Data(left) };
                    *self = Self::Chunked(next, spare);
                    return Ok(DecodeResult::Data(piece));
                }
                Self::Chunked(chunk, spare) => *self = frame(chunk, spare, input)?,
            }
        }
    }
}

/// Passes over what frames the data, as much of it as there is.
fn frame(chunk: ChunkState, spare: u32, input: &mut BytesMut) -> Result<BodyDecoder, BodyError> {
    let (mut chunk, mut spare, mut read) = (chunk, spare, 0);
    for byte in input.iter() {
        if matches!(chunk, ChunkState::Data(_)) {
            break;
        }
        read += 1;
        if matches!(
            chunk,
            ChunkState::Extension { .. } | ChunkState::Trailer | ChunkState::InTrailer
        ) {
            spare = spare.checked_sub(1).ok_or(BodyError::Malformed)?;
        }
        let Some(next) = chunk.step(*byte).map_err(|_| BodyError::Malformed)? else {
            drop(input.split_to(read));
            return Ok(BodyDecoder::Done);
        };
        chunk = next;
    }
    drop(input.split_to(read));
    Ok(BodyDecoder::Chunked(chunk, spare))
}

/// At most `left` bytes off `input`, and how many are then to come.
fn piece(input: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let most = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
    let taken = u64::try_from(most).unwrap_or(left);
    (input.split_to(most).freeze(), left.saturating_sub(taken))
}

#[cfg(test)]
mod tests;
