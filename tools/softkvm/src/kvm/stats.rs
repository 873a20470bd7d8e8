//! KVM_GET_STATS_FD: header, descriptors and values in the layout of Linux
//! Documentation/virt/kvm/api.rst 4.133, in a memory file that is written anew when a vCPU leaves
//! KVM_RUN, and that of a VM after its other ioctls, too.
//!
//! The statistics are those of Linux 7.2 (virt/kvm, include/linux/kvm_host.h `KVM_GENERIC_*_STATS`; arch/x86/kvm/x86.c
//! `kvm_*_stats_desc`), in its order. What they count are events of the modelled machine:
//!
//! - `exits` are times that a guest was left, whoever handled it. No interrupt of the host's ever leaves a guest, so `irq_exits`
//!   stays 0.
//! - `pages_4k` are pages that the guest has reached, of both halves of its memory, each by one nested page fault (`pf_taken`,
//!   `pf_fixed`); a TD's as the secure EPT has them. They go where KVM takes them away: when a page changes owner, is
//!   punched out, or loses its slot. Shared memory is taken to be backed by 4 KiB pages, as private memory is in Linux 7.2; so
//!   `pages_2m` counts what a profile with `:2m` makes of the latter, and `pages_1g` stays 0.
//! - Halt polling is on the page of [`super::halt`].
//! - What belongs to shadow paging, nested guests, asynchronous page faults, dirty tricks against side channels or the host's
//!   scheduler has not happened, and is 0.
//!
//! A VM has more of its own, which a real host lacks. Their names begin with `softkvm_`; those of kernel functions
//! are on the page of [`super::symbols`].
//!
//! UNSAFETY: writes into its own mapping of that file.
#![allow(unsafe_code)]

use std::sync::Arc;

use super::caps::VmKind;
use super::errno::Answer;
use super::fd::{Mapping, Owned};
use super::state::State;
use super::symbols::Watch;
use super::vm::Vm;
use super::{Front, Object};

const NAME_SIZE: usize = 48;
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16 + NAME_SIZE;
const ID_SIZE: usize = NAME_SIZE;
const DESCRIPTORS: usize = HEADER + ID_SIZE;

/// What a statistic is (KVM_STATS_TYPE_*, KVM_STATS_UNIT_*; all bases are ten).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// STATS_DESC_COUNTER.
    Counter,
    /// STATS_DESC_ICOUNTER.
    Instant,
    /// STATS_DESC_PCOUNTER.
    Peak,
    /// STATS_DESC_IBOOLEAN.
    Boolean,
    /// STATS_DESC_TIME_NSEC.
    Nanoseconds,
    /// STATS_DESC_LOGHIST_TIME_NSEC.
    Histogram,
}

impl Kind {
    /// Flags, decimal exponent and number of values.
    fn descriptor(self) -> (u32, i16, usize) {
        const INSTANT: u32 = 1;
        const PEAK: u32 = 2;
        const LOG_HISTOGRAM: u32 = 4;
        const SECONDS: u32 = 2 << 4;
        const BOOLEAN: u32 = 4 << 4;
        match self {
            Self::Counter => (0, 0, 1),
            Self::Instant => (INSTANT, 0, 1),
            Self::Peak => (PEAK, 0, 1),
            Self::Boolean => (INSTANT | BOOLEAN, 0, 1),
            Self::Nanoseconds => (SECONDS, -9, 1),
            Self::Histogram => (LOG_HISTOGRAM | SECONDS, -9, super::halt::BUCKETS),
        }
    }
}

/// The statistics of a vCPU or a VM: descriptors on the first call, else values.
enum Table<'a> {
    Descriptors { out: &'a mut Vec<u8>, values: usize },
    Values(&'a mut Vec<u64>),
}

impl Table<'_> {
    fn add(&mut self, name: &str, kind: Kind, of: &[u64]) {
        match self {
            Self::Values(values) => values.extend(of),
            Self::Descriptors { out, values } => {
                let (flags, exponent, size) = kind.descriptor();
                out.extend(flags.to_le_bytes());
                out.extend(exponent.to_le_bytes());
                out.extend((size as u16).to_le_bytes());
                out.extend((*values as u32 * 8).to_le_bytes());
                out.extend(0u32.to_le_bytes());
                put_text(out, name, NAME_SIZE);
                *values += size;
            }
        }
    }

    fn counters<const N: usize>(&mut self, all: [(&str, u64); N]) {
        all.iter().for_each(|(name, value)| self.add(name, Kind::Counter, &[*value]));
    }
}

fn put_text(out: &mut Vec<u8>, text: &str, size: usize) {
    let end = out.len() + size;
    out.extend(text.bytes().take(size - 1));
    out.resize(end, 0);
}

/// A file of statistics.
pub struct StatsFile {
    map: Mapping,
    /// Keeps the file known when user space has closed its own descriptors.
    fd: Owned,
    data: usize,
    values: Vec<u64>,
}

impl StatsFile {
    /// Another descriptor of it, to be read only.
    fn again(&self) -> Answer<i32> {
        // Without /proc it can be written to as well.
        self.fd.readable().or_else(|_| Owned::duplicate(self.fd.number())).map(Owned::give)
    }

    /// Writes the values; the file's own buffer is lent for it.
    fn refresh(&mut self, fill: impl FnOnce(&mut Table<'_>)) {
        self.values.clear();
        fill(&mut Table::Values(&mut self.values));
        let bytes = size_of_val(self.values.as_slice());
        let room = self.map.size().saturating_sub(self.data);
        let from = self.values.as_ptr().cast::<u8>();
        // SAFETY: inside the vector and the mapping.
        unsafe {
            std::ptr::copy_nonoverlapping(from, self.map.base().add(self.data), bytes.min(room));
        }
    }
}

/// KVM_GET_STATS_FD on a VM or one of its vCPUs.
pub fn open(front: &Front, vm: &Arc<Vm>, vcpu: Option<usize>) -> Answer<i32> {
    let known = |state: &mut State| match vcpu {
        Some(index) => state.vcpus[index].stats.as_ref().map(StatsFile::again),
        None => state.stats.as_ref().map(StatsFile::again),
    };
    let image = {
        let mut state = vm.lock();
        state.alive()?;
        if let Some(again) = known(&mut state) {
            return again;
        }
        image(&state, vcpu)
    };
    let data = u32::from_le_bytes([image[20], image[21], image[22], image[23]]) as usize;
    let file = front.objects.publish(c"kvm-stats", image.len() as u64, |fd| {
        let map = Mapping::of(fd, image.len())?;
        // SAFETY: the mapping is as long as the image.
        unsafe { std::ptr::copy_nonoverlapping(image.as_ptr(), map.base(), image.len()) };
        let file = StatsFile { map, fd: Owned::duplicate(fd)?, data, values: Vec::new() };
        let mut state = vm.lock();
        match vcpu {
            Some(index) => state.vcpus[index].stats = Some(file),
            None => state.stats = Some(file),
        }
        Ok(Object::Stats)
    })?;
    let mut state = vm.lock();
    match vcpu {
        Some(index) => state.refresh_stats(index),
        None => state.refresh_vm_stats(),
    }
    match known(&mut state) {
        Some(again) => {
            super::fd::close(file);
            again
        }
        None => Ok(file),
    }
}

/// The file with values that are all zero.
fn image(state: &State, vcpu: Option<usize>) -> Vec<u8> {
    let vm = format!("kvm-{}", std::process::id());
    let id = match vcpu {
        Some(index) => format!("{vm}/vcpu-{}", state.vcpus[index].id),
        None => vm,
    };
    let mut out = vec![0; HEADER];
    put_text(&mut out, &id, ID_SIZE);
    let mut table = Table::Descriptors { out: &mut out, values: 0 };
    match vcpu {
        Some(index) => state.vcpu_stats(index, &mut table),
        None => state.vm_stats(&mut table),
    }
    let Table::Descriptors { values, .. } = table else { return out };
    let data = out.len();
    let count = (data - DESCRIPTORS) / DESCRIPTOR;
    let header = [0, NAME_SIZE, count, HEADER, DESCRIPTORS, data];
    for (at, word) in header.iter().enumerate() {
        out[at * 4..][..4].copy_from_slice(&(*word as u32).to_le_bytes());
    }
    out.resize(data + values * 8, 0);
    out
}

impl State {
    /// Writes a vCPU's present values to its statistics file.
    pub fn refresh_stats(&mut self, index: usize) {
        let Some(mut file) = self.vcpus[index].stats.take() else { return };
        file.refresh(|table| self.vcpu_stats(index, table));
        self.vcpus[index].stats = Some(file);
    }

    /// Writes the VM's present values to its statistics file.
    pub fn refresh_vm_stats(&mut self) {
        let Some(mut file) = self.stats.take() else { return };
        file.refresh(|table| self.vm_stats(table));
        self.stats = Some(file);
    }

    fn vm_stats(&self, table: &mut Table<'_>) {
        let ns = |cycles| self.chipset.time().at(cycles).ns;
        table.counters([
            ("remote_tlb_flush", 0),
            ("remote_tlb_flush_requests", 0),
            ("mmu_shadow_zapped", 0),
            ("mmu_pte_write", 0),
            ("mmu_pde_zapped", 0),
            ("mmu_flooded", 0),
            ("mmu_recycled", 0),
            ("mmu_cache_miss", 0),
        ]);
        let instant = [
            ("mmu_unsync", 0),
            ("mmu_shadow_pages", 0),
            ("pages_4k", self.memory.mapped()),
            ("pages_2m", self.memory.mapped_large()),
            ("pages_1g", 0),
            ("nx_lpage_splits", 0),
        ];
        instant.iter().for_each(|(name, value)| table.add(name, Kind::Instant, &[*value]));
        table.add("max_mmu_rmap_size", Kind::Peak, &[0]);
        table.add("max_mmu_page_hash_collisions", Kind::Peak, &[0]);
        table.add("softkvm_time_ns", Kind::Nanoseconds, &[ns(self.clock.now())]);
        table.add("softkvm_placeholder_ns", Kind::Nanoseconds, &[ns(self.clock.guessed())]);
        for (name, time) in self.symbols.iter().flat_map(Watch::stages) {
            let name = format!("softkvm_symbol_{name}_ns");
            table.add(&name, Kind::Nanoseconds, &[time.unwrap_or(0)]);
        }
        let counts = &self.counts;
        match self.kind {
            VmKind::Plain | VmKind::SwProtected => {}
            VmKind::Snp => {
                table.add("softkvm_psp_busy_ns", Kind::Nanoseconds, &[ns(counts.psp.cycles)]);
                table.add("softkvm_psp_wait_ns", Kind::Nanoseconds, &[ns(counts.psp_wait)]);
                table.counters([
                    ("softkvm_pvalidate_4k", counts.pvalidate_4k),
                    ("softkvm_pvalidate_2m", counts.pvalidate_2m),
                    ("softkvm_pvalidate_mismatch", counts.pvalidate_mismatch),
                ]);
            }
            VmKind::Tdx => table.counters([
                ("softkvm_accept_4k", counts.accept_4k),
                ("softkvm_accept_2m", counts.accept_2m),
                ("softkvm_accept_mismatch", counts.accept_mismatch),
            ]),
        }
    }

    fn vcpu_stats(&self, index: usize, table: &mut Table<'_>) {
        let counts = &self.vcpus[index].counts;
        let halts = &counts.halts;
        table.counters([
            ("halt_successful_poll", halts.successful),
            ("halt_attempted_poll", halts.attempted),
            ("halt_poll_invalid", 0),
            ("halt_wakeup", halts.waits),
        ]);
        table.add("halt_poll_success_ns", Kind::Nanoseconds, &[halts.success_ns]);
        table.add("halt_poll_fail_ns", Kind::Nanoseconds, &[halts.fail_ns]);
        table.add("halt_wait_ns", Kind::Nanoseconds, &[halts.wait_ns]);
        table.add("halt_poll_success_hist", Kind::Histogram, &halts.success);
        table.add("halt_poll_fail_hist", Kind::Histogram, &halts.fail);
        table.add("halt_wait_hist", Kind::Histogram, &halts.wait);
        let vcpu = &self.vcpus[index];
        let blocking = vcpu.inside && !self.runnable(index);
        table.add("blocking", Kind::Boolean, &[u64::from(blocking)]);
        table.counters([
            ("pf_taken", counts.page_faults),
            ("pf_fixed", counts.page_faults),
            ("pf_emulate", 0),
            ("pf_spurious", 0),
            ("pf_fast", 0),
            ("pf_mmio_spte_created", 0),
            ("pf_guest", 0),
            ("tlb_flush", 0),
            ("invlpg", 0),
            ("exits", counts.exits),
            ("io_exits", counts.io),
            ("mmio_exits", counts.mmio),
            ("signal_exits", counts.signals),
            ("irq_window_exits", counts.windows),
            ("nmi_window_exits", 0),
            ("l1d_flush", 0),
            ("halt_exits", counts.halt_exits),
            ("request_irq_exits", counts.window_requests),
            ("irq_exits", 0),
            // Each KVM_RUN loads the vCPU once, and each sleep once more.
            ("host_state_reload", counts.runs + halts.waits),
            ("fpu_reload", counts.runs),
            ("insn_emulation", counts.emulated),
            ("insn_emulation_fail", 0),
            ("hypercalls", counts.hypercalls),
            ("irq_injections", counts.interrupts),
            ("nmi_injections", counts.nmis),
            ("req_event", 0),
            ("nested_run", 0),
            ("directed_yield_attempted", 0),
            ("directed_yield_successful", 0),
            ("preemption_reported", 0),
            ("preemption_other", 0),
        ]);
        table.add("guest_mode", Kind::Boolean, &[0]);
        table.counters([("notify_window_exits", 0)]);
    }
}
