//! Everything a VM consists of. It stands behind one lock, which is also the baton: whoever runs a
//! vCPU holds it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::caps::{QUIRK_STUFF_MSRS, VmKind};
use super::coalesced::Coalesced;
use super::counts::{Counts, VmCounts};
use super::cpuid::Table;
use super::errno::{Answer, Errno};
use super::eventfd::Eventfds;
use super::fd::{Mapping, Owned};
use super::halt::DEFAULT_LIMIT_NS;
use super::hostile::Hostile;
use super::machine::Machine;
use super::memory::{Change, Memory};
use super::msrs::{Filter, Msrs};
use super::number::{MAX_VCPU_IDS, mp_state};
use super::psp_queue::Place;
use super::replay::{ReadAhead, Replay, Touch};
use super::run_page::{RunPage, UserExit};
use super::spin::Spin;
use super::stats::StatsFile;
use super::symbols::{KERNEL_IMAGE, Watch};
use super::td::{TdCpu, TdVm};
use crate::chipset::{self, Chipset, Irqchip};
use crate::cpu::engine::{CodeCache, Kind};
use crate::cpu::{Core, Features, Processor, flags};
use crate::price::Price;
use crate::snp::ghcb::{ApRequest, Vmgexit};
use crate::snp::launch::VmsaPage;
use crate::snp::{SnpVm, vmsa};
use crate::tdx::TdxCosts;

/// Wall clock of a virtual machine in virtual time at cycle 0: 2026-01-01T00:00:00Z.
const EPOCH_NS: u64 = 1_767_225_600_000_000_000;

/// What user space must answer before the vCPU goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Nothing.
    None,
    /// The access that the present instruction made.
    Touch(Touch),
    /// An exit of the GHCB protocol.
    Ghcb(UserExit),
    /// A TDVMCALL.
    Vmcall(UserExit),
}

/// One vCPU.
pub struct Vcpu {
    /// KVM's vcpu_id, the APIC id.
    pub id: u32,
    /// The processor; `None` while it runs.
    pub processor: Option<Box<Processor>>,
    /// What it shares with user space.
    pub page: RunPage,
    /// CPUID.
    pub table: Table,
    /// Registers KVM keeps.
    pub msrs: Msrs,
    /// KVM_MP_STATE_*.
    pub mp_state: u32,
    /// Page of the last start-up IPI.
    pub sipi_vector: u8,
    /// Its save area, once LAUNCH_FINISH has protected it.
    pub vmsa: Option<VmsaPage>,
    /// The VMSA it runs on is good.
    pub vmsa_valid: bool,
    /// What another vCPU asked by AP creation.
    pub ap: Option<ApRequest>,
    /// GHCB protocol state.
    pub ghcb: Option<Box<Vmgexit>>,
    /// What makes it a TD's, from INIT_VCPU on.
    pub td: Option<Box<TdCpu>>,
    /// Answered accesses of the instruction in progress.
    pub replay: Replay,
    /// What user space must answer.
    pub completion: Completion,
    /// The instruction that waited for the answer has to be finished first.
    pub finish: bool,
    /// Exits that wait to be reported, set by the world.
    pub exit: Option<UserExit>,
    /// KVM_RUN fails with this.
    pub failure: Option<Errno>,
    /// Data of a repeated IN that has been read ahead.
    pub ahead: ReadAhead,
    /// EOIs that user space is to hear of.
    pub eois: Vec<u8>,
    /// In KVM_RUN.
    pub inside: bool,
    /// When it left KVM_RUN with an exit, if it has not come back.
    pub left: Option<Instant>,
    /// Waits for its turn or an event.
    pub waiting: bool,
    /// Signalled to end the wait.
    pub wake: Arc<Owned>,
    /// KVM_CAP_ENFORCE_PV_FEATURE_CPUID.
    pub pv_enforced: bool,
    /// KVM_SET_SIGNAL_MASK.
    pub signal_mask: Option<u64>,
    /// KVM_SET_GUEST_DEBUG is in force.
    pub guest_debug: bool,
    /// Translations are stale.
    pub flush: bool,
    /// It has been in KVM_RUN.
    pub has_run: bool,
    /// Its waiting for others.
    pub spin: Spin,
    /// Part of instructions to be run from the quantum it was interrupted in.
    pub remaining: u64,
    /// The last #VCs, newest first: code, and the guest-physical address or RIP it was about.
    pub last_vcs: VecDeque<(u64, u64)>,
    /// Statistics.
    pub counts: Counts,
    /// What KVM_GET_STATS_FD shows, once it has been called.
    pub stats: Option<StatsFile>,
}

impl Vcpu {
    /// LAUNCH_FINISH has made its registers unreadable.
    pub fn protected(&self) -> bool {
        self.vmsa.is_some()
    }

    /// The processor of a vCPU that is not running.
    pub fn core(&self) -> Answer<&Core> {
        self.processor.as_ref().map(|p| &p.core).ok_or(Errno::EBUSY)
    }

    /// As [`Vcpu::core`], to be changed.
    pub fn core_mut(&mut self) -> Answer<&mut Core> {
        self.processor.as_mut().map(|p| &mut p.core).ok_or(Errno::EBUSY)
    }

    /// Whether the guest may use a paravirtual feature, by its bit in CPUID 4000_0001h EAX (Linux arch/x86/kvm/cpuid.h
    /// `guest_pv_has`).
    pub fn pv_has(&self, feature: u32) -> bool {
        !self.pv_enforced || self.table.pv_features() >> feature & 1 != 0
    }

    /// Counts an event.
    pub fn count(&mut self, event: &'static str) {
        *self.counts.host_events.entry(event).or_default() += 1;
    }

    /// Adopts a CPUID table.
    pub fn set_table(&mut self, table: Table) {
        self.table = table;
        let mut features = self.table.features();
        if self.protected() {
            features |= Features::SEV_ES | Features::SEV_SNP;
        }
        let phys_bits = self.table.phys_bits();
        if self.td.is_some() {
            // Its processor's features are the module's choice.
            return;
        }
        if let Some(p) = &mut self.processor {
            p.core.features = features;
            p.phys_bits = phys_bits;
        }
    }
}

/// Virtual time, or the host's.
pub struct Clock {
    base: u64,
    /// Cycles of `base` that were charged by placeholders.
    guessed: u64,
    /// Instruction count of the running processor when its turn began.
    start: u64,
    real: Option<(Instant, u64)>,
}

impl Clock {
    fn new(realtime: bool, khz: u32) -> Self {
        Self {
            base: 0,
            guessed: 0,
            start: 0,
            real: realtime.then(|| (Instant::now(), u64::from(khz))),
        }
    }

    /// Now, outside a turn.
    pub fn now(&self) -> u64 {
        match self.real {
            Some((since, khz)) => (since.elapsed().as_nanos() * u128::from(khz) / 1_000_000) as u64,
            None => self.base,
        }
    }

    /// Now, within a turn.
    pub fn now_in(&self, core: &Core) -> u64 {
        if self.real.is_some() {
            self.now()
        } else {
            self.base.wrapping_add(core.instructions.wrapping_sub(self.start))
        }
    }

    /// A turn begins.
    pub fn begin(&mut self, core: &Core) {
        self.start = core.instructions;
    }

    /// A turn ends: its instructions have taken a cycle each.
    pub fn end(&mut self, core: &Core) {
        self.base = self.base.wrapping_add(core.instructions.wrapping_sub(self.start));
        self.start = core.instructions;
    }

    /// Something took time.
    pub fn charge(&mut self, price: Price) {
        self.base = self.base.wrapping_add(price.cycles);
        self.guessed = self.guessed.wrapping_add(price.guessed);
    }

    /// Cycles that have been charged by placeholders of the profile.
    pub fn guessed(&self) -> u64 {
        self.guessed
    }

    /// Nobody has anything to do until then.
    pub fn jump(&mut self, to: u64) {
        self.base = self.base.max(to);
    }

    /// Whether it follows the host's clock.
    pub fn is_real(&self) -> bool {
        self.real.is_some()
    }

    /// Another frequency, before anything has run.
    pub fn set_khz(&mut self, khz: u32) {
        if let Some((_, rate)) = &mut self.real {
            *rate = u64::from(khz);
        }
    }
}

/// What user space has written to time stamp counters (Linux arch/x86/kvm/x86.c `kvm_synchronize_tsc`).
#[derive(Clone, Copy, Debug, Default)]
pub struct TscWrites {
    /// The last value, and when.
    last: Option<(u64, u64)>,
    /// Offset from the machine's counter of vCPUs that are in step.
    offset: u64,
}

impl TscWrites {
    /// A vCPU is made: it is in step with the others.
    pub fn of_new_vcpu(&self) -> u64 {
        self.offset
    }

    /// The offset after a write. Zero, and what comes close to where the value written last has got to, is meant to bring
    /// vCPUs into step.
    pub fn write(&mut self, value: u64, now: u64, khz: u32) -> u64 {
        let second = u64::from(khz) * 1000;
        let near = self.last.is_some_and(|(last, then)| {
            let expected = last.wrapping_add(now.wrapping_sub(then));
            value.abs_diff(expected) < second
        });
        if value != 0 && !near {
            self.offset = value.wrapping_sub(now);
        }
        self.last = Some((value, now));
        self.offset
    }
}

/// Capabilities that have been enabled, and other switches.
#[derive(Debug, Default)]
pub struct Switches {
    /// KVM_CAP_EXIT_HYPERCALL for MAP_GPA_RANGE.
    pub map_gpa_exits: bool,
    /// KVM_CAP_X86_USER_SPACE_MSR.
    pub msr_exits: u32,
    /// KVM_X86_SET_MSR_FILTER.
    pub filter: Filter,
    /// KVM_SET_BOOT_CPU_ID.
    pub boot_cpu: u32,
    /// KVM_CAP_MAX_VCPU_ID.
    pub max_vcpu_id: Option<u32>,
    /// KVM_CAP_X86_DISABLE_EXITS.
    pub disabled_exits: u64,
    /// KVM_CAP_DISABLE_QUIRKS2.
    pub disabled_quirks: u64,
    /// KVM_CAP_MSR_PLATFORM_INFO: the guest cannot read it.
    pub hides_platform_info: bool,
    /// KVM_SET_IDENTITY_MAP_ADDR.
    pub identity_map: u64,
}

/// A VM.
pub struct State {
    /// The machine it runs on.
    pub machine: Arc<Machine>,
    /// Its kind.
    pub kind: VmKind,
    /// Memory.
    pub memory: Memory,
    /// Interrupt chips and clocks.
    pub chipset: Chipset,
    /// SNP state.
    pub snp: SnpVm,
    /// The TD.
    pub td: Option<Box<TdVm>>,
    /// Given up: every ioctl fails.
    pub dead: bool,
    /// Cached code.
    pub code: CodeCache,
    /// vCPUs in order of creation.
    pub vcpus: Vec<Vcpu>,
    /// Time.
    pub clock: Clock,
    /// Time stamp counters.
    pub tsc_writes: TscWrites,
    /// Switches.
    pub switches: Switches,
    /// irqfds and ioeventfds.
    pub eventfds: Eventfds,
    /// Coalesced writes.
    pub coalesced: Coalesced,
    /// Cycles that operations take.
    pub costs: crate::snp::platform::Costs,
    /// Cycles that operations of a TD take.
    pub td_costs: TdxCosts,
    /// Extensions that KVM supports here.
    pub features: Features,
    /// Position of the C-bit.
    pub c_bit: u8,
    /// TSC frequency of the guest.
    pub tsc_khz: u32,
    /// GHCB AP jump table.
    pub jump_table: u64,
    /// vCPU that ran last.
    pub last: usize,
    /// When the first vCPU entered KVM_RUN.
    pub started: Option<Instant>,
    /// vCPU whose exit user space is answering: the others wait for it for a while.
    pub holder: Option<usize>,
    /// What the guest tried that is not known, with how often.
    pub complaints: BTreeMap<String, u64>,
    random: u64,
    /// Chip events that had to wait for the end of a turn.
    pub deferred: Vec<chipset::Event>,
    /// Host address ranges handed to the kernel as encrypted regions.
    pub regions: Vec<(u64, u64)>,
    /// How the host cheats.
    pub hostile: Hostile,
    /// Functions of the guest's kernel that statistics tell of.
    pub symbols: Option<Watch>,
    /// Its place at a security processor that it shares.
    pub place: Option<Place>,
    /// KVM_CAP_HALT_POLL, in nanoseconds.
    pub halt_poll: u32,
    /// Statistics.
    pub counts: VmCounts,
    /// What KVM_GET_STATS_FD shows, once it has been called.
    pub stats: Option<StatsFile>,
}

impl State {
    /// A VM without anything.
    pub fn new(machine: Arc<Machine>, kind: VmKind) -> Self {
        let khz = machine.profile.tsc_khz;
        let realtime = machine.options.realtime;
        let epoch = if realtime {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(EPOCH_NS, |d| d.as_nanos() as u64)
        } else {
            EPOCH_NS
        };
        let (costs, c_bit) = {
            let psp = machine.psp();
            (psp.platform().costs.clone(), psp.platform().c_bit)
        };
        let engine = if machine.options.reference { Kind::Reference } else { Kind::Fast };
        let memory = Memory::new(kind, machine.options.seed, machine.profile.large_folios);
        let mut code = CodeCache::new(engine);
        if machine.symbols.is_some() {
            code.watch = KERNEL_IMAGE;
        }
        let td_costs = machine.xeon.as_ref().map(|xeon| xeon.tdx.costs.clone());
        Self {
            kind,
            memory,
            chipset: Chipset::new(khz, epoch),
            snp: SnpVm::new(),
            td: (kind == VmKind::Tdx).then(Box::default),
            dead: false,
            code,
            vcpus: Vec::new(),
            clock: Clock::new(realtime, khz),
            tsc_writes: TscWrites::default(),
            switches: Switches::default(),
            eventfds: Eventfds::default(),
            coalesced: Coalesced::default(),
            costs,
            td_costs: td_costs.unwrap_or_default(),
            features: machine.features(),
            c_bit,
            tsc_khz: khz,
            jump_table: 0,
            last: 0,
            started: None,
            holder: None,
            complaints: BTreeMap::new(),
            random: machine.options.seed ^ 0x9e37_79b9_7f4a_7c15,
            deferred: Vec::new(),
            regions: Vec::new(),
            hostile: machine.hostile.clone(),
            symbols: machine.symbols.clone().map(Watch::new),
            place: None,
            halt_poll: DEFAULT_LIMIT_NS,
            counts: VmCounts::default(),
            stats: None,
            machine,
        }
    }

    /// SNP.
    pub fn is_snp(&self) -> bool {
        self.kind == VmKind::Snp
    }

    /// The next random number (splitmix64).
    pub fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Adds a vCPU; the file behind `page` is the caller's.
    pub fn add_vcpu(&mut self, id: u32, page: Arc<Mapping>) -> Answer<usize> {
        // Before the first vCPU it becomes what it will stay (Linux arch/x86/kvm/x86.c `kvm_arch_vcpu_precreate`).
        let ids = *self.switches.max_vcpu_id.get_or_insert(MAX_VCPU_IDS);
        Errno::require(id < ids && self.vcpus.len() < self.max_vcpus() as usize)?;
        self.td_admits_vcpu()?;
        let intel = self.machine.xeon.is_some();
        let stuffed = self.switches.disabled_quirks & QUIRK_STUFF_MSRS == 0;
        if self.vcpus.iter().any(|vcpu| vcpu.id == id) {
            return Err(Errno::EEXIST);
        }
        let bsp = id == self.switches.boot_cpu;
        let index = self.chipset.add_vcpu(id, bsp);
        self.chipset.set_tsc_offset(index, self.tsc_writes.of_new_vcpu());
        let parked = !bsp && self.chipset.mode() != Irqchip::None;
        let mut processor = Box::new(Processor::new(vmsa::kvm_reset()));
        processor.core.attention = true;
        self.vcpus.push(Vcpu {
            id,
            processor: Some(processor),
            page: RunPage(page),
            table: Table::default(),
            msrs: Msrs::new(intel, stuffed),
            mp_state: if parked { mp_state::UNINITIALIZED } else { mp_state::RUNNABLE },
            sipi_vector: 0,
            vmsa: None,
            vmsa_valid: false,
            ap: None,
            ghcb: Some(Box::new(Vmgexit::new(self.c_bit))),
            td: None,
            replay: Replay::default(),
            completion: Completion::None,
            finish: false,
            exit: None,
            failure: None,
            ahead: ReadAhead::default(),
            eois: Vec::new(),
            inside: false,
            left: None,
            waiting: false,
            wake: Arc::new(Owned::eventfd()?),
            pv_enforced: false,
            signal_mask: None,
            guest_debug: false,
            flush: false,
            has_run: false,
            spin: Spin::default(),
            remaining: 0,
            last_vcs: VecDeque::new(),
            counts: Counts::default(),
            stats: None,
        });
        Ok(index)
    }

    /// Memory has changed under the processors.
    pub fn memory_changed(&mut self, change: Change) {
        if change != Change::None {
            self.vcpus.iter_mut().for_each(|vcpu| vcpu.flush = true);
        }
        if change == Change::Contents {
            self.code.clear();
        }
    }

    /// Whether an event would end the vCPU's halt.
    pub fn has_event(&self, index: usize) -> bool {
        let vcpu = &self.vcpus[index];
        let Some(p) = &vcpu.processor else { return false };
        if let Some(cpu) = &vcpu.td
            && let Some(blocked) = cpu.halt
        {
            // RFLAGS.IF is the module's to know: what counts is what the guest has said.
            return self.chipset.nmis(index) > 0 && !cpu.vcpu.holds_nmi()
                || !blocked && self.chipset.has_interrupt(index);
        }
        matches!(vcpu.ap, Some(ApRequest::Create(_)))
            || p.core.pending.is_some()
            || self.chipset.nmis(index) > 0 && !p.core.nmi_blocked
            || p.core.rflags & flags::IF != 0 && self.chipset.has_interrupt(index)
    }

    /// Carries out what the chips want done.
    pub fn chipset_events(&mut self) {
        while self.chipset.has_events() || !self.deferred.is_empty() {
            let mut events = std::mem::take(&mut self.deferred);
            events.extend(self.chipset.take_events());
            for event in events {
                match event {
                    chipset::Event::Wake(index) => self.wake(index),
                    chipset::Event::Init(index) => self.init(index),
                    chipset::Event::Sipi(index, vector) => self.sipi(index, vector),
                    chipset::Event::Smi(index) => {
                        self.complain(format!("SMI sent to vCPU {index}: there is no SMM"));
                    }
                    // KVM does not see a TD's EOIs.
                    chipset::Event::EoiExit { .. } if self.kind == VmKind::Tdx => {}
                    chipset::Event::EoiExit { vcpu, vector } => self.vcpus[vcpu].eois.push(vector),
                    chipset::Event::Acked(gsi) => self.eventfds.acked(gsi, &mut self.chipset),
                    chipset::Event::Write(write) => {
                        // KVM, too, drops what it cannot write.
                        let code = &mut self.code;
                        let _ = self.memory.write_shared(write.gpa, write.bytes(), |host, len| {
                            code.host_wrote(host, len);
                        });
                    }
                }
            }
        }
    }

    fn wake(&mut self, index: usize) {
        if let Some(p) = &mut self.vcpus[index].processor {
            p.core.attention = true;
        }
    }

    /// INIT: of an SNP vCPU only the run state changes, its registers are in its VMSA.
    fn init(&mut self, index: usize) {
        if self.kind == VmKind::Tdx {
            // KVM drops it, and start-up IPIs with it (`tdx_vcpu_reset`).
            return self.complain(format!("INIT sent to vCPU {index} of a TD: ignored"));
        }
        let vcpu = &mut self.vcpus[index];
        if !vcpu.protected()
            && let Some(p) = &mut vcpu.processor
        {
            let old = &p.core;
            let mut core = Core::at_reset();
            core.features = old.features;
            core.instructions = old.instructions;
            core.gpr[crate::cpu::state::RDX] = u64::from(vcpu.table.answer(1, 0)[0]);
            core.fpu = old.fpu.clone();
            core.attention = true;
            p.core = core;
            p.flush_tlb();
        }
        if let Some(ApRequest::CreateOnInit(gpa)) = vcpu.ap {
            vcpu.ap = Some(ApRequest::Create(gpa));
        }
        let bsp = vcpu.id == self.switches.boot_cpu;
        vcpu.mp_state = if bsp { mp_state::RUNNABLE } else { mp_state::INIT_RECEIVED };
        self.chipset.init_vcpu(index);
    }

    fn sipi(&mut self, index: usize, vector: u8) {
        if self.kind == VmKind::Tdx {
            return;
        }
        let vcpu = &mut self.vcpus[index];
        let protected = vcpu.protected();
        if protected && let Some(ghcb) = &mut vcpu.ghcb {
            ghcb.deliver_sipi();
        }
        if vcpu.mp_state != mp_state::INIT_RECEIVED {
            if vcpu.mp_state == mp_state::AP_RESET_HOLD {
                vcpu.mp_state = mp_state::RUNNABLE;
            }
            return;
        }
        vcpu.sipi_vector = vector;
        vcpu.mp_state = mp_state::RUNNABLE;
        if !protected && let Some(p) = &mut vcpu.processor {
            let cs = &mut p.core.seg[crate::cpu::Seg::Cs as usize];
            cs.selector = u16::from(vector) << 8;
            cs.base = u64::from(vector) << 12;
            p.core.rip = 0;
            p.core.update_mode();
            p.flush_tlb();
        }
    }

    /// Records something the guest tried that is not known; the first time it is also said aloud.
    pub fn complain(&mut self, what: String) {
        let count = self.complaints.entry(what.clone()).or_default();
        *count += 1;
        if *count == 1 {
            super::say(format_args!("{what}"));
        }
    }

    /// Statistics.
    pub fn statistics(&self) -> serde_json::Value {
        let khz = f64::from(self.tsc_khz);
        let code = self.code.stats();
        let vcpus: Vec<_> = self
            .vcpus
            .iter()
            .map(|vcpu| {
                let (instructions, tlb) = vcpu
                    .processor
                    .as_ref()
                    .map_or((0, Default::default()), |p| (p.core.instructions, p.tlb_stats()));
                serde_json::json!({
                    "id": vcpu.id,
                    "instructions": instructions,
                    "tlb_fills": tlb.fills,
                    "tlb_flushes": tlb.flushes,
                    "page_walks": tlb.walks,
                    "user_exits": vcpu.counts.user_exits,
                    "host_events": vcpu.counts.host_events,
                })
            })
            .collect();
        let symbols: BTreeMap<_, _> = self.symbols.iter().flat_map(Watch::stages).collect();
        serde_json::json!({
            "kind": self.kind.name(),
            "virtual_cycles": self.clock.now(),
            "virtual_seconds": self.clock.now() as f64 / khz / 1e3,
            "blocks": code.blocks,
            "block_instructions": code.decoded,
            "block_invalidations": code.invalidations,
            "steps": code.steps,
            "symbols_ns": symbols,
            "psp_wait_cycles": self.counts.psp_wait,
            "complaints": self.complaints,
            "vcpus": vcpus,
        })
    }
}
