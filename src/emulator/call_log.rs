//! The calls the emulator got, for tests and for curious people. Pure.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::clock::Timestamp;

/// Older entries make room.
const MAX_RECORDS: usize = 1000;

/// One call and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct CallRecord {
    pub time: Timestamp,
    pub method: String,
    pub path: String,
    /// Secret values are `***` in here.
    pub query: Map<String, Value>,
    pub status: u16,
    /// Of an API answer, or the number of an error page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errcode: Option<i64>,
    /// What is worth knowing besides: `granted to lilei`, `fault: hang`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The latest calls, oldest first.
#[derive(Debug, Default)]
pub struct CallLog(VecDeque<CallRecord>);

impl CallLog {
    /// Writes one down.
    pub fn add(&mut self, entry: CallRecord) {
        if self.0.len() >= MAX_RECORDS {
            self.0.pop_front();
        }
        self.0.push_back(entry);
    }

    /// All of them, as JSON.
    pub fn json(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// The last few, latest first.
    pub fn latest(&self, count: usize) -> Vec<&CallRecord> {
        self.0.iter().rev().take(count).collect()
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_entries_make_room() {
        let mut journal = CallLog::default();
        for time in 0..1003 {
            let (method, path) = ("GET".to_owned(), "/".to_owned());
            let (query, time) = (Map::new(), Timestamp(time));
            journal.add(CallRecord {
                time,
                method,
                path,
                query,
                status: 200,
                errcode: None,
                note: None,
            });
        }
        let times: Vec<_> = journal.latest(2000).iter().map(|entry| entry.time.0).collect();
        assert_eq!((times.len(), times[0], times[999]), (1000, 1002, 3));
        assert!(
            journal
                .json()
                .starts_with(r#"[{"time":3,"method":"GET","path":"/","query":{},"status":200}"#)
        );
    }

    #[test]
    fn serialized_call() {
        let mut log = CallLog::default();
        log.add(CallRecord {
            time: Timestamp(7),
            method: "GET".to_owned(),
            path: "/sns/userinfo".to_owned(),
            query: Map::from_iter([("lang".to_owned(), "zh_CN".into())]),
            status: 200,
            errcode: Some(40_029),
            note: Some("fault: hang".to_owned()),
        });
        assert_eq!(
            log.json(),
            r#"[{"time":7,"method":"GET","path":"/sns/userinfo","query":{"lang":"zh_CN"},"status":200,"errcode":40029,"note":"fault: hang"}]"#
        );
    }
}
