//! JSON as WeChat writes it: fields in their order, `\/` for slashes, control bytes left raw. Pure.

use std::fmt::Write as _;

/// A JSON object under construction. `serde_json` would escape what WeChat does not.
#[derive(Debug, Default)]
pub struct JsonObject(String);

impl JsonObject {
    /// Adds a string.
    #[must_use]
    pub fn text(self, name: &str, value: &str) -> Self {
        let mut quoted = String::with_capacity(value.len().saturating_add(2));
        quoted.push('"');
        for letter in value.chars() {
            if matches!(letter, '"' | '\\' | '/') {
                quoted.push('\\');
            }
            quoted.push(letter);
        }
        quoted.push('"');
        self.raw(name, &quoted)
    }

    /// Adds a string where there is one.
    #[must_use]
    pub fn maybe(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// Adds a number.
    #[must_use]
    pub fn number(self, name: &str, value: i64) -> Self {
        self.raw(name, &value.to_string())
    }

    /// Adds a value that is JSON already.
    #[must_use]
    pub fn raw(mut self, name: &str, json: &str) -> Self {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        // Writing to a String cannot fail.
        let _ = write!(self.0, "\"{name}\":{json}");
        self
    }

    /// The text of the object.
    pub fn finish(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('{');
        }
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_wechat_writes() {
        let object = JsonObject::default()
            .text("headimgurl", "http://x/mmopen/1/132")
            .text("nickname", "\u{14}琦\"\\")
            .number("sex", 0)
            .raw("privilege", "[]")
            .maybe("unionid", None);
        let expected = "{\"headimgurl\":\"http:\\/\\/x\\/mmopen\\/1\\/132\",\"nickname\":\"\u{14}琦\\\"\\\\\",\"sex\":0,\"privilege\":[]}";
        assert_eq!(object.finish(), expected);
        assert_eq!(JsonObject::default().finish(), "{}");
    }
}
