//! A body of chunks (RFC 9112, section 7.1), byte by byte but for the data. Pure.

/// Where in such a body we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkState {
    /// In the size of one.
    Size {
        /// Digits so far.
        digits: u8,
        /// What they say.
        size: u64,
    },
    /// In what follows the size, which nobody reads.
    Extension {
        /// The size before it.
        size: u64,
    },
    /// Before the LF that ends the size.
    SizeLf {
        /// The size before it.
        size: u64,
    },
    /// In the data, with this much to come.
    Data(u64),
    /// Behind the data.
    DataCr,
    /// Before the LF that ends it.
    DataLf,
    /// At the beginning of a trailer, or of the empty line.
    Trailer,
    /// In a trailer.
    InTrailer,
    /// Before the LF that ends it.
    TrailerLf,
    /// Before the last LF of all.
    LastLf,
}

/// Chunks that two servers could read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidChunk;

/// The digits of the largest size.
const DIGITS: u8 = 16;

impl ChunkState {
    /// Before the first of them.
    pub const FIRST: Self = Self::Size { digits: 0, size: 0 };

    /// What comes after this byte; nothing when the body has ended.
    pub fn step(self, byte: u8) -> Result<Option<Self>, InvalidChunk> {
        Ok(Some(match (self, byte) {
            (Self::Size { digits: 1.., size }, b'\r') => Self::SizeLf { size },
            (Self::Size { digits: 1.., size }, b';') => Self::Extension { size },
            (Self::Size { digits, size }, _) if digits < DIGITS => {
                let digit = char::from(byte).to_digit(16).ok_or(InvalidChunk)?;
                Self::Size { digits: digits + 1, size: (size << 4) | u64::from(digit) }
            }
            (Self::Extension { size }, b'\r') => Self::SizeLf { size },
            (Self::Extension { size }, other) if other != b'\n' => Self::Extension { size },
            (Self::SizeLf { size: 0 }, b'\n') => Self::Trailer,
            (Self::SizeLf { size }, b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::FIRST,
            (Self::Trailer, b'\r') => Self::LastLf,
            (Self::InTrailer, b'\r') => Self::TrailerLf,
            (Self::Trailer | Self::InTrailer, other) if other != b'\n' => Self::InTrailer,
            (Self::TrailerLf, b'\n') => Self::Trailer,
            (Self::LastLf, b'\n') => return Ok(None),
            (_, _) => return Err(InvalidChunk),
        }))
    }
}
