//! The machine that `/dev/kvm` and `/dev/sev` belong to: its security processor or TDX module, its profile and
//! what the run was asked for.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use abi::snp::CpuidFunction;
use kvm_bindings::kvm_cpuid_entry2;

use super::caps::VmKind;
use super::cpuid;
use super::eventfd::Claims;
use super::failures::Failures;
use super::faults::Faults;
use super::hostile::Hostile;
use super::profile::{self, Part, Profile, ProfileError, Xeon};
use super::psp_queue::Meeting;
use super::symbols::Symbols;
use super::vm::Vm;
use crate::cpu::Features;
use crate::price::Price;
use crate::snp::{Platform, Psp};

/// What the run was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Built-in profile or file; [`profile::DEFAULT`] if `None`.
    pub profile: Option<String>,
    /// The guest's time follows the host's clock.
    pub realtime: bool,
    /// Where to write statistics when the process ends.
    pub stats: Option<PathBuf>,
    /// Seeds keys, RDRAND and the contents of fresh private pages.
    pub seed: u64,
    /// Execute one instruction at a time by the reference engine.
    pub reference: bool,
    /// How the host cheats; see [`super::hostile`].
    pub hostile: String,
    /// Which calls fail; see [`super::failures`].
    pub fail: String,
    /// What is wrong with the host; see [`super::faults`].
    pub fault: String,
    /// The monitor takes the C-bit's position from the processor it runs on: that position means the modelled one.
    pub host_c_bit: bool,
    /// Where monitors meet that share a security processor; see [`super::psp_queue`].
    pub psp: String,
    /// Symbols of the guest's kernel; see [`super::symbols`].
    pub symbols: Option<PathBuf>,
    /// Say every VMGEXIT and TDVMCALL on stderr.
    pub trace: bool,
}

impl Options {
    /// From `SOFTKVM_PROFILE`, `SOFTKVM_REALTIME`, `SOFTKVM_STATS`, `SOFTKVM_SEED`,
    /// `SOFTKVM_REFERENCE`, `SOFTKVM_HOSTILE`, `SOFTKVM_FAIL`, `SOFTKVM_FAULT`, `SOFTKVM_HOST_C_BIT`,
    /// `SOFTKVM_PSP`, `SOFTKVM_SYMBOLS` and `SOFTKVM_TRACE`.
    pub fn from_env() -> Self {
        let flag = |name| std::env::var_os(name).is_some_and(|value| value != "0");
        Self {
            profile: std::env::var("SOFTKVM_PROFILE").ok(),
            realtime: flag("SOFTKVM_REALTIME"),
            stats: std::env::var_os("SOFTKVM_STATS").map(PathBuf::from),
            seed: std::env::var("SOFTKVM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0),
            reference: flag("SOFTKVM_REFERENCE"),
            hostile: std::env::var("SOFTKVM_HOSTILE").unwrap_or_default(),
            fail: std::env::var("SOFTKVM_FAIL").unwrap_or_default(),
            fault: std::env::var("SOFTKVM_FAULT").unwrap_or_default(),
            host_c_bit: flag("SOFTKVM_HOST_C_BIT"),
            psp: std::env::var("SOFTKVM_PSP").unwrap_or_default(),
            symbols: std::env::var_os("SOFTKVM_SYMBOLS").map(PathBuf::from),
            trace: flag("SOFTKVM_TRACE"),
        }
    }
}

/// The machine.
pub struct Machine {
    /// What is modelled.
    pub profile: Profile,
    /// What the run was asked for.
    pub options: Options,
    /// How the host cheats each VM.
    pub hostile: Hostile,
    /// The calls that fail, and how often each was made.
    pub failures: Failures,
    /// What is wrong with the host.
    pub faults: Faults,
    /// KVM_GET_SUPPORTED_CPUID.
    pub cpuid: Vec<kvm_cpuid_entry2>,
    /// An Intel part with its TDX module; else it is an AMD part.
    pub xeon: Option<Xeon>,
    psp: Mutex<Psp>,
    /// Address space identifiers or key identifiers of confidential guests.
    ids: Mutex<BTreeSet<u16>>,
    /// Where SNP VMs queue for a security processor that is not theirs alone.
    pub meeting: Option<Meeting>,
    /// Symbols of the guests' kernel.
    pub symbols: Option<Arc<Symbols>>,
    /// irqfds of all VMs.
    pub irqfds: Arc<Claims>,
    vms: Mutex<Vec<Weak<Vm>>>,
    retired: Mutex<Vec<serde_json::Value>>,
    psp_cycles: AtomicU64,
    started: Instant,
}

impl Machine {
    /// Powers a machine on.
    pub fn new(options: Options) -> Result<Arc<Self>, ProfileError> {
        let profile = Profile::load(options.profile.as_deref().unwrap_or(profile::DEFAULT))?;
        let part = profile.part(options.seed)?;
        let table = cpuid::supported(&profile, &part);
        // The security processor of an Intel part is one that nobody can reach: there is no /dev/sev, and no VM type
        // that uses it.
        let (mut platform, xeon) = match part {
            Part::Amd(platform) => (*platform, None),
            Part::Intel(mut xeon) => {
                xeon.tdx.native_cpuid = cpuid::native(&profile, &xeon.tdx);
                let costs = xeon.costs.clone();
                (Platform { costs, ..Platform::default() }, Some(*xeon))
            }
        };
        let faults = Faults::parse(&options.fault, xeon.is_some())?;
        platform.api = faults.firmware.unwrap_or(platform.api);
        platform.host_cpuid = table
            .iter()
            .filter(|e| !matches!(e.function >> 16, 0x4000) && e.function != 0x8000_001f)
            .map(|e| CpuidFunction {
                eax_in: e.function,
                ecx_in: e.index,
                eax: e.eax,
                ebx: e.ebx,
                ecx: e.ecx,
                edx: e.edx,
                ..Default::default()
            })
            .collect();
        Ok(Arc::new(Self {
            hostile: Hostile::parse(&options.hostile)?,
            failures: Failures::parse(&options.fail)?,
            faults,
            meeting: Meeting::parse(&options.psp, options.realtime)?,
            symbols: options.symbols.as_deref().map(Symbols::read).transpose()?.map(Arc::new),
            profile,
            options,
            cpuid: table,
            xeon,
            psp: Mutex::new(Psp::new(platform)),
            ids: Mutex::new(BTreeSet::new()),
            irqfds: Arc::default(),
            vms: Mutex::new(Vec::new()),
            retired: Mutex::new(Vec::new()),
            psp_cycles: AtomicU64::new(0),
            started: Instant::now(),
        }))
    }

    /// The extensions of KVM_GET_SUPPORTED_CPUID.
    pub fn features(&self) -> Features {
        cpuid::Table(self.cpuid.clone()).features()
    }

    /// The security processor; it serves one command at a time.
    pub fn psp(&self) -> MutexGuard<'_, Psp> {
        self.psp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each command of the security processor since the last call has taken; the sum is also kept for the
    /// statistics.
    pub fn take_psp_spent(&self, psp: &mut Psp) -> Vec<Price> {
        let spent = psp.take_spent();
        let sum: Price = spent.iter().copied().sum();
        self.psp_cycles.fetch_add(sum.cycles, Ordering::Relaxed);
        spent
    }

    /// Whether KVM has VMs of a kind.
    pub fn offers(&self, kind: VmKind) -> bool {
        kind.offered(self.xeon.is_some()) && self.faults.leaves(kind)
    }

    /// CPUID as a program on the host sees it: EAX, EBX, ECX, EDX.
    pub fn host_cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        match &self.xeon {
            Some(xeon) => xeon.tdx.native(leaf, subleaf),
            None => cpuid::host_amd(&self.cpuid, self.psp().platform(), leaf, subleaf),
        }
    }

    /// How many identifiers of confidential guests are in use, and how many there are.
    pub fn ids_in_use(&self) -> (u16, u16) {
        let all = self.ids();
        let others = all - self.faults.free_ids.unwrap_or(all).min(all);
        let ours = self.ids.lock().unwrap_or_else(PoisonError::into_inner).len();
        (others.saturating_add(u16::try_from(ours).unwrap_or(u16::MAX)), all)
    }

    /// How many ASIDs or key identifiers the part has.
    fn ids(&self) -> u16 {
        match &self.xeon {
            Some(xeon) => xeon.tdx.hkids,
            None => u16::try_from(self.psp().platform().asids).unwrap_or(u16::MAX),
        }
    }

    /// Takes a free ASID.
    pub fn take_asid(&self) -> Option<u16> {
        self.take_id()
    }

    /// Takes a free key identifier for a TD.
    pub fn take_hkid(&self) -> Option<u16> {
        self.take_id()
    }

    fn take_id(&self) -> Option<u16> {
        let all = self.ids();
        let limit = self.faults.free_ids.unwrap_or(all).min(all);
        let mut taken = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let free = (1..=limit).find(|id| !taken.contains(id))?;
        taken.insert(free);
        Some(free)
    }

    /// Gives an ASID or key identifier back.
    pub fn free_id(&self, id: u16) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Remembers a VM for the statistics.
    pub fn add_vm(&self, vm: &Arc<Vm>) {
        let mut vms = self.vms.lock().unwrap_or_else(PoisonError::into_inner);
        vms.retain(|vm| vm.strong_count() > 0);
        vms.push(Arc::downgrade(vm));
    }

    /// Keeps the statistics of a VM that goes away, if they are to be written.
    pub fn retire(&self, stats: impl FnOnce() -> serde_json::Value) {
        if self.options.stats.is_none() {
            return;
        }
        let stats = stats();
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(stats);
    }

    /// All statistics.
    pub fn statistics(&self) -> serde_json::Value {
        let mut vms = self.retired.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let live: Vec<Arc<Vm>> = {
            let vms = self.vms.lock().unwrap_or_else(PoisonError::into_inner);
            vms.iter().filter_map(Weak::upgrade).collect()
        };
        vms.extend(live.iter().filter_map(|vm| vm.try_statistics()));
        let psp = self.psp_cycles.load(Ordering::Relaxed);
        serde_json::json!({
            "profile": self.profile.name,
            "tsc_khz": self.profile.tsc_khz,
            "placeholder_costs": self.profile.placeholders(),
            "time": if self.options.realtime { "measured" } else { "modelled" },
            "psp_cycles": psp,
            "psp_seconds": psp as f64 / f64::from(self.profile.tsc_khz) / 1e3,
            "calls": self.failures.calls(),
            "wall_seconds": self.started.elapsed().as_secs_f64(),
            "vms": vms,
        })
    }

    /// Writes the statistics where they were asked for.
    pub fn write_statistics(&self) {
        let Some(path) = &self.options.stats else { return };
        let text = serde_json::to_string_pretty(&self.statistics()).unwrap_or_default();
        if let Err(error) = std::fs::write(path, text + "\n") {
            super::say(format_args!("cannot write statistics to {}: {error}", path.display()));
        }
    }
}
