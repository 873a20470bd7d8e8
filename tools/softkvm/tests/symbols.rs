//! `SOFTKVM_SYMBOLS`: when a guest's kernel comes to its functions.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/stats.rs"]
mod stats;

use std::path::Path;

use common::{Cpu, Ram, region, vm_on};
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use softkvm::kvm::{Machine, Options, number as nr};
use stats::Stats;

/// Where the kernel is linked, and where its page of 2 MiB lies.
const LINKED: u64 = 0xffff_ffff_8100_0000;
const IMAGE: usize = 0x20_0000;

/// Offsets of the kernel's functions.
const COMMON: usize = 0x100;
const START: usize = 0x800;
const SMP: usize = 0x900;
const INIT: usize = 0xa00;

const SYMBOLS: &str = "\
ffffffff81000000 T _text
ffffffff81000100 T common_startup_64
ffffffff81000700 T _sinittext
ffffffff81000800 T start_kernel
ffffffff81000900 T smp_init
ffffffff81000980 T _einittext
ffffffff81000a00 t run_init_process
";

/// call, from one offset to another.
fn call(from: usize, to: usize) -> Vec<u8> {
    let distance = (to as i32) - (from as i32 + 5);
    [&[0xe8], &distance.to_le_bytes()[..]].concat()
}

/// A kernel of three calls, the second of them after a thousand instructions, `moved` away from where it is linked. It ends by HLT
/// in the third function, or before that.
fn boot(moved: u64, options: Options, reaches_init: bool) -> Stats {
    let machine = Machine::new(options).unwrap();
    let vm = vm_on(&machine, 0);
    let ram = Ram::new(4 << 20);
    let virtual_base = LINKED.wrapping_add(moved);
    let index = |shift: u32| ((virtual_base >> shift) & 511) as usize * 8;
    let tables = [
        (0x1000, 0x2003),
        (0x2000, 0x3003),
        (0x3000, 0x83),
        (0x1000 + index(39), 0x4003),
        (0x4000 + index(30), 0x5003),
        (0x5000 + index(21), IMAGE as u64 | 0x83),
    ];
    for (at, entry) in tables {
        ram.put(at, &u64::to_le_bytes(entry));
    }
    // mov rax, landing; jmp rax
    let landing = virtual_base + COMMON as u64;
    ram.put(0x8000, &[&[0x48, 0xb8], &landing.to_le_bytes()[..], &[0xff, 0xe0]].concat());
    ram.put(IMAGE + COMMON, &call(COMMON, START));
    let far = 0x1000;
    let jump = [&[0xe9], &((far - (COMMON + 10)) as i32).to_le_bytes()[..]].concat();
    ram.put(IMAGE + COMMON + 5, &jump);
    let mut code = vec![0x90; 1000];
    code.extend(call(far + code.len(), SMP));
    if reaches_init {
        code.extend(call(far + code.len(), INIT));
    }
    code.push(0xf4);
    ram.put(IMAGE + far, &code);
    ram.put(IMAGE + START, &[0xc3]);
    ram.put(IMAGE + SMP, &[0xc3]);
    ram.put(IMAGE + INIT, &[0xf4]);
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut region(0, 0, &ram)).unwrap();
    let cpu = Cpu::new(&vm, 0);
    let mut sregs = kvm_sregs::default();
    cpu.fd.with(nr::GET_SREGS, &mut sregs).unwrap();
    let data = kvm_segment {
        selector: 0x18,
        type_: 3,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        limit: !0,
        ..Default::default()
    };
    sregs.cs = kvm_segment { selector: 0x10, type_: 0xb, db: 0, l: 1, ..data };
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (0x8000_0011, 0x1000, 0x20, 0x500);
    cpu.fd.with(nr::SET_SREGS, &mut sregs).unwrap();
    let mut regs = kvm_regs { rip: 0x8000, rsp: 0x7000, rflags: 2, ..Default::default() };
    cpu.fd.with(nr::SET_REGS, &mut regs).unwrap();
    let stats = Stats::new(vm.value(nr::GET_STATS_FD, 0).unwrap());
    assert_eq!((cpu.run(), cpu.reason()), (Ok(0), kvm_bindings::KVM_EXIT_HLT));
    stats
}

const NAMES: [&str; 3] = [
    "softkvm_symbol_start_kernel_ns",
    "softkvm_symbol_smp_init_ns",
    "softkvm_symbol_run_init_process_ns",
];

fn options(symbols: Option<&Path>) -> Options {
    Options { symbols: symbols.map(Path::to_owned), ..Default::default() }
}

#[test]
fn functions_are_met_wherever_the_kernel_runs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("System.map");
    std::fs::write(&file, SYMBOLS).unwrap();
    for moved in [0, 0x20_0000, 0x1e60_0000] {
        for reference in [false, true] {
            let options = Options { reference, ..options(Some(&file)) };
            let stats = boot(moved, options, true);
            let [start, smp, init] = NAMES.map(|name| stats.get(name));
            assert!(start > 0, "{start}");
            // A thousand cycles of 2.45 GHz, and five more instructions.
            assert!((408..412).contains(&(smp - start)), "{start} {smp}");
            assert!((0..3).contains(&(init - smp)), "{smp} {init}");
        }
    }
    // What has not run has no time.
    let stats = boot(0, options(Some(&file)), false);
    assert!(stats.get(NAMES[1]) > 0 && stats.get(NAMES[2]) == 0);
}

#[test]
fn without_symbols_there_are_no_such_statistics() {
    let all = boot(0, options(None), true).all();
    assert!(all.iter().all(|stat| !stat.name.starts_with("softkvm_symbol_")));
}

#[test]
fn symbols_of_another_kernel_name_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("System.map");
    std::fs::write(&file, SYMBOLS.replace("81000100", "81000140")).unwrap();
    let stats = boot(0, options(Some(&file)), true);
    assert_eq!(NAMES.map(|name| stats.get(name)), [0; 3]);
}

#[test]
fn a_file_that_has_no_symbols_stops_the_machine() {
    let missing = Path::new("/nowhere/System.map");
    let error = Machine::new(options(Some(missing))).err().unwrap().to_string();
    assert!(error.contains("SOFTKVM_SYMBOLS") && error.contains("/nowhere/System.map"), "{error}");
}
