#![no_std]
//! Layouts that hardware, firmware and the kernel fixed.

pub mod ghcb;
pub mod kvm_snp;
pub mod snp;
