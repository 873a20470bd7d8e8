//! What a TD asks of the TDX module and of the host, without the instruction that asks.
//!
//! The answers come from parties that a TD trusts (the module) and one that it does not (the host):
//! here they are judged, and here the tests lie.

pub mod accept;
pub mod info;
pub mod map_gpa;

#[cfg(test)]
mod accept_test;
#[cfg(test)]
mod info_test;
#[cfg(test)]
mod map_gpa_test;
#[cfg(test)]
mod run_test;
