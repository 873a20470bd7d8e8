//! The loop around KVM_RUN.

use abi::marks::{Mark, MarkId};
use sha2::{Digest, Sha256};

use super::convert::{ConvertRequest, convert};
use super::exits::ExitLog;
use super::stages::Access;
use super::track::{Cut, Source, Uncertain};
use super::virtio::{self, SharedPages};
use super::{Shared, lock};
use crate::device::bus::PortEffect;
use crate::device::ioapic::IoApicEffect;
use crate::ledger::{By, Stamp};
use crate::outcome::Outcome;
use crate::phase::Phase;
use crate::recorder::{FastClock, GuestNs, MarkEvent, WallNs};
use crate::sys::kick::ThreadId;
use crate::sys::vcpu::{EXIT_KINDS, Exit, Vcpu};
use crate::sys::vm::{KVM_HC_MAP_GPA_RANGE, Visibility};
use crate::termination::Termination;

/// What one vCPU did.
#[derive(Debug)]
pub struct VcpuRecord {
    /// Its number.
    pub id: u16,
    /// Its exits.
    pub exits: ExitLog,
    /// Its marks.
    pub marks: Vec<MarkEvent>,
    /// Where it stood at the end, and whether it was halted; for unprotected guests.
    pub position: Option<(u64, bool)>,
    /// SHA-256 over what made it exit, in order: equal runs have equal streams.
    pub stream: [u8; 32],
}

/// A guest that writes marks without end does not take our memory.
const MARKS_MAX: usize = 4096;

pub(super) struct Loop<'a, 'b> {
    pub(super) vcpu: Vcpu,
    pub(super) shared: &'a Shared<'b>,
    marks: Vec<MarkEvent>,
    exit_count: u64,
    /// When the vCPU was entered for the exit at hand.
    entered: WallNs,
    /// The last known value of the guest's clock before that; read only where stages need it.
    seen: Option<GuestNs>,
    /// When the line of text at hand began, at the earliest.
    line: Uncertain,
}

/// Runs a vCPU until the run ends.
pub(super) fn run(mut vcpu: Vcpu, shared: &Shared) -> VcpuRecord {
    let id = vcpu.id();
    let target = vcpu.kick_target();
    lock(&shared.threads).push(ThreadId::current());
    let mut exits = ExitLog::default();
    let mut stream = Sha256::new();
    let mut clock = FastClock::new(shared.started);
    let mut before = clock.now();
    let mut this = Loop {
        vcpu,
        shared,
        marks: Vec::with_capacity(64),
        exit_count: 0,
        entered: before,
        seen: shared.guest_clock(),
        line: Uncertain::default(),
    };
    let mut last = None;
    loop {
        // Cleared before the check: a kick that comes after it is then not lost.
        this.vcpu.clear_immediate_exit();
        if shared.stopping() {
            break;
        }
        let entered = clock.now();
        if let Some((phase, kind)) = last {
            exits.handled(phase, kind, entered.0 - before.0);
        }
        this.entered = entered;
        let result = this.vcpu.run();
        before = clock.now();
        let kind = result.as_ref().map_or(EXIT_KINDS.len() - 1, Exit::kind);
        let phase = shared.track.phase();
        exits.left(phase, kind, before.0 - entered.0);
        last = Some((phase, kind));
        match result {
            Ok(Exit::Interrupted) => {}
            Ok(exit) => {
                this.exit_count += 1;
                this.note(&exit, &mut stream);
                this.handle(exit, before);
            }
            // KVM's word for a VM that it has given up. A TD ends so when it touches what it has not accepted.
            Err(error) if shared.td.is_some() && error.raw_os_error() == Some(libc::EIO) => {
                shared.stop(Outcome::TdDead { vcpu: id });
            }
            Err(error) => shared.stop(Outcome::RunFailed {
                vcpu: id,
                errno: error.raw_os_error().unwrap_or_default(),
            }),
        }
    }
    if let Some((phase, kind)) = last {
        exits.handled(phase, kind, clock.now().0 - before.0);
    }
    drop(target);
    let position = this.vcpu.position();
    VcpuRecord { id, exits, marks: this.marks, position, stream: stream.finalize().into() }
}

impl Loop<'_, '_> {
    /// Adds an exit to the stream: what the guest did, not what it was answered.
    fn note(&mut self, exit: &Exit, stream: &mut Sha256) {
        let (a, b) = match *exit {
            Exit::PortIn { port, size } | Exit::PortOut { port, size } => {
                (u64::from(port), size as u64)
            }
            Exit::MmioRead { gpa, len } | Exit::MmioWrite { gpa, len, .. } => (gpa, len as u64),
            Exit::Hypercall { args, .. } => (args[0], args[1] ^ args[2] << 52),
            Exit::MemoryFault { private, gpa, .. } => (gpa, u64::from(private)),
            Exit::SystemEvent { kind, data } => (u64::from(kind), data),
            Exit::Certificates { gpa, npages } => (gpa, npages),
            Exit::FailEntry { reason } => (reason, 0),
            Exit::InternalError { suberror, .. } | Exit::Other(suberror) => {
                (u64::from(suberror), 0)
            }
            Exit::GetQuote { gpa, size } => (gpa, size),
            Exit::GetTdVmCallInfo { leaf: number }
            | Exit::SetupEventNotify { vector: number }
            | Exit::TdVmCall { nr: number } => (number, 0),
            Exit::TdFatal { registers } => (registers[12], registers[14]),
            Exit::Halt | Exit::Shutdown | Exit::Interrupted => (0, 0),
        };
        let mut record = [0; 17];
        record[0] = exit.kind() as u8;
        record[1..9].copy_from_slice(&a.to_le_bytes());
        record[9..].copy_from_slice(&b.to_le_bytes());
        stream.update(record);
        if matches!(exit, Exit::PortOut { .. }) {
            stream.update(self.vcpu.io_data());
        }
    }

    fn handle(&mut self, exit: Exit, now: WallNs) {
        let shared = self.shared;
        match exit {
            Exit::PortOut { port, size } => self.port_out(port, size, now),
            Exit::PortIn { port, size } => {
                self.stage(Access::Port { port, written: None }, now);
                let mut bus = lock(&shared.bus);
                if bus.reads_clock(port)
                    && let Some(now) = shared.vm.clock()
                {
                    bus.set_clock(now.0);
                }
                for data in self.vcpu.io_data().chunks_mut(size) {
                    bus.read(port, data);
                }
            }
            Exit::MmioRead { gpa, len } => {
                let mut data = [0xff; 8];
                lock(&shared.mmio).read(gpa, &mut data[..len]);
                self.vcpu.set_mmio_data(data);
            }
            Exit::MmioWrite { gpa, len, data } => self.mmio_write(gpa, &data[..len], now),
            Exit::Interrupted => {}
            Exit::GetQuote { .. }
            | Exit::GetTdVmCallInfo { .. }
            | Exit::SetupEventNotify { .. }
            | Exit::TdVmCall { .. }
            | Exit::TdFatal { .. } => super::tdx::handle(self, exit),
            Exit::Hypercall { nr: KVM_HC_MAP_GPA_RANGE, args } => self.convert(args, now),
            Exit::Hypercall { nr, .. } => {
                shared.stop(Outcome::Unhandled {
                    vcpu: self.vcpu.id(),
                    what: format!("hypercall {nr}"),
                });
            }
            Exit::MemoryFault { private, gpa, .. } => self.touched(gpa, private),
            Exit::SystemEvent { kind, data } => self.system_event(kind, data),
            Exit::Certificates { gpa, npages } => self.certificates(gpa, npages),
            Exit::Halt => shared.stop(Outcome::Halted { vcpu: self.vcpu.id() }),
            Exit::Shutdown => {
                let panicked = lock(&shared.bus).output.panicked();
                shared.stop(if panicked {
                    Outcome::KernelPanic
                } else {
                    Outcome::TripleFault { vcpu: self.vcpu.id() }
                });
            }
            Exit::FailEntry { reason } => {
                shared.stop(Outcome::EntryRefused { vcpu: self.vcpu.id(), reason })
            }
            Exit::InternalError { suberror, instruction, len } => {
                let instruction = crate::digest::hex(&instruction[..len]);
                shared.stop(Outcome::KvmGaveUp { vcpu: self.vcpu.id(), suberror, instruction });
            }
            Exit::Other(reason) => {
                shared.stop(Outcome::Unhandled {
                    vcpu: self.vcpu.id(),
                    what: format!("exit reason {reason}"),
                });
            }
        }
    }

    fn port_out(&mut self, port: u16, size: usize, now: WallNs) {
        let shared = self.shared;
        // One string instruction may carry many accesses.
        let mut at = 0;
        loop {
            let effect = {
                let data = self.vcpu.io_data();
                let Some(one) = data.get(at..at + size) else { return };
                lock(&shared.bus).write(port, one)
            };
            let byte = self.vcpu.io_data().get(at).copied().filter(|_| size == 1);
            self.stage(Access::Port { port, written: byte }, now);
            at += size;
            self.effect(effect, now);
        }
    }

    fn effect(&mut self, effect: PortEffect, now: WallNs) {
        let shared = self.shared;
        match effect {
            PortEffect::None => {}
            PortEffect::Mark(value) => self.mark(value, now),
            PortEffect::Power(request) => shared.power(request),
            PortEffect::Transfer(gpa) => self.transfer(gpa, now),
            PortEffect::Terminate(value) => {
                shared.stop(Outcome::Terminated(Termination::from_ghcb_msr(u64::from(value))));
            }
        }
    }

    /// Gives a firmware a piece of a file. First and last piece of the kernel are worth a mark.
    fn transfer(&mut self, gpa: u64, now: WallNs) {
        let shared = self.shared;
        let fetched = match &mut lock(&shared.bus).legacy {
            Some(legacy) => legacy.transfer(gpa, &shared.memory.ram),
            None => return,
        };
        let marks =
            [(fetched.first, MarkId::KERNEL_FETCH_BEGIN), (fetched.last, MarkId::KERNEL_FETCH_END)];
        for (_, id) in marks.into_iter().filter(|(set, _)| *set) {
            self.mark(Mark::new(id, 0).0, now);
        }
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8], now: WallNs) {
        let shared = self.shared;
        // Held until KVM knows: two vCPUs must not tell it in another order than they wrote.
        let mut bus = lock(&shared.mmio);
        if let Some((console, offset)) = bus.console_at(gpa) {
            let printed = console.write(offset, data, &SharedPages::of(shared));
            drop(bus);
            return match printed {
                Ok(text) => self.print(&text, now),
                Err(problem) => virtio::end(shared, &problem),
            };
        }
        if bus.write(gpa, data) == IoApicEffect::None {
            return;
        }
        let routes = bus.ioapic.as_ref().map(|ioapic| ioapic.routes()).unwrap_or_default();
        if let Err(error) = shared.vm.route(&routes) {
            shared.stop(Outcome::MonitorFailed(error.complaint()));
        }
    }

    /// Text of a console that gives it in pieces. Neither rings nor buses are locked meanwhile: somebody may be slow to take
    /// it.
    fn print(&mut self, text: &[u8], now: WallNs) {
        for byte in text {
            let effect = lock(&self.shared.bus).print(*byte);
            self.stage(Access::Text(*byte), now);
            self.effect(effect, now);
        }
    }

    fn mark(&mut self, value: u32, now: WallNs) {
        let shared = self.shared;
        let guest = shared.guest_clock();
        let id = Mark(value).id();
        // What a mark says of pages was done in the phase that it ends.
        let at = Stamp { wall: now, guest, phase: shared.track.phase() };
        lock(&shared.ledger).mark(Mark(value), at);
        if self.marks.len() < MARKS_MAX {
            self.marks.push(MarkEvent {
                value,
                vcpu: self.vcpu.id(),
                wall: now,
                guest,
                exits: self.exit_count,
            });
        }
        if let Some((phase, name)) = Phase::begins_with(id).zip(id.name()) {
            let uncertain = Uncertain { wall: WallNs(0), guest: guest.map(|_| GuestNs(0)) };
            self.enter(name, phase, Source::Mark, now, guest, uncertain);
        }
        if shared.until.is_some_and(|until| until.0 == id) {
            shared.stop(Outcome::MarkReached { value });
        }
    }

    fn enter(
        &self,
        name: &'static str,
        phase: Phase,
        source: Source,
        wall: WallNs,
        guest: Option<GuestNs>,
        uncertain: Uncertain,
    ) {
        let cut = Cut { name, phase, source, wall, guest, uncertain, kvm_exits: None };
        self.shared.track.enter(cut, &self.shared.stats);
    }

    /// An access that may give a stage away, while a kernel boots.
    fn stage(&mut self, access: Access, now: WallNs) {
        let shared = self.shared;
        let phase = shared.track.phase();
        if !(Phase::K0..=Phase::K5).contains(&phase) {
            return;
        }
        let mut stages = lock(&shared.stages);
        if let Some(vm) = shared.stats.vm.as_ref().filter(|_| stages.has_functions()) {
            while let Some((stage, time)) = stages.function(vm) {
                let wall = WallNs(now.0.saturating_sub(self.entered.0));
                let uncertain = Uncertain { wall, guest: Some(GuestNs(0)) };
                self.enter(stage.name, stage.phase, stage.source, now, Some(time), uncertain);
            }
            return;
        }
        if stages.at_line_start() {
            self.line = Uncertain { wall: self.entered, guest: self.seen };
        }
        let stage = stages.see(access, phase);
        drop(stages);
        if stage.is_none() && access.is_text() {
            return;
        }
        let guest = shared.guest_clock();
        if let Some(stage) = stage {
            // A line is told when it is complete: what it is about came before its first byte.
            let uncertain = Uncertain {
                wall: WallNs(now.0.saturating_sub(self.line.wall.0)),
                guest: guest.zip(self.line.guest).map(|(g, l)| GuestNs(g.0.saturating_sub(l.0))),
            };
            self.enter(stage.name, stage.phase, stage.source, now, guest, uncertain);
        }
        self.seen = guest;
    }

    fn convert(&mut self, args: [u64; 6], now: WallNs) {
        let shared = self.shared;
        let request = ConvertRequest::parse(args);
        // Held until KVM knows: two vCPUs must not tell it in another order than the ledger.
        let mut ledger = lock(&shared.ledger);
        let result =
            request.map_or(Ok(false), |request| convert(shared.vm, shared.memory, request));
        // The guest cannot go on without: its kernel would end itself, and nobody knew why.
        let done = result.unwrap_or_else(|error| {
            shared.stop(Outcome::MonitorFailed(error.complaint()));
            false
        });
        let now_done = shared.stamp();
        if let (true, Some(request)) = (done, request) {
            let (range, visibility) = request.range();
            ledger.convert(range, visibility, By::Guest, now_done);
        }
        // 0, EINVAL and EAGAIN are all that KVM accepts here (Linux 7.2 arch/x86/kvm/x86.h).
        self.vcpu.set_hypercall_result(if done { 0 } else { libc::EINVAL as u64 });
        let spent = now_done.wall.0.saturating_sub(now.0);
        ledger.spent(now_done.phase, spent);
        lock(&shared.conversions).count(request, done, spent);
    }

    /// An access whose kind is not the page's.
    fn touched(&mut self, gpa: u64, private: bool) {
        let shared = self.shared;
        let visibility = if private { Visibility::Private } else { Visibility::Shared };
        let request = ConvertRequest::of_touched(gpa, visibility);
        let (page, _) = request.range();
        let may = shared.converts_touched && shared.memory.ram.covers(page.gpa, page.len);
        let mut ledger = lock(&shared.ledger);
        match may.then(|| convert(shared.vm, shared.memory, request)) {
            Some(Ok(true)) => {}
            Some(Err(error)) => return shared.stop(Outcome::MonitorFailed(error.complaint())),
            Some(Ok(false)) | None => {
                let vcpu = self.vcpu.id();
                return shared.stop(Outcome::WrongKindOfAccess { vcpu, gpa, private });
            }
        }
        ledger.convert(page, visibility, By::Touch, shared.stamp());
        lock(&shared.conversions).touched_pages += 1;
    }

    fn system_event(&mut self, kind: u32, data: u64) {
        const SHUTDOWN: u32 = 1;
        const RESET: u32 = 2;
        const SEV_TERM: u32 = 6;
        let vcpu = self.vcpu.id();
        let panicked = lock(&self.shared.bus).output.panicked();
        self.shared.stop(match kind {
            _ if panicked => Outcome::KernelPanic,
            SEV_TERM if data & 0xfff == 0x100 => {
                Outcome::Terminated(Termination::from_ghcb_msr(data))
            }
            // By GHCB page: KVM gives the page's address, and the reason is lost (sev.c sev_handle_vmgexit).
            SEV_TERM => Outcome::TerminatedByPage { vcpu },
            SHUTDOWN => Outcome::PowerOff,
            RESET => Outcome::Reset,
            _ => Outcome::Unhandled { vcpu, what: format!("system event {kind}") },
        });
    }

    fn certificates(&mut self, gpa: u64, npages: u64) {
        let certs = self.shared.certs.unwrap_or(&[]);
        let needed = (certs.len() as u64).div_ceil(4096);
        if npages < needed {
            self.vcpu.answer_certificates(needed, libc::ENOSPC as u64);
            return;
        }
        let written = self.shared.memory.ram.write(gpa, certs).is_ok();
        self.vcpu.answer_certificates(npages, if written { 0 } else { libc::EIO as u64 });
    }
}
