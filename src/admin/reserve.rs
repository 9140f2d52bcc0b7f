//! File descriptors that are kept for the admin listener, so that it answers when the process has
//! none left: that is when an operator needs it.

use std::{
    fs::File,
    sync::{Mutex, PoisonError},
};

/// Connections that can be accepted at once when no descriptor is left.
const RESERVED: usize = 8;

/// Open files that stand for descriptors. One is closed when a connection needs its descriptor.
#[derive(Debug, Default)]
pub struct DescriptorReserve(Mutex<Vec<File>>);

impl DescriptorReserve {
    /// Opens what is missing, as far as the system allows it.
    pub fn refill(&self) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while files.len() < RESERVED
            && let Ok(file) = File::open("/dev/null")
        {
            files.push(file);
        }
    }

    /// Frees one descriptor. Returns `false` if none is left here either.
    pub fn release(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().is_some()
    }
}
