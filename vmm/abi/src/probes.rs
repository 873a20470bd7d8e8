//! Probes: what the test guest's `/init` can measure, and how it tells ([`crate::records`]).

use core::mem::size_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What was measured.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ProbeId(pub u32);

impl ProbeId {
    /// First write to each 4 KiB page of fresh memory, in ascending order. Parameter: bytes of memory.
    pub const TOUCH_4K_FIRST_SEQUENTIAL: Self = Self(0x10);
    /// The same again. Parameter as above.
    pub const TOUCH_4K_SECOND_SEQUENTIAL: Self = Self(0x11);
    /// First write to each 4 KiB page of fresh memory, in random order. Parameter as above.
    pub const TOUCH_4K_FIRST_RANDOM: Self = Self(0x12);
    /// The same again. Parameter as above.
    pub const TOUCH_4K_SECOND_RANDOM: Self = Self(0x13);
    /// First write to each 2 MiB page of fresh memory, in ascending order. Parameter as above.
    pub const TOUCH_2M_FIRST_SEQUENTIAL: Self = Self(0x14);
    /// The same again. Parameter as above.
    pub const TOUCH_2M_SECOND_SEQUENTIAL: Self = Self(0x15);
    /// First write to each 2 MiB page of fresh memory, in random order. Parameter as above.
    pub const TOUCH_2M_FIRST_RANDOM: Self = Self(0x16);
    /// The same again. Parameter as above.
    pub const TOUCH_2M_SECOND_RANDOM: Self = Self(0x17);
    /// A CPUID that the host answers. Parameter: the leaf.
    pub const CPUID_HOST: Self = Self(0x20);
    /// A CPUID that is answered without the host: from the CPUID page after a #VC, or by the TDX module. Parameter: the leaf.
    pub const CPUID_GUEST: Self = Self(0x21);
    /// An RDMSR through the kernel's `/dev/cpu/0/msr`, system call included. Parameter: the register.
    pub const RDMSR: Self = Self(0x22);
    /// An IN from a device that KVM emulates. Parameter: the port.
    pub const PIO_KERNEL: Self = Self(0x23);
    /// An IN from a device that the monitor emulates. Parameter: the port.
    pub const PIO_MONITOR: Self = Self(0x24);
    /// A 32-bit read of an address that belongs to the monitor. Parameter: the address.
    pub const MMIO_MONITOR: Self = Self(0x25);
    /// A VMMCALL or VMCALL, which KVM refuses because user space makes it. Parameter: the hypercall's number.
    pub const HYPERCALL: Self = Self(0x26);
    /// A write to the mark port. No parameter.
    pub const MARK: Self = Self(0x27);
    /// How late a program runs that slept until a given time, on a processor that has nothing else to do and so halts.
    /// Parameter: nanoseconds of sleep.
    pub const HALT_WAKE: Self = Self(0x30);
    /// A cache line sent to another processor, which spins, and back. No parameter.
    pub const PINGPONG_LINE: Self = Self(0x31);
    /// A futex woken on another processor, which halts or idles, and back: two wakes with an IPI each. No parameter.
    pub const PINGPONG_FUTEX: Self = Self(0x32);
    /// An attestation report (of a TD: a quote) by the kernel's interface. Parameter: its bytes.
    pub const ATTEST_REPORT: Self = Self(0x38);
    /// A TDREPORT. Parameter: its bytes.
    pub const ATTEST_TDREPORT: Self = Self(0x39);
    /// STREAM's Copy, `c = a`. Parameter: bytes of each of the three arrays.
    pub const STREAM_COPY: Self = Self(0x40);
    /// STREAM's Scale, `b = s * c`. Parameter as above.
    pub const STREAM_SCALE: Self = Self(0x41);
    /// STREAM's Add, `c = a + b`. Parameter as above.
    pub const STREAM_ADD: Self = Self(0x42);
    /// STREAM's Triad, `a = b + s * c`. Parameter as above.
    pub const STREAM_TRIAD: Self = Self(0x43);
    /// A load whose address the load before it gave, at random in a buffer. Parameter: the buffer's bytes.
    pub const CHASE: Self = Self(0x44);
    /// The primes below 8192 by Eratosthenes' sieve. No parameter.
    pub const INTEGER: Self = Self(0x45);

    /// Every probe with its name in reports and what its parameter is.
    pub const NAMES: &'static [(Self, &'static str, &'static str)] = &[
        (Self::TOUCH_4K_FIRST_SEQUENTIAL, "touch-4k-first-sequential", "bytes"),
        (Self::TOUCH_4K_SECOND_SEQUENTIAL, "touch-4k-second-sequential", "bytes"),
        (Self::TOUCH_4K_FIRST_RANDOM, "touch-4k-first-random", "bytes"),
        (Self::TOUCH_4K_SECOND_RANDOM, "touch-4k-second-random", "bytes"),
        (Self::TOUCH_2M_FIRST_SEQUENTIAL, "touch-2m-first-sequential", "bytes"),
        (Self::TOUCH_2M_SECOND_SEQUENTIAL, "touch-2m-second-sequential", "bytes"),
        (Self::TOUCH_2M_FIRST_RANDOM, "touch-2m-first-random", "bytes"),
        (Self::TOUCH_2M_SECOND_RANDOM, "touch-2m-second-random", "bytes"),
        (Self::CPUID_HOST, "cpuid-host", "leaf"),
        (Self::CPUID_GUEST, "cpuid-guest", "leaf"),
        (Self::RDMSR, "rdmsr", "msr"),
        (Self::PIO_KERNEL, "pio-kernel", "port"),
        (Self::PIO_MONITOR, "pio-monitor", "port"),
        (Self::MMIO_MONITOR, "mmio-monitor", "address"),
        (Self::HYPERCALL, "hypercall", "number"),
        (Self::MARK, "mark", ""),
        (Self::HALT_WAKE, "halt-wake", "sleep_ns"),
        (Self::PINGPONG_LINE, "pingpong-line", ""),
        (Self::PINGPONG_FUTEX, "pingpong-futex", ""),
        (Self::ATTEST_REPORT, "attest-report", "bytes"),
        (Self::ATTEST_TDREPORT, "attest-tdreport", "bytes"),
        (Self::STREAM_COPY, "stream-copy", "bytes"),
        (Self::STREAM_SCALE, "stream-scale", "bytes"),
        (Self::STREAM_ADD, "stream-add", "bytes"),
        (Self::STREAM_TRIAD, "stream-triad", "bytes"),
        (Self::CHASE, "chase", "bytes"),
        (Self::INTEGER, "integer", ""),
    ];

    /// Name of a known probe.
    pub fn name(self) -> Option<&'static str> {
        Self::NAMES.iter().find(|(id, ..)| *id == self).map(|(_, name, _)| *name)
    }

    /// What the parameter of a known probe is; `None` if it has none.
    pub fn parameter(self) -> Option<&'static str> {
        let found =
            Self::NAMES.iter().find(|(id, ..)| *id == self).map(|(.., parameter)| *parameter);
        found.filter(|parameter| !parameter.is_empty())
    }
}

/// What the numbers of a [`Measured`] count.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ProbeUnit(pub u32);

impl ProbeUnit {
    /// Cycles of the time stamp counter, for all operations of a sample together.
    pub const CYCLES: Self = Self(1);
    /// Bytes per second.
    pub const BYTES_PER_SECOND: Self = Self(2);
}

/// What a probe has measured: order statistics of its samples.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Measured {
    /// What was measured.
    pub probe: ProbeId,
    /// Of the numbers below.
    pub unit: ProbeUnit,
    /// See [`ProbeId`].
    pub parameter: u64,
    /// How many samples there are.
    pub samples: u32,
    /// Operations in each sample.
    pub operations: u32,
    /// Frequency of the time stamp counter.
    pub tsc_khz: u32,
    /// Cycles that reading the clock takes, which have been taken off each sample.
    pub overhead: u32,
    /// The smallest sample.
    pub min: u64,
    /// The median.
    pub p50: u64,
    /// 90 % are not larger.
    pub p90: u64,
    /// 99 % are not larger.
    pub p99: u64,
    /// The largest sample.
    pub max: u64,
}

/// Most bytes of the reason in [`Unavailable`].
pub const REASON_MAX: usize = 96;

/// Why a probe has measured nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Unavailable {
    /// What was to be measured.
    pub probe: ProbeId,
    /// The kernel's error, or 0.
    pub errno: u32,
    /// See [`ProbeId`].
    pub parameter: u64,
    /// A sentence for people, in UTF-8, padded with zeros.
    pub reason: [u8; REASON_MAX],
}

const _: () =
    assert!(size_of::<Measured>() == 72 && size_of::<Measured>() <= crate::records::RECORD_MAX);
const _: () = assert!(
    size_of::<Unavailable>() == 112 && size_of::<Unavailable>() <= crate::records::RECORD_MAX
);

impl Measured {
    /// As bytes, in the guest's order, which is little endian.
    pub fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    /// From bytes; `None` if there are too few. A longer record is a later version's.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::read_from_prefix(bytes).ok().map(|(record, _)| record)
    }
}

impl Unavailable {
    /// As bytes.
    pub fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    /// From bytes; `None` if there are too few.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::read_from_prefix(bytes).ok().map(|(record, _)| record)
    }
}
