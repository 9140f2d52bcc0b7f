//! Which language a visitor reads. Pure.

/// A language that our pages speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lang {
    /// Chinese.
    Zh,
    /// English.
    En,
}

/// Entries of `Accept-Language` that are looked at. Real browsers send fewer than ten.
const MAX_ENTRIES: usize = 32;

impl Lang {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Zh, Self::En];

    /// Chinese unless the browser prefers English (RFC 9110, section 12.5.4). Of two languages
    /// liked equally, the first one named wins, as people order their list that way.
    pub fn preferred(accept_language: Option<&[u8]>) -> Self {
        let (mut best, mut weight) = (Self::Zh, 0);
        let entries = accept_language.unwrap_or_default().split(|&b| b == b',');
        for entry in entries.take(MAX_ENTRIES) {
            if let Some((lang, q)) = preference(entry)
                && q > weight
            {
                (best, weight) = (lang, q);
            }
        }
        best
    }

    /// The value of HTML's `lang` attribute.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Zh => "zh-CN",
            Self::En => "en",
        }
    }
}

/// `en-US;q=0.8` → English, 800. None for a language we do not speak.
fn preference(entry: &[u8]) -> Option<(Lang, u16)> {
    let mut parts = entry.split(|&b| b == b';').map(<[u8]>::trim_ascii);
    let primary = parts.next()?.split(|&b| b == b'-').next()?;
    let lang = match primary {
        b"*" => Lang::Zh, // "whatever you have"
        _ if primary.eq_ignore_ascii_case(b"zh") => Lang::Zh,
        _ if primary.eq_ignore_ascii_case(b"en") => Lang::En,
        _ => return None,
    };
    let q = parts.find_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")));
    Some((lang, q.map_or(1000, thousandths)))
}

/// `0.8` → 800. A weight that is no number counts as "not at all" (RFC 9110, section 12.4.2).
fn thousandths(q: &[u8]) -> u16 {
    let (whole, fraction) = match q {
        [whole, b'.', fraction @ ..] if fraction.len() <= 3 => (*whole, fraction),
        [whole] => (*whole, &[][..]),
        _ => return 0,
    };
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(3);
    let mut value = 0;
    for digit in std::iter::once(whole).chain(digits) {
        if !digit.is_ascii_digit() {
            return 0;
        }
        value = value * 10 + u16::from(digit - b'0');
    }
    if value > 1000 { 0 } else { value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_browser_is_asked() {
        let rows = [
            ("", Lang::Zh),
            ("zh-CN,zh;q=0.9,en-US;q=0.8,en;q=0.7", Lang::Zh), // WeChat in China
            ("en-US,en;q=0.9,zh-CN;q=0.8,zh;q=0.7", Lang::En),
            ("en", Lang::En),
            ("EN-gb", Lang::En),
            ("zh-Hant-TW,en;q=0.9", Lang::Zh),
            ("en, zh", Lang::En),
            ("zh, en", Lang::Zh),
            ("zh;q=0.1, en;q=0.2", Lang::En),
            ("zh ; q=0.2 , en ; q=0.1", Lang::Zh),
            ("fr, en;q=0.5", Lang::En),
            ("fr, de", Lang::Zh),
            ("*", Lang::Zh),
            ("en;q=0.5, *", Lang::Zh),
            ("en;q=0", Lang::Zh),
            ("en;q=0.000", Lang::Zh),
            ("en;q=0.001", Lang::En),
            ("en;q=nonsense", Lang::Zh),
            ("en;q=1.000", Lang::En),
            ("en;q=1.5", Lang::Zh),
            ("en;q=9", Lang::Zh),
            ("en;q=0.0001", Lang::Zh),
            ("en;q=-1", Lang::Zh),
            ("en;q=", Lang::Zh),
            ("en;level=1;Q=0.3", Lang::En),
            ("english", Lang::Zh),
            ("e", Lang::Zh),
            (";;;,,,---", Lang::Zh),
        ];
        for (header, lang) in rows {
            assert_eq!(Lang::preferred(Some(header.as_bytes())), lang, "{header:?}");
        }
        assert_eq!(Lang::preferred(None), Lang::Zh);
        assert_eq!(Lang::preferred(Some(b"\xff\xfe,en;q=\xff")), Lang::Zh);
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_language(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Lang::preferred(Some(&bytes));
        }
    }
}
