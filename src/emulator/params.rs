//! Query parameters as a form sends them: first value wins, empty means missing. Pure.

use serde_json::{Map, Value};
use url::form_urlencoded;

/// Names and values in the order they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Reads `a=1&b=2`; nothing in it can fail.
    pub fn parse(query: &str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// Reads the top level of a JSON object; `None` when it is no object.
    pub fn from_json(body: &[u8]) -> Option<Self> {
        let fields: Map<String, Value> = serde_json::from_slice(body).ok()?;
        let text = |value: Value| match value {
            Value::String(text) => text,
            Value::Null => String::new(),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                value.to_string()
            }
        };
        Some(Self(fields.into_iter().map(|(name, value)| (name, text(value))).collect()))
    }

    /// The value of `name`, unless missing or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The names in the order they came, with their repetitions.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// For the list of requests: nobody should copy a secret from there.
    pub fn masked(&self) -> Map<String, Value> {
        let secret = |name: &str| matches!(name, "secret" | "access_token" | "refresh_token");
        let mask = |(name, value): &(String, String)| {
            let shown = if secret(name) { "***" } else { value };
            (name.clone(), Value::from(shown))
        };
        self.0.iter().map(mask).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let params = Params::parse("a=1&a=2&b=&c=%E4%B8%AD+x&%zz=%ff");
        let rows = [("a", Some("1")), ("b", None), ("c", Some("中 x")), ("d", None)];
        for (name, value) in rows {
            assert_eq!(params.get(name), value, "{name}");
        }
    }

    #[test]
    fn json_bodies() {
        let params =
            Params::from_json(br#"{"appid":"wx1","force_refresh":true,"n":null}"#).unwrap();
        assert_eq!(params.get("force_refresh"), Some("true"));
        assert_eq!((params.get("appid"), params.get("n")), (Some("wx1"), None));
        for bad in ["", "[]", "{", "\"x\"", "\u{14}"] {
            assert_eq!(Params::from_json(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn secrets_are_masked() {
        let masked =
            Params::parse("appid=wx1&secret=s3cret&access_token=t&refresh_token=r").masked();
        let shown = Value::Object(masked).to_string();
        assert!(shown.contains("wx1") && !shown.contains("s3cret"), "{shown}");
        assert_eq!(shown.matches("***").count(), 3);
    }
}
