//! Whether WeChat takes an account's `AppID` and `AppSecret`, asked without a visitor.
//!
//! A 公众号 is asked for its `stable_token` without `force_refresh`: whoever holds one already holds
//! the same afterwards, and the tokens of `cgi-bin/token` are another kind. The answer is dropped.
//! That call has an IP whitelist, which logins have not; and a website account has no such token.
//! Both are asked with a code that was never given out, which WeChat refuses by name (40029) once
//! it knows the account.

use reqwest::{RequestBuilder, header};

use super::{
    Error, WeChatClient,
    protocol::{self, ApiError, ErrorClass, jssdk},
};
use crate::site::{Account, AccountKind};

/// No code of WeChat's looks like this.
const NO_CODE: &str = "wxgate-check-asks-with-no-code";

/// What one API host said.
#[derive(Clone, Debug)]
pub struct CredentialCheck {
    /// Nothing, when it takes the credentials.
    pub answer: Result<(), Error>,
    /// The `Date` of its answer, to hold our clock against.
    pub date: Option<String>,
    /// Whether the question about the global token was refused for this machine's address.
    pub not_whitelisted: bool,
}

impl WeChatClient {
    /// Asks one API host about an account.
    pub async fn check_credentials(&self, account: &Account, api: &str) -> CredentialCheck {
        let mut not_whitelisted = false;
        if account.kind == AccountKind::Official {
            let body = protocol::stable_token_body(account);
            let request = self.client.post(protocol::stable_token_url(api));
            let request = request.header(header::CONTENT_TYPE, "application/json");
            let (answer, date) = ask(request.body(body.expose().to_owned())).await;
            let answer = answer.and_then(|body| Ok(jssdk::read_token(&body).map(drop)?));
            not_whitelisted = matches!(&answer, Err(Error::Api(no)) if no.is_about_address());
            if !not_whitelisted {
                return CredentialCheck { answer, date, not_whitelisted };
            }
        }
        let url = protocol::token_url(api, account, NO_CODE);
        let (answer, date) = ask(self.client.get(url.expose())).await;
        let answer = answer.and_then(|body| Ok(protocol::read_grant(&body).map(drop)?));
        let answer = match answer {
            Err(Error::Api(refusal)) if names_the_code(&refusal) => Ok(()),
            answer => answer,
        };
        CredentialCheck { answer, date, not_whitelisted }
    }
}

/// -1 is no word about the code, though a visitor's would be spent.
fn names_the_code(error: &ApiError) -> bool {
    error.class() == ErrorClass::Code && error.code() != Some(-1)
}

async fn ask(request: RequestBuilder) -> (Result<Vec<u8>, Error>, Option<String>) {
    match request.send().await {
        Err(error) => (Err(super::unsent(error)), None),
        Ok(response) => {
            let date = response.headers().get(header::DATE);
            let date = date.and_then(|date| date.to_str().ok()).map(str::to_owned);
            (super::read(response).await, date)
        }
    }
}
