//! Paths, methods and what they ask of a visitor. Pure.

use http::Method;
use serde::{Deserialize, Serialize};

use crate::httputil::{Path, WindowsNames};

/// How much WeChat tells us, and how much it asks of the visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// `snsapi_base`: the openid, without a question.
    #[serde(rename = "snsapi_base")]
    Base,
    /// `snsapi_userinfo`: nickname and avatar too, with the visitor's consent.
    #[serde(rename = "snsapi_userinfo")]
    UserInfo,
}

impl Scope {
    /// WeChat's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Base => "snsapi_base",
            Self::UserInfo => "snsapi_userinfo",
        }
    }

    /// Reads WeChat's word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Base, Self::UserInfo].into_iter().find(|scope| scope.as_str() == word)
    }
}

/// What comes before WeChat's consent page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prompt {
    /// Our page with a button: WeChat wants consent asked after an act of the visitor's, and
    /// answers a bare redirect with a snapshot page.
    #[default]
    Button,
    /// Nothing.
    Direct,
}

/// What a route asks of a visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing; nobody is introduced either.
    None,
    /// Nothing, but a visitor we know is introduced.
    Optional,
    /// A login.
    Required(Scope, Prompt),
}

impl Access {
    /// Of two, the stricter one is greater.
    fn strictness(self) -> (bool, Option<Scope>) {
        match self {
            Self::None => (false, None),
            Self::Optional => (true, None),
            Self::Required(scope, _) => (true, Some(scope)),
        }
    }
}

/// Which paths a route is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// `/a`: this path and no other.
    Exact(String),
    /// `/a/*`: `/a`, and whatever lies below it. Held as `/a`, and as nothing for `/*`.
    Prefix(String),
}

/// Why a pattern is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is relative.
    #[error("a path begins with a slash")]
    NoSlash,
    /// It has a star elsewhere than at its end.
    #[error("a star may stand only at the end, after a slash, as in \"/a/*\"")]
    Star,
    /// No request path ever looks like that.
    #[error("no request can match: {0}")]
    NotCanonical(#[from] crate::httputil::PathError),
}

impl Pattern {
    /// Reads `/a` or `/a/*`.
    pub fn parse(text: &str, names: WindowsNames) -> Result<Self, PatternError> {
        if !text.starts_with('/') {
            return Err(PatternError::NoSlash);
        }
        let (path, pattern) = match text.strip_suffix("/*") {
            Some(path) => (path, Self::Prefix(path.to_owned())),
            None => (text, Self::Exact(text.to_owned())),
        };
        if path.contains('*') {
            return Err(PatternError::Star);
        }
        if !path.is_empty() {
            Path::parse_with(path, names)?;
        }
        Ok(pattern)
    }

    fn as_path(&self) -> Path<'_> {
        match self {
            Self::Exact(path) | Self::Prefix(path) => Path::from_validated(path),
        }
    }

    /// Longer wins; of two as long, the exact one.
    fn specificity(&self) -> (usize, bool) {
        match self {
            Self::Exact(path) => (path.len(), true),
            Self::Prefix(path) => (path.len(), false),
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(path) => write!(f, "{path}/*"),
        }
    }
}

/// One rule of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which paths.
    pub pattern: Pattern,
    /// Which methods; none named means all. `GET` brings `HEAD` along.
    pub methods: Vec<Method>,
    /// What it asks.
    pub access: Access,
}

impl Route {
    fn takes(&self, method: &Method) -> bool {
        let asked = if method == Method::HEAD { &Method::GET } else { method };
        self.methods.is_empty() || self.methods.contains(method) || self.methods.contains(asked)
    }
}

/// The rules of a site: of those that match, the longest wins.
#[derive(Clone, Debug)]
pub struct Routes {
    rules: Vec<DecodedRoute>,
    otherwise: Route,
}

/// A route with its path decoded, so that every spelling of a path falls on it.
#[derive(Clone, Debug)]
struct DecodedRoute {
    path: Vec<u8>,
    route: Route,
}

impl DecodedRoute {
    fn matches(&self, path: &[u8], method: &Method) -> bool {
        let rest = path.strip_prefix(self.path.as_slice());
        let on_path = match self.route.pattern {
            Pattern::Exact(_) => rest.is_some_and(<[u8]>::is_empty),
            Pattern::Prefix(_) => {
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
            }
        };
        on_path && self.route.takes(method)
    }
}

impl Routes {
    /// `routes`, and `otherwise` for what none of them matches.
    pub fn new(mut routes: Vec<Route>, otherwise: Access) -> Self {
        // Stable, and a rule for some methods comes before one of the same path for all.
        routes.sort_by_key(|route| {
            std::cmp::Reverse((route.pattern.specificity(), !route.methods.is_empty()))
        });
        let rules = routes
            .into_iter()
            .map(|route| DecodedRoute {
                path: route.pattern.as_path().decoded().into_owned(),
                route,
            })
            .collect();
        let pattern = Pattern::Prefix(String::new());
        Self { rules, otherwise: Route { pattern, methods: Vec::new(), access: otherwise } }
    }

    /// The rule for a request.
    pub fn find(&self, path: Path<'_>, method: &Method) -> &Route {
        self.find_decoded(&path.decoded(), method)
    }

    fn find_decoded(&self, path: &[u8], method: &Method) -> &Route {
        let found = self.rules.iter().find(|rule| rule.matches(path, method));
        found.map_or(&self.otherwise, |rule| &rule.route)
    }

    /// The most that is asked for any of these readings of a path.
    pub fn strictest_among(&self, readings: &[Vec<u8>], method: &Method) -> Access {
        let all = readings.iter().map(|path| self.find_decoded(path, method).access);
        all.max_by_key(|access| access.strictness()).unwrap_or_else(|| self.strictest())
    }

    /// The most that any rule asks; a login at the least.
    pub fn strictest(&self) -> Access {
        let all = self.rules.iter().map(|rule| &rule.route).chain([&self.otherwise]);
        let all = all.map(|route| route.access);
        let scope = |access: &Access| match access {
            Access::None | Access::Optional => None,
            Access::Required(scope, _) => Some(*scope),
        };
        let strictest = all.max_by_key(scope).filter(|access| scope(access).is_some());
        strictest.unwrap_or(Access::Required(Scope::Base, Prompt::Direct))
    }

    /// Returns whether some path has a route for some methods only.
    pub fn depend_on_method(&self) -> bool {
        self.rules.iter().any(|rule| !rule.route.methods.is_empty())
    }

    /// What applies where no other rule does.
    pub fn default_access(&self) -> &Route {
        &self.otherwise
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns() {
        let prefix = |path: &str| Ok(Pattern::Prefix(path.to_owned()));
        let cases = [
            ("/a", Ok(Pattern::Exact("/a".to_owned()))),
            ("/a/*", prefix("/a")),
            ("/*", prefix("")),
            ("/a/", Ok(Pattern::Exact("/a/".to_owned()))),
            ("a", Err(PatternError::NoSlash)),
            ("", Err(PatternError::NoSlash)),
            ("/a*", Err(PatternError::Star)),
            ("/*/a", Err(PatternError::Star)),
            ("/a/**", Err(PatternError::Star)),
            ("/a/../b", Err(PatternError::NotCanonical(crate::httputil::PathError::DotSegment))),
            ("/a?b", Err(PatternError::NotCanonical(crate::httputil::PathError::Separator))),
        ];
        for (text, expected) in cases {
            assert_eq!(Pattern::parse(text, WindowsNames::Ambiguous), expected, "{text:?}");
        }
    }

    #[test]
    fn the_longest_match_wins() {
        let rule = |pattern: &str, methods: &[Method], access| Route {
            pattern: Pattern::parse(pattern, WindowsNames::Ambiguous).unwrap(),
            methods: methods.to_vec(),
            access,
        };
        let userinfo = Access::Required(Scope::UserInfo, Prompt::Button);
        let routes = Routes::new(
            vec![
                rule("/static/*", &[], Access::None),
                rule("/static/private/*", &[], userinfo),
                rule("/news", &[], Access::Optional),
                rule("/caf%C3%A9/*", &[], Access::None),
                rule("/@me", &[], Access::None),
                rule("/api/*", &[], userinfo),
                rule("/api/*", &[Method::GET], Access::None),
            ],
            Access::Required(Scope::Base, Prompt::Direct),
        );
        let base = Access::Required(Scope::Base, Prompt::Direct);
        let cases = [
            ("/", Method::GET, base),
            ("/static", Method::GET, Access::None),
            ("/static/", Method::GET, Access::None),
            ("/static/a.js", Method::POST, Access::None),
            ("/staticx", Method::GET, base),
            ("/static/private/a", Method::GET, userinfo),
            ("/news", Method::GET, Access::Optional),
            ("/news/", Method::GET, base),
            ("/News", Method::GET, base),
            // One path in its several spellings.
            ("/caf%C3%A9/x", Method::GET, Access::None),
            ("/caf%c3%a9/x", Method::GET, Access::None),
            ("/café/x", Method::GET, Access::None),
            ("/%40me", Method::GET, Access::None),
            ("/@me", Method::GET, Access::None),
            ("/api/x", Method::GET, Access::None),
            ("/api/x", Method::HEAD, Access::None),
            ("/api/x", Method::POST, userinfo),
        ];
        for (path, method, expected) in cases {
            let found = routes.find(Path::parse(path).unwrap(), &method);
            assert_eq!(found.access, expected, "{method} {path}");
        }
    }

    /// One path in two spellings: what may stand plain or escaped is spelled by lot.
    fn spellings() -> impl Strategy<Value = (String, String)> {
        let signs = "@:!$&'()*+,= é中<>\"^|{}";
        let letters: Vec<char> = "//abZ09-._~".chars().chain(signs.chars()).collect();
        let one = (proptest::sample::select(letters), any::<[u8; 2]>());
        proptest::collection::vec(one, 0..12).prop_map(move |letters| {
            let spell = |which: usize| {
                let spelled = letters.iter().map(|(letter, lots)| {
                    let plain = !signs.contains(*letter);
                    match lots[which] % 3 {
                        0 => letter.to_string(),
                        _ if plain => letter.to_string(),
                        1 => escaped(*letter, |b| format!("%{b:02x}")),
                        _ => escaped(*letter, |b| format!("%{b:02X}")),
                    }
                });
                format!("/{}", spelled.collect::<String>())
            };
            (spell(0), spell(1))
        })
    }

    fn escaped(letter: char, escape: impl Fn(u8) -> String) -> String {
        letter.to_string().bytes().map(escape).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a1_a_pattern_matches_every_spelling_of_a_path_or_none((one, other) in spellings()) {
            let (Ok(first), Ok(second)) = (Path::parse(&one), Path::parse(&other)) else {
                return Ok(());
            };
            prop_assert_eq!(first.decoded(), second.decoded());
            let rule = |text: &str| {
                let pattern = Pattern::parse(text, WindowsNames::Ambiguous).ok()?;
                Some(Route { pattern, methods: Vec::new(), access: Access::None })
            };
            let exact = Routes::new(rule(&one).into_iter().collect(), Access::Optional);
            let below = Routes::new(rule(&format!("{one}/*")).into_iter().collect(), Access::Optional);
            for routes in [&exact, &below] {
                let find = |path| routes.find(path, &Method::GET).access;
                prop_assert_eq!(find(first), find(second));
            }
        }
    }
}
