//! Everything the gateway shows a visitor as HTML. Pure.

mod lang;
mod error_page;
mod qr;
mod template;
mod texts;

use std::collections::HashMap;

use minijinja::{Environment, Value, context, value::Serde};

pub use error_page::ErrorPage;
pub use lang::Lang;
pub use template::TemplateError;

use error_page::Icon;
use qr::QrCode;
use texts::{Translation, Translations};

/// What a page is about. Every judgement has been made by the caller.
#[derive(Clone, Copy, Debug)]
pub enum Page<'a> {
    /// A browser outside WeChat: the QR code of the page it asked for.
    OpenInWeChat {
        /// The whole address. Of this only the host is shown as text.
        url: &'a str,
    },
    /// Before WeChat asks for consent: its rules want the visitor to press a button first.
    Prompt {
        /// Where the login starts.
        login_url: &'a str,
    },
    /// On the way to a login, a moment to remember the `#/route`, which no server sees.
    Remember {
        /// Where the login starts.
        login_url: &'a str,
    },
    /// WeChat shows a preview; only its own button at the bottom right leads out of it.
    Snapshot,
    /// "Log out?", with a form, as a link could be planted by anybody.
    Logout {
        /// Where the form goes.
        action: &'a str,
        /// Its hidden field `token`.
        token: &'a str,
    },
    /// Logged out.
    Goodbye {
        /// The site's first page.
        home: &'a str,
    },
    /// Something stopped the request.
    Notice {
        /// What it was.
        notice: ErrorPage,
        /// The request's id, for the operator to search for. May be empty.
        trace: &'a str,
        /// Where the button leads, if there is one.
        retry: Option<&'a str>,
    },
}

/// The pages, compiled.
#[derive(Debug)]
pub struct PageTemplates {
    texts: Translations,
    ours: Environment<'static>,
    /// Ours with the operator's in place of some of them.
    theirs: Option<Environment<'static>>,
}

impl PageTemplates {
    /// The templates that an operator may replace. All receive `page` (the template's name
    /// without `.html`), `lang` (`zh-CN` or `en`), `nonce`, `icon` and `text` (`title`, `what`,
    /// `todo`, `button`), and besides:
    ///
    /// | template              | data                                                        |
    /// |-----------------------|-------------------------------------------------------------|
    /// | `layout.html`         | the others extend it: blocks `icon`, `main`, `foot`         |
    /// | `style.css`           | included by the layout                                      |
    /// | `icon.html`           | included by the layout                                      |
    /// | `open_in_wechat.html` | `url`, `host` or none, `qr` (SVG) or none, `shortened`; of the texts `title`, `what`, `picture`, `scan`, `shortened`, `too_long`, `copy` |
    /// | `prompt.html`         | `login_url`                                                 |
    /// | `remember.html`       | `login_url`: its script goes there at once                  |
    /// | `onward.js`           | included by `prompt.html` and `remember.html`               |
    /// | `snapshot.html`       |                                                             |
    /// | `logout.html`         | `action`, `token`: a form posts it as `token`               |
    /// | `goodbye.html`        | `home`                                                      |
    /// | `notice.html`         | `notice` ([`ErrorPage::word`]), `trace`, maybe empty, `retry` or none, `foot.trace`, `foot.hint` |
    pub const NAMES: [&'static str; 11] = template::NAMES;

    /// Compiles the built-in templates and those that replace some of them, by name. Each is
    /// rendered once in every way it can be, so that a mistake shows now and not to a visitor.
    pub fn new(overrides: &HashMap<String, String>) -> Result<Self, TemplateError> {
        let texts = Translations::new()?;
        let ours = template::compile(&HashMap::new())?;
        let theirs = if overrides.is_empty() { None } else { Some(template::compile(overrides)?) };
        let pages = Self { texts, ours, theirs };
        if let Some(theirs) = &pages.theirs {
            for page in samples() {
                for lang in Lang::ALL {
                    pages.fill(theirs, &page, lang, "sample")?;
                }
            }
        }
        Ok(pages)
    }

    /// The HTML. `nonce` is fresh for each page and goes into [`content_security_policy`] too.
    ///
    /// An operator's template that fails after all gives way to ours: the visitor came for help.
    pub fn render(
        &self,
        page: &Page<'_>,
        lang: Lang,
        nonce: &str,
    ) -> Result<String, TemplateError> {
        if let Some(theirs) = &self.theirs
            && let Ok(html) = self.fill(theirs, page, lang, nonce)
        {
            return Ok(html);
        }
        self.fill(&self.ours, page, lang, nonce)
    }

    fn fill(
        &self,
        templates: &Environment<'_>,
        page: &Page<'_>,
        lang: Lang,
        nonce: &str,
    ) -> Result<String, TemplateError> {
        let about = about(page, self.texts.of(lang));
        let name = name(page);
        let data = context! { page => name, lang => lang.tag(), nonce, ..about };
        template::fill(templates, &format!("{name}.html"), &data)
    }
}

/// The policy to send along with a page: it may style itself, post to its own site, and be in
/// nobody's frame.
pub fn content_security_policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; \
         img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
}

/// The template, without its `.html`.
fn name(page: &Page<'_>) -> &'static str {
    match page {
        Page::OpenInWeChat { .. } => "open_in_wechat",
        Page::Prompt { .. } => "prompt",
        Page::Remember { .. } => "remember",
        Page::Snapshot => "snapshot",
        Page::Logout { .. } => "logout",
        Page::Goodbye { .. } => "goodbye",
        Page::Notice { .. } => "notice",
    }
}

/// What a template receives beside `page`, `lang` and `nonce`.
fn about(page: &Page<'_>, words: &Translation) -> Value {
    match *page {
        Page::OpenInWeChat { url } => {
            let drawn = QrCode::draw(url);
            let shortened = drawn.as_ref().is_some_and(|qr| qr.shortened);
            let qr = drawn.map(|qr| Value::from_safe_string(qr.svg));
            let text = Serde(&words.open_in_wechat);
            let icon = Icon::Phone.word();
            context! { text, icon, url, host => host(url), qr, shortened }
        }
        Page::Prompt { login_url } => {
            let icon = Icon::Person.word();
            context! { text => Serde(&words.prompt), icon, login_url => link(login_url) }
        }
        Page::Remember { login_url } => {
            let icon = Icon::Person.word();
            context! { text => Serde(&words.remember), icon, login_url => link(login_url) }
        }
        Page::Snapshot => context! { text => Serde(&words.snapshot), icon => Icon::Arrow.word() },
        Page::Logout { action, token } => {
            let (icon, action) = (Icon::Door.word(), link(action));
            context! { text => Serde(&words.logout), icon, action, token }
        }
        Page::Goodbye { home } => {
            let icon = Icon::Check.word();
            context! { text => Serde(&words.goodbye), icon, home => link(home) }
        }
        Page::Notice { notice, trace, retry } => context! {
            text => Serde(words.notice(notice)),
            foot => Serde(&words.foot),
            icon => notice.icon().word(),
            notice => notice.word(),
            trace,
            retry => retry.map(link),
        },
    }
}

/// The link as given. Escaping does not disarm `javascript:`, so that whatever is neither a path
/// of this site nor an ordinary address leads to the first page.
fn link(url: &str) -> &str {
    let is_path = url.starts_with('/') && !url.starts_with("//") && !url.starts_with("/\\");
    let is_address = url.starts_with("https://") || url.starts_with("http://");
    if is_path || is_address { url } else { "/" }
}

/// The host of an address, as much of it as fits on a phone.
fn host(url: &str) -> Option<String> {
    const MAX_HOST_CHARS: usize = 80;
    let url = url::Url::parse(url).ok()?;
    let host = url.host_str()?;
    let mut shown: String = host.chars().take(MAX_HOST_CHARS).collect();
    if shown.len() < host.len() {
        shown.pop();
        shown.push('…');
    }
    Some(shown)
}

/// Every page in every shape that a template may care about.
fn samples() -> Vec<Page<'static>> {
    let mut pages = vec![
        Page::OpenInWeChat { url: "https://h5.example.com/" },
        Page::OpenInWeChat { url: "" },
        Page::Prompt { login_url: "/_wx/login" },
        Page::Remember { login_url: "/_wx/login" },
        Page::Snapshot,
        Page::Logout { action: "/_wx/logout", token: "token" },
        Page::Goodbye { home: "/" },
    ];
    for notice in ErrorPage::ALL {
        pages.push(Page::Notice { notice, trace: "trace", retry: Some("/") });
        pages.push(Page::Notice { notice, trace: "", retry: None });
    }
    pages
}

#[cfg(test)]
mod tests;
