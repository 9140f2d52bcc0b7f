//! The account at the authority: made once, found on disk ever after.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{OrderError, Settings, client::AcmeClient, storage::CertificateStorage};

#[derive(Serialize, Deserialize)]
struct StoredAccount {
    /// Whom the authority was told to write to.
    contact: Vec<String>,
    credentials: AccountCredentials,
}

/// A key as authorities give it out: base64url, with or without padding. Some write it the other way.
pub fn mac_key(text: &str) -> Option<Vec<u8>> {
    let plain = text.trim().trim_end_matches('=').replace('+', "-").replace('/', "_");
    BASE64_URL_SAFE_NO_PAD.decode(plain).ok().filter(|key| key.len() >= 16)
}

/// The account that is kept, or a new one.
pub async fn open(
    settings: &Settings,
    disk: &CertificateStorage,
    client: &AcmeClient,
) -> Result<Account, OrderError> {
    if let Some(account) = known(settings, disk, client).await? {
        return Ok(account);
    }
    let contact: Vec<&str> = settings.contact.iter().map(String::as_str).collect();
    let new = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true, // the configuration is refused without the operator's word
        only_return_existing: false,
    };
    let customer = settings.customer.as_ref().and_then(|it| {
        let key = Zeroizing::new(mac_key(it.key.expose())?);
        Some(ExternalAccountKey::new(it.kid.clone(), &key))
    });
    let builder = Account::builder_with_http(Box::new(client.clone()));
    let (account, credentials) =
        builder.create(&new, settings.directory.clone(), customer.as_ref()).await?;
    keep(disk, settings, credentials)?;
    tracing::info!(account = account.id(), "ACME account created");
    Ok(account)
}

/// The account that is kept, if there is one. Where the operator's address has changed, the
/// authority is told.
pub async fn known(
    settings: &Settings,
    disk: &CertificateStorage,
    client: &AcmeClient,
) -> Result<Option<Account>, OrderError> {
    let Some(kept) =
        disk.account().and_then(|json| serde_json::from_slice::<StoredAccount>(&json).ok())
    else {
        return Ok(None);
    };
    let builder = || Account::builder_with_http(Box::new(client.clone()));
    if kept.contact == settings.contact {
        return Ok(Some(builder().from_credentials(kept.credentials).await?));
    }
    let copy = serde_json::to_vec(&kept.credentials).map(Zeroizing::new);
    let account = builder().from_credentials(kept.credentials).await?;
    let contact: Vec<&str> = settings.contact.iter().map(String::as_str).collect();
    account.update_contacts(&contact).await?;
    if let Ok(credentials) = copy.and_then(|copy| serde_json::from_slice(&copy)) {
        keep(disk, settings, credentials)?;
    }
    Ok(Some(account))
}

fn keep(
    disk: &CertificateStorage,
    settings: &Settings,
    credentials: AccountCredentials,
) -> Result<(), OrderError> {
    let kept = StoredAccount { contact: settings.contact.clone(), credentials };
    let json = serde_json::to_vec(&kept).map_err(|error| OrderError::Authority(error.into()))?;
    Ok(disk.save_account(&Zeroizing::new(json))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_authorities_write_them() {
        let key: Vec<u8> = (240..=255).collect();
        for text in
            ["8PHy8_T19vf4-fr7_P3-_w", "8PHy8_T19vf4-fr7_P3-_w==", "8PHy8/T19vf4+fr7/P3+/w==\n"]
        {
            assert_eq!(mac_key(text).as_ref(), Some(&key), "{text}");
        }
        for text in ["", "short", "8PHy8_T19vf4-fr7 P3-_w", "no base64 at all!"] {
            assert_eq!(mac_key(text), None, "{text}");
        }
    }

    #[test]
    fn serialized_account() {
        let recorded = r#"{"contact":["mailto:ops@example.com"],"credentials":{"id":"https://ca.example/acct/1","key_pkcs8":"AAEC","directory":"https://ca.example/dir"}}"#;
        let account: StoredAccount = serde_json::from_str(recorded).unwrap();
        assert_eq!(account.contact, ["mailto:ops@example.com"]);
        assert_eq!(serde_json::to_string(&account).unwrap(), recorded);
    }
}
