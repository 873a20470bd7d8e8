//! KVM_CAP_SYNC_REGS: registers that go in and out by the run page (Linux arch/x86/kvm/x86.c `sync_regs`, `store_regs`).

use super::errno::{Answer, Errno};
use super::run_page::sync;
use super::state::State;
use super::{regs, vcpu};

impl State {
    /// Which groups may be asked for: none where user space cannot see registers.
    pub fn sync_fields(&self) -> u64 {
        if self.kind.hides_state() { 0 } else { sync::ALL }
    }

    /// Takes over what user space has marked as changed, on the way in.
    pub fn load_synced(&mut self, index: usize) -> Answer {
        let page = self.vcpus[index].page.clone();
        let (valid, dirty) = page.sync_fields();
        Errno::require((valid | dirty) & !self.sync_fields() == 0)?;
        if dirty & sync::REGS != 0 {
            regs::set_regs(self.vcpus[index].core_mut()?, &page.synced(sync::REGS_AT));
            page.clear_dirty(sync::REGS);
        }
        if dirty & sync::SREGS != 0 {
            vcpu::set_sregs(self, index, &page.synced(sync::SREGS_AT))
                .map_err(|_| Errno::EINVAL)?;
            page.clear_dirty(sync::SREGS);
        }
        if dirty & sync::EVENTS != 0 {
            let events = page.synced(sync::EVENTS_AT);
            vcpu::set_events(self, index, &events).map_err(|_| Errno::EINVAL)?;
            page.clear_dirty(sync::EVENTS);
        }
        Ok(())
    }

    /// Shows user space the groups it wants, on every way out.
    pub fn store_synced(&self, index: usize) {
        let vcpu = &self.vcpus[index];
        let (valid, _) = vcpu.page.sync_fields();
        let wanted = valid & self.sync_fields();
        // Nobody runs it now, so its processor is there.
        let Ok(core) = vcpu.core() else { return };
        if wanted & sync::REGS != 0 {
            vcpu.page.put_synced(sync::REGS_AT, &regs::get_regs(core));
        }
        if wanted & sync::SREGS != 0
            && let Ok(sregs) = vcpu::sregs(self, index)
        {
            vcpu.page.put_synced(sync::SREGS_AT, &regs::sregs_of(&sregs));
        }
        if wanted & sync::EVENTS != 0
            && let Ok(events) = vcpu::events(self, index)
        {
            vcpu.page.put_synced(sync::EVENTS_AT, &events);
        }
    }
}
