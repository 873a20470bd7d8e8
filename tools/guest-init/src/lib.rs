//! The parts of the test guest's `/init` that need no system: option parsing and hexadecimal.
#![cfg_attr(not(test), no_std)]

pub mod hex;
pub mod options;
