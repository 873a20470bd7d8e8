//! KVM_RUN: turns of vCPUs under one baton, and what ends them.
//!
//! vCPUs run one at a time, in a fixed order and for a fixed number of instructions, so that a run
//! depends on nothing outside. A vCPU whose exit user space is answering keeps the baton for a
//! while; only if the answer takes long do the others go on. When all vCPUs in KVM_RUN are halted,
//! virtual time jumps to the next timer.

use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use super::caps::DISABLE_HLT;
use super::errno::{Answer, Errno};
use super::number::mp_state;
use super::replay::{Reply, Touch};
use super::run_page::UserExit;
use super::signals::Blocked;
use super::state::{Completion, State};
use super::vm::Vm;
use super::world::Guest;
use crate::chipset::{Irqchip, kvmclock};
use crate::cpu::{Core, Exit, engine, flags};
use crate::snp::ghcb::{self, ApRequest};
use crate::tdx::vmcall;

/// Instructions of a turn.
const QUANTUM: u64 = 100_000;
/// Instructions of a turn when another vCPU wants to run.
const QUANTUM_SHARED: u64 = 20_000;
/// How long the others wait for a vCPU whose exit user space is answering. On a busy host a thread
/// may not run for a good part of a second; were the others to go on, an idle guest's clock would
/// jump past the time it gives that vCPU to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the first vCPU of a TD that enters KVM_RUN waits for the others to do so.
const ARRIVAL: Duration = Duration::from_millis(300);
/// How long an idle machine with devices in other threads waits for them before time jumps.
const DEVICE_PATIENCE: Duration = Duration::from_millis(2);

/// How KVM_RUN returns: an exit, or an errno (with an exit where there is one).
pub(super) enum Return {
    Exit(UserExit),
    Fail(Errno),
}

/// Who runs next.
enum Next {
    Run(usize),
    /// User space has that vCPU; wait this long at most.
    Outside(Duration),
    Idle,
}

impl State {
    /// How long ago a vCPU left that is expected back, or that it has never come.
    fn away(&self, index: usize) -> Option<Duration> {
        let vcpu = &self.vcpus[index];
        if let Some(left) = vcpu.left {
            return Some(left.elapsed()).filter(|away| *away < PATIENCE);
        }
        // All vCPUs of a TD are runnable from the start: who comes late must not show in the guest.
        let late = !vcpu.has_run && vcpu.td.is_some();
        let since = self.started.filter(|_| late)?.elapsed();
        (since < ARRIVAL).then(|| PATIENCE - ARRIVAL + since)
    }

    /// Whether a vCPU takes part in turns: it runs, or could if user space were quicker.
    pub(super) fn takes_turns(&self, index: usize) -> bool {
        (self.vcpus[index].inside || self.away(index).is_some()) && self.runnable(index)
    }

    pub(super) fn runnable(&self, index: usize) -> bool {
        let vcpu = &self.vcpus[index];
        match vcpu.mp_state {
            mp_state::RUNNABLE => true,
            mp_state::HALTED | mp_state::AP_RESET_HOLD => self.has_event(index),
            _ => false,
        }
    }

    /// A vCPU leaves: whoever can run must not wait for it.
    fn wake_runnable(&self, leaving: usize) {
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            if index != leaving && vcpu.waiting && self.runnable(index) {
                vcpu.wake.signal();
            }
        }
    }

    fn next(&mut self) -> Next {
        if let Some(holder) = self.holder {
            let vcpu = &self.vcpus[holder];
            match vcpu.left.map(|left| left.elapsed()) {
                Some(away) if away < PATIENCE => return Next::Outside(PATIENCE - away),
                _ if vcpu.inside && vcpu.remaining > 0 && self.runnable(holder) => {
                    return Next::Run(holder);
                }
                _ => self.holder = None,
            }
        }
        if let Some(first) = self.hostile_first() {
            return match self.away(first) {
                Some(away) if !self.vcpus[first].inside => Next::Outside(PATIENCE - away),
                _ => Next::Run(first),
            };
        }
        let count = self.vcpus.len();
        let candidates = (1..=count)
            .map(|step| (self.last + step) % count)
            .filter(|&index| self.takes_turns(index));
        match self.choose(candidates) {
            None => Next::Idle,
            Some(index) if self.vcpus[index].inside => Next::Run(index),
            Some(index) => Next::Outside(PATIENCE - self.away(index).unwrap_or_default()),
        }
    }

    /// Lets timers act, passes on eventfds and carries out what follows.
    fn settle(&mut self) {
        self.eventfds.poll(&mut self.chipset);
        let now = self.clock.now();
        self.chipset.advance(now);
        self.chipset_events();
    }

    /// Instructions of the next turn of a vCPU.
    fn budget(&mut self, index: usize) -> u64 {
        let left = std::mem::take(&mut self.vcpus[index].remaining);
        let (others, asked) = self.rivals(index);
        let quantum = match left {
            0 if others => QUANTUM_SHARED,
            0 => QUANTUM.min(asked.max(QUANTUM_SHARED)),
            left => left,
        };
        quantum.min(self.until_timer()).max(1)
    }

    /// Cycles until a timer is due; in real time that cannot be told in instructions.
    fn until_timer(&self) -> u64 {
        match self.chipset.next_event() {
            Some(at) if !self.clock.is_real() => at.saturating_sub(self.clock.now()),
            _ => u64::MAX,
        }
    }

    /// One turn of a vCPU; `Some` if it leaves KVM_RUN.
    fn turn(&mut self, index: usize, budget: u64) -> Option<Return> {
        self.vcpus[index].spin.begin();
        let result = self.part_of_turn(index, budget);
        let now = self.clock.now();
        self.vcpus[index].spin.end(now);
        result
    }

    fn part_of_turn(&mut self, index: usize, mut budget: u64) -> Option<Return> {
        self.last = index;
        self.holder = None;
        if let Some(failure) = self.enter(index).or_else(|| self.td_enter(index)) {
            return Some(failure);
        }
        while budget > 0 {
            let Some(mut p) = self.vcpus[index].processor.take() else {
                return Some(Return::Fail(Errno::EBUSY));
            };
            let mut code = std::mem::take(&mut self.code);
            if std::mem::take(&mut self.vcpus[index].flush) {
                p.flush_tlb();
            }
            // What user space has answered happens before any event.
            let finish = std::mem::take(&mut self.vcpus[index].finish);
            p.core.attention = !finish;
            let part = if finish { 1 } else { budget };
            let before = p.core.instructions;
            self.clock.begin(&p.core);
            let horizon = self.clock.now().saturating_add(budget);
            let mut guest = Guest { state: self, me: index, end_turn: false, horizon };
            let exit = p.with_world(&mut guest, |p| engine::run(p, &mut code, part));
            let ended = guest.end_turn;
            budget = budget.saturating_sub(p.core.instructions.wrapping_sub(before).max(1));
            self.clock.end(&p.core);
            self.vcpus[index].replay.rewind();
            if finish {
                // The instruction has taken all of it, unless it is another one now.
                self.vcpus[index].ahead.forget();
            }
            self.vcpus[index].processor = Some(p);
            self.code = code;
            // The engine's budget counts delivered events as well: a guest that faults for ever without completing
            // an instruction ends its turn, too.
            let over = matches!(exit, Exit::Turn) && !(finish && budget > 0);
            let leave = self.after(index, exit);
            if leave.is_some() {
                self.vcpus[index].remaining = budget;
                return leave;
            }
            let others = self.chipset.has_events() || !self.deferred.is_empty();
            if over || ended || others || self.vcpus[index].mp_state != mp_state::RUNNABLE {
                break;
            }
            budget = budget.min(self.until_timer());
            if let Some(vector) = self.vcpus[index].eois.pop() {
                return Some(Return::Exit(UserExit::IoapicEoi(vector)));
            }
        }
        None
    }

    /// What must happen before the guest is entered.
    fn enter(&mut self, index: usize) -> Option<Return> {
        let snp = self.is_snp();
        let vcpu = &mut self.vcpus[index];
        if snp && !vcpu.protected() {
            // VMRUN on a page that is no VMSA.
            return Some(Return::Exit(UserExit::FailEntry));
        }
        if matches!(vcpu.mp_state, mp_state::HALTED | mp_state::AP_RESET_HOLD) {
            vcpu.mp_state = mp_state::RUNNABLE;
        }
        if vcpu.counts.halts.asleep() {
            self.end_sleep(index);
        }
        let vcpu = &mut self.vcpus[index];
        if let Some(ApRequest::Create(gpa)) = vcpu.ap {
            vcpu.ap = None;
            vcpu.vmsa_valid = false;
            self.load_vmsa(index, gpa);
        }
        let vcpu = &mut self.vcpus[index];
        if vcpu.protected() && !vcpu.vmsa_valid {
            return Some(Return::Fail(Errno::EINVAL));
        }
        if let Some(vector) = vcpu.eois.pop() {
            return Some(Return::Exit(UserExit::IoapicEoi(vector)));
        }
        None
    }

    /// Acts on the end of a run of the processor.
    fn after(&mut self, index: usize, exit: Exit) -> Option<Return> {
        match exit {
            Exit::Turn => None,
            Exit::Halt => {
                self.clock.charge(self.costs.exit);
                self.vcpus[index].count("hlt");
                self.vcpus[index].counts.exits += 1;
                self.vcpus[index].counts.halt_exits += 1;
                let exits = self.switches.disabled_exits & DISABLE_HLT == 0;
                if self.chipset.mode() == Irqchip::None && exits {
                    return Some(Return::Exit(UserExit::Hlt));
                }
                self.begin_sleep(index);
                self.vcpus[index].mp_state = mp_state::HALTED;
                None
            }
            Exit::Shutdown => {
                self.vcpus[index].counts.exits += 1;
                if let Some(cpu) = &mut self.vcpus[index].td {
                    cpu.vcpu.triple_fault();
                }
                Some(Return::Exit(UserExit::Shutdown))
            }
            Exit::Vmgexit => {
                self.clock.charge(self.costs.vmgexit);
                self.vcpus[index].count("vmgexit");
                self.vcpus[index].counts.exits += 1;
                self.ghcb(index, None)
            }
            Exit::Tdcall => {
                self.clock.charge(self.td_costs.vmcall);
                self.vcpus[index].count("tdvmcall");
                self.vcpus[index].counts.exits += 1;
                self.vmcall(index, None)
            }
            Exit::World => {
                let vcpu = &mut self.vcpus[index];
                if let Some(failure) = vcpu.failure.take() {
                    return Some(Return::Fail(failure));
                }
                let exit = vcpu.exit.take();
                let violation = matches!(exit, Some(UserExit::MemoryFault { .. }));
                vcpu.counts.exits += u64::from(violation);
                if let Some(UserExit::Mmio { gpa, .. }) = exit
                    && let Some(event) = vcpu.core().ok().and_then(|core| core.pending)
                {
                    // Nobody emulates an IDT or a stack in device memory.
                    vcpu.completion = Completion::None;
                    return Some(Return::Exit(UserExit::Vectoring { gpa, event: event.image() }));
                }
                Some(Return::Exit(exit.unwrap_or(UserExit::Internal { bytes: Vec::new() })))
            }
            Exit::Unknown { rip, bytes, len, what } => {
                let bytes = bytes[..usize::from(len)].to_vec();
                self.report_unknown(index, rip, &bytes, what);
                Some(Return::Exit(UserExit::Internal { bytes }))
            }
        }
    }

    /// The guest sleeps.
    pub(super) fn begin_sleep(&mut self, index: usize) {
        let now = self.chipset.time().at(self.clock.now()).ns;
        self.vcpus[index].counts.halts.begin(now);
    }

    /// It goes on.
    fn end_sleep(&mut self, index: usize) {
        let now = self.clock.now();
        let control = self.chipset.msr_read(index, kvmclock::msr::POLL_CONTROL, now);
        let allowed = control.and_then(Result::ok).is_none_or(|value| value & 1 != 0);
        let now = self.chipset.time().at(now).ns;
        self.vcpus[index].counts.halts.end(now, self.halt_poll, allowed);
    }

    fn report_unknown(&mut self, index: usize, rip: u64, bytes: &[u8], what: &str) {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mode = self.vcpus[index].core().map(|core| format!("{:?}", core.mode));
        let mode = mode.unwrap_or_default();
        let hex = hex.join(" ");
        self.complain(format!(
            "vCPU {index} meets what is not modelled: {what} at {rip:#x} in {mode}, bytes {hex}"
        ));
    }

    /// Takes user space's answer to the last exit. `true` if the instruction has to be finished
    /// before anything else; `Some` if this leads to the next exit.
    fn complete(&mut self, index: usize) -> (bool, Option<Return>) {
        let vcpu = &mut self.vcpus[index];
        let page = vcpu.page.clone();
        match std::mem::replace(&mut vcpu.completion, Completion::None) {
            Completion::None => (false, None),
            Completion::Touch(touch) => {
                vcpu.finish = true;
                let reply = match touch {
                    Touch::In { port, len } => Reply::Value(vcpu.ahead.take_in(port, len, &page)),
                    Touch::Read { len, .. } => {
                        Reply::Value(little_endian(&page.mmio_data()[..usize::from(len.min(8))]))
                    }
                    Touch::Out { .. } | Touch::Write { .. } => Reply::Value(0),
                    Touch::Rdmsr(_) | Touch::Wrmsr(..) => match page.msr_answer() {
                        (true, _) => Reply::Refused,
                        (false, value) => Reply::Value(value),
                    },
                    Touch::Hypercall(_) => Reply::Value(page.hypercall_ret()),
                };
                vcpu.replay.add(touch, reply);
                vcpu.replay.rewind();
                (true, None)
            }
            Completion::Ghcb(exit) => {
                let data;
                let answer = match exit {
                    UserExit::Io { data: None, size, count, .. } => {
                        data = page.io_data(usize::from(size) * count as usize);
                        ghcb::Answer::Io(&data)
                    }
                    UserExit::Mmio { data: None, .. } => ghcb::Answer::Mmio(page.mmio_data()),
                    UserExit::MapGpaRange { .. } => ghcb::Answer::Hypercall(page.hypercall_ret()),
                    UserExit::ReqCerts { .. } => {
                        let (ret, npages) = page.certs_answer();
                        ghcb::Answer::Certs { ret, npages }
                    }
                    _ => ghcb::Answer::None,
                };
                (false, self.ghcb(index, Some(answer)))
            }
            Completion::Vmcall(exit) => {
                let data;
                let answer = match exit {
                    UserExit::Io { data: None, size, .. } => {
                        data = page.io_data(usize::from(size));
                        vmcall::Answer::Io(&data)
                    }
                    UserExit::Mmio { data: None, .. } => vmcall::Answer::Mmio(page.mmio_data()),
                    UserExit::Rdmsr { .. } | UserExit::Wrmsr { .. } => {
                        let (error, data) = page.msr_answer();
                        vmcall::Answer::Msr { error, data }
                    }
                    UserExit::MapGpaRange { .. } => vmcall::Answer::Hypercall(page.hypercall_ret()),
                    UserExit::Tdx(_) => {
                        let exit = page.tdx_answer();
                        if let Some(td) = &mut self.td {
                            td.quotes.answered(&exit);
                        }
                        vmcall::Answer::Tdx(exit)
                    }
                    _ => vmcall::Answer::None,
                };
                (false, self.vmcall(index, Some(answer)))
            }
        }
    }

    /// A vCPU that a hold has released tells its guest so.
    fn end_hold(&mut self, index: usize) -> Option<Return> {
        let held = self.vcpus[index].completion == Completion::Ghcb(UserExit::ApResetHold);
        if held && self.runnable(index) { self.complete(index).1 } else { None }
    }

    /// What every return tells user space.
    fn put_state(&self, index: usize) {
        let vcpu = &self.vcpus[index];
        if self.kind == super::caps::VmKind::Tdx {
            // The flags are the module's, and nothing can be injected.
            return vcpu.page.put_state(false, false, 0, self.chipset.apic_base(index));
        }
        let if_flag = vcpu.core().is_ok_and(|core| core.rflags & flags::IF != 0);
        let shadow = vcpu.core().is_ok_and(|core: &Core| core.shadow);
        let ready = self.chipset.ready_for_external(index) && if_flag && !shadow;
        vcpu.page.put_state(ready, if_flag, self.chipset.cr8(index), self.chipset.apic_base(index));
    }

    /// Whether user space wants to inject an interrupt as soon as the guest takes any.
    pub(super) fn awaits_window(&self, index: usize) -> bool {
        let vcpu = &self.vcpus[index];
        vcpu.page.wants_interrupt_window()
            && vcpu.td.is_none()
            && self.chipset.mode() != Irqchip::Full
            && self.chipset.ready_for_external(index)
    }

    fn wants_window(&self, index: usize) -> bool {
        self.awaits_window(index)
            && self.vcpus[index]
                .core()
                .is_ok_and(|core| core.rflags & flags::IF != 0 && !core.shadow)
    }
}

pub(super) fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// KVM_RUN on a vCPU.
pub fn run(vm: &Vm, index: usize) -> Answer<i32> {
    let mask = vm.lock().vcpus[index].signal_mask;
    let signals = Blocked::new(mask);
    let mut state = vm.lock();
    state.alive()?;
    if state.vcpus[index].inside {
        return Err(Errno::EBUSY);
    }
    if state.is_unlaunched() {
        return Err(Errno::EINVAL);
    }
    if state.vcpus[index].mp_state != mp_state::UNINITIALIZED {
        if let Err(errno) = state.load_synced(index) {
            state.store_synced(index);
            return Err(errno);
        }
        state.td_admits_run(index)?;
    }
    state.be_hostile();
    state.started.get_or_insert_with(Instant::now);
    let vcpu = &mut state.vcpus[index];
    vcpu.inside = true;
    vcpu.has_run = true;
    vcpu.left = None;
    let at_once = vcpu.page.immediate_exit();
    let (mut state, result) = Turns { vm, index, signals: &signals, at_once }.run(state);
    if !matches!(result, Return::Exit(UserExit::Interrupted) | Return::Fail(_)) {
        // A return that only the host's timing decides must not show in the guest's time.
        let cost = state.costs.user_exit;
        state.clock.charge(cost);
    }
    state.put_state(index);
    state.store_synced(index);
    let vcpu = &mut state.vcpus[index];
    vcpu.inside = false;
    vcpu.counts.runs += 1;
    let (exit, errno) = match result {
        Return::Exit(exit @ UserExit::Interrupted) => (Some(exit), Some(Errno::EINTR)),
        Return::Exit(exit @ UserExit::MemoryFault { .. }) => (Some(exit), Some(Errno::EFAULT)),
        Return::Exit(exit) => (Some(exit), None),
        Return::Fail(errno) => (None, Some(errno)),
    };
    if let Some(exit) = &exit {
        vcpu.page.put_exit(exit);
        *vcpu.counts.user_exits.entry(exit.name()).or_default() += 1;
        match exit {
            UserExit::Io { .. } => vcpu.counts.io += 1,
            UserExit::Interrupted => vcpu.counts.signals += 1,
            _ => {}
        }
        let comes_back = !matches!(
            exit,
            UserExit::Interrupted
                | UserExit::Shutdown
                | UserExit::FailEntry
                | UserExit::SevTerm(_)
                | UserExit::TdxFatal(_)
                | UserExit::VpEnter(_)
        );
        if comes_back {
            vcpu.left = Some(Instant::now());
            state.holder = Some(index);
        }
    }
    if errno == Some(Errno::EAGAIN) {
        // Started while it waited: how soon its thread calls again must not show in the guest.
        state.vcpus[index].left = Some(Instant::now());
    }
    state.refresh_stats(index);
    state.refresh_vm_stats();
    state.wake_runnable(index);
    drop(state);
    match errno {
        None => Ok(0),
        Some(errno) => Err(errno),
    }
}

/// The loop of one KVM_RUN.
struct Turns<'a> {
    vm: &'a Vm,
    index: usize,
    signals: &'a Blocked,
    /// `immediate_exit` was set when KVM_RUN was called; later it is not looked at.
    at_once: bool,
}

impl<'a> Turns<'a> {
    fn run(&self, mut state: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, Return) {
        let index = self.index;
        let parked = state.vcpus[index].mp_state == mp_state::UNINITIALIZED;
        let mut finish = false;
        let mut ran = false;
        if !parked {
            let hold = state.vcpus[index].mp_state == mp_state::AP_RESET_HOLD;
            if !hold {
                let (must, result) = state.complete(index);
                finish = must;
                if let Some(result) = result {
                    return (state, result);
                }
            }
        }
        loop {
            state.settle();
            if state.dead {
                return (state, Return::Fail(Errno::EIO));
            }
            if parked
                && (state.vcpus[index].mp_state != mp_state::UNINITIALIZED
                    || state.vcpus[index].ap.is_some())
            {
                return (state, Return::Fail(Errno::EAGAIN));
            }
            if let Some(result) = state.end_hold(index) {
                return (state, result);
            }
            if self.at_once || self.signals.pending() {
                if finish && let Some(result) = state.turn(index, 1) {
                    return (state, result);
                }
                // Only a signal shows as an exit of its own.
                let end = match self.at_once {
                    true => Return::Fail(Errno::EINTR),
                    false => Return::Exit(UserExit::Interrupted),
                };
                return (state, end);
            }
            if state.wants_window(index) {
                let counts = &mut state.vcpus[index].counts;
                counts.window_requests += 1;
                counts.windows += u64::from(ran);
                counts.exits += u64::from(ran);
                return (state, Return::Exit(UserExit::IrqWindow));
            }
            match state.next() {
                Next::Run(next) if next == index => {
                    let budget = state.budget(index);
                    if let Some(result) = state.turn(index, budget) {
                        return (state, result);
                    }
                    finish = false;
                    ran = true;
                    state = self.vm.pass(state);
                }
                Next::Run(next) => {
                    state.vcpus[next].wake.signal();
                    state = self.wait(state, Some(PATIENCE), false);
                }
                Next::Outside(time) => state = self.wait(state, Some(time), false),
                Next::Idle => {
                    state = self.idle(state);
                    state = self.vm.pass(state);
                }
            }
        }
    }

    /// Nobody can run: time jumps to the next timer, or really passes.
    fn idle(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let Some(at) = state.chipset.next_event() else {
            return self.wait(state, None, true);
        };
        let gap = at.saturating_sub(state.clock.now());
        let time = state.chipset.time().at(gap).ns;
        if state.clock.is_real() {
            let time = Duration::from_nanos(time.max(1000));
            return self.wait(state, Some(time), true);
        }
        if state.awaits_quote() {
            return self.wait(state, Some(DEVICE_PATIENCE), true);
        }
        if state.eventfds.any_io() && time > 1_000_000 {
            let before = state.clock.now();
            state = self.wait(state, Some(DEVICE_PATIENCE.min(Duration::from_nanos(time))), true);
            state.settle();
            if state.clock.now() != before || !matches!(state.next(), Next::Idle) {
                return state;
            }
        }
        state.clock.jump(at);
        state
    }

    /// Waits until somebody signals this vCPU, a signal comes or time is up.
    fn wait(
        &self,
        mut state: MutexGuard<'a, State>,
        time: Option<Duration>,
        idle: bool,
    ) -> MutexGuard<'a, State> {
        let vcpu = &mut state.vcpus[self.index];
        vcpu.waiting = true;
        let wake = vcpu.wake.clone();
        let mut fds = vec![libc::pollfd { fd: wake.number(), events: libc::POLLIN, revents: 0 }];
        if idle {
            state.eventfds.add_poll(&mut fds);
        }
        drop(state);
        self.signals.wait(&mut fds, time);
        let mut state = self.vm.lock();
        wake.drain();
        state.vcpus[self.index].waiting = false;
        state
    }
}
