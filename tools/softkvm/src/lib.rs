//! softkvm: a `/dev/kvm` in user space whose software x86-64 processor has SEV-SNP.

pub mod chipset;
pub mod cpu;
pub mod kvm;
pub mod mmu;
pub mod snp;
