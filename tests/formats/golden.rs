//! Golden files: what other programs read of the gateway, one entry a line.

use std::{fs, path::Path};

/// Compares lines with the file of this name in `tests/formats`. `BLESS_FORMATS=1` writes it instead.
pub fn assert_golden(name: &str, lines: &[String]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name);
    let now = lines.join("\n") + "\n";
    if std::env::var_os("BLESS_FORMATS").is_some() {
        fs::write(&path, &now).unwrap();
    }
    let recorded = fs::read_to_string(&path).unwrap_or_default();
    let gone = recorded.lines().filter(|line| !now.lines().any(|it| it == *line));
    let new = now.lines().filter(|line| !recorded.lines().any(|it| it == *line));
    let signed = gone.map(|line| format!("- {line}")).chain(new.map(|line| format!("+ {line}")));
    let differences = signed.collect::<Vec<String>>().join("\n");
    assert!(recorded == now, "tests/formats/{name} differs, or its order does:\n{differences}");
}
