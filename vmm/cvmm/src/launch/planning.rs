//! A plan on its way: files are read and hashed, and KVM says what CPUID it offers, while the VM is being made. The plan
//! does not depend on who is first.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;

use kvm_bindings::CpuId;

use super::beside::Beside;
use crate::config::{Config, Technology};
use crate::digest::dump;
use crate::error::Error;
use crate::plan::cpuid::CpuidTable;
use crate::plan::layout::{Layout, Range};
use crate::plan::{C_BIT, HostCaps, Inputs, Plan, PlanError, StagedBlob};
use crate::recorder::{Op, Recorder};
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
    Pending(Pending<'scope>),
}

#[derive(Debug)]
struct Pending<'scope> {
    config: &'scope Config,
    ahead: Ahead,
    /// What the guest will find staged, before it has been hashed.
    staged: Receiver<Vec<StagedBlob>>,
    made: Beside<'scope, Result<Made, Error>>,
}

/// Hashing less than this takes no longer than planning twice.
const HASHED_QUICKLY: usize = 256 << 10;

/// What can be made of the files before KVM has said what CPUID it offers.
#[derive(Debug)]
enum Made {
    /// All but the leaves.
    Plan(Box<Plan>),
    /// Nothing.
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
        // An SEV-SNP guest has a launch page of the leaves.
        let early = !matches!(config.guest.technology, Technology::Snp(_));
        let job = if early { (Op::Plan, "plan", 0) } else { (Op::ReadInputs, "files", 0) };
        let (tell, staged) = sync_channel(1);
        let make = move || -> Result<Made, Error> {
            let build = |inputs: &Inputs| {
                Plan::build(&config.guest, inputs, config.cpus, &HostCaps::assumed())
            };
            let mut inputs = Inputs::read_unhashed(&config.guest)?;
            if memory_first(config) && inputs.hashed_len(config.guest.load) > HASHED_QUICKLY {
                // Nobody listens any more where the launch has failed.
                drop(tell.send(build(&inputs)?.staged));
            }
            drop(tell);
            inputs.hash_for(config.guest.load);
            if early {
                return Ok(Made::Plan(Box::new(build(&inputs)?)));
            }
            Ok(Made::Inputs(Box::new(inputs)))
        };
        let made = Beside::begin(scope, recorder, job, make)?;
        Ok(Planning(State::Pending(Pending { config, ahead, staged, made })))
    }

    /// Whatever else went wrong: what is wrong with a file is told first.
    pub fn blame(self, error: Error, recorder: &mut Recorder) -> Error {
        match self.0 {
            State::Ready(_) => error,
            State::Pending(pending) => match pending.made.wait(recorder) {
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
        if let State::Pending(Pending { config, .. }) = &self.0
            && memory_first(config)
        {
            return Ok((Layout::ram_of(config.guest.memory, config.guest.accept), self));
        }
        let plan = self.finish(system, recorder)?;
        Ok((plan.slots.clone(), Planning::ready(plan)))
    }

    /// What the guest will find staged, where that is known before the plan: it can be copied while it is being hashed.
    pub(super) fn staged(&self, recorder: &mut Recorder) -> Option<Vec<StagedBlob>> {
        let State::Pending(Pending { staged, .. }) = &self.0 else { return None };
        recorder.record(Op::ReadInputs, "files", 0, || staged.recv().ok())
    }

    /// The plan.
    ///
    /// # Errors
    /// A file is unreadable, the guest does not fit, or KVM's CPUID is none for it.
    pub(super) fn finish(self, system: &System, recorder: &mut Recorder) -> Result<Plan, Error> {
        let Pending { config, ahead, made, .. } = match self.0 {
            State::Ready(plan) => return Ok(*plan),
            State::Pending(pending) => pending,
        };
        let made = made.wait(recorder)??;
        let cpuid = supported_cpuid(ahead, system, recorder)?;
        let host = host_caps(config, CpuidTable::from_kvm(&cpuid))?;
        let plan = match made {
            Made::Plan(plan) => plan.for_host(&host),
            Made::Inputs(inputs) => recorder.record(Op::Plan, "plan", 0, || {
                Plan::build(&config.guest, &inputs, config.cpus, &host)
            })?,
        };
        if let Some(path) = &config.dump_pages {
            write_atomically("page list", path, |out| dump::write(&plan, out))?;
        }
        tracing::info!(pages = plan.page_count(), vcpus = config.cpus.get(), "planned");
        Ok(plan)
    }
}

/// Are the memory slots known before the plan? A plain guest's are, but for one that starts in a firmware image.
fn memory_first(config: &Config) -> bool {
    matches!(config.guest.technology, Technology::Plain) && config.guest.firmware.is_none()
}

/// What KVM offers of CPUID: what was asked for ahead, or now.
pub(super) fn supported_cpuid(
    ahead: Ahead,
    system: &System,
    recorder: &mut Recorder,
) -> Result<CpuId, SysError> {
    // Waiting for the answer is a call as any other; when the other thread made it is told beside the timeline.
    let (op, tag) = (Op::CheckExtension, "KVM_GET_SUPPORTED_CPUID");
    let (cpuid, asked) = recorder.record(op, tag, 0, || match ahead.wait() {
        Some((cpuid, asked)) => Ok((cpuid, Some(asked))),
        None => system.supported_cpuid().map(|cpuid| (cpuid, None)),
    })?;
    asked.into_iter().for_each(|event| recorder.push_beside(event));
    Ok(cpuid)
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
