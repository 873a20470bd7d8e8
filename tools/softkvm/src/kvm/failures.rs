//! Calls that fail on demand, for tests of what a monitor does and says then.
//!
//! `SOFTKVM_FAIL` holds failures, separated by `;`:
//!
//! `CALL#N=ERRNO[,fw=STATUS][,pages=K]`
//!
//! - `CALL` is an ioctl or a command of KVM_MEMORY_ENCRYPT_OP by the kernel's name, `open(/dev/kvm)`, `open(/dev/sev)`,
//!   `mmap(vcpu)` or `fallocate(guest_memfd)`. The statistics (`softkvm run --stats FILE`) tell under `calls` how often a
//!   monitor makes each.
//! - `N`: the N-th call of that name in the process fails (from 1); `*`: every one does.
//! - `ERRNO`: its name, as `ENOMEM`.
//! - `STATUS`: what firmware or TDX module is said to have answered, for calls that hand this on.
//! - `K`, for KVM_SEV_SNP_LAUNCH_UPDATE and KVM_TDX_INIT_MEM_REGION: so many pages are added before the next one fails, with
//!   the request rewritten to what is left. As in Linux 7.2, the first command answers 0 then, and the call after it is the
//!   one that fails (arch/x86/kvm/svm/sev.c snp_launch_update); the second answers the errno at once (arch/x86/kvm/vmx/tdx.c
//!   tdx_vcpu_init_mem_region). A request that has no more than K pages does not fail.
//!
//! A call that fails has done nothing else: neither has it looked at its arguments, nor has it changed the VM.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use abi::tdx::TdxStatus;
use thiserror::Error;

use super::errno::{Answer, Errno};
use super::{calls, sev, tdx};

/// Text that names no failure.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("SOFTKVM_FAIL: {word:?}: {problem}")]
pub struct FailuresError {
    word: String,
    problem: &'static str,
}

/// Which call fails, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    call: &'static str,
    /// `None`: every one.
    number: Option<u64>,
    errno: Errno,
    status: Option<u64>,
    pages: u64,
}

/// The failures that were asked for, and the calls that were made.
#[derive(Debug, Default)]
pub struct Failures {
    plan: Vec<Failure>,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    made: BTreeMap<&'static str, u64>,
    /// What the next call of a name that has been done in part will meet.
    left: Vec<Failure>,
}

impl Failures {
    /// Reads the value of `SOFTKVM_FAIL`.
    pub fn parse(text: &str) -> Result<Self, FailuresError> {
        let words = text.split(';').map(str::trim).filter(|word| !word.is_empty());
        let plan = words.map(|word| {
            Failure::parse(word).map_err(|problem| FailuresError { word: word.to_owned(), problem })
        });
        Ok(Self { plan: plan.collect::<Result<_, _>>()?, log: Mutex::default() })
    }

    /// Counts a call; says whether it is to fail.
    pub fn due(&self, call: &'static str) -> Option<Failure> {
        let mut log = self.log();
        let made = log.made.entry(call).or_default();
        *made += 1;
        let made = *made;
        if let Some(at) = log.left.iter().position(|failure| failure.call == call) {
            return Some(log.left.swap_remove(at));
        }
        let due = |failure: &&Failure| {
            failure.call == call && failure.number.is_none_or(|number| number == made)
        };
        self.plan.iter().find(due).copied()
    }

    /// As [`Self::due`], for a call that can only fail as a whole.
    pub fn check(&self, call: &'static str) -> Answer {
        self.due(call).map_or(Ok(()), |failure| Err(failure.errno))
    }

    /// How often each call was made.
    pub fn calls(&self) -> BTreeMap<&'static str, u64> {
        self.log().made.clone()
    }

    /// Fails an ioctl. `work` carries it out, for one that gets part of the way.
    pub fn fail(
        &self,
        failure: Failure,
        arg: u64,
        work: impl FnOnce() -> Answer<i32>,
    ) -> Answer<i32> {
        if failure.pages == 0 {
            if let Some(status) = failure.status {
                failure.tell(arg, status)?;
            }
            return Err(failure.errno);
        }
        if failure.call == TDX_PAGES {
            return tdx::in_part(arg, failure.pages, failure.errno, work);
        }
        let (answer, is_left) = sev::in_part(arg, failure.pages, work);
        if is_left {
            self.log().left.push(Failure { number: None, pages: 0, ..failure });
        }
        answer
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const SNP_PAGES: &str = "KVM_SEV_SNP_LAUNCH_UPDATE";
const TDX_PAGES: &str = "KVM_TDX_INIT_MEM_REGION";
/// The commands of a TD with which the kernel hands on what the module answered.
const TDX_TOLD: [&str; 2] = ["KVM_TDX_INIT_VM", "KVM_TDX_FINALIZE_VM"];

impl Failure {
    fn parse(word: &str) -> Result<Self, &'static str> {
        let (call, how) = word.split_once('=').ok_or("no '='; write CALL#N=ERRNO")?;
        let (call, number) = call.split_once('#').ok_or("no '#'; write CALL#N=ERRNO")?;
        let call = calls::parse(call.trim()).ok_or("there is no such call")?;
        let number = match number.trim() {
            "*" => None,
            text => {
                let number = text.parse().ok().filter(|number| *number != 0);
                Some(number.ok_or("calls are counted from 1; '*' is every one")?)
            }
        };
        let mut parts = how.split(',').map(str::trim);
        let errno = parts.next().and_then(Errno::named).ok_or("there is no such errno")?;
        let mut failure = Self { call, number, errno, status: None, pages: 0 };
        for part in parts {
            let (key, value) = part.split_once('=').ok_or("write fw=STATUS or pages=K")?;
            let value = value_of(value).ok_or("that is not a number")?;
            match key {
                "fw" if failure.tells() => failure.status = Some(value),
                "fw" => return Err("this call hands on no status"),
                "pages" if [SNP_PAGES, TDX_PAGES].contains(&call) => failure.pages = value,
                "pages" => return Err("this call adds no pages"),
                _ => return Err("write fw=STATUS or pages=K"),
            }
        }
        Ok(failure)
    }

    fn tells(&self) -> bool {
        self.call.starts_with("KVM_SEV_") || TDX_TOLD.contains(&self.call)
    }

    /// Puts a status where the command's answer has it.
    fn tell(&self, arg: u64, status: u64) -> Answer {
        if TDX_TOLD.contains(&self.call) {
            return tdx::put_status(arg, TdxStatus(status));
        }
        sev::put_status(arg, status as u32)
    }
}

fn value_of(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
