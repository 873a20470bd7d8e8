#![no_std]
//! Layouts that hardware, firmware and the kernel fixed.

pub mod boot;
pub mod efi;
pub mod ghcb;
pub mod kvm;
pub mod kvm_snp;
pub mod kvm_tdx;
pub mod marks;
pub mod probes;
pub mod records;
pub mod shim;
pub mod snp;
pub mod tdx;
