//! The ioctl interface of an SNP host, row by row: action, then what mainline Linux 7.2 answers.
//!
//! The calls go to softkvm's front end with real descriptors and real pointers, as the preload
//! library passes them on. Rows that are not here:
//! - 1, second half: there is no profile without SNP;
//! - 60 to 63, 67 and 70 in all their cases: those are tested with the GHCB protocol itself
//!   (`src/snp/ghcb_test.rs`); here a guest shows that the protocol is wired up;
//! - 74 (a PIC in user space).
//!
//! UNSAFETY: maps and protects pages of the test's own, and reads `kvm_run`.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, missing_docs)]

mod costs;
mod discovery;
mod finish;
mod guest;
mod harness;
mod init;
#[path = "../common/interrupt.rs"]
mod interrupt;
mod large;
mod memory;
mod queue;
mod runtime;
#[path = "../common/stats.rs"]
mod stats;
mod update;
