//! A path that means one thing, so that the site serves the very page we decided about. Pure.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// A request path in its one canonical spelling (RFC 3986, section 6.2.2), still as it was sent:
/// what is judged is what is forwarded, byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path<'a>(&'a str);

/// Why a path could mean one thing to us and another to the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("the path does not begin with a slash")]
    NotAPath,
    /// `.` or `..` as a segment, plain or encoded.
    #[error("the path holds a dot segment")]
    DotSegment,
    /// `//`: some sites merge the two slashes, some do not.
    #[error("the path holds an empty segment")]
    EmptySegment,
    /// A slash, a backslash or a NUL in disguise.
    #[error("the path holds an encoded or reversed slash, or a NUL")]
    Separator,
    /// `%41` for `A`: a site decodes it, a prefix match does not.
    #[error("the path escapes a character that needs no escape")]
    NeedlessEscape,
    /// `%2541`: a site that decodes twice sees another path.
    #[error("the path is escaped twice")]
    DoubleEscape,
    /// `%zz`, or an overlong UTF-8 form of a plain character.
    #[error("the path holds a broken escape")]
    BrokenEscape,
    /// `/a;x=1/b`: servlet containers drop the parameter, others do not.
    #[error("the path holds a parameter before a slash")]
    Parameter,
    /// `/a./b`, `/a%20`: Windows opens `a`.
    #[error("a segment of the path ends in a dot or a space")]
    TrimmedEnd,
    /// `/a::$INDEX_ALLOCATION/b`, `/a.asp::$DATA`: Windows opens `a` and `a.asp`.
    #[error("the path names a stream of a Windows file")]
    FileStream,
}

impl<'a> Path<'a> {
    /// Refuses whatever two parsers could read in two ways. Repairing it would mean guessing how
    /// the site behind us repairs it.
    pub fn parse(path: &'a str) -> Result<Self, PathError> {
        let rest = path.strip_prefix('/').ok_or(PathError::NotAPath)?;
        if !path.bytes().all(is_plain) {
            validate_escapes(path)?;
        }
        // Segments: `/` alone and a trailing slash end in an empty one, which is no surprise.
        let mut segments = rest.split('/').peekable();
        while let Some(segment) = segments.next() {
            if segment.is_empty() && segments.peek().is_some() {
                return Err(PathError::EmptySegment);
            }
            // A parameter hides dots too: `/..;/`.
            let name = segment.split(';').next().unwrap_or_default();
            if matches!(name, "." | "..") {
                return Err(PathError::DotSegment);
            }
            // A parameter does not hide it either: `/a.;x`.
            if ends_trimmed(name) || ends_trimmed(segment) {
                return Err(PathError::TrimmedEnd);
            }
            if name.len() < segment.len() && segments.peek().is_some() {
                return Err(PathError::Parameter);
            }
        }
        Ok(Self(path))
    }

    /// The path.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// A path that has been parsed before.
    pub(crate) fn from_validated(path: &'a str) -> Self {
        Self(path)
    }

    /// The path as the site understands it, for comparing: `%e4`, `%E4` and the raw byte are one,
    /// and so are `@` and `%40`. No escape that is left in a path stands for a slash or a dot, so
    /// this adds no segment. Borrowed where there is nothing to decode.
    pub fn decoded(self) -> Cow<'a, [u8]> {
        percent_decode_str(self.0).into()
    }

    /// The path without a `;parameter` on its last segment, where there is one.
    pub fn without_parameter(self) -> Option<Self> {
        self.0.split_once(';').map(|(path, _)| Self(path))
    }
}

/// Whether Windows would leave the end of this name out. An escaped dot is refused anywhere.
fn ends_trimmed(name: &str) -> bool {
    name.ends_with('.') || name.ends_with("%20")
}

/// Characters that no parser reads in two ways.
fn is_plain(b: u8) -> bool {
    !matches!(b, b'%' | b'$' | b'\\' | b'#' | b'?' | 0..=b' ' | 127..)
}

fn validate_escapes(path: &str) -> Result<(), PathError> {
    if path.bytes().any(|b| matches!(b, b'\\' | b'#' | b'?' | 0..=b' ' | 127)) {
        return Err(PathError::Separator);
    }
    let mut rest = path;
    while let Some((_, after)) = rest.split_once('%') {
        let code = after.get(..2).ok_or(PathError::BrokenEscape)?;
        rest = after.get(2..).unwrap_or_default();
        match u8::from_str_radix(code, 16) {
            Ok(_) if code.starts_with('+') => return Err(PathError::BrokenEscape),
            Ok(b'/' | b'\\' | 0..=31 | 127) => return Err(PathError::Separator),
            Ok(b'.') => return Err(PathError::DotSegment),
            Ok(b';') => return Err(PathError::Parameter),
            Ok(b) if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'~') => {
                return Err(PathError::NeedlessEscape);
            }
            Ok(b'%') if starts_with_hex(rest) => return Err(PathError::DoubleEscape),
            Ok(_) => (),
            Err(_) => return Err(PathError::BrokenEscape),
        }
    }
    let bytes: Vec<u8> = percent_decode_str(path).collect();
    if bytes.windows(3).any(|three| matches!(three, [b':', b'$', b'a'..=b'z' | b'A'..=b'Z'])) {
        return Err(PathError::FileStream);
    }
    overlong(path)
}

fn starts_with_hex(text: &str) -> bool {
    text.get(..2).is_some_and(|two| two.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// `%c0%af` is a slash to a careless decoder. Bytes in other encodings (GBK) may pass.
pub(super) fn overlong(path: &str) -> Result<(), PathError> {
    let bytes: Vec<u8> = percent_decode_str(path).collect();
    let bad = bytes.windows(2).any(|pair| {
        matches!(
            pair,
            [0xc0 | 0xc1, 0x80..=0xbf]
                | [0xe0, 0x80..=0x9f]
                | [0xf0, 0x80..=0x8f]
                | [0xf8, 0x80..=0x87]
                | [0xfc, 0x80..=0x83]
        )
    });
    if bad { Err(PathError::BrokenEscape) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a1_path_means_one_thing() {
        use PathError::*;
        let cases = [
            ("/", None),
            ("/static/", None),
            ("/static/a.js", None),
            ("/.well-known/x", None),
            ("/a..b/v1.0/x.tar.gz", None),
            ("/.a/..b/c", None),
            ("/a%20b%20c.txt", None),
            ("/a:b/$c/d$:e", None),
            ("/@:$!~", None),
            ("/protected./x", Some(TrimmedEnd)),
            ("/protected%20/x", Some(TrimmedEnd)),
            ("/protected.%20.%20/x", Some(TrimmedEnd)),
            ("/protected%20./x", Some(TrimmedEnd)),
            ("/a/b.", Some(TrimmedEnd)),
            ("/a/b%20", Some(TrimmedEnd)),
            ("/a/b./", Some(TrimmedEnd)),
            ("/a/...", Some(TrimmedEnd)),
            ("/a/%20", Some(TrimmedEnd)),
            ("/a.;x=1", Some(TrimmedEnd)),
            ("/a;x=1.", Some(TrimmedEnd)),
            ("/a%20;x", Some(TrimmedEnd)),
            ("/a%2e/b", Some(DotSegment)),
            ("/a%09/b", Some(Separator)),
            ("/protected::$INDEX_ALLOCATION/x", Some(FileStream)),
            ("/protected:$i30:$INDEX_ALLOCATION/x", Some(FileStream)),
            ("/a.asp::$DATA", Some(FileStream)),
            ("/a.asp:%3A%24DATA", Some(FileStream)),
            ("/a.asp::%24data", Some(FileStream)),
            ("/%E4%B8%AD%e6%96%87", None),
            ("/100%25", None),
            ("/a%20b%2Bc", None),
            ("/%23", None),
            ("/%C4%E3", None), // GBK
            ("/a+b@c:d,e=f&g!$'()*", None),
            ("/page.jsp;jsessionid=1", None),
            ("/原文", None), // raw UTF-8, as some browsers send it
            ("", Some(NotAPath)),
            ("*", Some(NotAPath)),
            ("http:/x", Some(NotAPath)),
            ("//evil.example", Some(EmptySegment)),
            ("/a//b", Some(EmptySegment)),
            ("/static/../profile", Some(DotSegment)),
            ("/static/..", Some(DotSegment)),
            ("/./a", Some(DotSegment)),
            ("/static/%2E%2e/profile", Some(DotSegment)),
            ("/static/.%2e/profile", Some(DotSegment)),
            ("/static%2fprofile", Some(Separator)),
            ("/static%5Cprofile", Some(Separator)),
            ("/static\\profile", Some(Separator)),
            ("/a%00", Some(Separator)),
            ("/a%0d%0ab", Some(Separator)),
            ("/a b", Some(Separator)),
            ("/a#b", Some(Separator)),
            ("/m%65mber", Some(NeedlessEscape)),
            ("/%252e%252e/", Some(DoubleEscape)),
            ("/%2541", Some(DoubleEscape)),
            ("/%zz", Some(BrokenEscape)),
            ("/%+1", Some(BrokenEscape)),
            ("/%4", Some(BrokenEscape)),
            ("/%c0%af", Some(BrokenEscape)),
            ("/%e0%80%af", Some(BrokenEscape)),
            ("/%f0%80%80%af", Some(BrokenEscape)),
            ("/%f8%80%80%80%af", Some(BrokenEscape)),
            ("/%fc%80%80%80%80%af", Some(BrokenEscape)),
            ("/%u002e%u002e/", Some(BrokenEscape)), // IIS
            ("/a;x=1/b", Some(Parameter)),
            ("/..;/b", Some(DotSegment)),
            ("/a%3bx/b", Some(Parameter)),
        ];
        for (path, expected) in cases {
            assert_eq!(Path::parse(path).err(), expected, "{path:?}");
        }
    }

    fn again_segments(path: &[u8]) -> Vec<Vec<u8>> {
        let decoded: Vec<u8> = percent_encoding::percent_decode(path).collect();
        decoded.split(|b| *b == b'/').map(<[u8]>::to_vec).collect()
    }

    /// Paths of what attackers play with, and of ordinary words.
    fn paths() -> impl Strategy<Value = String> {
        let pieces = "/ / / // \\ . .. %2e %2E %2f %5c %00 %25 %252e % %u002e ; %3b # %23 ? %c0%ae \
                      %e4%b8%ad %C4%E3 é %20 :$ a static %40 @ %61 %0d 2 e 2f + %20 ~ *";
        let pieces: Vec<&str> = pieces.split_whitespace().collect();
        let piece = prop_oneof![
            9 => proptest::sample::select(pieces).prop_map(str::to_owned),
            1 => any::<char>().prop_map(String::from),
            1 => any::<u8>().prop_map(|b| format!("%{b:02x}")),
        ];
        let tail = proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
        tail.prop_map(|tail| format!("/{tail}"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn a1_an_accepted_path_holds_no_other_however_it_is_decoded(text in paths()) {
            let Ok(path) = Path::parse(&text) else { return Ok(()) };
            let decoded = path.decoded().into_owned();
            // `/a;x` is a parameter to servlet containers: the name before it is what they open.
            let dots = |segment: &[u8]| {
                let name = segment.split(|b| *b == b';').next().unwrap();
                name == b"." || name == b".."
            };
            prop_assert!(!decoded.split(|b| *b == b'/').any(dots), "a dot segment");
            let slashes = |bytes: &[u8]| memchr::memchr_iter(b'/', bytes).count();
            prop_assert_eq!(slashes(&decoded), slashes(text.as_bytes()), "a new slash");
            prop_assert!(!decoded.windows(2).any(|two| two == b"//"), "an empty segment");
            prop_assert!(!decoded.iter().any(|b| *b == b'\\' || b.is_ascii_control()));
            // A site that decodes twice sees what a site that decodes once sees.
            let again: Vec<u8> = percent_encoding::percent_decode(&decoded).collect();
            prop_assert_eq!(again, decoded);
            prop_assert!(!text.contains(['?', '#']), "A2: no query, no fragment");
            // What Windows opens is what was asked for.
            let trimmed = |name: &[u8]| name.ends_with(b".") || name.ends_with(b" ");
            prop_assert!(!again_segments(text.as_bytes()).iter().any(|name| trimmed(name)));
        }

        #[test]
        fn a3_what_is_judged_is_what_was_sent(text in ".{0,40}") {
            if let Ok(path) = Path::parse(&text) {
                prop_assert_eq!(path.as_str(), text.as_str());
            }
        }
    }
}
