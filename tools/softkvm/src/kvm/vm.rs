//! A VM and its ioctls.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use abi::kvm::{
    CreateGuestMemfd, KVM_CAP_EXIT_HYPERCALL, KVM_EXIT_HYPERCALL_MAP_GPA,
    KVM_MEMORY_ATTRIBUTE_PRIVATE, MemoryAttributes, UserMemoryRegion2,
};
use kvm_bindings as kb;
use kvm_bindings::{
    kvm_clock_data, kvm_device_attr, kvm_enable_cap, kvm_irq_routing_entry, kvm_msi,
    kvm_msr_filter, kvm_pit_config, kvm_reinject_control, kvm_userspace_memory_region,
};

use super::caps::{self, VmKind};
use super::errno::{Answer, Errno};
use super::fd::Mapping;
use super::machine::Machine;
use super::memory::{Change, GmemId, Half};
use super::msrs::{Filter, FilterRange};
use super::number as nr;
use super::state::State;
use super::{Front, Object, sev, user};
use crate::chipset::{Chip, Irqchip, Route, Source, Target};

/// A VM. Its state is behind one lock; holding it is holding the baton.
pub struct Vm {
    state: Mutex<State>,
    /// Threads that wait for the lock; whoever runs vCPUs gives way to them.
    wanted: AtomicUsize,
    machine: Arc<Machine>,
}

impl Vm {
    /// A new VM.
    pub fn new(machine: Arc<Machine>, kind: VmKind) -> Arc<Self> {
        let vm = Arc::new(Self {
            state: Mutex::new(State::new(machine.clone(), kind)),
            wanted: AtomicUsize::new(0),
            machine: machine.clone(),
        });
        machine.add_vm(&vm);
        vm
    }

    /// The machine it is on.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// The state; a running vCPU gives way at the end of its turn.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.wanted.fetch_add(1, Ordering::SeqCst);
        let guard = self.take_baton();
        self.wanted.fetch_sub(1, Ordering::SeqCst);
        guard
    }

    fn take_baton(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Between two turns, or two moments of an idle machine: lets others have the lock.
    pub(super) fn pass<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if self.wanted.load(Ordering::SeqCst) == 0 {
            return state;
        }
        drop(state);
        let since = Instant::now();
        while self.wanted.load(Ordering::SeqCst) > 0 && since.elapsed() < Duration::from_millis(2) {
            std::thread::yield_now();
        }
        self.take_baton()
    }

    /// Makes vCPUs that wait look again.
    pub(super) fn kick(&self, state: &State) {
        state.vcpus.iter().filter(|vcpu| vcpu.waiting).for_each(|vcpu| vcpu.wake.signal());
    }

    /// The state once no vCPU is in KVM_RUN, as for an ioctl that takes every vCPU's mutex.
    pub(super) fn lock_when_quiet(&self) -> MutexGuard<'_, State> {
        loop {
            let state = self.lock();
            if state.vcpus.iter().all(|vcpu| !vcpu.inside) {
                return state;
            }
            drop(state);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Statistics, unless a vCPU is running right now.
    pub fn try_statistics(&self) -> Option<serde_json::Value> {
        let since = Instant::now();
        self.wanted.fetch_add(1, Ordering::SeqCst);
        let statistics = loop {
            match self.state.try_lock() {
                Ok(state) => break Some(state.statistics()),
                Err(std::sync::TryLockError::Poisoned(state)) => {
                    break Some(state.into_inner().statistics());
                }
                Err(std::sync::TryLockError::WouldBlock) => {}
            }
            if since.elapsed() > Duration::from_millis(500) {
                break None;
            }
            std::thread::yield_now();
        };
        self.wanted.fetch_sub(1, Ordering::SeqCst);
        statistics
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let asid = state.snp.asid();
        state.snp.destroy(&mut self.machine.psp());
        if asid != 0 {
            self.machine.free_id(asid);
        }
        if let Some(hkid) = state.td.as_mut().and_then(|td| td.hkid.take()) {
            self.machine.free_id(hkid);
        }
        self.machine.retire(|| state.statistics());
    }
}

/// An ioctl on a VM.
pub fn ioctl(front: &Front, vm: &Arc<Vm>, request: u64, arg: u64) -> Answer<i32> {
    let done = |()| 0;
    match request {
        nr::CREATE_VCPU => return create_vcpu(front, vm, arg),
        nr::CREATE_GUEST_MEMFD => return create_gmem(front, vm, arg),
        nr::SET_USER_MEMORY_REGION | nr::SET_USER_MEMORY_REGION2 => {
            return set_region(front, vm, request, arg).map(done);
        }
        nr::MEMORY_ENCRYPT_OP => {
            let result = super::protection::vm_op(vm, arg);
            vm.lock().refresh_vm_stats();
            return result;
        }
        nr::GET_STATS_FD => return super::stats::open(front, vm, None),
        _ => {}
    }
    let mut state = vm.lock();
    state.alive()?;
    let result = ioctl_locked(&mut state, request, arg);
    state.chipset_events();
    state.refresh_vm_stats();
    vm.kick(&state);
    result
}

fn ioctl_locked(state: &mut State, request: u64, arg: u64) -> Answer<i32> {
    let done = |()| 0;
    match request {
        nr::CHECK_EXTENSION => Ok(check_extension(state, arg as u32)),
        nr::SET_MEMORY_ATTRIBUTES => set_attributes(state, arg).map(done),
        nr::ENABLE_CAP => enable_cap(state, &user::get(arg)?).map(done),
        nr::CREATE_IRQCHIP => create_irqchip(state).map(done),
        nr::CREATE_PIT2 => create_pit(state, arg).map(done),
        nr::IRQ_LINE | nr::IRQ_LINE_STATUS => irq_line(state, request, arg),
        nr::SIGNAL_MSI => signal_msi(state, arg),
        nr::SET_GSI_ROUTING => set_routing(state, arg).map(done),
        nr::IRQFD => irqfd(state, arg).map(done),
        nr::IOEVENTFD => state.eventfds.ioeventfd(&user::get(arg)?).map(done),
        nr::GET_IRQCHIP => get_irqchip(state, arg).map(done),
        nr::SET_IRQCHIP => set_irqchip(state, arg).map(done),
        nr::GET_PIT2 => {
            let image = state.chipset.save_pit().map_err(|_| Errno::ENXIO)?;
            user::put(arg, &image).map(done)
        }
        nr::SET_PIT2 => {
            let image = user::get(arg)?;
            let now = state.clock.now();
            state.chipset.restore_pit(&image, now).map_err(|_| Errno::ENXIO).map(done)
        }
        nr::REINJECT_CONTROL => {
            let control: kvm_reinject_control = user::get(arg)?;
            let on = control.pit_reinject != 0;
            state.chipset.set_pit_reinject(on).map_err(|_| Errno::ENXIO).map(done)
        }
        nr::GET_CLOCK => get_clock(state, arg).map(done),
        nr::SET_CLOCK => set_clock(state, arg).map(done),
        nr::SET_TSC_KHZ => set_tsc_khz(state, arg).map(done),
        nr::GET_TSC_KHZ => Ok(state.tsc_khz as i32),
        // Where the real-mode task segment would go; nothing needs one here.
        nr::SET_TSS_ADDR => Ok(0),
        nr::SET_IDENTITY_MAP_ADDR => {
            Errno::require(state.vcpus.is_empty())?;
            state.switches.identity_map = user::get(arg)?;
            Ok(0)
        }
        nr::SET_BOOT_CPU_ID => set_boot_cpu(state, arg).map(done),
        // Shadow pages are limited by nothing here.
        nr::SET_NR_MMU_PAGES => Errno::require(arg >= nr::MIN_MMU_PAGES).map(done),
        nr::X86_SET_MSR_FILTER => set_filter(state, arg).map(done),
        nr::REGISTER_COALESCED_MMIO => state.coalesced.register(&user::get(arg)?).map(done),
        nr::UNREGISTER_COALESCED_MMIO => state.coalesced.unregister(&user::get(arg)?).map(done),
        nr::GET_DIRTY_LOG => get_dirty_log(state, arg).map(done),
        nr::CLEAR_DIRTY_LOG => clear_dirty_log(state, arg).map(done),
        nr::MEMORY_ENCRYPT_REG_REGION | nr::MEMORY_ENCRYPT_UNREG_REGION => {
            let [address, size]: [u64; 2] = user::get(arg)?;
            sev::region(state, request == nr::MEMORY_ENCRYPT_REG_REGION, address, size).map(done)
        }
        nr::HAS_DEVICE_ATTR | nr::GET_DEVICE_ATTR | nr::SET_DEVICE_ATTR => {
            user::get::<kvm_device_attr>(arg)?;
            Err(Errno::ENXIO)
        }
        nr::CREATE_DEVICE => Err(Errno::ENODEV),
        _ => Err(Errno::ENOTTY),
    }
}

fn set_boot_cpu(state: &mut State, id: u64) -> Answer {
    if !state.vcpus.is_empty() {
        return Err(Errno::EBUSY);
    }
    let most = state.switches.max_vcpu_id.unwrap_or(nr::MAX_VCPU_IDS);
    Errno::require(id <= u64::from(most))?;
    state.switches.boot_cpu = id as u32;
    Ok(())
}

/// KVM_CAP_MAX_VCPU_ID: set once, and not below the boot processor.
fn limit_vcpu_ids(state: &mut State, most: u64) -> Answer {
    let boot = state.switches.boot_cpu;
    let most = u32::try_from(most).map_err(|_| Errno::EINVAL)?;
    Errno::require(most <= nr::MAX_VCPU_IDS && boot <= most)?;
    Errno::require(state.switches.max_vcpu_id.is_none_or(|old| old == most))?;
    state.switches.max_vcpu_id = Some(most).filter(|most| *most != 0);
    Ok(())
}

fn check_extension(state: &State, cap: u32) -> i32 {
    match cap {
        kb::KVM_CAP_X86_APIC_BUS_CYCLES_NS => state.chipset.bus_ns() as i32,
        _ => caps::check(&state.machine, Some(state.kind), cap),
    }
}

fn create_vcpu(front: &Front, vm: &Arc<Vm>, id: u64) -> Answer<i32> {
    let id = u32::try_from(id).map_err(|_| Errno::EINVAL)?;
    front.objects.publish(c"kvm-vcpu", nr::VCPU_MMAP_SIZE as u64, |fd| {
        let page = Arc::new(Mapping::of(fd, nr::VCPU_MMAP_SIZE)?);
        let mut state = vm.lock();
        state.alive()?;
        state.coalesced.prepare()?;
        let index = state.add_vcpu(id, page)?;
        Ok(Object::Vcpu { vm: vm.clone(), index })
    })
}

fn create_gmem(front: &Front, vm: &Arc<Vm>, arg: u64) -> Answer<i32> {
    let request: CreateGuestMemfd = user::get(arg)?;
    Errno::require(request.reserved.iter().all(|word| *word == 0))?;
    {
        let state = vm.lock();
        state.alive()?;
        state.memory.check_gmem(request.size, request.flags)?;
    }
    let file = front.objects.publish(c"kvm-gmem", request.size, |fd| {
        let map = Arc::new(Mapping::of(fd, request.size as usize)?);
        let id = vm.lock().memory.add_gmem(map, request.flags);
        Ok(Object::Gmem { vm: Arc::downgrade(vm), id, size: request.size, flags: request.flags })
    })?;
    // Reading and writing it fails (with another errno than the kernel's, EBADF).
    Ok(match super::fd::bare(file) {
        Ok(bare) => {
            super::fd::close(file);
            bare
        }
        // Without /proc there is no such descriptor.
        Err(_) => file,
    })
}

fn set_region(front: &Front, vm: &Arc<Vm>, request: u64, arg: u64) -> Answer {
    let region = if request == nr::SET_USER_MEMORY_REGION2 {
        user::get::<UserMemoryRegion2>(arg)?
    } else {
        let old: kvm_userspace_memory_region = user::get(arg)?;
        Errno::require(old.flags & !(nr::MEM_LOG_DIRTY | nr::MEM_READONLY) == 0)?;
        UserMemoryRegion2 {
            slot: old.slot,
            flags: old.flags,
            guest_phys_addr: old.guest_phys_addr,
            memory_size: old.memory_size,
            userspace_addr: old.userspace_addr,
            ..UserMemoryRegion2::default()
        }
    };
    let find = || -> Answer<GmemId> {
        let fd = region.guest_memfd as RawFd;
        match front.objects.find(fd) {
            Some(Object::Gmem { vm: owner, id, .. }) if owner.as_ptr() == Arc::as_ptr(vm) => Ok(id),
            Some(_) => Err(Errno::EINVAL),
            None if super::fd::inode(fd).is_none() => Err(Errno::EBADF),
            None => Err(Errno::EINVAL),
        }
    };
    let mut state = vm.lock();
    state.alive()?;
    if region.memory_size == 0
        && let Some(frames) = state.memory.frames_of(region.slot)
    {
        state.zap_private(frames);
    }
    let change = state.memory.set_region(&region, find)?;
    if change == Change::Contents
        && state.kind == VmKind::Plain
        && state.switches.disabled_quirks & caps::QUIRK_ZAP_ALL == 0
    {
        state.memory.unmap_all();
    }
    state.memory_changed(change);
    state.refresh_vm_stats();
    Ok(())
}

fn set_attributes(state: &mut State, arg: u64) -> Answer {
    if !state.kind.has_private_memory() {
        return Err(Errno::ENOTTY);
    }
    let request: MemoryAttributes = user::get(arg)?;
    let end = request.address.checked_add(request.size);
    Errno::require(
        request.flags == 0
            && request.attributes & !KVM_MEMORY_ATTRIBUTE_PRIVATE == 0
            && request.size != 0
            && end.is_some()
            && request.address.is_multiple_of(4096)
            && request.size.is_multiple_of(4096),
    )?;
    let start = request.address >> 12;
    let private = request.attributes != 0;
    let end = start + (request.size >> 12);
    let gone = if private { Half::Shared } else { Half::Private };
    state.memory.unmap(start..end, gone);
    if !private {
        // What is mapped the other way goes (Linux arch/x86/kvm/mmu/mmu.c `kvm_arch_pre_set_memory_attributes`): of what was
        // private already, nothing is lost.
        state.zap_private(start..end);
    }
    // The next access to the rest of it would be a fault that KVM cures so.
    let split = state.memory.smash_edges(start..end);
    for _ in 0..split {
        state.charge_psmash();
    }
    state.memory.set_private(start, end, private);
    state.memory_changed(Change::Translations);
    Ok(())
}

/// `struct kvm_dirty_log`: slot, padding, bitmap.
fn get_dirty_log(state: &mut State, arg: u64) -> Answer {
    let [slot, bitmap]: [u64; 2] = user::get(arg)?;
    let logged = state.memory.logged(slot as u32)?;
    let bits = state.memory.dirty_log(logged)?;
    state.memory_changed(Change::Translations);
    user::put_many(bitmap, &bits)
}

/// `struct kvm_clear_dirty_log`: slot, pages, first page, bitmap.
fn clear_dirty_log(state: &mut State, arg: u64) -> Answer {
    let [head, first, bitmap]: [u64; 3] = user::get(arg)?;
    let (slot, count) = (head as u32, head >> 32);
    Errno::require(first.is_multiple_of(64))?;
    let logged = state.memory.logged(slot)?;
    let left = logged.pages.checked_sub(first).ok_or(Errno::EINVAL)?;
    Errno::require(count == left || count < left && count.is_multiple_of(64))?;
    let bits: Vec<u64> = user::get_many(bitmap, count.div_ceil(64) as usize)?;
    state.memory.clear_dirty(logged, first, &bits)?;
    state.memory_changed(Change::Translations);
    Ok(())
}

fn enable_cap(state: &mut State, cap: &kvm_enable_cap) -> Answer {
    Errno::require(cap.flags == 0)?;
    let [arg, ..] = cap.args;
    match cap.cap {
        KVM_CAP_EXIT_HYPERCALL => {
            Errno::require(arg & !KVM_EXIT_HYPERCALL_MAP_GPA == 0)?;
            state.switches.map_gpa_exits = arg != 0;
        }
        kb::KVM_CAP_X2APIC_API => {
            Errno::require(arg & !caps::X2APIC_API_FLAGS == 0)?;
            state.chipset.set_wide_ids(arg & 1 != 0);
        }
        kb::KVM_CAP_SPLIT_IRQCHIP => {
            Errno::require(arg <= u64::from(crate::chipset::MAX_ROUTES))?;
            if state.chipset.mode() != Irqchip::None || !state.vcpus.is_empty() {
                return Err(Errno::EEXIST);
            }
            state.chipset.create_split_irqchip(arg as u32).map_err(|_| Errno::EINVAL)?;
        }
        kb::KVM_CAP_X86_USER_SPACE_MSR => {
            Errno::require(arg & !caps::MSR_EXIT_REASONS == 0)?;
            state.switches.msr_exits = arg as u32;
        }
        kb::KVM_CAP_X86_DISABLE_EXITS => {
            Errno::require(arg & !caps::DISABLE_EXITS == 0 && state.vcpus.is_empty())?;
            state.switches.disabled_exits |= arg;
        }
        kb::KVM_CAP_DISABLE_QUIRKS2 => {
            Errno::require(arg & !caps::QUIRKS == 0)?;
            state.switches.disabled_quirks |= arg;
        }
        kb::KVM_CAP_DISABLE_QUIRKS => state.switches.disabled_quirks |= arg & caps::QUIRKS,
        kb::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 => {
            let allowed = if arg & 1 != 0 { caps::MANUAL_LOG } else { 1 };
            Errno::require(arg & !allowed == 0)?;
            state.memory.manual_log = arg;
        }
        kb::KVM_CAP_HALT_POLL => {
            state.halt_poll = u32::try_from(arg).map_err(|_| Errno::EINVAL)?;
        }
        kb::KVM_CAP_MAX_VCPU_ID => limit_vcpu_ids(state, arg)?,
        kb::KVM_CAP_MSR_PLATFORM_INFO => state.switches.hides_platform_info = arg == 0,
        kb::KVM_CAP_X86_APIC_BUS_CYCLES_NS => set_bus_cycle(state, arg)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// KVM_CAP_X86_APIC_BUS_CYCLES_NS.
fn set_bus_cycle(state: &mut State, ns: u64) -> Answer {
    // The longest period of the timer must fit into 64 bits: initial count and divisor at most.
    const LONGEST: u64 = 128 * u32::MAX as u64;
    Errno::require(ns != 0 && ns <= u64::MAX / LONGEST)?;
    if state.chipset.mode() == Irqchip::None {
        return Err(Errno::ENXIO);
    }
    Errno::require(state.vcpus.is_empty())?;
    state.chipset.set_bus_ns(ns);
    Ok(())
}

fn create_irqchip(state: &mut State) -> Answer {
    if state.kind == VmKind::Tdx {
        // The module hides EOIs, which IOAPIC and 8259s would have to see.
        return Err(Errno::ENOTTY);
    }
    if state.chipset.mode() != Irqchip::None {
        return Err(Errno::EEXIST);
    }
    state.chipset.create_irqchip().map_err(|_| Errno::EINVAL)
}

fn create_pit(state: &mut State, arg: u64) -> Answer {
    let config: kvm_pit_config = user::get(arg)?;
    if state.chipset.has_pit() {
        return Err(Errno::EEXIST);
    }
    if state.chipset.mode() != Irqchip::Full {
        return Err(Errno::ENOENT);
    }
    let now = state.clock.now();
    state.chipset.create_pit(config.flags, now).map_err(|_| Errno::EINVAL)
}

fn irq_line(state: &mut State, request: u64, arg: u64) -> Answer<i32> {
    let line: [u32; 2] = user::get(arg)?;
    let [irq, level] = line;
    if state.chipset.mode() == Irqchip::None {
        return Err(Errno::ENXIO);
    }
    let status = state.chipset.set_irq(irq, level != 0, Source::User);
    if request == nr::IRQ_LINE_STATUS {
        user::put(arg, &[status as u32, level])?;
    }
    Ok(0)
}

fn signal_msi(state: &mut State, arg: u64) -> Answer<i32> {
    let msi: kvm_msi = user::get(arg)?;
    if state.chipset.mode() == Irqchip::None || msi.flags != 0 {
        return Err(Errno::EINVAL);
    }
    let address = u64::from(msi.address_hi) << 32 | u64::from(msi.address_lo);
    Ok(state.chipset.signal_msi(address, msi.data))
}

fn irqfd(state: &mut State, arg: u64) -> Answer {
    let args = user::get(arg)?;
    if state.chipset.mode() == Irqchip::None {
        return Err(Errno::EINVAL);
    }
    state.eventfds.irqfd(&args, &state.machine.irqfds, &mut state.chipset)
}

fn set_routing(state: &mut State, arg: u64) -> Answer {
    let [count, flags]: [u32; 2] = user::get(arg)?;
    if state.chipset.mode() == Irqchip::None {
        return Err(Errno::EINVAL);
    }
    Errno::require(flags == 0 && count <= crate::chipset::MAX_ROUTES)?;
    let entries: Vec<kvm_irq_routing_entry> = user::get_many(arg + 8, count as usize)?;
    let routes: Vec<Route> = entries.iter().map(route).collect::<Answer<_>>()?;
    state.chipset.set_routing(&routes).map_err(|_| Errno::EINVAL)
}

/// One `struct kvm_irq_routing_entry`: gsi, type, flags, pad, then a union of 32 bytes.
fn route(entry: &kvm_irq_routing_entry) -> Answer<Route> {
    Errno::require(entry.flags == 0)?;
    let bytes = user::bytes_of(entry);
    let word = |index: usize| {
        let at = 16 + index * 4;
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    let target = match entry.type_ {
        kb::KVM_IRQ_ROUTING_IRQCHIP => {
            let chip = Chip::from_kvm(word(0)).ok_or(Errno::EINVAL)?;
            Target::Pin { chip, pin: word(1) }
        }
        kb::KVM_IRQ_ROUTING_MSI => {
            Target::Msi { address: u64::from(word(1)) << 32 | u64::from(word(0)), data: word(2) }
        }
        _ => return Err(Errno::EINVAL),
    };
    Ok(Route { gsi: entry.gsi, target })
}

fn get_irqchip(state: &mut State, arg: u64) -> Answer {
    let id: u32 = user::get(arg)?;
    if state.chipset.mode() != Irqchip::Full {
        return Err(Errno::ENXIO);
    }
    let chip = Chip::from_kvm(id).ok_or(Errno::EINVAL)?;
    let image = state.chipset.save_chip(chip).map_err(|_| Errno::EINVAL)?;
    user::write(arg + 8, &image)
}

fn set_irqchip(state: &mut State, arg: u64) -> Answer {
    let id: u32 = user::get(arg)?;
    let image: [u8; 512] = user::get(arg + 8)?;
    if state.chipset.mode() != Irqchip::Full {
        return Err(Errno::ENXIO);
    }
    let chip = Chip::from_kvm(id).ok_or(Errno::EINVAL)?;
    state.chipset.restore_chip(chip, &image).map_err(|_| Errno::EINVAL)
}

fn get_clock(state: &State, arg: u64) -> Answer {
    /// KVM_CLOCK_TSC_STABLE, REALTIME, HOST_TSC.
    const FLAGS: u32 = 2 | 4 | 8;
    let now = state.clock.now();
    let (clock, realtime) = state.chipset.clock(now);
    let mut out: kvm_clock_data = user::zeroed();
    out.clock = clock;
    out.flags = FLAGS;
    out.realtime = realtime;
    out.host_tsc = now;
    user::put(arg, &out)
}

fn set_clock(state: &mut State, arg: u64) -> Answer {
    const REALTIME: u32 = 4;
    let data: kvm_clock_data = user::get(arg)?;
    Errno::require(data.flags & !REALTIME == 0)?;
    let now = state.clock.now();
    let mut clock = data.clock;
    if data.flags & REALTIME != 0 {
        // The clock advances by the time that has passed since it was read.
        let (_, real) = state.chipset.clock(now);
        clock = clock.saturating_add(real.saturating_sub(data.realtime));
    }
    state.chipset.set_clock(clock, now);
    Ok(())
}

fn set_tsc_khz(state: &mut State, khz: u64) -> Answer {
    let khz = match khz as u32 {
        0 => state.machine.profile.tsc_khz,
        khz => khz,
    };
    Errno::require(state.vcpus.is_empty())?;
    state.tsc_khz = khz;
    state.chipset.set_tsc_khz(khz);
    state.clock.set_khz(khz);
    Ok(())
}

fn set_filter(state: &mut State, arg: u64) -> Answer {
    const DEFAULT_DENY: u32 = 1;
    let request: kvm_msr_filter = user::get(arg)?;
    Errno::require(request.flags & !DEFAULT_DENY == 0)?;
    let mut filter = Filter { default_deny: request.flags & DEFAULT_DENY != 0, ranges: Vec::new() };
    for range in request.ranges.iter().filter(|range| range.nmsrs != 0) {
        Errno::require(range.flags != 0 && range.flags & !3 == 0 && range.nmsrs <= 0x3000)?;
        let bytes = (range.nmsrs as usize).div_ceil(64) * 8;
        filter.ranges.push(FilterRange {
            base: range.base,
            count: range.nmsrs,
            read: range.flags & 1 != 0,
            write: range.flags & 2 != 0,
            bitmap: user::get_many(range.bitmap as u64, bytes)?,
        });
    }
    // Denying by default with nothing allowed would be a mistake.
    Errno::require(!filter.default_deny || !filter.ranges.is_empty())?;
    state.switches.filter = filter;
    Ok(())
}
