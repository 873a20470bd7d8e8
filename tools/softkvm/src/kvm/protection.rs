//! Where the front end tells confidential VMs of one technology from those of another, and from plain ones.

use std::sync::Arc;

use super::caps::VmKind;
use super::errno::{Answer, Errno};
use super::state::State;
use super::vm::Vm;
use super::{sev, tdx};

/// What stands between a running vCPU and its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shield {
    /// Nothing.
    None,
    /// SEV-SNP, from LAUNCH_FINISH on.
    Snp,
    /// The TDX module, from INIT_VCPU on.
    Td,
}

impl State {
    /// What protects a vCPU's execution.
    pub fn shield(&self, index: usize) -> Shield {
        let vcpu = &self.vcpus[index];
        match self.kind {
            VmKind::Snp if vcpu.protected() => Shield::Snp,
            VmKind::Tdx if vcpu.td.is_some() => Shield::Td,
            VmKind::Plain | VmKind::SwProtected | VmKind::Snp | VmKind::Tdx => Shield::None,
        }
    }

    /// Whether user space cannot read a vCPU's registers.
    pub fn hides_registers(&self, index: usize) -> bool {
        self.kind == VmKind::Tdx || self.vcpus[index].protected()
    }

    /// Whether KVM_RUN is refused for what has not been launched yet.
    pub fn is_unlaunched(&self) -> bool {
        self.kind == VmKind::Snp && !self.snp.active()
    }

    /// Whether KVM_PRE_FAULT_MEMORY comes before the launch is over.
    pub fn is_unfinished(&self) -> bool {
        match self.kind {
            VmKind::Plain | VmKind::SwProtected => false,
            VmKind::Snp => !self.snp.finished(),
            VmKind::Tdx => !self.is_td_runnable(),
        }
    }

    /// Private memory of these frames goes back to the host, because an attribute, a slot or a descriptor's page changes.
    pub fn zap_private(&mut self, frames: std::ops::Range<u64>) {
        // The reverse map of SNP keeps what it says until the page itself is reclaimed.
        if self.kind == VmKind::Tdx {
            self.td_zap(frames);
        }
    }
}

/// KVM_MEMORY_ENCRYPT_OP on a VM.
pub fn vm_op(vm: &Arc<Vm>, arg: u64) -> Answer<i32> {
    let (kind, intel) = {
        let state = vm.lock();
        state.alive()?;
        (state.kind, state.machine.xeon.is_some())
    };
    match kind {
        VmKind::Tdx => tdx::vm_op(vm, arg),
        VmKind::Plain | VmKind::SwProtected if intel => Err(Errno::ENOTTY),
        VmKind::Plain | VmKind::SwProtected | VmKind::Snp => sev::memory_encrypt_op(vm, arg),
    }
}

/// KVM_MEMORY_ENCRYPT_OP on a vCPU.
pub fn vcpu_op(vm: &Arc<Vm>, index: usize, arg: u64) -> Answer<i32> {
    let kind = {
        let state = vm.lock();
        state.alive()?;
        state.kind
    };
    match kind {
        VmKind::Tdx => tdx::vcpu_op(vm, index, arg),
        VmKind::Plain | VmKind::SwProtected | VmKind::Snp => Err(Errno::EINVAL),
    }
}
