//! A body of chunks (RFC 9112, section 7.1), byte by byte but for the data. Pure.

/// A position in such a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkState {
    /// In the size of a chunk.
    Size {
        /// Digits so far.
        digits: u8,
        /// The value of these digits.
        size: u64,
    },
    /// In what follows the size on its line.
    Extension {
        /// The size before it.
        size: u64,
        /// The position in the extension.
        position: ExtensionState,
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
    /// In the name of a trailer.
    TrailerName,
    /// Behind the colon of a trailer.
    TrailerValue,
    /// Before the LF that ends it.
    TrailerLf,
    /// Before the last LF of all.
    LastLf,
}

/// A position in the extensions of a chunk (RFC 9112, section 7.1.1):
/// `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtensionState {
    /// In white space that only a semicolon may follow.
    BeforeSemicolon,
    /// Behind a semicolon, before the name.
    BeforeName,
    /// In the name.
    Name,
    /// In white space behind the name.
    AfterName,
    /// Behind the equals sign, before the value.
    BeforeValue,
    /// In a value that is a token.
    Token,
    /// In a value that is a quoted string.
    Quoted,
    /// Behind a backslash in a quoted string.
    QuotedPair,
    /// Behind the closing quote.
    AfterQuoted,
}

/// How much of the grammar of extensions and trailers is checked. Both are dropped in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkGrammar {
    /// All of it. For visitors: another server may find the end of a malformed line elsewhere.
    Strict,
    /// Only where the lines end. For sites, some of which send empty extensions.
    Lenient,
}

/// Chunks that two servers could read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidChunk;

/// The digits of the largest size.
const DIGITS: u8 = 16;

impl ChunkState {
    /// Before the first chunk.
    pub const FIRST: Self = Self::Size { digits: 0, size: 0 };

    /// Returns the position behind this byte; nothing when the body has ended.
    pub fn step(self, byte: u8, grammar: ChunkGrammar) -> Result<Option<Self>, InvalidChunk> {
        Ok(Some(match (self, byte) {
            (Self::Size { digits: 1.., size }, b'\r') => Self::SizeLf { size },
            (Self::Size { digits: 1.., size }, b';') => {
                Self::Extension { size, position: ExtensionState::BeforeName }
            }
            (Self::Size { digits: 1.., size }, b' ' | b'\t') => {
                Self::Extension { size, position: ExtensionState::BeforeSemicolon }
            }
            (Self::Size { digits, size }, _) if digits < DIGITS => {
                let digit = char::from(byte).to_digit(16).ok_or(InvalidChunk)?;
                Self::Size { digits: digits + 1, size: (size << 4) | u64::from(digit) }
            }
            (Self::Extension { size, position }, b'\r') => {
                if !position.may_end(grammar) {
                    return Err(InvalidChunk);
                }
                Self::SizeLf { size }
            }
            (Self::Extension { size, position }, other) if other != b'\n' => {
                Self::Extension { size, position: position.step(other, grammar)? }
            }
            (Self::SizeLf { size: 0 }, b'\n') => Self::Trailer,
            (Self::SizeLf { size }, b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::FIRST,
            (Self::Trailer, b'\r') => Self::LastLf,
            (Self::TrailerValue, b'\r') => Self::TrailerLf,
            (Self::TrailerName, b'\r') if grammar == ChunkGrammar::Lenient => Self::TrailerLf,
            (Self::TrailerName, b':') => Self::TrailerValue,
            (Self::Trailer | Self::TrailerName, other)
                if is_token(other) || (grammar == ChunkGrammar::Lenient && other != b'\n') =>
            {
                Self::TrailerName
            }
            (Self::TrailerValue, other)
                if is_text(other) || (grammar == ChunkGrammar::Lenient && other != b'\n') =>
            {
                Self::TrailerValue
            }
            (Self::TrailerLf, b'\n') => Self::Trailer,
            (Self::LastLf, b'\n') => return Ok(None),
            (_, _) => return Err(InvalidChunk),
        }))
    }

    /// Returns whether the next byte belongs to an extension or a trailer, which the client can make
    /// as long as it likes.
    pub fn is_in_overhead(self) -> bool {
        matches!(
            self,
            Self::Extension { .. } | Self::Trailer | Self::TrailerName | Self::TrailerValue
        )
    }

    /// Returns whether the next byte belongs to the line that begins a chunk.
    pub fn is_in_size_line(self) -> bool {
        matches!(self, Self::Size { .. } | Self::Extension { .. } | Self::SizeLf { .. })
    }
}

impl ExtensionState {
    fn step(self, byte: u8, grammar: ChunkGrammar) -> Result<Self, InvalidChunk> {
        // A lenient reader looks for the end of the line only; but no chunk size is followed by
        // white space alone.
        if grammar == ChunkGrammar::Lenient && self != Self::BeforeSemicolon {
            return Ok(self);
        }
        Ok(match (self, byte) {
            (Self::BeforeSemicolon | Self::AfterQuoted, b' ' | b'\t') => Self::BeforeSemicolon,
            (Self::BeforeName | Self::BeforeValue, b' ' | b'\t') => self,
            (Self::Name | Self::AfterName, b' ' | b'\t') => Self::AfterName,
            (Self::Name | Self::AfterName, b'=') => Self::BeforeValue,
            (Self::Token, b' ' | b'\t') => Self::BeforeSemicolon,
            (
                Self::BeforeSemicolon
                | Self::Name
                | Self::AfterName
                | Self::Token
                | Self::AfterQuoted,
                b';',
            ) => Self::BeforeName,
            (Self::BeforeName | Self::Name, _) if is_token(byte) => Self::Name,
            (Self::BeforeValue, b'"') => Self::Quoted,
            (Self::BeforeValue | Self::Token, _) if is_token(byte) => Self::Token,
            (Self::Quoted, b'"') => Self::AfterQuoted,
            (Self::Quoted, b'\\') => Self::QuotedPair,
            (Self::Quoted | Self::QuotedPair, _) if is_text(byte) => Self::Quoted,
            (_, _) => return Err(InvalidChunk),
        })
    }

    fn may_end(self, grammar: ChunkGrammar) -> bool {
        match grammar {
            ChunkGrammar::Strict => matches!(self, Self::Name | Self::Token | Self::AfterQuoted),
            ChunkGrammar::Lenient => self != Self::BeforeSemicolon,
        }
    }
}

/// Returns whether a byte may be in a token (RFC 9110, section 5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns whether a byte may be in a field value or a quoted string (RFC 9110, section 5.5).
fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}
