//! The ioctl interface of a TDX host, and what a TD sees of it and of the TDX module, row by row: action, then what mainline
//! Linux 7.2 with module 1.5.05 answers.
//!
//! The calls go to softkvm's front end with real descriptors and real pointers, as the preload library passes them on. Guests
//! are hand-assembled (`tests/common/td.rs`). Parts of rows that are not here:
//! - 12, the module's status: the software processor has no AVX, so KVM itself refuses the states; the module's rule is
//!   tested with a part that has them (`tests/tdx/life.rs`);
//! - 19 (a vCPU that is being created at the same moment): creating one is one step of the front end;
//! - 20, the limit of a control group: there are none;
//! - 24, GET_CPUID before INIT_VM: there cannot be a vCPU by then (row 6);
//! - 34, the empty TD: without pages no guest can ask for its measurement (`tests/tdx/measurement.rs` has it).
//!
//! UNSAFETY: memory of the test's own, signals to its own threads, `kvm_run`.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/td.rs"]
mod td;

mod discovery;
mod harness;
mod init;
#[path = "../common/interrupt.rs"]
mod interrupt;
mod measurement;
mod memory;
mod module;
mod processor;
mod run;
mod vcpus;
mod vmcall;
