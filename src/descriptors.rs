//! File descriptors: how many the process may open, and errors that say that none is left.
//!
//! A connection that cannot be opened for want of a descriptor says nothing about the server at its
//! other end. Code that judges servers asks here first.

use std::{error::Error, fs::File, io};

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// The number of descriptors that the process may open after [`raise_limit`].
pub fn max_limit() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Raises the limit of the process to what the system allows it, and returns the limit. The lower one
/// is for programs that use `select(2)`, which this one does not; nginx and Go do the same.
pub fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum
        || setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok()
    {
        return maximum.unwrap_or(u64::MAX);
    }
    current.unwrap_or(u64::MAX)
}

/// Returns whether the cause of an error is that the process, or the system, has no descriptor left.
pub fn is_exhausted(error: &(dyn Error + 'static)) -> bool {
    let codes = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    if let Some(error) = error.downcast_ref::<io::Error>() {
        if let Some(code) = error.raw_os_error() {
            return codes.contains(&code);
        }
        if let Some(inner) = error.get_ref() {
            return is_exhausted(inner);
        }
    }
    error.source().is_some_and(is_exhausted)
}

/// Returns whether a connection failed because no descriptor is left. An error without a code may come
/// from the resolver of the system, which cannot say so.
pub fn is_cause_of(error: &io::Error) -> bool {
    is_exhausted(error) || (error.raw_os_error().is_none() && is_none_left())
}

/// Returns whether no descriptor is left at this moment.
pub fn is_none_left() -> bool {
    File::open("/dev/null").is_err_and(|error| is_exhausted(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g5_errors_that_say_that_no_descriptor_is_left() {
        let code = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        let rows = [
            (code(Errno::MFILE), true),
            (code(Errno::NFILE), true),
            (code(Errno::CONNREFUSED), false),
            (io::Error::other(code(Errno::MFILE)), true),
            (io::Error::other(io::Error::other(code(Errno::NFILE))), true),
            (io::Error::other("Too many open files"), false),
            (io::ErrorKind::TimedOut.into(), false),
        ];
        for (error, expected) in rows {
            assert_eq!(is_exhausted(&error), expected, "{error:?}");
        }
        assert!(!is_none_left());
    }
}
