//! A plan on its way: files are read and hashed, and KVM says what CPUID it offers, while the VM is being made. The plan
//! does not depend on who is first.

use std::thread::Scope;

use kvm_bindings::CpuId;

use super::beside::Beside;
use crate::config::{Config, Technology};
use crate::digest::dump;
use crate::error::Error;
use crate::plan::cpuid::CpuidTable;
use crate::plan::layout::{Layout, Range};
use crate::plan::{C_BIT, HostCaps, Inputs, Plan, PlanError};
use crate::recorder::{Event, Op, Recorder};
use crate::report::write_atomically;
use crate::sys::SysError;
use crate::sys::ahead::Ahead;
use crate::sys::system::System;

/// A plan, or the thread that makes it.
#[derive(Debug)]
pub struct Planning<'scope>(State<'scope>);

#[derive(Debug)]
enum State<'scope> {
    Ready(Box<Plan>),
    Pending { config: &'scope Config, made: Beside<'scope, Result<Made, Error>> },
}

/// How far the other thread came, and what it did when.
#[derive(Debug)]
enum Made {
    /// To the end: KVM's answer was there.
    Plan(Box<(Plan, [Event; 3])>),
    /// KVM has still to be asked.
    Inputs(Box<Inputs>),
}

impl<'scope> Planning<'scope> {
    /// A plan that is there.
    pub fn ready(plan: Plan) -> Planning<'scope> {
        Planning(State::Ready(Box::new(plan)))
    }

    /// Starts to plan.
    ///
    /// # Errors
    /// There are no threads to be had.
    pub fn begin(
        scope: &'scope Scope<'scope, '_>,
        config: &'scope Config,
        ahead: Ahead,
        recorder: &Recorder,
    ) -> Result<Planning<'scope>, Error> {
        let job = if ahead.asks() { (Op::Plan, "plan", 0) } else { (Op::ReadInputs, "files", 0) };
        let started = recorder.started();
        let make = move || -> Result<Made, Error> {
            let (inputs, read) =
                started.timed(Op::ReadInputs, "files", 0, || Inputs::read(&config.guest));
            let inputs = inputs?;
            let Some((cpuid, asked)) = ahead.wait() else {
                return Ok(Made::Inputs(Box::new(inputs)));
            };
            let (plan, planned) =
                started.timed(Op::Plan, "plan", 0, || build(config, &inputs, &cpuid));
            Ok(Made::Plan(Box::new((plan?, [read, asked, planned]))))
        };
        let made = Beside::begin(scope, recorder, job, make)?;
        Ok(Planning(State::Pending { config, made }))
    }

    /// Whatever else went wrong: what is wrong with a file is told first.
    pub fn blame(self, error: Error, recorder: &mut Recorder) -> Error {
        match self.0 {
            State::Ready(_) => error,
            State::Pending { made, .. } => match made.wait(recorder) {
                Ok(Ok(_)) => error,
                Ok(Err(first)) | Err(first) => first,
            },
        }
    }

    /// The memory slots of a plain guest, which are known before its plan; but those of one that starts in a firmware image are
    /// not known before that is.
    ///
    /// # Errors
    /// Then, as of [`Planning::finish`].
    pub(super) fn plain_slots(
        self,
        system: &System,
        recorder: &mut Recorder,
    ) -> Result<(Vec<Range>, Planning<'scope>), Error> {
        if let State::Pending { config, .. } = &self.0
            && config.guest.firmware.is_none()
        {
            return Ok((Layout::ram_of(config.guest.memory, config.guest.accept), self));
        }
        let plan = self.finish(system, recorder)?;
        Ok((plan.slots.clone(), Planning::ready(plan)))
    }

    /// The plan.
    ///
    /// # Errors
    /// A file is unreadable, the guest does not fit, or KVM's CPUID is none for it.
    pub(super) fn finish(self, system: &System, recorder: &mut Recorder) -> Result<Plan, Error> {
        let (config, made) = match self.0 {
            State::Ready(plan) => return Ok(*plan),
            State::Pending { config, made } => (config, made),
        };
        let plan = match made.wait(recorder)?? {
            Made::Plan(made) => {
                let (plan, events) = *made;
                events.into_iter().for_each(|event| recorder.push_beside(event));
                plan
            }
            Made::Inputs(inputs) => {
                let cpuid = supported_cpuid(system, recorder)?;
                recorder.record(Op::Plan, "plan", 0, || build(config, &inputs, &cpuid))?
            }
        };
        if let Some(path) = &config.dump_pages {
            write_atomically("page list", path, |out| dump::write(&plan, out))?;
        }
        tracing::info!(pages = plan.page_count(), vcpus = config.cpus.get(), "planned");
        Ok(plan)
    }
}

/// Lays the guest out for what KVM offers of CPUID.
fn build(config: &Config, inputs: &Inputs, cpuid: &CpuId) -> Result<Plan, PlanError> {
    let host = host_caps(config, CpuidTable::from_kvm(cpuid))?;
    Plan::build(&config.guest, inputs, config.cpus, &host)
}

/// What KVM offers of CPUID.
pub(super) fn supported_cpuid(system: &System, recorder: &mut Recorder) -> Result<CpuId, SysError> {
    recorder.record(Op::CheckExtension, "KVM_GET_SUPPORTED_CPUID", 0, || system.supported_cpuid())
}

/// What the plan depends on beside the user's wishes.
///
/// # Errors
/// The host's C-bit is not the one that digests are computed for.
pub(super) fn host_caps(config: &Config, cpuid: CpuidTable) -> Result<HostCaps, PlanError> {
    let c_bit = match config.guest.technology {
        Technology::Snp(_) => cpuid.c_bit().unwrap_or(C_BIT),
        Technology::Plain | Technology::Tdx(_) => C_BIT,
    };
    if c_bit != C_BIT {
        return Err(PlanError::CBit { host: c_bit, planned: C_BIT });
    }
    Ok(HostCaps { cpuid, c_bit })
}
