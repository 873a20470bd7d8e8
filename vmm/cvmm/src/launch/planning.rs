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

/// A plan, or what it still waits for.
#[derive(Debug)]
pub struct Planning<'scope>(State<'scope>);

#[derive(Debug)]
enum State<'scope> {
    Ready(Box<Plan>),
    Pending { config: &'scope Config, ahead: Ahead, inputs: Beside<'scope, Result<Inputs, Error>> },
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
        let inputs = (Op::ReadInputs, "files", 0);
        let inputs = Beside::begin(scope, recorder, inputs, || Inputs::read(&config.guest))?;
        Ok(Planning(State::Pending { config, ahead, inputs }))
    }

    /// Whatever else went wrong: what is wrong with a file is told first.
    pub fn blame(self, error: Error, recorder: &mut Recorder) -> Error {
        match self.0 {
            State::Ready(_) => error,
            State::Pending { inputs, .. } => match inputs.wait(recorder) {
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
        let (config, ahead, inputs) = match self.0 {
            State::Ready(plan) => return Ok(*plan),
            State::Pending { config, ahead, inputs } => (config, ahead, inputs),
        };
        let inputs = inputs.wait(recorder)??;
        let cpuid = supported_cpuid(ahead, system, recorder)?;
        let host = host_caps(config, CpuidTable::from_kvm(&cpuid))?;
        let plan = recorder.record(Op::Plan, "plan", 0, || {
            Plan::build(&config.guest, &inputs, config.cpus, &host)
        })?;
        if let Some(path) = &config.dump_pages {
            write_atomically("page list", path, |out| dump::write(&plan, out))?;
        }
        tracing::info!(pages = plan.page_count(), vcpus = config.cpus.get(), "planned");
        Ok(plan)
    }
}

/// What KVM offers of CPUID: what was asked for ahead, or now.
pub(super) fn supported_cpuid(
    ahead: Ahead,
    system: &System,
    recorder: &mut Recorder,
) -> Result<CpuId, SysError> {
    // Waiting for the answer is a call as any other; when the other thread made it is told beside the timeline.
    let begin = recorder.now();
    let answer = ahead.wait(recorder).map_or_else(|| system.supported_cpuid(), Ok);
    let (op, tag, end) = (Op::CheckExtension, "KVM_GET_SUPPORTED_CPUID", recorder.now());
    recorder.push(Event { op, tag, bytes: 0, begin, end, guest: None });
    answer
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
