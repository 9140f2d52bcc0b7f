//! The sites behind us.
