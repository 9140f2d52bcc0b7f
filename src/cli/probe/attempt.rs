//! One request of the attack, and what would show that it worked. Pure.

/// What is attacked.
#[derive(Clone, Debug)]
pub struct ProbeTarget {
    pub https: bool,
    pub host: String,
    pub port: u16,
    /// As in `Host`.
    pub authority: String,
    /// A page that needs a login.
    pub path: String,
    /// A page that prints the headers it received.
    pub echo: Option<String>,
    /// Below this strangers see pages; without a slash at its end.
    pub public: String,
    pub upstreams: Vec<String>,
    /// Further names of the identity.
    pub headers: Vec<String>,
    pub cookie: String,
    /// What each mark of this run begins with.
    pub tag: String,
}

/// What kind of trick it is, which says what helps against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttackKind {
    Identity,
    Forwarded,
    Path,
    Cookie,
    Method,
    Host,
    Door,
    Plain,
    Upstream,
}

/// Where an attempt goes instead of the public address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlternateAddress {
    /// The same host without TLS.
    Plain,
    /// The site, past the gateway.
    Upstream(String),
}

/// What shows that it worked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Content, where a stranger is refused.
    Opened,
    /// A mark of ours in the answer, and what carried it.
    Mark { mark: String, carrier: String },
    /// Words that only a page for the operator says.
    Words(&'static str),
    /// Any content at all, or a cookie that may travel in the clear.
    Answered,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub kind: AttackKind,
    /// In words.
    pub what: String,
    pub request: Vec<u8>,
    pub signs: Vec<Evidence>,
    /// Whether it goes to the page that prints its headers, so that a mark would be seen.
    pub at_echo: bool,
    pub elsewhere: Option<AlternateAddress>,
}

impl Attempt {
    pub fn new(kind: AttackKind, what: impl Into<String>, request: Vec<u8>) -> Self {
        let (signs, what) = (Vec::new(), what.into());
        Self { kind, what, request, signs, at_echo: false, elsewhere: None }
    }

    #[must_use]
    pub fn with_evidence(mut self, sign: Evidence) -> Self {
        self.signs.push(sign);
        self
    }
}

impl AttackKind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Forwarded => "forwarded",
            Self::Path => "path",
            Self::Cookie => "cookie",
            Self::Method => "method",
            Self::Host => "host",
            Self::Door => "door",
            Self::Plain => "http",
            Self::Upstream => "upstream",
        }
    }

    pub fn remedy(self) -> &'static str {
        match self {
            Self::Identity => {
                "send this page through wxgate; where the proxy asks /_wx/verify, let it clear every spelling first (deploy/proxies)"
            }
            Self::Forwarded => {
                "let the proxy in front overwrite X-Forwarded-* and Forwarded, and name it alone in trusted_proxies"
            }
            Self::Path => {
                "let wxgate judge each path as it came: no location past it, no rewriting (nginx: proxy_pass without a path)"
            }
            Self::Cookie => {
                "send this page through wxgate: it takes its cookies out of every request"
            }
            Self::Method => {
                "send this method through wxgate like any other, or refuse it in the proxy"
            }
            Self::Host => {
                "let the proxy in front refuse hosts it does not know, and pass Host on as it came"
            }
            Self::Door => {
                "let [admin] listen be 127.0.0.1 or a private address, and no proxy pass these paths on"
            }
            Self::Plain => "redirect every request on port 80 to https",
            Self::Upstream => {
                "bind the site to 127.0.0.1 or a unix socket, or let the firewall admit wxgate alone"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serialized_kinds() {
        let kinds = [
            AttackKind::Identity,
            AttackKind::Forwarded,
            AttackKind::Path,
            AttackKind::Cookie,
            AttackKind::Method,
            AttackKind::Host,
            AttackKind::Door,
            AttackKind::Plain,
            AttackKind::Upstream,
        ];
        let words = kinds.map(AttackKind::word).join(" ");
        assert_eq!(words, "identity forwarded path cookie method host door http upstream");
    }
}
