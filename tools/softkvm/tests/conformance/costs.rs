//! What a request to the host costs an SNP guest, by its own time stamp counter.

use std::mem::offset_of;

use abi::ghcb::{Ghcb, exit, ioio};
use iced_x86::code_asm::*;
use softkvm::kvm::profile::{DEFAULT, Profile};
use zerocopy::{FromZeros, IntoBytes};

use crate::guest::*;
use crate::harness::*;

/// Instructions around a request take a cycle each; there are fewer than in any of the profile's costs.
const FEW: u64 = 100;

/// Cycles of the profile's costs.
fn costs(names: &[&str]) -> u64 {
    let profile = Profile::load(DEFAULT).unwrap();
    let ns: u64 = names.iter().map(|name| profile.costs[*name].ns).sum();
    ns * u64::from(profile.tsc_khz) / 1_000_000
}

/// Cycles of one request, and whether it came out to user space.
fn cycles(code: u64, info: u64) -> (u64, bool) {
    let host = Host::new();
    let mut guest = Guest::new(&host, |a| {
        register_ghcb(a);
        a.rdtsc().unwrap();
        a.mov(esi, eax).unwrap();
        vmgexit(a);
        a.rdtsc().unwrap();
        a.sub(eax, esi).unwrap();
        a.mov(dword_ptr(RESULT), eax).unwrap();
        terminate(a);
    })
    .seal();
    let mut ghcb = Ghcb::new_zeroed();
    (ghcb.sw_exit_code, ghcb.sw_exit_info_1) = (code, info);
    for offset in [
        offset_of!(Ghcb, sw_exit_code),
        offset_of!(Ghcb, sw_exit_info_1),
        offset_of!(Ghcb, sw_exit_info_2),
        offset_of!(Ghcb, rax),
        offset_of!(Ghcb, rcx),
    ] {
        ghcb.set_valid(offset);
    }
    guest.launch.shared.page((GHCB >> 12) as usize).copy_from_slice(ghcb.as_bytes());
    let mut out = false;
    loop {
        match guest.run() {
            Exit::Terminate(0x100) => break,
            Exit::Io { .. } => out = true,
            other => panic!("{other:?}"),
        }
    }
    (guest.result(0) & 0xffff_ffff, out)
}

#[test]
fn a_request_is_charged_for_once() {
    let input = |port: u64| port << ioio::PORT_SHIFT | ioio::SIZE8 | ioio::IN;
    for (code, info, names, comes_out) in [
        (exit::CPUID, 0, &["vmgexit"][..], false),
        // KVM's interrupt controller, and nobody's port.
        (exit::IOIO, input(0x21), &["vmgexit", "port_io"], false),
        (exit::IOIO, input(0x80), &["vmgexit", "port_io", "user_exit"], true),
    ] {
        let (cycles, out) = cycles(code, info);
        let expected = costs(names);
        assert_eq!(out, comes_out, "{code:#x}");
        assert!(
            (expected..=expected + FEW).contains(&cycles),
            "{code:#x}, {info:#x}: {cycles} cycles, expected {expected} for {names:?}"
        );
    }
}
