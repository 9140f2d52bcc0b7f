//! Chinese or English, as the browser prefers. Pure.

use http::{HeaderMap, header::ACCEPT_LANGUAGE};

/// Whether pages should be in Chinese: they are, unless `Accept-Language` ranks English higher.
pub fn is_chinese(headers: &HeaderMap) -> bool {
    let wish = headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or("");
    rank(wish, "en")
        .is_none_or(|english| rank(wish, "zh").is_some_and(|chinese| chinese >= english))
}

/// The weight of a language in thousandths, then how early it stands.
fn rank(wish: &str, language: &str) -> Option<(u16, i32)> {
    let weigh = |(place, item): (i32, &str)| {
        let mut parts = item.split(';').map(str::trim);
        let tag = parts.next()?;
        let prefix = tag.get(..2)?;
        if !prefix.eq_ignore_ascii_case(language) {
            return None;
        }
        let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(1000, thousandths);
        (weight > 0).then_some((weight, -place))
    };
    (0..).zip(wish.split(',')).filter_map(weigh).max()
}

fn thousandths(weight: &str) -> u16 {
    match weight.split_once('.') {
        Some(("0", digits)) => format!("{digits:0<3}").parse().unwrap_or(0),
        Some(_) => 1000,
        None => {
            if weight == "0" {
                0
            } else {
                1000
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages() {
        let rows = [
            ("", true),
            ("fr", true),
            ("en", false),
            ("en-US,en;q=0.9", false),
            ("zh-CN,zh;q=0.9,en;q=0.8", true),
            ("en;q=0.8,zh;q=0.9", true),
            ("en,zh;q=0.9", false),
            ("zh;q=0,en;q=0.1", false),
            ("en;q=0", true),
            ("é,;q=,=;", true),
        ];
        for (wish, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_LANGUAGE, wish.parse().unwrap());
            assert_eq!(is_chinese(&headers), expected, "{wish}");
        }
    }
}
