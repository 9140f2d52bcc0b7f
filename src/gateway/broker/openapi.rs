//! The document that describes the broker to programs. Pure.

use serde_json::Value;

use crate::site::Broker;

/// As a team reads it that moves here; the test `broker_api` holds it against the real answers.
const DOCUMENT: &str = include_str!("openapi.json");

/// The document of this broker.
pub fn document(broker: &Broker) -> Value {
    let mut document: Value = serde_json::from_str(DOCUMENT).unwrap_or_default();
    if let Some(url) = document.pointer_mut("/servers/0/url") {
        *url = broker.base.as_str().into();
    }
    if let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut)
        && !broker.has_jssdk()
    {
        paths.remove("/jssdk");
    }
    document
}
