//! SEV-SNP by its rules: digest, launch, RMP, save areas, attestation. No processor runs here.
#![allow(clippy::unwrap_used, missing_docs)]

mod attest;
mod digest;
mod launch;
mod memory;
mod rmp;
mod vmsa;
