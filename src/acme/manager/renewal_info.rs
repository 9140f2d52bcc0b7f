//! When the authority wants certificates renewed (RFC 9773).

use std::time::Duration;

use instant_acme::Account;

use super::{CertificateManager, ManagedCertificate};
use crate::{
    acme::{account, client::AcmeClient, order, schedule},
    clock::{self, Timestamp},
    error_chain,
};

/// How often the authority is asked, in seconds: what it says, within reason.
const RENEWAL_INFO_INTERVAL: [u64; 2] = [3_600, 86_400];

impl CertificateManager {
    /// Whether it is time to ask.
    pub(super) fn renewal_info_due(&self, now: Timestamp) -> bool {
        self.held.values().any(|held| held.ask <= now)
    }

    /// Asks the authority when to renew what is at hand. Without an answer the usual rule holds.
    pub(super) async fn update_renewal_info(&mut self, client: &AcmeClient) {
        let now = clock::system();
        if !self.renewal_info_due(now) {
            return;
        }
        let account = account::known(&self.settings, &self.disk, client).await;
        let account = account.unwrap_or_else(|error| {
            tracing::debug!(error = error_chain::line(&error), "no renewal information");
            None
        });
        for (name, held) in &mut self.held {
            if held.ask <= now {
                let [soonest, latest] = RENEWAL_INFO_INTERVAL;
                let again = match &account {
                    Some(account) => ask(account, name, held).await,
                    None => soonest,
                };
                held.ask = now.plus(Duration::from_secs(again.clamp(soonest, latest)));
            }
        }
    }
}

/// Takes the advice about one certificate, and says after how many seconds to ask again.
async fn ask(account: &Account, name: &str, held: &mut ManagedCertificate) -> u64 {
    let Some(identifier) = order::identifier(&held.made) else { return u64::MAX };
    match account.renewal_info(&identifier).await {
        Ok((info, again)) => {
            let at = |moment: i64| Timestamp(u64::try_from(moment).unwrap_or_default());
            let window = info.suggested_window;
            let [start, end] = [at(window.start.unix_timestamp()), at(window.end.unix_timestamp())];
            if held.renew < start || end < held.renew {
                let dice = rand::random_range(0.0..1.0);
                held.renew = schedule::advised(&held.made.info, [start, end], dice);
                let (why, renewal) = (info.explanation_url.unwrap_or_default(), held.renew.0);
                tracing::info!(domain = name, renewal, why, "renewal time set by the CA");
            }
            again.as_secs()
        }
        Err(instant_acme::Error::Unsupported(_)) => u64::MAX,
        Err(error) => {
            tracing::debug!(domain = name, %error, "no renewal information");
            0
        }
    }
}
