//! The parts of the test guest's `/init` that need no system: option parsing, hexadecimal and statistics.
#![cfg_attr(not(test), no_std)]

pub mod hex;
pub mod options;
pub mod statistics;
