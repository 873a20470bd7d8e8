//! The chips together.
