//! KVM_MEMORY_ENCRYPT_OP: copies structures in and out around [`crate::snp::launch`].

use std::sync::Arc;

use abi::kvm_snp::{SevCmd, SevInit, SnpLaunchFinish, SnpLaunchStart, SnpLaunchUpdate, cmd};

use super::caps::VmKind;
use super::errno::{Answer, Errno};
use super::hostile::FlippedSource;
use super::memory::{Change, Memory};
use super::state::State;
use super::user;
use super::vm::Vm;
use crate::cpu::{Core, Features};
use crate::price::Price;
use crate::snp::launch::{Failure, Launch, LaunchMemory, LaunchVcpu};
use crate::snp::{Page, RmpEntry, vmsa};

impl LaunchMemory for Memory {
    fn guarded_run(&self, gfn: u64) -> u64 {
        Self::guarded_run(self, gfn)
    }

    fn is_private(&self, gfn: u64) -> bool {
        Self::is_private(self, gfn)
    }

    fn read_user(&mut self, address: u64, out: &mut [u8], for_write: bool) -> Result<(), i32> {
        if for_write {
            user::populate(address, true).map_err(|e| e.0)?;
        }
        user::read(address, out).map_err(|e| e.0)
    }

    fn write_user(&mut self, address: u64, data: &[u8]) -> Result<(), i32> {
        user::write(address, data).map_err(|e| e.0)
    }

    fn with_page(
        &mut self,
        gfn: u64,
        with: &mut dyn FnMut(&mut Page, &mut RmpEntry),
    ) -> Result<(), i32> {
        self.with_private_page(gfn << 12, with).map(|_| ()).map_err(|e| e.0)
    }
}

/// KVM_MEMORY_ENCRYPT_OP.
pub fn memory_encrypt_op(vm: &Arc<Vm>, arg: u64) -> Answer<i32> {
    if arg == 0 {
        return Ok(0);
    }
    let mut command: SevCmd = user::get(arg)?;
    let mut state =
        if command.id == cmd::SNP_LAUNCH_FINISH { vm.lock_when_quiet() } else { vm.lock() };
    let snp_command = (cmd::SNP_LAUNCH_START..=cmd::SNP_ENABLE_REQ_CERTS).contains(&command.id);
    if state.kind != VmKind::Snp && !snp_command {
        // Plain VMs could become SEV or SEV-ES guests, which this machine does not offer.
        return Err(Errno::EINVAL);
    }
    let known = state.snp.admit(command.id);
    let result = known.and_then(|()| dispatch(&mut state, &command));
    let spent = {
        let machine = state.machine.clone();
        let mut psp = machine.psp();
        machine.take_psp_spent(&mut psp)
    };
    state.charge_psp(spent)?;
    if command.id == cmd::SNP_LAUNCH_FINISH
        && result.is_ok()
        && let Some(mut place) = state.place.take()
    {
        place.leave();
    }
    if let Err(Failure { errno: libc::EINVAL, firmware: None }) = result
        && !recognised(command.id)
    {
        return Err(Errno::EINVAL);
    }
    if let Err(Failure { firmware: Some(status), .. }) = result {
        command.error = status.0;
    } else if result.is_ok() && matches!(command.id, 100..=102) {
        command.error = 0;
    }
    user::put(arg, &command)?;
    result.map(|()| 0).map_err(|failure| Errno(failure.errno))
}

impl State {
    /// Commands of the security processor have been carried out: what they took, after those of others who share it.
    fn charge_psp(&mut self, spent: Vec<Price>) -> Answer {
        for price in spent {
            if let Some(place) = &mut self.place {
                let now = self.clock.now();
                let wait = place.serve(now, price.cycles)?.saturating_sub(now + price.cycles);
                self.counts.psp_wait += wait;
                self.clock.charge(Price::known(wait));
            }
            self.counts.psp += price;
            self.clock.charge(price);
        }
        Ok(())
    }
}

/// Whether KVM copies the command back: it does for every number it knows.
fn recognised(id: u32) -> bool {
    id <= cmd::SEV_INIT2 || (cmd::SNP_LAUNCH_START..=cmd::SNP_ENABLE_REQ_CERTS).contains(&id)
}

fn dispatch(state: &mut State, command: &SevCmd) -> Launch {
    let machine = state.machine.clone();
    let created = !state.vcpus.is_empty();
    let good = super::is_sev(command.sev_fd as i32);
    match command.id {
        cmd::SEV_INIT2 => {
            let params: SevInit = fetch(command.data).map_err(failure)?;
            let asid = machine.take_asid();
            let result = state.snp.init2(&machine.psp(), &params, created, asid);
            if let (Err(_), Some(asid)) = (&result, asid) {
                machine.free_id(asid);
            }
            result
        }
        cmd::SNP_ENABLE_REQ_CERTS => state.snp.enable_req_certs(created),
        cmd::SNP_LAUNCH_START => {
            let params = fetch::<SnpLaunchStart>(command.data);
            let params = params.as_ref().map_err(|e| *e);
            let khz = state.tsc_khz;
            state.snp.launch_start(&mut machine.psp(), params, command.sev_fd, good, khz)
        }
        cmd::SNP_LAUNCH_UPDATE => {
            let mut params = fetch::<SnpLaunchUpdate>(command.data);
            let _changed = params.as_ref().map(|p| FlippedSource::new(&state.hostile, p));
            let State { snp, memory, .. } = state;
            let result = snp.launch_update(
                &mut machine.psp(),
                params.as_mut().map_err(|e| *e),
                good,
                memory,
            );
            state.memory_changed(Change::Translations);
            if let (Ok(()), Ok(params)) = (&result, &params) {
                user::put(command.data, params).map_err(|e| failure(e.0))?;
            }
            result
        }
        cmd::SNP_LAUNCH_FINISH => {
            state.add_hostile_pages(good)?;
            finish(state, command, good)
        }
        _ => Err(failure(libc::EINVAL)),
    }
}

fn finish(state: &mut State, command: &SevCmd, good: bool) -> Launch {
    let machine = state.machine.clone();
    let params = fetch::<SnpLaunchFinish>(command.data);
    let params = params.as_ref().map_err(|e| *e);
    let State { snp, memory, vcpus, .. } = state;
    let mut lent = Vec::new();
    for vcpu in vcpus.iter_mut() {
        let Some(p) = &vcpu.processor else { return Err(failure(libc::EBUSY)) };
        lent.push(LaunchVcpu {
            core: &p.core,
            guest_debug: vcpu.guest_debug,
            vmsa: &mut vcpu.vmsa,
        });
    }
    let result = snp.launch_finish(&mut machine.psp(), params, good, memory, &mut lent);
    drop(lent);
    // Even if it failed half-way: a protected vCPU runs on its VMSA from now on.
    let features = snp.features();
    let mut complaint = None;
    for vcpu in vcpus.iter_mut().filter(|vcpu| !vcpu.vmsa_valid) {
        let (Some(area), Some(p)) = (&vcpu.vmsa, &mut vcpu.processor) else { continue };
        p.core.features |= Features::SEV_ES | Features::SEV_SNP;
        match adopt(&mut p.core, &area.page, features) {
            Ok(()) => vcpu.vmsa_valid = true,
            Err(error) => complaint = Some(format!("vCPU {}: {error}", vcpu.id)),
        }
        vcpu.flush = true;
    }
    if let Some(complaint) = complaint {
        state.complain(complaint);
    }
    result
}

fn adopt(
    core: &mut Core,
    page: &Page,
    features: abi::snp::SevFeatures,
) -> Result<(), vmsa::InvalidVmsa> {
    vmsa::load(core, page, features)
}

fn fetch<T: user::Plain>(address: u64) -> Result<T, i32> {
    user::get(address).map_err(|e| e.0)
}

fn failure(errno: i32) -> Failure {
    Failure { errno, firmware: None }
}

/// Says in the caller's command that the firmware has answered `status`.
pub fn put_status(arg: u64, status: u32) -> Answer {
    let mut command: SevCmd = user::get(arg)?;
    command.error = status;
    user::put(arg, &command)
}

/// LAUNCH_UPDATE that gets no further than `pages`, by `work`. Whether something is left.
pub fn in_part(arg: u64, pages: u64, work: impl FnOnce() -> Answer<i32>) -> (Answer<i32>, bool) {
    let params = |arg| user::get::<SevCmd>(arg).map(|command| command.data);
    let cut = params(arg).and_then(|at| Ok((at, user::get::<SnpLaunchUpdate>(at)?)));
    let Ok((at, mut request)) = cut else { return (work(), false) };
    let Some(left) = request.len.checked_sub(pages * PAGE).filter(|left| *left != 0) else {
        return (work(), false);
    };
    request.len = pages * PAGE;
    let answer = user::put(at, &request).and_then(|()| work());
    let rest = user::get::<SnpLaunchUpdate>(at)
        .and_then(|done| user::put(at, &SnpLaunchUpdate { len: done.len + left, ..done }));
    match rest {
        Ok(()) => (answer, answer.is_ok()),
        Err(errno) => (Err(errno), false),
    }
}

const PAGE: u64 = 4096;

/// KVM_MEMORY_ENCRYPT_REG_REGION and its opposite: pins memory on a real host, here only the
/// bookkeeping is left.
pub fn region(state: &mut State, register: bool, address: u64, size: u64) -> Answer {
    if !state.snp.active() {
        return Err(Errno::ENOTTY);
    }
    if register {
        Errno::require(size != 0 && address.checked_add(size).is_some())?;
        state.regions.push((address, size));
        return Ok(());
    }
    let index = state.regions.iter().position(|r| *r == (address, size)).ok_or(Errno::EINVAL)?;
    state.regions.remove(index);
    Ok(())
}
