//! The people who live in the emulator, and the names WeChat gives them. Pure.

use std::collections::HashSet;

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

/// One person with a WeChat account.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// A short name for tests, cookies and URLs: `lilei`.
    pub id: String,
    /// The nickname, whatever bytes it may hold.
    pub nickname: String,
    /// The URL of a picture. `None`: the emulator draws one. Empty: this person has none.
    pub avatar: Option<String>,
    /// The same openid for every account. `None`: one per account, as with WeChat.
    pub openid: Option<String>,
    /// Only people of accounts bound to an Open Platform account have one.
    pub unionid: Option<String>,
}

/// What is wrong with a file of users.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// Not TOML, or not this shape.
    #[error("not a list of [[user]] tables")]
    Toml(#[from] toml::de::Error),
    /// Somebody has to log in.
    #[error("there is no [[user]] in it")]
    Nobody,
    /// Ids stand in cookies and paths.
    #[error("user id {0:?}: write letters, digits, - or _")]
    Id(String),
    /// An id names one person.
    #[error("user id {0:?} is given twice")]
    Twice(String),
}

/// Reads a file of users:
///
/// ```toml
/// [[user]]
/// id = "lilei"
/// nickname = "李雷"
/// avatar = "https://thirdwx.qlogo.cn/mmopen/…/132" # left out: a drawing; "": no picture
/// openid = "oLy8wk2Yf1TqNvQ3rZsB7cXpD0aM"          # left out: one per account
/// unionid = "oTpR9xAIiebFOc6p04tMTaLhviCQ"         # left out: none
/// ```
pub fn users_from_toml(text: &str) -> Result<Vec<User>, UsersError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct UsersFile {
        #[serde(default)]
        user: Vec<User>,
    }
    let users = toml::from_str::<UsersFile>(text)?.user;
    if users.is_empty() {
        return Err(UsersError::Nobody);
    }
    let mut seen = HashSet::new();
    for user in &users {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if user.id.is_empty() || !user.id.bytes().all(plain) {
            return Err(UsersError::Id(user.id.clone()));
        }
        if !seen.insert(user.id.as_str()) {
            return Err(UsersError::Twice(user.id.clone()));
        }
    }
    Ok(users)
}

/// The people of an emulator that was told of nobody.
pub fn built_in() -> Vec<User> {
    let person = |id: &str, nickname: &str| User {
        id: id.to_owned(),
        nickname: nickname.to_owned(),
        avatar: None,
        openid: None,
        unionid: Some(derive("unionid", id)),
    };
    vec![
        person("lilei", "李雷"),
        person("hanmeimei", "韩梅梅"),
        // A control byte and an emoji: both are met in real nicknames, and both must not hurt.
        person("qiya", "\u{14}琦娅🍭"),
        // Neither picture nor unionid: both are optional in every answer.
        User { avatar: Some(String::new()), unionid: None, ..person("xiaoming", "小明") },
    ]
}

/// Somebody as one account sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountUser {
    pub openid: String,
    pub nickname: String,
    /// `None`: ask the emulator for a drawing. Empty: no picture.
    pub avatar: Option<String>,
    pub unionid: Option<String>,
}

impl User {
    /// How the account `app_id` sees this user.
    pub fn seen_by(&self, app_id: &str) -> AccountUser {
        AccountUser {
            openid: self.openid.clone().unwrap_or_else(|| derive(app_id, &self.id)),
            nickname: self.nickname.clone(),
            avatar: self.avatar.clone(),
            unionid: self.unionid.clone(),
        }
    }

    /// The virtual account that stands in for this user on a snapshot page.
    pub fn snapshot_for(&self, app_id: &str) -> AccountUser {
        AccountUser {
            openid: derive(app_id, &format!("snapshot of {}", self.id)),
            nickname: "微信用户".to_owned(),
            avatar: Some(String::new()),
            unionid: Some(derive("unionid", "snapshot")),
        }
    }

    /// The nickname without the bytes that a page cannot show.
    pub fn shown_name(&self) -> String {
        self.nickname.chars().filter(|letter| !letter.is_control()).collect()
    }
}

/// `o` and 27 letters, the shape of an openid: always the same for the same pair.
fn derive(app_id: &str, id: &str) -> String {
    let digest = digest::digest(&digest::SHA256, format!("{app_id}\n{id}").as_bytes());
    let mut name = String::from("o");
    name.extend(URL_SAFE_NO_PAD.encode(digest).chars().take(27));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openids_are_stable_and_differ() {
        let users = built_in();
        let openid = users[0].seen_by("wx1").openid;
        assert_eq!(openid, users[0].seen_by("wx1").openid);
        assert_eq!((openid.len(), openid.starts_with('o')), (28, true));
        let others =
            [users[0].seen_by("wx2"), users[1].seen_by("wx1"), users[0].snapshot_for("wx1")];
        for other in others {
            assert_ne!(openid, other.openid);
        }
    }

    #[test]
    fn files() {
        let rows = [
            ("[[user]]\nid='a'\nnickname='A'\n[[user]]\nid='b'\nnickname='B'\nunionid='u'", "2"),
            ("[[user]]\nid='a'\nnickname='A'\n[[user]]\nid='a'\nnickname='B'", "given twice"),
            ("[[user]]\nid='a b'\nnickname='A'", "letters, digits"),
            ("[[user]]\nid='a'", "not a list"),
            ("[[user]]\nid='a'\nnickname='A'\nage=3", "not a list"),
            ("", "no [[user]]"),
        ];
        for (text, expected) in rows {
            let found = match users_from_toml(text) {
                Ok(users) => users.len().to_string(),
                Err(error) => error.to_string(),
            };
            assert!(found.contains(expected), "{text:?}: {found}");
        }
    }

    #[test]
    fn serialized_file() {
        let text = "[[user]]\nid='a'\nnickname='A'\navatar='https://a/'\nopenid='o'\nunionid='u'";
        let some = |text: &str| Some(text.to_owned());
        let user = User {
            id: "a".to_owned(),
            nickname: "A".to_owned(),
            avatar: some("https://a/"),
            openid: some("o"),
            unionid: some("u"),
        };
        assert_eq!(users_from_toml(text).unwrap(), [user]);
        assert_eq!(built_in()[0].seen_by("wx1").openid, "oAiG-sMeM8zuoj2TyhgYQB52LF5M");
        assert_eq!(built_in()[0].snapshot_for("wx1").openid, "o9zqVnUk9sX-SvKi_j6clhbuJdje");
    }
}
