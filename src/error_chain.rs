//! An error and everything behind it, for one line of a log or a terminal.

/// `what: because: because`.
pub fn line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the file")]
    struct Outer(#[source] io::Error);

    #[test]
    fn every_cause_is_told_in_its_order() {
        assert_eq!(line(&io::Error::other("torn")), "torn");
        assert_eq!(line(&Outer(io::Error::other("torn"))), "cannot open the file: torn");
    }
}
