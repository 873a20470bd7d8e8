//! The virtio console under guests of a few instructions, which write its registers and rings by themselves: what one prints
//! and is told, and how one ends that lies.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::hostile::{boot_as, emulated_on};
use common::{Bench, have_kvm};
use cvmm::error::ExitCode;
use cvmm::launch::Guest;
use cvmm::ledger::{By, Stamp};
use cvmm::outcome::Outcome;
use cvmm::phase::Phase;
use cvmm::plan::layout::Range;
use cvmm::recorder::WallNs;
use cvmm::sys::vm::Visibility;

const DEVICE: u64 = 0xd000_0000;
const RECEIVE: u64 = 0x10_0000;
const TRANSMIT: u64 = 0x10_1000;
const TEXT: u64 = 0x10_2000;
const AVAILABLE: u64 = 0x800;
const USED: u64 = 0xa00;

/// Flags of a descriptor.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A guest in place of the shim, sixteen bytes from its start.
struct Code(Vec<u8>);

impl Code {
    /// With page tables for the first 16 MiB and the device.
    fn new() -> Code {
        let mut code = Code(vec![0x90; 16]);
        for (gpa, value) in [
            (0x9_0000, 0x9_1003),
            (0x9_1000, 0x9_2003),
            (0x9_1018, 0x9_3003),
            (0x9_3000 + 8 * 0x80, 0xd000_0083),
        ] {
            code.store(gpa, value);
        }
        for at in 0..8_u32 {
            code.store(0x9_2000 + 8 * u64::from(at), (0x20_0000 * at) | 0x83);
        }
        // mov eax, 0x90000; mov cr3, rax
        code.0.extend([0xb8, 0, 0, 9, 0, 0x0f, 0x22, 0xd8]);
        code
    }

    /// A 32-bit write: mov rax, gpa; mov dword ptr [rax], value.
    fn store(&mut self, gpa: u64, value: u32) {
        self.0.extend([0x48, 0xb8]);
        self.0.extend(gpa.to_le_bytes());
        self.0.extend([0xc7, 0]);
        self.0.extend(value.to_le_bytes());
    }

    fn register(&mut self, offset: u64, value: u32) {
        self.store(DEVICE + offset, value);
    }

    /// As a driver of an unprotected guest starts the device, with queues of eight entries.
    fn start(&mut self) {
        for (offset, value) in [(0x70, 0), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 0xb)] {
            self.register(offset, value);
        }
        for (queue, base) in [(0, RECEIVE), (1, TRANSMIT)] {
            self.register(0x30, queue);
            self.register(0x38, 8);
            for (offset, gpa) in [(0x80, base), (0x90, base + AVAILABLE), (0xa0, base + USED)] {
                self.register(offset, gpa as u32);
            }
            self.register(0x44, 1);
        }
        self.register(0x70, 0xf);
    }

    fn describe(&mut self, queue: u64, index: u64, gpa: u64, len: u32, flags: u16, next: u16) {
        let at = queue + 16 * index;
        self.store(at, gpa as u32);
        self.store(at + 4, (gpa >> 32) as u32);
        self.store(at + 8, len);
        self.store(at + 12, u32::from(next) << 16 | u32::from(flags));
    }

    /// Makes descriptor 0 available as the queue's entry `at`.
    fn offer(&mut self, queue: u64, at: u32) {
        self.store(queue + AVAILABLE, (at + 1) << 16);
    }

    /// Waits until the device has used something: mov rax, gpa; cmp word ptr [rax], 0; je back.
    fn wait(&mut self, queue: u64) {
        self.0.extend([0x48, 0xb8]);
        self.0.extend((queue + USED + 2).to_le_bytes());
        self.0.extend([0x66, 0x83, 0x38, 0, 0x74, 0xfa]);
    }

    /// Power off: mov edx, 0x600; mov al, 0x34; out dx, al; hlt.
    fn end(mut self) -> Vec<u8> {
        self.0.extend([0xba, 0, 6, 0, 0, 0xb0, 0x34, 0xee, 0xf4]);
        self.0
    }
}

/// A guest that prints by these descriptors.
fn printing(make: impl FnOnce(&mut Code)) -> Vec<u8> {
    let mut code = Code::new();
    code.start();
    make(&mut code);
    code.offer(TRANSMIT, 0);
    code.register(0x50, 1);
    code.end()
}

/// How a run of it ends; `change` may change the guest before.
fn outcome(code: &[u8], change: impl FnOnce(&mut Guest)) -> Outcome {
    let bench = Bench::new();
    let shim = bench.file("shim", code);
    let args = ["--console-device", "virtio", "--shim", shim.to_str().unwrap()];
    boot_as("--plain", &args, |_| {}, change).unwrap()
}

#[track_caller]
fn misused(outcome: &Outcome, why: &str) {
    let complaint = outcome.complaint().map(|complaint| complaint.to_string()).unwrap_or_default();
    assert!(complaint.contains(why), "{outcome:?} does not say {why:?}");
    assert!(complaint.starts_with("error: the guest misused its virtio console"), "{complaint}");
    assert_eq!((outcome.name(), outcome.exit_code()), ("device_misused", ExitCode::Crash));
}

#[test]
fn what_is_typed_is_told_and_what_is_printed_comes_out() {
    if !have_kvm() && cvmm::emulate::find_library().is_err() {
        eprintln!("skipped: neither /dev/kvm nor softkvm's library is here");
        return;
    }
    let mut code = Code::new();
    code.start();
    code.store(TEXT, u32::from_le_bytes(*b"Hi, "));
    code.describe(TRANSMIT, 0, TEXT, 4, 0, 0);
    code.offer(TRANSMIT, 0);
    code.register(0x50, 1);
    code.describe(RECEIVE, 0, TEXT + 0x100, 16, WRITE, 0);
    code.offer(RECEIVE, 0);
    code.wait(RECEIVE);
    code.describe(TRANSMIT, 0, TEXT + 0x100, 6, 0, 0);
    code.offer(TRANSMIT, 1);
    code.register(0x50, 1);
    let bench = Bench::new();
    bench.file("shim", &code.end());
    let mut command = Command::new(env!("CARGO_BIN_EXE_cvmm"));
    command.args(["--plain", "-k", "guest.elf", "--shim", "shim", "-m", "64M", "--timeout", "60"]);
    command.args(["--console-device", "virtio", "--report", "report.json"]);
    command.args((!have_kvm()).then_some("--emulate")).current_dir(bench.path(""));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"guest\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "Hi, guest\n");
    let report = bench.report("report.json");
    assert_eq!(
        (&report["console_bytes"], &report["outcome"]["kind"]),
        (&10.into(), &"power_off".into())
    );
}

#[test]
fn private_pages_are_an_error_for_a_device() {
    emulated_on("epyc-milan", "private_pages_are_an_error_for_a_device", || {
        let honest = printing(|code| code.describe(TRANSMIT, 0, TEXT, 4, 0, 0));
        assert_eq!(outcome(&honest, |_| {}), Outcome::PowerOff);
        let with_private = |gpa: u64| {
            outcome(&honest, |guest| {
                let at = Stamp { wall: WallNs(0), guest: None, phase: Phase::G0 };
                let range = Range { gpa, len: 0x1000 };
                guest.ledger.convert(range, Visibility::Private, By::Guest, at);
            })
        };
        misused(&with_private(TEXT), "the buffer at 0x102000 of 4 bytes is private");
        misused(&with_private(TRANSMIT), "the available ring at 0x101800 is private");
        misused(&with_private(RECEIVE), "the used ring at 0x100a00 is private");
    });
}

#[test]
fn a_guest_that_lies_ends_with_a_sentence() {
    emulated_on("epyc-milan", "a_guest_that_lies_ends_with_a_sentence", || {
        let says = |why: &str, code: Vec<u8>| misused(&outcome(&code, |_| {}), why);
        let with = |gpa: u64, len: u32, flags: u16, next: u16| {
            printing(|code| code.describe(TRANSMIT, 0, gpa, len, flags, next))
        };
        says("the chain that begins with descriptor 0 has no end", with(TEXT, 1, NEXT, 0));
        says("descriptor 9 is not in the table", with(TEXT, 1, NEXT, 9));
        says("descriptor 0 is indirect", with(TRANSMIT, 16, INDIRECT, 0));
        says("descriptor 0 is for the wrong direction", with(TEXT, 1, WRITE, 0));
        says("more than 65536 bytes", with(0, u32::MAX, 0, 0));
        says("the buffer at 0x4000000 of 1 bytes is no memory", with(0x400_0000, 1, 0, 0));
        says("is no memory", with(u64::MAX - 1, 4, 0, 0));
        // The device's own registers are no memory either.
        says("the buffer at 0xd0000000 of 4 bytes is no memory", with(DEVICE, 4, 0, 0));
        let jump = printing(|code| code.store(TRANSMIT + AVAILABLE, 0));
        let mut jump = jump[..jump.len() - 9].to_vec();
        let mut more = Code(std::mem::take(&mut jump));
        more.store(TRANSMIT + AVAILABLE, 100 << 16);
        more.register(0x50, 1);
        says("the available ring went from entry 1 to 100", more.end());
        let mut nowhere = Code::new();
        for (offset, value) in [(0x70, 3), (0x24, 1), (0x20, 1), (0x70, 0xb), (0x30, 0)] {
            nowhere.register(offset, value);
        }
        nowhere.register(0x38, 3);
        nowhere.register(0x44, 1);
        says("a queue of 3 entries", nowhere.end());
    });
}
