//! Model-specific registers of a TD.

use super::{Td, TdVcpu, TdxPlatform};
use crate::cpu::Core;

/// What RDMSR does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrRead {
    /// The processor or the virtual APIC page answers.
    Native,
    /// The module answers.
    Value(u64),
    /// #VE, with reason 31.
    Ve,
    /// #GP(0).
    Gp,
    /// The module answers with a value that is not modelled: the run ends by name.
    NotModelled,
}

/// What WRMSR does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrWrite {
    /// The processor or the virtual APIC page takes this value.
    Native(u64),
    /// #VE, with reason 32.
    Ve,
    /// #GP(0).
    Gp,
}

/// RDMSR.
pub fn read(td: &Td, vcpu: &TdVcpu, platform: &TdxPlatform, index: u32) -> MsrRead {
    let _ = (td, vcpu, platform, index);
    MsrRead::Ve
}

/// WRMSR.
pub fn write(td: &Td, core: &Core, index: u32, value: u64) -> MsrWrite {
    let _ = (td, core, index, value);
    MsrWrite::Ve
}
