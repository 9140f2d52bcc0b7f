//! Whose sessions an operator wants ended, in the operator's words. Pure.

use serde::{Deserialize, Serialize};

use super::RevocationTarget;
use crate::site::Account;

/// What `wxgate revoke` and `POST /revocations` take: one of `session`, `account` with or without
/// `openid`, and `all`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RevocationRequest {
    /// A session's id, which sites receive as `X-WeChat-Session`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// An account by the name that the configuration gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// A person of that account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub openid: Option<String>,
    /// Everybody.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// What is wrong with a wish.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRevocationRequest {
    /// None of the choices, or more than one.
    #[error("give exactly one of: session; account; account and openid; all")]
    Choices,
    /// No id of ours.
    #[error("a session's id has 32 hexadecimal digits, as in X-WeChat-Session")]
    NoSession,
    /// No openid of WeChat's.
    #[error("an openid has visible characters only, at most 128")]
    NoOpenid,
    /// The configuration has no such account.
    #[error("there is no account called \"{0}\"; there are: {1}")]
    NoAccount(String, String),
}

impl RevocationRequest {
    /// Whom that means among these accounts.
    pub fn target<'a>(
        &self,
        accounts: impl Iterator<Item = &'a Account>,
    ) -> Result<RevocationTarget, InvalidRevocationRequest> {
        match (&self.session, &self.account, &self.openid, self.all) {
            (Some(sid), None, None, false) => {
                let sid = sid.to_ascii_lowercase();
                let good = sid.len() == 32 && sid.bytes().all(|b| b.is_ascii_hexdigit());
                if good {
                    Ok(RevocationTarget::Session(sid))
                } else {
                    Err(InvalidRevocationRequest::NoSession)
                }
            }
            (None, Some(name), openid, false) => {
                let accounts: Vec<&Account> = accounts.collect();
                let Some(account) = accounts.iter().find(|account| account.name == *name) else {
                    let mut names: Vec<&str> = accounts.iter().map(|it| &*it.name).collect();
                    names.sort_unstable();
                    names.dedup();
                    return Err(InvalidRevocationRequest::NoAccount(
                        name.clone(),
                        names.join(", "),
                    ));
                };
                let appid = account.app_id.clone();
                let Some(openid) = openid.clone() else {
                    return Ok(RevocationTarget::Account(appid));
                };
                let good = |b: u8| b.is_ascii_graphic();
                if !(1..=128).contains(&openid.len()) || !openid.bytes().all(good) {
                    return Err(InvalidRevocationRequest::NoOpenid);
                }
                Ok(RevocationTarget::Person { appid, openid })
            }
            (None, None, None, true) => Ok(RevocationTarget::All),
            (_, _, _, _) => Err(InvalidRevocationRequest::Choices),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_one_of_four() {
        let account = crate::auth::tests::site().account;
        let sid = "0123456789abcdef0123456789abcdef";
        let cases = [
            (
                r#"{"session":"0123456789ABCDEF0123456789abcdef"}"#,
                Ok(RevocationTarget::Session(sid.into())),
            ),
            (r#"{"account":"main"}"#, Ok(RevocationTarget::Account("wx1".into()))),
            (
                r#"{"account":"main","openid":"o1"}"#,
                Ok(RevocationTarget::Person { appid: "wx1".into(), openid: "o1".into() }),
            ),
            (r#"{"all":true}"#, Ok(RevocationTarget::All)),
            (r"{}", Err(InvalidRevocationRequest::Choices)),
            (r#"{"all":false}"#, Err(InvalidRevocationRequest::Choices)),
            (r#"{"openid":"o1"}"#, Err(InvalidRevocationRequest::Choices)),
            (r#"{"all":true,"account":"main"}"#, Err(InvalidRevocationRequest::Choices)),
            (r#"{"session":"0123","all":false}"#, Err(InvalidRevocationRequest::NoSession)),
            (r#"{"account":"main","openid":"o 1"}"#, Err(InvalidRevocationRequest::NoOpenid)),
            (
                r#"{"account":"mian"}"#,
                Err(InvalidRevocationRequest::NoAccount("mian".into(), "main".into())),
            ),
        ];
        for (json, expected) in cases {
            let wanted: RevocationRequest = serde_json::from_str(json).unwrap();
            assert_eq!(wanted.target([&*account].into_iter()), expected, "{json}");
        }
        assert!(serde_json::from_str::<RevocationRequest>(r#"{"everybody":true}"#).is_err());
    }
}
