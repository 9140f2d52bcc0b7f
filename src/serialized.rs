//! Tests of values that leave the process compare them here with what was recorded of them.

#[path = "../tests/formats/golden.rs"]
mod golden;

pub use golden::assert_golden;

/// Compares values that leave the process with what was recorded of them: what each is, as it is
/// written now, as it was recorded. All of them are compared before it fails.
///
/// Replicas of two versions run side by side, and cookies and files outlive the process that wrote
/// them. A value that differs here is a mistake, or needs a way to read the old one.
pub fn assert_serialized(rows: &[(&str, String, &str)]) {
    let changed = rows.iter().filter(|(_, now, recorded)| now != recorded);
    let changed: Vec<String> = changed
        .map(|(what, now, recorded)| format!("{what}\n  recorded {recorded}\n  now      {now}\n"))
        .collect();
    assert!(changed.is_empty(), "{}", changed.concat());
}
