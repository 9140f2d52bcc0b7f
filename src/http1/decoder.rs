//! Where the body of a message ends (RFC 9112, section 6). Pure.

use std::io;

use bytes::{Bytes, BytesMut};

use super::chunk::{ChunkGrammar, ChunkState};

/// What is still to come of a message's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyDecoder {
    /// Nothing.
    Done,
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked(ChunkedBody),
    /// Whatever comes until the connection closes; a response only.
    CloseDelimited,
}

/// The rest of a body of chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkedBody {
    state: ChunkState,
    grammar: ChunkGrammar,
    /// Bytes of extensions and trailers that are still allowed.
    overhead: u32,
}

/// What the bytes at hand say of a body that has not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyStart {
    /// It begins as a body does.
    Valid,
    /// The line that begins the first chunk is not there yet.
    Incomplete,
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
    /// The connection failed.
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
const MAX_OVERHEAD: u32 = 16 * 1024;

impl BodyDecoder {
    /// A request body of chunks.
    pub const CHUNKED_REQUEST: Self = Self::chunked(ChunkGrammar::Strict);

    /// A response body of chunks.
    pub const CHUNKED_RESPONSE: Self = Self::chunked(ChunkGrammar::Lenient);

    const fn chunked(grammar: ChunkGrammar) -> Self {
        Self::Chunked(ChunkedBody { state: ChunkState::FIRST, grammar, overhead: MAX_OVERHEAD })
    }

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
                Self::Chunked(ChunkedBody { state: ChunkState::Data(left), grammar, overhead }) => {
                    let (piece, left) = piece(input, left);
                    let state = after_data(left);
                    *self = Self::Chunked(ChunkedBody { state, grammar, overhead });
                    return Ok(DecodeResult::Data(piece));
                }
                Self::Chunked(body) => {
                    let (next, read) = body.read_framing(input)?;
                    drop(input.split_to(read));
                    *self = next.map_or(Self::Done, Self::Chunked);
                }
            }
        }
    }

    /// Judges the bytes at hand as [`Self::decode`] would, and takes nothing off them: as long as
    /// nothing of a message has been passed on, it can still be refused.
    pub fn check(self, input: &[u8]) -> Result<BodyStart, BodyError> {
        let Self::Chunked(mut body) = self else { return Ok(BodyStart::Valid) };
        let (mut rest, mut start) = (input, BodyStart::Incomplete);
        while !rest.is_empty() {
            if let ChunkState::Data(left) = body.state {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                rest = rest.get(count..).unwrap_or_default();
                body.state = after_data(left.saturating_sub(u64::try_from(count).unwrap_or(left)));
                continue;
            }
            let (next, read) = body.read_framing(rest)?;
            let Some(next) = next else { return Ok(BodyStart::Valid) };
            (body, rest) = (next, rest.get(read..).unwrap_or_default());
            if !body.state.is_in_size_line() {
                start = BodyStart::Valid;
            }
        }
        Ok(start)
    }
}

fn after_data(left: u64) -> ChunkState {
    if left == 0 { ChunkState::DataCr } else { ChunkState::Data(left) }
}

impl ChunkedBody {
    /// Passes over what frames the data, as far as it is there. Returns the rest of the body, nothing
    /// at its end, and how many bytes were read.
    fn read_framing(self, input: &[u8]) -> Result<(Option<Self>, usize), BodyError> {
        let (mut body, mut read) = (self, 0);
        for byte in input {
            if matches!(body.state, ChunkState::Data(_)) {
                break;
            }
            read += 1;
            if body.state.is_in_overhead() {
                body.overhead = body.overhead.checked_sub(1).ok_or(BodyError::Malformed)?;
            }
            let next = body.state.step(*byte, body.grammar).map_err(|_| BodyError::Malformed)?;
            let Some(next) = next else { return Ok((None, read)) };
            body.state = next;
        }
        Ok((Some(body), read))
    }
}

/// At most `left` bytes off `input`, and how many are then to come.
fn piece(input: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let most = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
    let taken = u64::try_from(most).unwrap_or(left);
    (input.split_to(most).freeze(), left.saturating_sub(taken))
}

#[cfg(test)]
mod tests;
