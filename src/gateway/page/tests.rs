//! The pages as a visitor's browser gets them. Pure.

use std::collections::HashSet;

use super::*;
use crate::serialized::assert_serialized;

const NONCE: &str = "bm9uY2U";

/// Escapes every value wrongly in one context or another.
const HOSTILE: &str = r#"/"><script>alert('1')</script><img src=x onerror=alert`1`>&amp;"#;

fn pages(overrides: &[(&str, &str)]) -> Result<PageTemplates, TemplateError> {
    let own = overrides.iter().map(|&(name, text)| (name.to_owned(), text.to_owned()));
    PageTemplates::new(&own.collect())
}

/// Every page in both languages, with its name for the failure message.
fn everything() -> Vec<(String, String)> {
    let pages = pages(&[]).unwrap();
    let mut all = Vec::new();
    for page in samples() {
        for lang in Lang::ALL {
            let html = pages.render(&page, lang, NONCE).unwrap();
            all.push((format!("{page:?} {lang:?}"), html));
        }
    }
    assert!(all.len() >= 2 * (6 + 2 * ErrorPage::ALL.len()), "found only {} pages", all.len());
    all
}

/// Pages with one value wherever a value can be.
fn filled_with(value: &str) -> [Page<'_>; 5] {
    [
        Page::OpenInWeChat { url: value },
        Page::Prompt { login_url: value },
        Page::Logout { action: value, token: value },
        Page::Goodbye { home: value },
        Page::Notice { notice: ErrorPage::Internal, trace: value, retry: Some(value) },
    ]
}

/// The tags with the names of their attributes, without any text and any quoted value.
fn skeleton(html: &str) -> String {
    let mut bones = String::new();
    let (mut in_tag, mut quoted) = (false, false);
    for c in html.chars() {
        match c {
            '"' if in_tag => quoted = !quoted,
            '<' if !quoted => in_tag = true,
            '>' if !quoted => in_tag = false,
            _ if quoted || !in_tag => continue,
            _ => {}
        }
        bones.push(c);
    }
    bones
}

/// The values of an attribute, wherever it stands.
fn attributes<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    let opening = format!(" {name}=\"");
    html.split(&opening).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

#[test]
fn hostile_values_stay_values() {
    let pages = pages(&[]).unwrap();
    let render = |page: &Page<'_>, lang| pages.render(page, lang, NONCE).unwrap();
    assert_eq!(skeleton("<a href=\"x>y\">z</a>"), "<a href=\"\"></a>");
    let mut seen = 0;
    for value in
        [HOSTILE, "javascript:alert(1)", "\" onclick=\"x", "' onclick='x", "</title>", "-->"]
    {
        for (hostile, harmless) in filled_with(value).iter().zip(filled_with("/a")) {
            for lang in Lang::ALL {
                let html = render(hostile, lang);
                let bones = skeleton(&render(&harmless, lang));
                assert_eq!(skeleton(&html), bones, "{hostile:?} grew bones:\n{html}");
                let links = [attributes(&html, "href"), attributes(&html, "action")].concat();
                assert!(!links.iter().any(|link| link.starts_with("java")), "{hostile:?}: {html}");
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 60);
}

#[test]
fn links_lead_nowhere_strange() {
    let rows = [
        ("/", "/"),
        ("/_wx/login?rd=%2Fa", "/_wx/login?rd=%2Fa"),
        ("https://auth.example.com/_wx/login", "https://auth.example.com/_wx/login"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/"),
        ("javascript:alert(1)", "/"),
        ("JaVaScRiPt:alert(1)", "/"),
        ("\tjavascript:alert(1)", "/"),
        ("data:text/html,x", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("", "/"),
    ];
    for (given, leads_to) in rows {
        assert_eq!(link(given), leads_to, "{given}");
    }
}

#[test]
fn pages_need_nothing_from_outside() {
    for (page, html) in everything() {
        for name in ["src", "href", "action"] {
            for value in attributes(&html, name) {
                let is_ours = value == "data:," || value.starts_with("&#x2f;");
                assert!(is_ours, "{page} reaches for {value}");
            }
        }
        let (html, scripts) = without_scripts(&html);
        for script in scripts {
            assert!(script.starts_with("nonce=\""), "{page}: a script without nonce");
            assert!(!script.contains("http"), "{page}: a script that reaches out");
        }
        for forbidden in ["url(", "@import", "http:", "https:", "style=\"", " on"] {
            let found =
                html.split('<').any(|tag| tag.split('>').next().unwrap().contains(forbidden));
            assert!(!found, "{page} holds {forbidden}");
        }
    }
}

/// The page, and what stands in its scripts.
fn without_scripts(html: &str) -> (String, Vec<&str>) {
    let mut parts = html.split("<script ");
    let mut rest = parts.next().unwrap().to_owned();
    let scripts = parts.map(|part| part.split_once("</script>").unwrap());
    let scripts = scripts.map(|(script, after)| {
        rest.push_str(after);
        script
    });
    let scripts = scripts.collect();
    (rest, scripts)
}

#[test]
fn pages_carry_what_browsers_want() {
    for (page, html) in everything() {
        let lang = if page.ends_with("Zh") { "zh-CN" } else { "en" };
        for wanted in [
            "<!doctype html>\n",
            &format!("<html lang=\"{lang}\">"),
            "name=\"viewport\"",
            "name=\"robots\" content=\"noindex\"",
            "content=\"telephone=no\"",
            "<style nonce=\"bm9uY2U\">",
            "prefers-color-scheme: dark",
            "<h1>",
        ] {
            assert!(html.contains(wanted), "{page} lacks {wanted}");
        }
        assert_eq!(html.matches("<style").count(), 1, "{page}");
        let drawing =
            html.split("<svg class=\"qr\"").nth(1).and_then(|it| it.split("</svg>").next());
        let size = html.len() - drawing.map_or(0, str::len);
        assert!(size <= 6 * 1024, "{page} is {size} bytes");
    }
}

#[test]
fn each_notice_has_a_title_of_its_own() {
    let pages = pages(&[]).unwrap();
    for lang in Lang::ALL {
        let mut titles = HashSet::new();
        for notice in ErrorPage::ALL {
            let page = Page::Notice { notice, trace: "0af7651916cd43dd", retry: Some("/again") };
            let html = pages.render(&page, lang, NONCE).unwrap();
            assert!(html.contains("<code>0af7651916cd43dd</code>"), "{notice:?}");
            assert!(html.contains("href=\"&#x2f;again\""), "{notice:?}");
            let title = html.split("<h1>").nth(1).unwrap().split("</h1>").next().unwrap();
            titles.insert(title.to_owned());
        }
        assert_eq!(titles.len(), ErrorPage::ALL.len(), "{lang:?}: two notices share a title");
    }
}

#[test]
fn only_the_host_of_an_address_is_shown() {
    let long = format!("https://{}.example.com/", "a".repeat(100));
    let rows = [
        ("https://h5.example.com/a?code=secret", Some("h5.example.com")),
        ("https://user@h5.example.com:8443/", Some("h5.example.com")),
        (long.as_str(), Some(&*format!("{}…", "a".repeat(79)))),
        ("/a", None),
        ("", None),
    ];
    for (url, shown) in rows {
        assert_eq!(host(url).as_deref(), shown, "{url}");
    }
    let url = "https://h5.example.com/a?code=secret";
    let html = pages(&[]).unwrap().render(&Page::OpenInWeChat { url }, Lang::Zh, NONCE).unwrap();
    assert!(html.contains("<p class=\"host\">h5.example.com</p>") && !html.contains("secret"));
}

#[test]
fn the_form_posts_its_token() {
    let page = Page::Logout { action: "/_wx/logout", token: "abc123" };
    let html = pages(&[]).unwrap().render(&page, Lang::En, NONCE).unwrap();
    assert!(html.contains("<form method=\"post\" action=\"&#x2f;_wx&#x2f;logout\">"));
    assert!(html.contains("<input type=\"hidden\" name=\"token\" value=\"abc123\">"));
}

#[test]
fn the_policy_names_the_nonce() {
    assert_eq!(
        content_security_policy("abc"),
        "default-src 'none'; style-src 'nonce-abc'; script-src 'nonce-abc'; img-src 'self' data:; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
}

#[test]
fn an_operator_replaces_one_page_and_keeps_the_others() {
    let own = "{% extends 'layout.html' %}{% block main %}Ask Mei: {{ trace }}{% endblock %}";
    let pages = pages(&[("notice.html", own), ("style.css", "h1 { color: red }")]).unwrap();
    let notice = Page::Notice { notice: ErrorPage::Internal, trace: "<7>", retry: None };
    let html = pages.render(&notice, Lang::En, NONCE).unwrap();
    assert!(html.contains("Ask Mei: &lt;7&gt;") && html.contains("h1 { color: red }"), "{html}");
    let html = pages.render(&Page::Goodbye { home: "/" }, Lang::En, NONCE).unwrap();
    assert!(html.contains("You are signed out") && html.contains("h1 { color: red }"), "{html}");
}

#[test]
fn a_broken_template_is_found_at_once() {
    let rows = [
        ("notice.html", "a\n{% if %}", "notice.html, line 2: syntax error"),
        ("notice.html", "a\nb\n{{ nobody }}", "notice.html, line 3: undefined value"),
        ("notice.html", "{% extends 'layot.html' %}", "notice.html, line 1: template not found"),
        ("layout.html", "{{ text.nothing }}", "layout.html, line 1: undefined value"),
        ("style.css", "\n{{ colour }}", "style.css, line 2: undefined value"),
        ("notice.html", "{% if notice == 'declined' %}\n{{ x }}{% endif %}", "notice.html, line 2"),
        ("prompt.html", "{% if lang == 'en' %}{{ x }}{% endif %}", "prompt.html, line 1"),
        ("notice.html", "{% include 'notice.html' %}", "notice.html, line 1"),
        ("notcie.html", "", "notcie.html: no such template; there are layout.html, style.css"),
    ];
    for (name, text, fault) in rows {
        let found = pages(&[(name, text)]).unwrap_err().to_string();
        assert!(found.starts_with(fault), "{name} {text:?}: {found}");
    }
}

#[test]
fn a_template_that_breaks_later_gives_way_to_ours() {
    let own = "{% if trace == 'x' %}{{ nobody }}{% endif %}theirs";
    let pages = pages(&[("notice.html", own)]).unwrap();
    let show = |trace| {
        let page = Page::Notice { notice: ErrorPage::SiteSlow, trace, retry: None };
        pages.render(&page, Lang::En, NONCE).unwrap()
    };
    assert_eq!(show("a"), "theirs");
    assert!(show("x").contains("The site is too slow"));
}

/// The names by which an operator's templates find their values.
#[test]
fn serialized_names_in_templates() {
    let rows = [
        (
            "open_in_wechat",
            "host icon qr shortened text text.copy text.picture text.scan text.shortened text.title text.too_long text.what url",
        ),
        ("prompt", "icon login_url text text.button text.title text.todo text.what"),
        ("remember", "icon login_url text text.button text.title text.todo text.what"),
        ("snapshot", "icon text text.button text.title text.todo text.what"),
        ("logout", "action icon text text.button text.title text.todo text.what token"),
        ("goodbye", "home icon text text.button text.title text.todo text.what"),
        (
            "notice",
            "foot foot.hint foot.trace icon notice retry text text.button text.title text.todo text.what trace",
        ),
    ];
    let names = |value: &Value| {
        let mut names: Vec<String> = value.try_iter().unwrap().map(|it| it.to_string()).collect();
        names.sort();
        names
    };
    let texts = Translations::new().unwrap();
    let mut now = Vec::new();
    for page in samples() {
        let data = about(&page, texts.of(Lang::En));
        let outer = names(&data);
        let mut all = outer.clone();
        for part in outer.iter().filter(|part| ["text", "foot"].contains(&part.as_str())) {
            let inner = names(&data.get_attr(part).unwrap());
            all.extend(inner.into_iter().map(|name| format!("{part}.{name}")));
        }
        all.sort();
        let name = name(&page);
        let (_, recorded) = rows.iter().find(|(known, _)| *known == name).unwrap();
        now.push((name, all.join(" "), *recorded));
    }
    assert_serialized(&now);
    let data = "{{ [page, lang, nonce] | join(' ') }}";
    let pages = pages(&[("snapshot.html", data)]).unwrap();
    assert_eq!(pages.render(&Page::Snapshot, Lang::Zh, NONCE).unwrap(), "snapshot zh-CN bm9uY2U");
}

#[test]
fn serialized_words_of_notices_and_icons() {
    let words = ErrorPage::ALL.map(ErrorPage::word).join(" ");
    let icons = [
        Icon::Alert,
        Icon::Arrow,
        Icon::Check,
        Icon::Clock,
        Icon::Door,
        Icon::Person,
        Icon::Phone,
        Icon::Question,
        Icon::Stop,
    ];
    assert_serialized(&[
        (
            "notices",
            words,
            "login_expired cookies_lost declined consent_needed code_failed wechat_busy wechat_unreachable misconfigured not_allowed wechat_only site_unreachable site_slow unknown_host unknown_return bad_request not_found forbidden method_not_allowed too_large too_slow too_many headers_too_large overloaded store_away unsure internal",
        ),
        (
            "icons",
            icons.map(Icon::word).join(" "),
            "alert arrow check clock door person phone question stop",
        ),
        (
            "templates",
            PageTemplates::NAMES.join(" "),
            "layout.html style.css icon.html open_in_wechat.html prompt.html remember.html onward.js snapshot.html logout.html goodbye.html notice.html",
        ),
    ]);
}
