//! What an answer shows. Pure.

use super::{
    attempt::{AlternateAddress, Attempt, Evidence},
    connection::{ProbeReply, RawResponse},
};

/// What became of a trick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was stopped.
    Blocked,
    /// It worked, and this shows it.
    Succeeded(String),
    /// Nobody can tell, and why.
    Inconclusive(String),
}

/// How the site answers a stranger who plays no tricks.
#[derive(Clone, Debug)]
pub struct Baseline {
    /// Of the page that needs a login.
    pub status: u16,
    /// Whether the other page printed our control mark; nothing when there is none.
    pub echoes: Option<bool>,
}

impl Baseline {
    /// From the answers to two polite requests.
    pub fn new(page: &RawResponse, echo: Option<&RawResponse>, mark: &str) -> Self {
        Self { status: page.status, echoes: echo.map(|echo| echo.contains(mark)) }
    }

    /// Whether a stranger is refused, so that content is a way in.
    pub fn refuses(&self) -> bool {
        matches!(self.status, 300..=399 | 401 | 403)
    }

    /// Whether the same question is still answered in the same way.
    pub fn is_unchanged(&self, again: &ProbeReply) -> bool {
        matches!(again, ProbeReply::Answer(answer) if answer.status == self.status)
    }
}

/// Judges one trick by its answer.
pub fn judge(attempt: &Attempt, heard: &ProbeReply, baseline: &Baseline) -> Verdict {
    let answer = match heard {
        ProbeReply::Closed => return Verdict::Blocked,
        ProbeReply::Late => return Verdict::Inconclusive("no answer in time".to_owned()),
        ProbeReply::Answer(answer) => answer,
    };
    if answer.status == 429 {
        return Verdict::Inconclusive("too many requests (429): try again later".to_owned());
    }
    let shown = attempt.signs.iter().filter_map(|sign| shows(sign, attempt, answer, baseline));
    let shown: Vec<String> = shown.collect();
    if !shown.is_empty() {
        return Verdict::Succeeded(shown.join(", "));
    }
    let has_mark = attempt.signs.iter().any(|sign| matches!(sign, Evidence::Mark { .. }));
    let opens = attempt.signs.contains(&Evidence::Opened);
    let content = (200..300).contains(&answer.status);
    match baseline.echoes {
        _ if !content => Verdict::Blocked,
        Some(true) if attempt.at_echo => Verdict::Blocked,
        _ if attempt.at_echo => Verdict::Inconclusive(
            "the page of --echo does not print the headers it received".to_owned(),
        ),
        _ if opens && !baseline.refuses() => Verdict::Inconclusive(
            "strangers may see this page: name one that needs a login".to_owned(),
        ),
        _ if has_mark && opens => {
            Verdict::Inconclusive("what the site received does not show".to_owned())
        }
        _ => Verdict::Blocked,
    }
}

fn shows(
    sign: &Evidence,
    attempt: &Attempt,
    answer: &RawResponse,
    baseline: &Baseline,
) -> Option<String> {
    let content = (200..300).contains(&answer.status);
    match sign {
        Evidence::Mark { mark, carrier } => {
            answer.contains(mark).then(|| format!("{carrier} is in the answer"))
        }
        Evidence::Words(words) => {
            (content && answer.contains(words)).then(|| format!("answered {}", answer.status))
        }
        Evidence::Opened => (content && !attempt.at_echo && baseline.refuses())
            .then(|| format!("answered {} instead of {}", answer.status, baseline.status)),
        Evidence::Answered => answered(attempt, answer),
    }
}

/// Past the gateway, every answer is one too many, but for one that asks who is there. Without TLS,
/// a redirect is as it should be.
fn answered(attempt: &Attempt, answer: &RawResponse) -> Option<String> {
    let status = answer.status;
    if matches!(attempt.elsewhere, Some(AlternateAddress::Upstream(_))) {
        let asks = matches!(status, 401 | 403 | 421);
        return (!asks).then(|| format!("it answers {status} to anybody who asks from here"));
    }
    if answer.cookies().any(|cookie| !is_secure(cookie)) {
        return Some("a cookie is set that may travel in the clear".to_owned());
    }
    (200..300).contains(&status).then(|| format!("answered {status}"))
}

/// Judges the way to the login, asked for twice by two strangers.
pub fn login(twice: &[ProbeReply; 2], https: bool) -> Verdict {
    let [ProbeReply::Answer(first), ProbeReply::Answer(second)] = twice else {
        return Verdict::Inconclusive("no answer".to_owned());
    };
    let cached = |answer: &RawResponse| {
        let rule = answer.header("cache-control").unwrap_or_default().to_ascii_lowercase();
        let kept = !rule.contains("no-store") && !rule.contains("private");
        let begins = answer.cookies().next().is_some() || (300..400).contains(&answer.status);
        (begins && kept) || answer.header("age").is_some()
    };
    let same = first.cookies().any(|cookie| second.cookies().any(|it| it == cookie));
    if same {
        return Verdict::Succeeded("two strangers got the same login cookie: a cache".to_owned());
    }
    if cached(first) || cached(second) {
        return Verdict::Succeeded(
            "the answer that starts a login may be kept by a cache".to_owned(),
        );
    }
    if https && first.cookies().any(|cookie| !is_secure(cookie)) {
        return Verdict::Succeeded("a cookie is set that may travel in the clear".to_owned());
    }
    Verdict::Blocked
}

fn is_secure(cookie: &str) -> bool {
    cookie.split(';').skip(1).any(|attribute| attribute.trim().eq_ignore_ascii_case("secure"))
}

#[cfg(test)]
mod tests {
    use super::{super::attempt::AttackKind, *};

    fn answer(status: u16, headers: &str, body: &str) -> ProbeReply {
        let text = format!("HTTP/1.1 {status} X\r\n{headers}\r\n{body}");
        ProbeReply::Answer(RawResponse::parse(text.as_bytes()).unwrap())
    }

    fn attempt(kind: AttackKind, at_echo: bool, signs: Vec<Evidence>) -> Attempt {
        Attempt { signs, at_echo, ..Attempt::new(kind, "x", Vec::new()) }
    }

    fn mark() -> Evidence {
        Evidence::Mark { mark: "wxp1".to_owned(), carrier: "X-A".to_owned() }
    }

    #[test]
    fn what_an_answer_shows() {
        let through = |text: &str| Verdict::Succeeded(text.to_owned());
        let closed = || Baseline { status: 401, echoes: Some(true) };
        let blind = || Baseline { status: 401, echoes: Some(false) };
        let open = || Baseline { status: 200, echoes: None };
        let page = || attempt(AttackKind::Identity, false, vec![Evidence::Opened, mark()]);
        let echo = || attempt(AttackKind::Identity, true, vec![Evidence::Opened, mark()]);
        let door = || attempt(AttackKind::Door, false, vec![Evidence::Words("wxgate_")]);
        let rows = [
            (page(), closed(), answer(401, "", "{}"), Verdict::Blocked),
            (page(), closed(), ProbeReply::Closed, Verdict::Blocked),
            (page(), closed(), answer(200, "", "hello"), through("answered 200 instead of 401")),
            (
                page(),
                closed(),
                answer(302, "location: /?WXP1\r\n", ""),
                through("X-A is in the answer"),
            ),
            (echo(), closed(), answer(200, "", "accept: */*"), Verdict::Blocked),
            (echo(), closed(), answer(200, "", "x-a: wxp1"), through("X-A is in the answer")),
            (echo(), closed(), answer(400, "", ""), Verdict::Blocked),
            (door(), closed(), answer(200, "", "hello"), Verdict::Blocked),
            (door(), closed(), answer(404, "", "wxgate_"), Verdict::Blocked),
            (door(), closed(), answer(200, "", "wxgate_requests_total 1"), through("answered 200")),
        ];
        for (attempt, baseline, heard, expected) in rows {
            assert_eq!(judge(&attempt, &heard, &baseline), expected, "{heard:?}");
        }
        for (attempt, baseline, heard) in [
            (page(), closed(), answer(429, "", "")),
            (page(), closed(), ProbeReply::Late),
            (page(), open(), answer(200, "", "hello")),
            (echo(), blind(), answer(200, "", "hello")),
        ] {
            let verdict = judge(&attempt, &heard, &baseline);
            assert!(matches!(verdict, Verdict::Inconclusive(_)), "{heard:?}: {verdict:?}");
        }
    }

    #[test]
    fn past_the_gateway_and_without_tls() {
        let at = |place| Attempt {
            elsewhere: Some(place),
            ..attempt(AttackKind::Upstream, false, vec![Evidence::Answered])
        };
        let baseline = Baseline { status: 401, echoes: None };
        let upstream = || at(AlternateAddress::Upstream("10.0.0.5:8000".to_owned()));
        let rows = [
            (upstream(), answer(200, "", ""), true),
            (upstream(), answer(404, "", ""), true),
            (upstream(), answer(403, "", ""), false),
            (upstream(), ProbeReply::Closed, false),
            (at(AlternateAddress::Plain), answer(301, "location: https://h5/\r\n", ""), false),
            (at(AlternateAddress::Plain), answer(302, "set-cookie: a=1; Path=/\r\n", ""), true),
            (at(AlternateAddress::Plain), answer(200, "", "hello"), true),
        ];
        for (attempt, heard, through) in rows {
            let verdict = judge(&attempt, &heard, &baseline);
            assert_eq!(matches!(verdict, Verdict::Succeeded(_)), through, "{heard:?}");
        }
    }

    #[test]
    fn a_login_is_nobody_elses() {
        let one = |headers: &str| answer(302, headers, "");
        let good = |n: u8| {
            format!("set-cookie: __Host-f={n}; Path=/; Secure\r\ncache-control: no-store\r\n")
        };
        let rows = [
            (good(1), good(2), Verdict::Blocked),
            (
                good(1),
                good(1),
                Verdict::Succeeded("two strangers got the same login cookie: a cache".to_owned()),
            ),
            (
                good(1).replace("no-store", "max-age=60"),
                good(2),
                Verdict::Succeeded(
                    "the answer that starts a login may be kept by a cache".to_owned(),
                ),
            ),
            (
                good(1).replace("; Secure", ""),
                good(2),
                Verdict::Succeeded("a cookie is set that may travel in the clear".to_owned()),
            ),
        ];
        for (first, second, expected) in rows {
            assert_eq!(login(&[one(&first), one(&second)], true), expected, "{first}");
        }
    }
}
