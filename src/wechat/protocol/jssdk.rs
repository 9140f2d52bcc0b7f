//! Signatures for the JS-SDK, and what it takes to have a ticket for them. Pure.

use std::time::Duration;

use aws_lc_rs::digest;

use super::{ApiError, Secret, encode, read, seconds, text};

/// Something of the account's own, good for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiringToken {
    /// Its text.
    pub text: Secret,
    /// For how long, from the answer on.
    pub life: Duration,
}

/// The address of the ticket that signs pages.
pub fn ticket_url(api: &str, token: &Secret) -> Secret {
    Secret::new(format!(
        "{api}/cgi-bin/ticket/getticket?access_token={}&type=jsapi",
        encode(token.expose())
    ))
}

/// Reads the answer to [`super::stable_token_url`].
pub fn read_token(body: &[u8]) -> Result<ExpiringToken, ApiError> {
    lent(body, "access_token", "no access_token")
}

/// Reads the answer to [`ticket_url`].
pub fn read_ticket(body: &[u8]) -> Result<ExpiringToken, ApiError> {
    lent(body, "ticket", "no ticket")
}

fn lent(body: &[u8], name: &str, missing: &'static str) -> Result<ExpiringToken, ApiError> {
    let answer = read(body)?;
    let found = text(&answer, name).ok_or(ApiError::Nonsense(missing))?;
    Ok(ExpiringToken { text: Secret::new(found), life: Duration::from_secs(seconds(&answer)) })
}

/// The signature of a page: SHA-1, because WeChat's script checks that one. The fields stand in the
/// order of their names and nothing is escaped; the page's fragment is no part of it.
pub fn signature(ticket: &Secret, nonce: &str, timestamp: u64, page: &str) -> String {
    let ticket = ticket.expose();
    let page = page.split('#').next().unwrap_or_default();
    let text = Secret::new(format!(
        "jsapi_ticket={ticket}&noncestr={nonce}&timestamp={timestamp}&url={page}"
    ));
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.expose().as_bytes());
    let nibbles = digest.as_ref().iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles.filter_map(|nibble| char::from_digit(nibble.into(), 16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of the protocol reference, section 8.
    #[test]
    fn signatures_are_tencents() {
        let ticket = "sM4AOVdWfPE4DxkXGEs8VMCPGGVi4C3VM0P37wVUCFvkVAy_90u5h9nbSlYy3-Sl-HhTdfl2fzFy1AOcHKP7qg";
        let cases = [
            ("http://mp.weixin.qq.com?params=value", "0f9de62fce790f9a083d5c99e95740ceb90c27ed"),
            ("http://mp.weixin.qq.com", "f4d90daf4b3bca3078ab155816175ba34c443a7b"),
            (
                "http://mp.weixin.qq.com?params=value#xxxx",
                "0f9de62fce790f9a083d5c99e95740ceb90c27ed",
            ),
        ];
        for (page, expected) in cases {
            let signed = signature(&Secret::new(ticket), "Wm3WZYTPz0wzccnW", 1_414_587_457, page);
            assert_eq!(signed, expected, "{page}");
        }
    }

    #[test]
    fn answers_are_read() {
        let ticket = read_ticket(br#"{"errcode":0,"errmsg":"ok","ticket":"T","expires_in":7200}"#);
        let expected = ExpiringToken { text: Secret::new("T"), life: Duration::from_hours(2) };
        assert_eq!(ticket, Ok(expected.clone()));
        let token = read_token(br#"{"access_token":"T","expires_in":"7200"}"#);
        assert_eq!(token, Ok(expected));
        let refused = read_ticket(br#"{"errcode":40001,"errmsg":"invalid credential"}"#);
        assert!(refused.unwrap_err().invalidates_access_token());
        assert_eq!(read_token(b"{}"), Err(ApiError::Nonsense("no access_token")));
    }
}
