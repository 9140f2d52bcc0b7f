//! Where each request of an HTTP/1 connection ends, read beside hyper. Pure.
//!
//! hyper repairs what it can: of a length and a chunked coding it drops the length, of two equal
//! lengths one, of a target its fragment. By then nobody can tell, so whatever two servers could
//! read in two ways is found here, in the bytes as they come (RFC 9112, sections 2.2, 6.3 and 7.1).
//!
//! What passes has one framing: at most one length, which is a plain number, or the one coding
//! `chunked`. hyper reads that framing alone, so both always agree where the next head begins, no
//! matter how the bytes are dealt out. Names, values and line ends are for hyper to judge: a
//! request that it refuses is the last of its connection.

use memchr::memchr;

/// The longest line that may tell how long a request is; also what is held of an unfinished line.
const LONGEST: usize = 64;

/// The reader of one connection.
pub struct Framing {
    phase: Phase,
    head: Head,
    /// The beginning of a line whose end has not come yet.
    line: [u8; LONGEST],
    /// How long that line is by now.
    held: usize,
}

/// What cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// How many of the bytes may be.
    pub good: usize,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its head can be read in two ways.
    Head,
    /// Its chunks can.
    Chunks,
    /// It asks for another protocol, and does not wait for the answer.
    Early,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Before a request, where empty lines are passed over. After a CR only an LF may come.
    Between(Option<Cr>),
    /// In the request line.
    Target,
    /// In the lines below it.
    Fields,
    /// In a body with this much to come.
    Body(u64),
    /// In a body of chunks.
    Chunks(Chunk),
    /// Behind a request for another protocol that has not been answered.
    Asking,
}

/// A CR that has come alone so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cr;

impl Framing {
    /// A connection that has said nothing yet.
    pub fn new() -> Self {
        let (phase, head) = (Phase::Between(None), Head::default());
        Self { phase, head, line: [0; LONGEST], held: 0 }
    }

    /// Whether nothing may come until the request for another protocol is answered.
    pub fn is_asking(&self) -> bool {
        self.phase == Phase::Asking
    }

    /// The answer was no: another request may follow.
    pub fn go_on(&mut self) {
        self.phase = Phase::Between(None);
    }

    /// Reads on.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        // A head that began in earlier bytes is refused with all of these.
        let (mut rest, mut begun) = (bytes, 0);
        while let Some((first, tail)) = rest.split_first() {
            let at = bytes.len().saturating_sub(rest.len());
            let refuse = |good, fault| Refused { good, fault };
            rest = match self.phase {
                Phase::Between(cr) => {
                    begun = at;
                    match (first, cr) {
                        (b'\n', _) => self.phase = Phase::Between(None),
                        (_, Some(Cr)) => return Err(refuse(begun, Fault::Head)),
                        (b'\r', None) => self.phase = Phase::Between(Some(Cr)),
                        (_, None) => self.begin(),
                    }
                    if self.phase == Phase::Target { rest } else { tail }
                }
                Phase::Target => self.target(rest).map_err(|fault| refuse(begun, fault))?,
                Phase::Fields => self.fields(rest).map_err(|fault| refuse(begun, fault))?,
                Phase::Body(left) => {
                    let (left, rest) = skip(left, rest);
                    self.phase = if left == 0 { Phase::Between(None) } else { Phase::Body(left) };
                    rest
                }
                Phase::Chunks(Chunk::Data(left)) => {
                    let (left, rest) = skip(left, rest);
                    let next = if left == 0 { Chunk::DataCr } else { Chunk::Data(left) };
                    self.phase = Phase::Chunks(next);
                    rest
                }
                Phase::Chunks(chunk) => {
                    let next = chunk.step(*first).map_err(|fault| refuse(at, fault))?;
                    self.phase = next.map_or(Phase::Between(None), Phase::Chunks);
                    tail
                }
                Phase::Asking => return Err(refuse(at, Fault::Early)),
            };
        }
        Ok(())
    }

    fn begin(&mut self) {
        (self.phase, self.head, self.held) = (Phase::Target, Head::default(), 0);
    }

    /// A fragment is no part of a request (RFC 9112, section 3.2): whoever sends one means
    /// something by it, and the site behind us could understand it.
    fn target<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Fault> {
        let end = memchr(b'\n', bytes);
        let (line, rest) = split(bytes, end);
        if memchr(b'#', line).is_some() {
            return Err(Fault::Head);
        }
        if end.is_some() {
            self.phase = Phase::Fields;
        }
        Ok(rest)
    }

    fn fields<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Fault> {
        let mut rest = bytes;
        while let Some(end) = memchr(b'\n', rest) {
            let (line, tail) = split(rest, Some(end));
            rest = tail;
            let last = if self.held == 0 {
                self.head.field(line, line.len() > LONGEST)?
            } else {
                self.hold(line);
                let long = self.held > LONGEST;
                let line = self.line.get(..self.held.min(LONGEST)).unwrap_or_default();
                self.held = 0;
                self.head.field(line, long)?
            };
            if last {
                self.phase = self.head.end()?;
                return Ok(rest);
            }
        }
        self.hold(rest);
        Ok(&[])
    }

    /// Keeps the beginning of a line, and counts the rest.
    fn hold(&mut self, piece: &[u8]) {
        let room = self.line.iter_mut().skip(self.held);
        room.zip(piece).for_each(|(to, from)| *to = *from);
        self.held = self.held.saturating_add(piece.len());
    }
}

/// What the fields of a request say of its body.
#[derive(Clone, Copy, Default)]
struct Head {
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

impl Head {
    /// One line with its end; `true` for the empty one. Of a `long` line the end may be missing.
    fn field(&mut self, line: &[u8], long: bool) -> Result<bool, Fault> {
        match line.first() {
            Some(b'\n') => return Ok(true),
            Some(b'\r') if line == b"\r\n" => return Ok(true),
            Some(b'\r' | b' ' | b'\t') => return Err(Fault::Head),
            Some(b'c' | b'C') => {
                if let Some(value) = value(line, b"content-length") {
                    let length = number(value).filter(|_| !long && self.length.is_none());
                    self.length = Some(length.ok_or(Fault::Head)?);
                }
            }
            Some(b't' | b'T') => {
                if let Some(value) = value(line, b"transfer-encoding") {
                    if long || self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Fault::Head);
                    }
                    self.chunked = true;
                }
            }
            Some(b'u' | b'U') => self.upgrade |= value(line, b"upgrade").is_some(),
            Some(_) | None => (),
        }
        Ok(false)
    }

    /// What comes behind the head.
    fn end(&self) -> Result<Phase, Fault> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Fault::Head),
            (None, true) => Ok(Phase::Chunks(Chunk::Size { digits: 0, size: 0 })),
            (Some(length), false) if length > 0 => Ok(Phase::Body(length)),
            (Some(_) | None, false) if self.upgrade => Ok(Phase::Asking),
            (Some(_) | None, false) => Ok(Phase::Between(None)),
        }
    }
}

/// The value of a line, if its name is this one.
fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, value) = line.split_at_checked(name.len())?;
    let value = value.strip_prefix(b":").filter(|_| found.eq_ignore_ascii_case(name))?;
    let value = value.strip_suffix(b"\n").unwrap_or(value);
    let value = value.strip_suffix(b"\r").unwrap_or(value);
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !blank(b)).map_or(start, |last| last + 1);
    value.get(start..end)
}

/// Digits and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

/// A body of chunks, byte by byte but for the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// In the size of one.
    Size { digits: u8, size: u64 },
    /// In what follows the size, which nobody reads.
    Extension { size: u64 },
    /// Before the LF that ends the size.
    SizeLf { size: u64 },
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

/// The digits of the largest size.
const DIGITS: u8 = 16;

impl Chunk {
    /// What comes after this byte; nothing when the body has ended.
    fn step(self, byte: u8) -> Result<Option<Self>, Fault> {
        Ok(Some(match (self, byte) {
            (Self::Size { digits: 1.., size }, b'\r') => Self::SizeLf { size },
            (Self::Size { digits: 1.., size }, b';') => Self::Extension { size },
            (Self::Size { digits, size }, _) if digits < DIGITS => {
                let digit = char::from(byte).to_digit(16).ok_or(Fault::Chunks)?;
                Self::Size { digits: digits + 1, size: (size << 4) | u64::from(digit) }
            }
            (Self::Extension { size }, b'\r') => Self::SizeLf { size },
            (Self::Extension { size }, other) if other != b'\n' => Self::Extension { size },
            (Self::SizeLf { size: 0 }, b'\n') => Self::Trailer,
            (Self::SizeLf { size }, b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size { digits: 0, size: 0 },
            (Self::Trailer, b'\r') => Self::LastLf,
            (Self::InTrailer, b'\r') => Self::TrailerLf,
            (Self::Trailer | Self::InTrailer, other) if other != b'\n' => Self::InTrailer,
            (Self::TrailerLf, b'\n') => Self::Trailer,
            (Self::LastLf, b'\n') => return Ok(None),
            (_, _) => return Err(Fault::Chunks),
        }))
    }
}

/// Passes over `left` bytes, or as many as there are.
fn skip(left: u64, bytes: &[u8]) -> (u64, &[u8]) {
    match usize::try_from(left).ok().and_then(|left| bytes.get(left..)) {
        Some(rest) => (0, rest),
        None => (left.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX)), &[]),
    }
}

/// A line with its end, and what is behind it; all there is, if the end has not come.
fn split(bytes: &[u8], end: Option<usize>) -> (&[u8], &[u8]) {
    end.and_then(|end| bytes.split_at_checked(end + 1)).unwrap_or((bytes, &[]))
}

#[cfg(test)]
mod tests;
