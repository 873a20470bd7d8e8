//! The run: one thread per vCPU, and this one for the console, the signals and the clock.

mod console;
mod convert;
mod exits;
mod quote;
pub mod quote_message;
mod stages;
mod tdx;
mod track;
mod vcpu;
mod virtio;

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use abi::tdx::Xfam;
use vmm_sys_util::eventfd::EventFd;

use crate::config::{Config, Console, ConsoleDevice};
use crate::device::acpi_pm::PowerRequest;
use crate::device::bus::{PortBus, StrayAccess};
use crate::device::ioapic::IoApic;
use crate::device::legacy::Legacy;
use crate::device::marks::Mark;
use crate::device::mmio::MmioBus;
use crate::device::output::{ConsoleOutput, Sink};
use crate::device::records::{Received, RecordCounts};
use crate::device::serial::Com1;
use crate::device::virtio::VirtioConsole;
use crate::error::Error;
use crate::launch::{Guest, GuestMemory, Prefaulted};
use crate::ledger::{Ledger, Meter, Stamp, Usage};
use crate::outcome::Outcome;
use crate::recorder::{GuestNs, MarkEvent, Op, Recorder, Started, WallNs};
use crate::report::KvmStats;
use crate::sys::kick::{self, ThreadId};
use crate::sys::signals::{Request, Signals};
use crate::sys::stats::{AllStats, Stats};
use crate::sys::vm::Vm;
use console::Keyboard;
pub use convert::Conversions;
pub use exits::{ExitCount, ExitLog, Times};
use stages::Stages;
use tdx::TdDesk;
use track::Track;
pub use track::{Cut, Source, Uncertain};
pub use vcpu::VcpuRecord;

/// What a run left behind.
#[derive(Debug)]
pub struct RunRecord {
    /// How it ended.
    pub outcome: Outcome,
    /// What each vCPU did.
    pub vcpus: Vec<VcpuRecord>,
    /// Marks of all vCPUs, in time order.
    pub marks: Vec<MarkEvent>,
    /// Where phases began, in time order.
    pub cuts: Vec<Cut>,
    /// KVM's statistics at the end.
    pub stats: KvmStats,
    /// All exits of all vCPUs by KVM's count.
    pub kvm_exits: Option<u64>,
    /// Records that a test guest sent, in order.
    pub records: Vec<Received>,
    /// How many of them there were.
    pub record_counts: RecordCounts,
    /// Pages that changed owner.
    pub conversions: Conversions,
    /// Whose every page was, and when.
    pub ledger: Ledger,
    /// The host memory that they took.
    pub usage: Usage,
    /// Accesses to ports where nothing is.
    pub strays: Vec<StrayAccess>,
    /// Bytes on the console.
    pub console_bytes: u64,
    /// When the first vCPU was started, and when the last had stopped.
    pub begin: WallNs,
    /// See `begin`.
    pub end: WallNs,
    /// When the VM was gone and its memory given back.
    pub gone: WallNs,
    /// The guest's clock when the first vCPU was started.
    pub guest_begin: Option<GuestNs>,
    /// The guest's clock at the end.
    pub guest_end: Option<GuestNs>,
    /// What `--accept prefault` had done.
    pub prefaulted: Option<Prefaulted>,
    /// The extended features of a TD.
    pub xfam: Option<Xfam>,
}

/// What all threads of a run share.
struct Shared<'a> {
    vm: &'a Vm,
    memory: &'a GuestMemory,
    bus: Mutex<PortBus>,
    mmio: Mutex<MmioBus>,
    ledger: Mutex<Ledger>,
    conversions: Mutex<Conversions>,
    track: Track,
    stages: Mutex<Stages>,
    stats: AllStats,
    outcome: Mutex<Option<Outcome>>,
    stopping: AtomicBool,
    /// The vCPU threads that are up.
    threads: Mutex<Vec<ThreadId>>,
    /// Wakes the supervising thread.
    wake: EventFd,
    until: Option<Mark>,
    certs: Option<&'a [u8]>,
    /// Does a page change owner by being touched?
    converts_touched: bool,
    /// What answers a TD's calls; nothing for another guest.
    td: Option<TdDesk>,
    started: Started,
    reads_guest_clock: bool,
}

impl Shared<'_> {
    /// Ends the run; the first reason counts.
    fn stop(&self, outcome: Outcome) {
        lock(&self.outcome).get_or_insert(outcome);
        self.stopping.store(true, Ordering::SeqCst);
        // The counter cannot be full after one write; a failure would only delay the end by one tick.
        let _ = self.wake.write(1);
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Now.
    fn stamp(&self) -> Stamp {
        Stamp { wall: self.started.elapsed(), guest: self.guest_clock(), phase: self.track.phase() }
    }

    fn guest_clock(&self) -> Option<GuestNs> {
        if self.reads_guest_clock { self.vm.clock() } else { None }
    }

    fn power(&self, request: PowerRequest) {
        let panicked = lock(&self.bus).output.panicked();
        self.stop(match (request, panicked) {
            (_, true) => Outcome::KernelPanic,
            (PowerRequest::Off, false) => Outcome::PowerOff,
            (PowerRequest::Reset, false) => Outcome::Reset,
        });
    }
}

/// Locks what a panicking thread may have left locked: its data is counters and devices, usable in any state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long console output may wait for its line end.
const TICK: Duration = Duration::from_millis(20);

/// Runs a guest until it ends or is ended.
///
/// # Errors
/// The run could not be set up. Whatever the guest does is no error but an [`Outcome`].
pub fn run(
    guest: Guest,
    config: &Config,
    sink: Sink,
    recorder: &mut Recorder,
) -> Result<RunRecord, Error> {
    let setup = |what| move |source| Error::Setup { what, source };
    let Guest { vcpus, vm, serial_interrupt, memory, ledger, services, stats, prefaulted } = guest;
    let signals = Signals::take().map_err(setup("signal handling"))?;
    kick::install().map_err(setup("signal handling"))?;
    let wake = EventFd::new(libc::EFD_NONBLOCK).map_err(setup("the run loop"))?;
    let mut keyboard =
        Keyboard::open(config.console == Console::Stdio).map_err(setup("the terminal"))?;
    let td = services.td.as_ref();
    let (desk, requests) = td.map(TdDesk::open).unzip();
    let quoting = td.and_then(|td| td.quote.as_ref()).zip(requests.flatten());
    let (mut com1, mut console) = (None, None);
    match config.guest.console_device {
        ConsoleDevice::Serial => com1 = Some(Com1::new(serial_interrupt)),
        ConsoleDevice::Virtio => {
            let protected = config.guest.technology.protected();
            console = Some(VirtioConsole::new(serial_interrupt, protected));
        }
        ConsoleDevice::None => {}
    }
    let mut bus = PortBus::new(com1, ConsoleOutput::new(sink));
    bus.legacy = services.fw_cfg.clone().map(Legacy::new);
    let shared = Shared {
        vm: &vm,
        memory: &memory,
        bus: Mutex::new(bus),
        mmio: Mutex::new(MmioBus { ioapic: td.map(|_| IoApic::default()), console }),
        ledger: Mutex::new(ledger),
        conversions: Mutex::new(Conversions::default()),
        track: Track::new(),
        stages: Mutex::new(Stages::new(services.fw_cfg.is_some(), stats.vm.as_ref())),
        stats,
        outcome: Mutex::new(None),
        stopping: AtomicBool::new(false),
        threads: Mutex::new(Vec::new()),
        wake,
        until: config.until,
        certs: services.certs.as_deref(),
        converts_touched: services.fw_cfg.is_some(),
        td: desk,
        started: recorder.started(),
        reads_guest_clock: recorder.reads_guest_clock(),
    };
    let mut meter = Meter::new(recorder.started());
    recorder.record(Op::CountMemory, "host memory", 0, || meter.look_at_launch(&memory));
    let deadline = config.timeout.map(|timeout| Instant::now() + timeout);
    let guest_begin = shared.guest_clock();
    // From here on a signal ends the run with a report.
    tracing::info!("running");
    let begin = recorder.now();

    let records = thread::scope(|scope| {
        let shared = &shared;
        let worker = quoting.map(|(service, requests)| {
            thread::Builder::new()
                .name("quote".into())
                .spawn_scoped(scope, move || tdx::serve(shared, service, &requests))
                .map_err(setup("the quoting thread"))
                .inspect_err(|_| shared.stop(Outcome::Interrupted))
        });
        let threads: Vec<_> = vcpus
            .into_iter()
            .map(|vcpu| {
                thread::Builder::new()
                    .name(format!("vcpu{}", vcpu.id()))
                    .spawn_scoped(scope, move || vcpu::run(vcpu, shared))
                    .map_err(setup("a vCPU thread"))
                    .inspect_err(|_| shared.stop(Outcome::Interrupted))
            })
            .collect();
        while !shared.stopping() {
            if let Err(error) = supervise(shared, &mut keyboard, &signals, deadline) {
                let error = Error::Setup { what: "the run loop", source: error };
                shared.stop(Outcome::MonitorFailed(error.complaint()));
            }
            meter.tick(shared.memory);
        }
        // A thread may be anywhere between the kernel and our own code: kick until it has noticed.
        while threads.iter().flatten().any(|t| !t.is_finished()) {
            lock(&shared.threads).iter().copied().for_each(ThreadId::kick);
            thread::sleep(Duration::from_millis(1));
        }
        if let Some(worker) = worker {
            worker?.join().map_err(|_| Error::ThreadPanicked)?;
        }
        let joined = threads.into_iter().map(|t| t?.join().map_err(|_| Error::ThreadPanicked));
        joined.collect::<Result<Vec<VcpuRecord>, Error>>()
    });
    drop(keyboard);
    let end = recorder.now();
    let guest_end = shared.guest_clock();
    let mut bus = lock(&shared.bus);
    bus.output.finish();
    if let Some(source) = bus.output.take_failure() {
        tracing::warn!(%source, "console output was lost");
    }
    let vcpus = records?;
    let mut marks: Vec<MarkEvent> = vcpus.iter().flat_map(|v| v.marks.iter().copied()).collect();
    marks.sort_by_key(|m| m.wall);
    let (records, record_counts) = bus.records.finished();
    let outcome = lock(&shared.outcome).take().unwrap_or(Outcome::Interrupted);
    let usage = meter.finish(&memory);
    let mut record = RunRecord {
        outcome,
        marks,
        cuts: shared.track.take(),
        stats: KvmStats {
            vm: shared.stats.vm.as_ref().map(Stats::read).unwrap_or_default(),
            vcpus: shared.stats.vcpus.iter().map(Stats::read).collect(),
        },
        kvm_exits: shared.stats.exits(),
        records,
        record_counts,
        conversions: *lock(&shared.conversions),
        ledger: shared.ledger.into_inner().unwrap_or_else(PoisonError::into_inner),
        usage,
        strays: bus.strays().to_vec(),
        console_bytes: bus.output.written(),
        begin,
        end,
        gone: end,
        guest_begin,
        guest_end,
        vcpus,
        prefaulted,
        xfam: services.td.as_ref().map(|td| td.xfam),
    };
    drop(bus);
    recorder.record(Op::Teardown, "guest", 0, || drop((vm, memory)));
    record.gone = recorder.now();
    Ok(record)
}

/// One turn of the supervising thread.
fn supervise(
    shared: &Shared,
    keyboard: &mut Keyboard,
    signals: &Signals,
    deadline: Option<Instant>,
) -> std::io::Result<()> {
    let left = deadline.map_or(TICK, |d| d.saturating_duration_since(Instant::now()).min(TICK));
    let fds = [keyboard.descriptor(), signals.descriptor(), shared.wake.as_raw_fd()];
    let [typed, signalled, _] = crate::sys::terminal::wait_readable(fds, left)?;
    while signalled && let Some(request) = signals.request()? {
        match request {
            Request::End => shared.stop(Outcome::Interrupted),
            Request::Suspend => keyboard.suspend()?,
            Request::GoOn => keyboard.resumed(),
        }
    }
    if deadline.is_some_and(|d| Instant::now() >= d) {
        shared.stop(Outcome::Timeout);
    }
    if typed && keyboard.read()? == console::Wish::Quit {
        shared.stop(Outcome::Interrupted);
    }
    keyboard.deliver(|bytes| virtio::receive(shared, bytes));
    // A vCPU that has it may be waiting for somebody to take the guest's output. Signals must not wait with it.
    let mut bus = match shared.bus.try_lock() {
        Ok(bus) => bus,
        Err(TryLockError::Poisoned(bus)) => bus.into_inner(),
        Err(TryLockError::WouldBlock) => return Ok(()),
    };
    if let Some(com1) = &mut bus.com1 {
        keyboard.deliver(|bytes| com1.receive(bytes));
    }
    bus.output.flush();
    Ok(())
}
