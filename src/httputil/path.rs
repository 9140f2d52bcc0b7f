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

/// The meaning of names that Windows changes before it opens a file: `a.`, `a%20`, `a::$DATA`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WindowsNames {
    /// They have two readings.
    #[default]
    Ambiguous,
    /// They have one. For sites that do not run on Windows.
    Plain,
}

impl<'a> Path<'a> {
    /// Refuses whatever two parsers could read in two ways. Repairing it would mean guessing how
    /// the site behind us repairs it.
    pub fn parse(path: &'a str) -> Result<Self, PathError> {
        Self::parse_with(path, WindowsNames::Ambiguous)
    }

    /// The same for a site that may have names of its own that Windows changes.
    pub fn parse_with(path: &'a str, names: WindowsNames) -> Result<Self, PathError> {
        let rest = path.strip_prefix('/').ok_or(PathError::NotAPath)?;
        let on_windows = names == WindowsNames::Ambiguous;
        if !path.bytes().all(is_plain) {
            validate_escapes(path)?;
            if on_windows && names_file_stream(&Self(path).decoded()) {
                return Err(PathError::FileStream);
            }
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
            if on_windows && (ends_trimmed(name) || ends_trimmed(segment)) {
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

/// Returns whether Windows would leave the end of this name out. An escaped dot is refused anywhere.
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
    overlong(path)
}

fn starts_with_hex(text: &str) -> bool {
    text.get(..2).is_some_and(|two| two.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// `%c0%af` is a slash to a careless decoder. Bytes in other encodings (GBK) may pass.
pub(super) fn overlong(path: &str) -> Result<(), PathError> {
    let bytes: Vec<u8> = percent_decode_str(path).collect();
    if has_overlong_form(&bytes) { Err(PathError::BrokenEscape) } else { Ok(()) }
}

fn has_overlong_form(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| {
        matches!(
            pair,
            [0xc0 | 0xc1, 0x80..=0xbf]
                | [0xe0, 0x80..=0x9f]
                | [0xf0, 0x80..=0x8f]
                | [0xf8, 0x80..=0x87]
                | [0xfc, 0x80..=0x83]
        )
    })
}

/// Returns whether some name in a decoded path has the type of a stream: `a::$DATA`,
/// `a:$I30:$INDEX_ALLOCATION`. A colon alone is common (`/wiki/Talk:Main`), and opens another file.
fn names_file_stream(path: &[u8]) -> bool {
    path.windows(3).any(|three| matches!(three, [b':', b'$', b'a'..=b'z' | b'A'..=b'Z']))
}

/// Readings of one path at the most. The paths of real links have two or three.
const MAX_READINGS: usize = 64;
/// Bytes of a path whose readings are listed.
const MAX_READABLE_LEN: usize = 2_048;

/// Every path that a server could read in this one: the path itself, and what comes of the rewritings
/// that servers are known to apply, in any order. `None` if they cannot be listed: of a NUL, a broken
/// escape or an overlong form nobody can know what a server makes.
pub fn readings(path: &str, names: WindowsNames) -> Option<Vec<Vec<u8>>> {
    let of_windows: &[Rewriting] = match names {
        WindowsNames::Ambiguous => &WINDOWS_REWRITINGS,
        WindowsNames::Plain => &[],
    };
    let broken = path.split('%').skip(1).any(|rest| !starts_with_hex(rest));
    if path.len() > MAX_READABLE_LEN || broken || !is_listable(path.as_bytes()) {
        return None;
    }
    let mut readings = vec![path.as_bytes().to_vec()];
    let mut next = 0;
    while let Some(reading) = readings.get(next).cloned() {
        next += 1;
        for rewrite in REWRITINGS.iter().chain(of_windows) {
            let rewritten = rewrite(&reading);
            if readings.contains(&rewritten) {
                continue;
            }
            if readings.len() == MAX_READINGS || !is_listable(&rewritten) {
                return None;
            }
            readings.push(rewritten);
        }
    }
    Some(readings)
}

/// A change that some servers make to a path before they look for a file or a handler.
type Rewriting = fn(&[u8]) -> Vec<u8>;

const REWRITINGS: [Rewriting; 7] = [
    decode_all,
    decode_unreserved,
    turn_backslashes,
    merge_slashes,
    resolve_dot_segments,
    drop_parameters,
    cut_at_query,
];
const WINDOWS_REWRITINGS: [Rewriting; 4] =
    [trim_spaces, trim_dots_and_spaces, shorten_dots, drop_file_streams];

fn is_listable(path: &[u8]) -> bool {
    let unicode_escape = |pair: &[u8]| pair == b"%u" || pair == b"%U";
    !path.iter().any(u8::is_ascii_control)
        && !has_overlong_form(path)
        && !path.windows(2).any(unicode_escape)
}

fn decode_all(path: &[u8]) -> Vec<u8> {
    percent_encoding::percent_decode(path).collect()
}

/// Decodes what needs no escape (RFC 3986, section 6.2.2.2), and leaves `%2f` alone.
fn decode_unreserved(path: &[u8]) -> Vec<u8> {
    let (mut rest, mut decoded) = (path, Vec::with_capacity(path.len()));
    while let [first, after @ ..] = rest {
        let escape = rest.get(..3).map(decode_all);
        rest = after;
        match (first, escape.as_deref()) {
            (b'%', Some([b])) if b.is_ascii_alphanumeric() || b"-._~".contains(b) => {
                decoded.push(*b);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => decoded.push(*first),
        }
    }
    decoded
}

fn turn_backslashes(path: &[u8]) -> Vec<u8> {
    path.iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect()
}

fn merge_slashes(path: &[u8]) -> Vec<u8> {
    let mut merged = path.to_vec();
    merged.dedup_by(|next, previous| *next == b'/' && *previous == b'/');
    merged
}

/// RFC 3986, section 5.2.4.
fn resolve_dot_segments(path: &[u8]) -> Vec<u8> {
    let mut resolved: Vec<&[u8]> = Vec::new();
    let mut segments = path.split(|b| *b == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let dots = matches!(segment, b"." | b"..");
        if segment == b".." {
            resolved.pop();
        } else if !dots {
            resolved.push(segment);
        }
        if dots && segments.peek().is_none() {
            resolved.push(b"");
        }
    }
    [b"/", resolved.join(&b'/').as_slice()].concat()
}

/// `change` of each segment.
fn map_segments(path: &[u8], change: impl Fn(&[u8]) -> &[u8]) -> Vec<u8> {
    path.split(|b| *b == b'/').map(change).collect::<Vec<_>>().join(&b'/')
}

fn drop_parameters(path: &[u8]) -> Vec<u8> {
    map_segments(path, |segment| before(segment, b';'))
}

/// A server that decodes before it looks for the query finds one in `%3f`.
fn cut_at_query(path: &[u8]) -> Vec<u8> {
    before(before(path, b'?'), b'#').to_vec()
}

fn before(text: &[u8], end: u8) -> &[u8] {
    text.split(|b| *b == end).next().unwrap_or_default()
}

fn trim_spaces(path: &[u8]) -> Vec<u8> {
    map_segments(path, |segment| trim_end(segment, b" "))
}

/// `.` and `..` are no names.
fn trim_dots_and_spaces(path: &[u8]) -> Vec<u8> {
    map_segments(path, |segment| match segment {
        b"." | b".." => segment,
        name => trim_end(name, b". "),
    })
}

/// `...` and `.. .` have led to the parent folder, too.
fn shorten_dots(path: &[u8]) -> Vec<u8> {
    map_segments(path, |segment| {
        let dots = segment.starts_with(b"..") && segment.iter().all(|b| b". ".contains(b));
        if dots { b".." } else { segment }
    })
}

fn trim_end<'a>(text: &'a [u8], bytes: &[u8]) -> &'a [u8] {
    let kept = text.iter().rposition(|b| !bytes.contains(b)).map_or(0, |last| last + 1);
    text.get(..kept).unwrap_or_default()
}

fn drop_file_streams(path: &[u8]) -> Vec<u8> {
    map_segments(
        path,
        |segment| {
            if names_file_stream(segment) { before(segment, b':') } else { segment }
        },
    )
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
            ("/img/a..jpg", None),
            ("/users:batch", None),
            ("/~user/a~1.jpg", None), // a short name may be a site's own name
            ("/%20a", None),
            ("/a%C2%A0", None), // Windows keeps it
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

    #[test]
    fn a1_a_site_may_have_names_that_windows_changes() {
        let cases = [
            ("/wiki/Inc.", None),
            ("/a%20/b.", None),
            ("/...", None),
            ("/a::$DATA", None),
            ("/a/..", Some(PathError::DotSegment)),
            ("/a%2e", Some(PathError::DotSegment)),
            ("/a./../b", Some(PathError::DotSegment)),
            ("/a.//b", Some(PathError::EmptySegment)),
            ("/a.;x/b", Some(PathError::Parameter)),
            ("/a.%2fb", Some(PathError::Separator)),
        ];
        for (path, expected) in cases {
            assert_eq!(Path::parse_with(path, WindowsNames::Plain).err(), expected, "{path:?}");
        }
    }

    #[test]
    fn a1_the_readings_of_a_path() {
        let cases: [(&str, &[&str]); 29] = [
            ("/a", &["/a"]),
            ("/a/", &["/a/"]),
            ("/p./x", &["/p./x", "/p/x"]),
            ("/p%20/x", &["/p%20/x", "/p /x", "/p/x"]),
            ("/p.%20", &["/p.%20", "/p. ", "/p.", "/p"]),
            ("/p%20.", &["/p%20.", "/p%20", "/p .", "/p ", "/p"]),
            ("/p. ./x", &["/p. ./x", "/p/x"]),
            ("/x/p::$DATA", &["/x/p::$DATA", "/x/p"]),
            ("/p:$i30:$INDEX_ALLOCATION/x", &["/p:$i30:$INDEX_ALLOCATION/x", "/p/x"]),
            ("/p::%24DATA", &["/p::%24DATA", "/p::$DATA", "/p"]),
            ("/...", &["/...", "/..", "/"]),
            ("/a/...", &["/a/...", "/a/..", "/a/", "/"]),
            (
                "/s/....//p",
                &[
                    "/s/....//p",
                    "/s/..../p",
                    "/s/..//p",
                    "/s/../p",
                    "/s///p",
                    "/s//p",
                    "/s/p",
                    "//p",
                    "/p",
                ],
            ),
            ("/a/..%20/b", &["/a/..%20/b", "/a/.. /b", "/a/../b", "/b", "/a//b", "/a/b"]),
            ("//a", &["//a", "/a"]),
            ("/a//b", &["/a//b", "/a/b"]),
            ("/s/../p", &["/s/../p", "/p"]),
            ("/s/..", &["/s/..", "/"]),
            ("/s/.", &["/s/.", "/s/"]),
            ("/s/%2e%2e/p", &["/s/%2e%2e/p", "/s/../p", "/p"]),
            ("/s/..%2fp", &["/s/..%2fp", "/s/../p", "/p"]),
            ("/a%2fb/%2e%2e/c", &["/a%2fb/%2e%2e/c", "/a/b/../c", "/a%2fb/../c", "/a/c", "/c"]),
            ("/a\\b", &["/a\\b", "/a/b"]),
            ("/s%5c..%5cp", &["/s%5c..%5cp", "/s\\..\\p", "/s/../p", "/p"]),
            ("/s;x/p", &["/s;x/p", "/s/p"]),
            ("/s/..;/p", &["/s/..;/p", "/s/../p", "/p"]),
            ("/m%65", &["/m%65", "/me"]),
            ("/%252e", &["/%252e", "/%2e", "/.", "/"]),
            ("/a%3fb//", &["/a%3fb//", "/a?b//", "/a%3fb/", "/a?b/", "/a"]),
        ];
        for (path, expected) in cases {
            let found = readings(path, WindowsNames::Ambiguous).unwrap();
            let mut found: Vec<_> =
                found.iter().map(|it| std::str::from_utf8(it).unwrap()).collect();
            let mut expected = expected.to_vec();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{path:?}");
        }
        // Nobody can list them.
        let long = format!("//{}", "a".repeat(MAX_READABLE_LEN));
        let many = "/%2561%2562%2563/a.;b/../c\\..\\d%20/%2e/e;f//".repeat(4);
        for path in ["/a%00", "/a%zz", "/a%", "/%u002e/", "/%c0%ae/", "/%25u002e/", &long, &many] {
            assert_eq!(readings(path, WindowsNames::Ambiguous), None, "{path:?}");
        }
        let plain = readings("/p./x%20::$DATA//", WindowsNames::Plain).unwrap();
        let expected =
            ["/p./x%20::$DATA//", "/p./x ::$DATA//", "/p./x%20::$DATA/", "/p./x ::$DATA/"];
        assert_eq!(plain, expected.map(|it| it.as_bytes().to_vec()));
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
            // No rewriting makes another path of it, but for a parameter at the end and the decoding:
            // those have routes of their own.
            let bare = text.split(';').next().unwrap();
            let once: Vec<u8> = percent_decode_str(bare).collect();
            let odd = |pair: &[u8]| matches!(pair, [b'?' | b'#', _] | [_, b'?' | b'#'] | b"%u" | b"%U");
            if !once.windows(2).any(odd) {
                let all = readings(bare, WindowsNames::Ambiguous);
                prop_assert!(all.is_some_and(|all| all.len() <= 2 && all.contains(&once)), "{}", bare);
            }
        }

        #[test]
        fn a3_what_is_judged_is_what_was_sent(text in ".{0,40}") {
            if let Ok(path) = Path::parse(&text) {
                prop_assert_eq!(path.as_str(), text.as_str());
            }
        }
    }
}
