//! KVM_MEMORY_ENCRYPT_OP of a TD and of its vCPUs: the order of checks, errno values and what is written back, as in Linux 7.2
//! arch/x86/kvm/vmx/tdx.c (`tdx_vm_ioctl`, `tdx_vcpu_unlocked_ioctl`, `tdx_vcpu_ioctl`).
//!
//! The lock that all commands but CAPABILITIES take waits for every vCPU to be outside KVM_RUN. That a vCPU is being created
//! at the same moment (EBUSY) cannot be met here: creating one is one step.

use std::sync::Arc;

use abi::kvm_tdx::{
    CpuidEntry, CpuidHeader, MEASURE_MEMORY_REGION, TdxCapabilities, TdxCmd, TdxInitMemRegion,
    TdxInitVm, cmd,
};
use abi::tdx::{Gpaw, TdAttributes, TdParams, TdxStatus, Xfam};
use zerocopy::FromZeros;

use super::errno::{Answer, Errno};
use super::signals::Blocked;
use super::state::State;
use super::user;
use super::vm::Vm;
use crate::tdx::platform::CpuidConfig;
use crate::tdx::{OpState, TdxPlatform};

const PAGE: u64 = 4096;
/// Unit of TD_PARAMS.TSC_FREQUENCY.
const TSC_UNIT_KHZ: u32 = 25_000;
/// KVM_MAX_CPUID_ENTRIES.
const MAX_CPUID: u32 = 256;
/// Function whose EAX 23:16 chooses the width of guest addresses.
const WIDTHS: u32 = 0x8000_0008;
const WIDTH_SHIFT: u32 = 16;
const WIDTH: u32 = 0xff << WIDTH_SHIFT;
/// What of function 7 KVM does not let a TD have: HLE and RTM, WAITPKG (`tdx_clear_unsupported_cpuid`).
const NO_EBX_7: u32 = 1 << 4 | 1 << 11;
const NO_ECX_7: u32 = 1 << 5;
/// GetTdVmCallInfo, leaf 1, R11: user space may offer SetupEventNotifyInterrupt.
const USER_VMCALLS_R11: u64 = 1 << 1;
/// KVM_CPUID_FLAG_SIGNIFCANT_INDEX.
const SIGNIFICANT: u32 = 1;

/// The attributes that KVM lets a TD have.
fn supported_attributes(platform: &TdxPlatform) -> TdAttributes {
    TdAttributes(TdAttributes::SEPT_VE_DISABLE.0 & platform.attributes_fixed0.0)
}

/// The states that KVM has and the module allows.
fn supported_xfam(platform: &TdxPlatform) -> Xfam {
    Xfam(Xfam::FIXED1.0 & platform.xfam_fixed0.0)
}

fn fetch_command(arg: u64) -> Answer<TdxCmd> {
    let command: TdxCmd = user::get(arg)?;
    Errno::require(command.hw_error == TdxStatus::SUCCESS)?;
    Ok(command)
}

/// On the VM.
pub fn vm_op(vm: &Arc<Vm>, arg: u64) -> Answer<i32> {
    let mut command = fetch_command(arg)?;
    if command.id == cmd::CAPABILITIES {
        return capabilities(&vm.lock(), &command).map(|()| 0);
    }
    let mut state = vm.lock_when_quiet();
    state.alive()?;
    let result = match command.id {
        cmd::INIT_VM => init_vm(&mut state, &mut command),
        cmd::FINALIZE_VM => finalize(&mut state, &mut command),
        _ => return Err(Errno::EINVAL),
    };
    user::put(arg, &command)?;
    result.map(|()| 0)
}

/// On a vCPU.
pub fn vcpu_op(vm: &Arc<Vm>, index: usize, arg: u64) -> Answer<i32> {
    let command = fetch_command(arg)?;
    let mut state = vm.lock_when_quiet();
    state.alive()?;
    match command.id {
        cmd::INIT_VCPU => init_vcpu(&mut state, index, &command),
        cmd::INIT_MEM_REGION => init_mem_region(&mut state, index, &command),
        _ if !is_building(&state) => Err(Errno::EINVAL),
        cmd::GET_CPUID => get_cpuid(&state, command.data),
        _ => Err(Errno::EINVAL),
    }
    .map(|()| 0)
}

fn is_building(state: &State) -> bool {
    state.td().is_some_and(|td| td.op_state() == OpState::Initialized)
}

fn capabilities(state: &State, command: &TdxCmd) -> Answer {
    let platform = State::tdx_platform(&state.machine).ok_or(Errno::EINVAL)?;
    Errno::require(command.flags == 0)?;
    let at = command.data + size_of::<TdxCapabilities>() as u64 - size_of::<CpuidHeader>() as u64;
    let room: u32 = user::get(at)?;
    let configs = platform.module.cpuid_config;
    if (room as usize) < configs.len() {
        return Err(Errno::E2BIG);
    }
    let mut answer = TdxCapabilities::new_zeroed();
    answer.supported_attrs = supported_attributes(platform);
    answer.supported_xfam = supported_xfam(platform);
    answer.user_tdvmcallinfo_1_r11 = USER_VMCALLS_R11;
    answer.cpuid.nent = configs.len() as u32;
    let entries: Vec<CpuidEntry> = configs.iter().map(offered).collect();
    user::put(command.data, &answer)?;
    user::put_many(command.data + size_of::<TdxCapabilities>() as u64, &entries)
}

/// A configurable function as CAPABILITIES shows it.
fn offered(config: &CpuidConfig) -> CpuidEntry {
    let [eax, ebx, ecx, edx] = config.bits();
    let mut entry = CpuidEntry {
        function: config.leaf,
        index: config.subleaf.unwrap_or(0),
        eax,
        ebx,
        ecx,
        edx,
        ..CpuidEntry::default()
    };
    match (entry.function, entry.index) {
        (7, 0) => {
            entry.ebx &= !NO_EBX_7;
            entry.ecx &= !NO_ECX_7;
        }
        (WIDTHS, _) => entry.eax |= WIDTH,
        _ => {}
    }
    entry
}

fn init_vm(state: &mut State, command: &mut TdxCmd) -> Answer {
    let machine = state.machine.clone();
    let platform = State::tdx_platform(&machine).ok_or(Errno::EINVAL)?;
    Errno::require(state.td().is_some_and(|td| td.op_state() == OpState::Uninitialized))?;
    Errno::require(command.flags == 0)?;
    let entries_at = command.data + size_of::<TdxInitVm>() as u64;
    let count: u32 = user::get(entries_at - size_of::<CpuidHeader>() as u64)?;
    if count > MAX_CPUID {
        return Err(Errno::E2BIG);
    }
    let init: TdxInitVm = user::get(command.data)?;
    let entries: Vec<CpuidEntry> = user::get_many(entries_at, count as usize)?;
    Errno::require(init.reserved == [0; 12])?;
    Errno::require(init.cpuid.padding == 0 && init.cpuid.nent == count)?;
    if !state.vcpus.is_empty() {
        return Err(Errno::EBUSY);
    }
    let params = params(state, platform, &init, &entries)?;
    let hkid = machine.take_hkid().ok_or(Errno::ENOSPC)?;
    state.clock.charge(state.td_costs.mng_init);
    let now = state.clock.now();
    let vm = state.td.as_mut().ok_or(Errno::EINVAL)?;
    match vm.td.init(platform, &params) {
        Ok(()) => {
            vm.hkid = Some(hkid);
            vm.tsc_base = now;
            // The TD's clock counts in units of 25 MHz.
            let khz = u32::from(params.tsc_frequency) * TSC_UNIT_KHZ;
            state.chipset.set_tsc_khz(khz);
            state.clock.set_khz(khz);
            Ok(())
        }
        Err(status) => {
            machine.free_id(hkid);
            command.hw_error = status;
            if status.code() == TdxStatus::OPERAND_INVALID {
                return Err(Errno::EINVAL);
            }
            Err(state.bug("TDH.MNG.INIT", status))
        }
    }
}

/// TD_PARAMS (`setup_tdparams`).
fn params(
    state: &State,
    platform: &TdxPlatform,
    init: &TdxInitVm,
    entries: &[CpuidEntry],
) -> Answer<TdParams> {
    Errno::require(
        supported_attributes(platform).contains(init.attributes)
            && init.xfam.0 & !supported_xfam(platform).0 == 0,
    )?;
    let mut params = TdParams::new_zeroed();
    params.attributes = TdAttributes(init.attributes.0 | platform.attributes_fixed1.0);
    params.xfam = Xfam(init.xfam.0 | platform.xfam_fixed1.0);
    params.max_vcpus = state.max_vcpus() as u16;
    params.tsc_frequency = u16::try_from(state.tsc_khz / TSC_UNIT_KHZ).unwrap_or(u16::MAX);
    params.config_flags = TdParams::NO_RBP_MOD;
    params.mrconfigid = init.mrconfigid;
    params.mrowner = init.mrowner;
    params.mrownerconfig = init.mrownerconfig;
    let widths = find(entries, WIDTHS, 0).ok_or(Errno::EINVAL)?;
    let gpaw = Gpaw::from_bits(u64::from(widths.eax >> WIDTH_SHIFT & 0xff)).ok_or(Errno::EINVAL)?;
    Errno::require(gpaw == Gpaw::Bits48 || platform.five_level_ept)?;
    // Write-back, and levels less one.
    let levels = match gpaw {
        Gpaw::Bits48 => 3,
        Gpaw::Bits52 => {
            params.config_flags |= TdParams::MAX_GPAW;
            4
        }
    };
    params.eptp_controls = 6 | levels << 3;
    if let Some(entry) = find(entries, 7, 0) {
        Errno::require(entry.ebx & NO_EBX_7 == 0 && entry.ecx & NO_ECX_7 == 0)?;
    }
    let mut copied = 0;
    for (value, config) in params.cpuid_values.iter_mut().zip(platform.module.cpuid_config) {
        let subleaf = config.subleaf.unwrap_or(0);
        let Some(entry) = find(entries, config.leaf, subleaf) else { continue };
        let eax = if config.leaf == WIDTHS { entry.eax & !WIDTH } else { entry.eax };
        *value = [eax, entry.ebx, entry.ecx, entry.edx];
        copied += 1;
    }
    // What nobody has asked for is nothing that can be configured.
    Errno::require(copied == entries.len())?;
    Ok(params)
}

/// `kvm_find_cpuid_entry2`.
fn find(entries: &[CpuidEntry], function: u32, index: u32) -> Option<&CpuidEntry> {
    entries.iter().find(|entry| {
        entry.function == function && (entry.flags & SIGNIFICANT == 0 || entry.index == index)
    })
}

fn init_vcpu(state: &mut State, index: usize, command: &TdxCmd) -> Answer {
    Errno::require(command.flags == 0 && state.vcpus[index].td.is_none() && is_building(state))?;
    state.td_init_vcpu(index, command.data)
}

fn init_mem_region(state: &mut State, index: usize, command: &TdxCmd) -> Answer {
    Errno::require(is_building(state) && state.vcpus[index].td.is_some())?;
    Errno::require(command.flags & !MEASURE_MEMORY_REGION == 0)?;
    let measure = command.flags & MEASURE_MEMORY_REGION != 0;
    let mut region: TdxInitMemRegion = user::get(command.data)?;
    let aligned = region.source_addr.is_multiple_of(PAGE) && region.gpa.is_multiple_of(PAGE);
    let size = region.nr_pages.checked_mul(PAGE);
    let end = size.and_then(|size| region.gpa.checked_add(size));
    let private = |gpa| state.td().is_some_and(|td| !td.is_shared(gpa));
    Errno::require(
        aligned
            && region.nr_pages != 0
            && end.is_some_and(|end| private(region.gpa) && private(end)),
    )?;
    let signals = Blocked::new(None);
    let mut result = Ok(());
    while region.nr_pages != 0 && result.is_ok() {
        result = if signals.pending() {
            Err(Errno::EINTR)
        } else {
            add_page(state, region.source_addr, region.gpa, measure)
        };
        if result.is_ok() {
            region.source_addr = region.source_addr.wrapping_add(PAGE);
            region.gpa += PAGE;
            region.nr_pages -= 1;
        }
    }
    // Whatever happened: what is left to do.
    user::put(command.data, &region)?;
    result
}

/// One page of INIT_MEM_REGION (`kvm_gmem_populate`, `tdx_gmem_post_populate`).
fn add_page(state: &mut State, source: u64, gpa: u64, measure: bool) -> Answer {
    Errno::require(state.memory.is_guarded(gpa))?;
    let mut page = [0; PAGE as usize];
    if source != 0 {
        user::read(source, &mut page)?;
    }
    Errno::require(state.memory.is_private(gpa / PAGE))?;
    if source == 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if state.td().is_some_and(|td| td.sept().state(gpa / PAGE) != Default::default()) {
        return Err(Errno::EIO);
    }
    state.hostile.corrupt(gpa, &mut page);
    state.td_add(gpa, &page, measure).map_err(|status| state.bug("TDH.MEM.PAGE.ADD", status))
}

/// Says in the caller's command that the module has answered `status`.
pub fn put_status(arg: u64, status: TdxStatus) -> Answer {
    let mut command: TdxCmd = user::get(arg)?;
    command.hw_error = status;
    user::put(arg, &command)
}

/// INIT_MEM_REGION that fails with `errno` after `pages`, which are added by `work`.
pub fn in_part(
    arg: u64,
    pages: u64,
    errno: Errno,
    work: impl FnOnce() -> Answer<i32>,
) -> Answer<i32> {
    let at = user::get::<TdxCmd>(arg)?.data;
    let request: TdxInitMemRegion = user::get(at)?;
    let Some(left) = request.nr_pages.checked_sub(pages).filter(|left| *left != 0) else {
        return work();
    };
    user::put(at, &TdxInitMemRegion { nr_pages: pages, ..request })?;
    let answer = work();
    let done: TdxInitMemRegion = user::get(at)?;
    user::put(at, &TdxInitMemRegion { nr_pages: done.nr_pages + left, ..done })?;
    answer.and(Err(errno))
}

fn finalize(state: &mut State, command: &mut TdxCmd) -> Answer {
    Errno::require(is_building(state))?;
    state.add_hostile_td_pages();
    let vm = state.td.as_mut().ok_or(Errno::EINVAL)?;
    match vm.td.mr_finalize() {
        Ok(()) => {
            state.clock.charge(state.td_costs.mr_finalize);
            Ok(())
        }
        Err(status) => {
            command.hw_error = status;
            Err(state.bug("TDH.MR.FINALIZE", status))
        }
    }
}

fn get_cpuid(state: &State, address: u64) -> Answer {
    let header: CpuidHeader = user::get(address)?;
    let td = state.td().ok_or(Errno::EINVAL)?;
    let mut entries: Vec<CpuidEntry> = td.cpuid_table().entries().collect();
    for entry in entries.iter_mut().filter(|entry| entry.function == WIDTHS) {
        entry.eax = entry.eax & !WIDTH | u32::from(td.gpaw().bits()) << WIDTH_SHIFT;
    }
    let found = CpuidHeader { nent: entries.len() as u32, padding: header.padding };
    user::put(address, &found)?;
    if header.nent < found.nent {
        return Err(Errno::E2BIG);
    }
    user::put_many(address + size_of::<CpuidHeader>() as u64, &entries)
}
