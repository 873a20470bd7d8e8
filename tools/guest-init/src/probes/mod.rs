//! Probes: what a guest's operations cost, seen from inside. Results go to the monitor as records.
//!
//! Each probe runs in a process of its own, because some try what a kernel may not allow; one that is killed is
//! unavailable, and the rest go on. A probe first does its operation a tenth as often as it will count, and takes what
//! reading the clock costs off each sample.

mod attest;
mod clock;
mod exits;
mod integer;
mod memory;
mod pingpong;
mod touch;
mod wake;

use core::hint::black_box;

use abi::marks::MarkId;
use abi::probes::{Measured, ProbeId, ProbeUnit, REASON_MAX, Unavailable};
use abi::records::{Record, RecordKind};
use guest_init::options::{MarksWanted, Options};
use guest_init::statistics::Summary;

use crate::marks::Marks;
use crate::say;
use crate::sys::{self, Child, Errno};

/// What the guest is, as far as probes must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// Unprotected.
    Plain,
    /// SEV-SNP.
    Snp,
    /// A TD.
    Td,
}

/// Why a probe has measured nothing.
pub struct Obstacle {
    reason: &'static str,
    errno: Errno,
}

/// An obstacle that the kernel did not put there.
fn obstacle(reason: &'static str) -> Obstacle {
    Obstacle { reason, errno: Errno(0) }
}

/// What the kernel refused, for the reason that it gave.
fn refused(reason: &'static str) -> impl FnOnce(Errno) -> Obstacle {
    move |errno| Obstacle { reason, errno }
}

/// A probe's work, or what is in its way.
type Outcome = Result<(), Obstacle>;

/// A probe: the name that asks for it, what it reports, and its work.
struct Probe {
    name: &'static [u8],
    ids: &'static [ProbeId],
    run: fn(&mut Session) -> Outcome,
}

const fn probe(
    name: &'static [u8],
    ids: &'static [ProbeId],
    run: fn(&mut Session) -> Outcome,
) -> Probe {
    Probe { name, ids, run }
}

const PROBES: [Probe; 20] = [
    probe(b"touch", touch::SMALL_SEQUENTIAL, touch::small_sequential),
    probe(b"touch", touch::SMALL_RANDOM, touch::small_random),
    probe(b"touch", touch::LARGE_SEQUENTIAL, touch::large_sequential),
    probe(b"touch", touch::LARGE_RANDOM, touch::large_random),
    probe(b"cpuid", &[ProbeId::CPUID_HOST], exits::cpuid_host),
    probe(b"cpuid", &[ProbeId::CPUID_GUEST], exits::cpuid_guest),
    probe(b"rdmsr", &[ProbeId::RDMSR], exits::rdmsr),
    probe(b"pio", &[ProbeId::PIO_KERNEL], exits::pio_kernel),
    probe(b"pio", &[ProbeId::PIO_MONITOR], exits::pio_monitor),
    probe(b"mmio", &[ProbeId::MMIO_MONITOR], exits::mmio_monitor),
    probe(b"hypercall", &[ProbeId::HYPERCALL], exits::hypercall),
    probe(b"hlt", &[ProbeId::HALT_WAKE], wake::halt_wake),
    probe(b"ipi", &[ProbeId::PINGPONG_LINE], pingpong::line),
    probe(b"ipi", &[ProbeId::PINGPONG_FUTEX], pingpong::futex),
    probe(b"attest", &[ProbeId::ATTEST_REPORT], attest::report),
    probe(b"attest", &[ProbeId::ATTEST_TDREPORT], attest::tdreport),
    probe(b"stream", memory::STREAM, memory::stream),
    probe(b"chase", &[ProbeId::CHASE], memory::chase),
    probe(b"int", &[ProbeId::INTEGER], integer::sieve),
    probe(b"", &[ProbeId::MARK], exits::mark),
];

/// Measures what is wanted.
pub fn run(marks: Marks, options: &Options, guest: Guest, cpus: u32) {
    let more = match options.marks {
        MarksWanted::More(count) => count,
        MarksWanted::None => 0,
    };
    if options.probes.is_none() && more == 0 {
        return;
    }
    let count = options.probe_samples.0;
    marks.send(MarkId::PROBE_BEGIN, count);
    let sent = match clock::Clock::calibrate() {
        Err(error) => {
            say!("probes: no clock, {error}");
            0
        }
        Ok(clock) => {
            let session = Session { marks, guest, cpus, count, more, clock, sent: 0 };
            let wanted = |probe: &&Probe| match probe.name {
                b"" => more > 0,
                name => options.wants(name),
            };
            PROBES.iter().filter(wanted).map(|probe| session.isolate(probe)).sum()
        }
    };
    marks.send(MarkId::PROBE_END, sent);
}

/// What a probe works with.
pub struct Session {
    marks: Marks,
    guest: Guest,
    cpus: u32,
    /// Samples that a probe takes.
    count: u32,
    /// Marks that are wanted for their own cost.
    more: u32,
    clock: clock::Clock,
    sent: u8,
}

impl Session {
    /// Runs a probe in a process of its own; says how many records were sent.
    fn isolate(&self, probe: &Probe) -> u32 {
        let process = match sys::fork() {
            Err(errno) => return self.unavailable(probe, "no process to measure in", errno),
            Ok(Child::Away(process)) => process,
            Ok(Child::Here) => {
                let mut session = Session { ..*self };
                if let Err(Obstacle { reason, errno }) = (probe.run)(&mut session) {
                    session.sent += self.unavailable(probe, reason, errno) as u8;
                }
                sys::leave(session.sent)
            }
        };
        match sys::ended(process) {
            Err(errno) => self.unavailable(probe, "its process was lost", errno),
            Ok(status) => match status.signal() {
                None => u32::from(status.code()),
                Some(4) => self.unavailable(probe, "no such instruction (SIGILL)", Errno(0)),
                Some(7) => self.unavailable(probe, "the kernel does not do it (SIGBUS)", Errno(0)),
                Some(9) => self.unavailable(probe, "killed (SIGKILL): no memory?", Errno(0)),
                Some(11) => self.unavailable(probe, "not allowed (SIGSEGV)", Errno(0)),
                Some(_) => self.unavailable(probe, "killed by a signal", Errno(0)),
            },
        }
    }

    fn unavailable(&self, probe: &Probe, reason: &str, errno: Errno) -> u32 {
        for &id in probe.ids {
            let mut text = [0; REASON_MAX];
            let len = reason.len().min(REASON_MAX);
            text[..len].copy_from_slice(&reason.as_bytes()[..len]);
            let record = Unavailable { probe: id, errno: errno.0, parameter: 0, reason: text };
            let kind = RecordKind::PROBE_UNAVAILABLE;
            self.marks.send_record(Record { kind, bytes: record.bytes() });
        }
        probe.ids.len() as u32
    }

    /// Memory for one sample each.
    fn samples(&self) -> Result<&'static mut [u64], Obstacle> {
        self.numbers(self.count)
    }

    fn numbers(&self, count: u32) -> Result<&'static mut [u64], Obstacle> {
        sys::map_numbers(count as usize).map_err(refused("no memory for the samples"))
    }

    /// How often the operation is done before it counts.
    fn warm_up(&self) -> u32 {
        self.count.div_ceil(10)
    }

    /// Times an operation and reports it.
    fn time<T>(
        &mut self,
        id: ProbeId,
        parameter: u64,
        mut operation: impl FnMut() -> T,
    ) -> Outcome {
        let samples = self.samples()?;
        for _ in 0..self.warm_up() {
            black_box(operation());
        }
        for sample in samples.iter_mut() {
            *sample = self.clock.time(&mut operation);
        }
        self.report(id, parameter, 1, samples);
        Ok(())
    }

    /// Reports cycles, each sample being of so many operations.
    fn report(&mut self, id: ProbeId, parameter: u64, operations: u32, samples: &mut [u64]) {
        self.send(id, ProbeUnit::CYCLES, parameter, operations, samples);
    }

    fn send(
        &mut self,
        probe: ProbeId,
        unit: ProbeUnit,
        parameter: u64,
        operations: u32,
        samples: &mut [u64],
    ) {
        let count = samples.len() as u32;
        let Some(Summary { min, p50, p90, p99, max }) = Summary::of(samples) else { return };
        let record = Measured {
            probe,
            unit,
            parameter,
            samples: count,
            operations,
            tsc_khz: self.clock.khz,
            overhead: self.clock.overhead,
            min,
            p50,
            p90,
            p99,
            max,
        };
        let kind = RecordKind::PROBE_MEASURED;
        self.marks.send_record(Record { kind, bytes: record.bytes() });
        self.sent += 1;
    }
}
