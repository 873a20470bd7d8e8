//! The GHCB protocol against a host of two pages: every rule, then noise.

use std::collections::BTreeMap;
use std::mem::offset_of;

use abi::ghcb::{Ghcb, PscEntry, PscHeader, exit, hv_feature, msr, psc_error, psc_op};
use abi::snp::{FirmwareStatus, SevFeatures};
use libc::{EAGAIN, EBADF, EINVAL, EIO, ENOSPC};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::super::Page;
use super::{Answer, ApRequest, GhcbExit, GhcbHost, Outcome, Vmgexit};

const GHCB: u64 = 0x1000;
const SCRATCH: u64 = GHCB + 0x800;

struct Host {
    memory: BTreeMap<u64, Page>,
    ports: BTreeMap<u16, u32>,
    written: Vec<(u64, Vec<u8>)>,
    capability: bool,
    certs: bool,
    aps: Vec<(u32, ApRequest)>,
    jump_table: u64,
    firmware: Result<FirmwareStatus, i32>,
}

impl Host {
    fn new() -> Self {
        Self {
            memory: [0x1000, 0x2000, 0x3000, 0x4000].map(|gpa| (gpa, [0; 4096])).into(),
            ports: BTreeMap::new(),
            written: Vec::new(),
            capability: true,
            certs: false,
            aps: Vec::new(),
            jump_table: 0,
            firmware: Ok(FirmwareStatus::SUCCESS),
        }
    }

    fn ghcb(&self) -> Ghcb {
        Ghcb::read_from_bytes(&self.memory[&GHCB]).unwrap()
    }

    fn put(&mut self, ghcb: &Ghcb) {
        self.memory.insert(GHCB, ghcb.as_bytes().try_into().unwrap());
    }
}

impl GhcbHost for Host {
    fn read_shared(&mut self, gpa: u64, out: &mut [u8]) -> bool {
        let Some(page) = self.memory.get(&(gpa & !0xfff)) else { return false };
        let from = (gpa & 0xfff) as usize;
        page.get(from..from + out.len()).map(|bytes| out.copy_from_slice(bytes)).is_some()
    }
    fn write_shared(&mut self, gpa: u64, data: &[u8]) -> bool {
        let Some(page) = self.memory.get_mut(&(gpa & !0xfff)) else { return false };
        let from = (gpa & 0xfff) as usize;
        page.get_mut(from..from + data.len()).map(|bytes| bytes.copy_from_slice(data)).is_some()
    }
    fn port_in(&mut self, port: u16, _: u8) -> Option<u32> {
        self.ports.get(&port).copied()
    }
    fn port_out(&mut self, port: u16, _: u8, value: u32) -> bool {
        self.ports.insert(port, value).is_some()
    }
    fn mmio_read(&mut self, gpa: u64, out: &mut [u8]) -> bool {
        out.fill(0x77);
        gpa >> 12 == 0xfee00
    }
    fn mmio_write(&mut self, gpa: u64, data: &[u8]) -> bool {
        self.written.push((gpa, data.to_vec()));
        gpa >> 12 == 0xfee00
    }
    fn cpuid(&mut self, leaf: u32, subleaf: u32, xcr0: Option<u64>, _: Option<u64>) -> [u32; 4] {
        [leaf, subleaf, xcr0.map_or(0, |value| value as u32), 0xd]
    }
    fn rdmsr(&mut self, index: u32) -> Option<u64> {
        (index != 0xdead).then_some(0x1_0000_0002)
    }
    fn wrmsr(&mut self, index: u32, value: u64) -> bool {
        self.written.push((index.into(), value.to_le_bytes().to_vec()));
        index != 0xdead
    }
    fn tsc(&mut self) -> u64 {
        0x2_0000_0003
    }
    fn hypercall(&mut self, nr: u64, args: [u64; 4], _: u8) -> u64 {
        nr + args[0]
    }
    fn map_gpa_exits(&self) -> bool {
        self.capability
    }
    fn legal_gpa(&self, gpa: u64) -> bool {
        gpa < 1 << 48
    }
    fn ap_creation(&mut self, apic_id: u32, request: ApRequest) -> bool {
        self.aps.push((apic_id, request));
        apic_id < 2
    }
    fn ap_jump_table(&mut self) -> &mut u64 {
        &mut self.jump_table
    }
    fn nmi_complete(&mut self) {}
    fn features(&self) -> SevFeatures {
        SevFeatures::SNP_ACTIVE
    }
    fn certs_enabled(&self) -> bool {
        self.certs
    }
    fn guest_request(&mut self, _: &Page, response: &mut Page) -> Result<FirmwareStatus, i32> {
        response.fill(0xab);
        self.firmware
    }
}

/// A vCPU that has registered its GHCB.
fn registered(host: &mut Host) -> Vmgexit {
    let mut vcpu = Vmgexit::new(51);
    assert_eq!(msr_call(&mut vcpu, host, GHCB | msr::REGISTER_GPA_REQ), Outcome::Resume);
    assert_eq!(vcpu.msr(), GHCB | msr::REGISTER_GPA_RESP);
    vcpu.set_msr(GHCB);
    vcpu
}

fn msr_call(vcpu: &mut Vmgexit, host: &mut Host, value: u64) -> Outcome {
    vcpu.set_msr(value);
    vcpu.handle(host)
}

/// Fills a GHCB: event, its information, and what `fill` adds.
fn event(host: &mut Host, code: u64, info: [u64; 2], fill: impl FnOnce(&mut Ghcb)) {
    let mut ghcb = Ghcb::new_zeroed();
    ghcb.sw_exit_code = code;
    [ghcb.sw_exit_info_1, ghcb.sw_exit_info_2] = info;
    for offset in [
        offset_of!(Ghcb, sw_exit_code),
        offset_of!(Ghcb, sw_exit_info_1),
        offset_of!(Ghcb, sw_exit_info_2),
    ] {
        ghcb.set_valid(offset);
    }
    fill(&mut ghcb);
    host.put(&ghcb);
}

macro_rules! set {
    ($($field:ident = $value:expr),*) => { |ghcb: &mut Ghcb| { $(
        ghcb.$field = $value;
        ghcb.set_valid(offset_of!(Ghcb, $field));
    )* } };
}

/// Runs one event to the guest's re-entry and returns what it then sees.
fn resumed(host: &mut Host, code: u64, info: [u64; 2], fill: impl FnOnce(&mut Ghcb)) -> Ghcb {
    event(host, code, info, fill);
    assert_eq!(registered(host).handle(host), Outcome::Resume);
    host.ghcb()
}

fn error(ghcb: &Ghcb) -> u64 {
    assert_eq!(ghcb.sw_exit_info_1, 2);
    ghcb.sw_exit_info_2
}

fn exits(
    host: &mut Host,
    code: u64,
    info: [u64; 2],
    fill: impl FnOnce(&mut Ghcb),
) -> (Vmgexit, GhcbExit) {
    event(host, code, info, fill);
    let mut vcpu = registered(host);
    match vcpu.handle(host) {
        Outcome::Exit(exit) => (vcpu, exit),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_msr_answers_itself() {
    let host = &mut Host::new();
    let mut vcpu = Vmgexit::new(51);
    assert_eq!(vcpu.msr(), 0x0002_0001_3300_0001);
    for (request, reply) in [
        (0x002, 0x0002_0001_3300_0001),
        (0x080, (hv_feature::SNP | hv_feature::AP_CREATION) << 12 | 0x081),
        (0x010, 0xffff_ffff_ffff_f011),
        (0x1234_5012, 0x1234_5013),
        (0x016, 0x016),
        (0x777, 0x777),
        (msr::cpuid(0x8000_001f, 0), 0x8000_001f_0000_0005),
        (msr::cpuid(7, 3), 0xd_c000_0005),
    ] {
        assert_eq!(msr_call(&mut vcpu, host, request), Outcome::Resume);
        assert_eq!(vcpu.msr(), reply, "{request:#x}");
    }
    assert_eq!(0x3081, HV_FEATURES_REPLY);
}

const HV_FEATURES_REPLY: u64 = super::HV_FEATURES << 12 | msr::HV_FEATURES_RESP;

#[test]
fn termination_leaves_to_user_space() {
    let host = &mut Host::new();
    let mut vcpu = Vmgexit::new(51);
    let exit = msr_call(&mut vcpu, host, 0x100);
    assert_eq!(exit, Outcome::Exit(GhcbExit::Terminate { data: 0x100 }));
    let (_, exit) = exits(host, exit::TERM_REQUEST, [0x21, 5], |_| {});
    assert_eq!(exit, GhcbExit::Terminate { data: GHCB });
}

#[test]
fn a_page_state_change_by_msr_is_one_exit() {
    let host = &mut Host::new();
    for (ret, reply) in
        [(0, Some(0x15)), (22, Some(1 << 63 | 0x15)), (11, Some(1 << 63 | 0x15)), (1, None)]
    {
        let mut vcpu = Vmgexit::new(51);
        let exit = msr_call(&mut vcpu, host, msr::psc(0x123, psc_op::PRIVATE));
        let expected =
            GhcbExit::MapGpaRange { gpa: 0x12_3000, npages: 1, attributes: 0x10, flags: 0 };
        assert_eq!(exit, Outcome::Exit(expected));
        let outcome = vcpu.complete(host, Answer::Hypercall(ret));
        match reply {
            Some(reply) => assert_eq!((outcome, vcpu.msr()), (Outcome::Resume, reply)),
            None => assert_eq!(outcome, Outcome::Fail(EINVAL)),
        }
    }
    let mut vcpu = Vmgexit::new(51);
    assert_eq!(msr_call(&mut vcpu, host, msr::psc(1, 3)), Outcome::Resume);
    assert_eq!(vcpu.msr(), 1 << 63 | 0x15);
    host.capability = false;
    assert_eq!(msr_call(&mut vcpu, host, msr::psc(1, 1)), Outcome::Resume);
    assert_eq!(vcpu.msr(), 1 << 63 | 0x15);
}

#[test]
fn input_is_checked_in_order() {
    let host = &mut Host::new();
    event(host, exit::HV_FEATURES, [0; 2], |ghcb| ghcb.ghcb_usage = 1);
    let mut vcpu = Vmgexit::new(51);
    assert_eq!(msr_call(&mut vcpu, host, GHCB), Outcome::Resume);
    assert_eq!(error(&host.ghcb()), 1, "not registered");
    assert_eq!(error(&resumed(host, exit::HV_FEATURES, [0; 2], |g| g.ghcb_usage = 1)), 2);
    let out = 0x402 << 16 | 1 << 4;
    assert_eq!(error(&resumed(host, exit::IOIO, [out, 0], |_| {})), 4);
    assert_eq!(error(&resumed(host, exit::HV_FEATURES, [0; 2], |g| g.valid_bitmap[14] &= 0xfb)), 4);
    for code in [exit::RUN_VMPL, exit::HV_DOORBELL, exit::SAVIC, 0x1234, !0] {
        assert_eq!(error(&resumed(host, code, [0; 2], |_| {})), 6, "{code:#x}");
    }
    let mut vcpu = Vmgexit::new(51);
    assert_eq!(msr_call(&mut vcpu, host, 0x7000), Outcome::Resume, "no memory there");
    assert_eq!(msr_call(&mut vcpu, host, 0), Outcome::Resume);
}

#[test]
fn an_unsupported_event_ends_the_run() {
    let host = &mut Host::new();
    event(host, exit::UNSUPPORTED_EVENT, [0x72, 0], |_| {});
    assert_eq!(registered(host).handle(host), Outcome::Fail(EINVAL));
}

#[test]
fn cpuid_and_msrs_are_answered_in_the_kernel() {
    let host = &mut Host::new();
    let seen = resumed(host, exit::CPUID, [0; 2], set!(rax = 7, rcx = 1));
    assert_eq!((seen.rax, seen.rbx, seen.rcx, seen.rdx), (7, 1, 0, 0xd));
    assert!(seen.is_valid(offset_of!(Ghcb, rbx)));
    assert_eq!(error(&resumed(host, exit::CPUID, [0; 2], set!(rax = 0xd, rcx = 0))), 4);
    let seen = resumed(host, exit::CPUID, [0; 2], set!(rax = 0xd, rcx = 0, xcr0 = 3));
    assert_eq!(seen.rcx, 3);
    let seen = resumed(host, exit::MSR, [0; 2], set!(rcx = 5));
    assert_eq!((seen.rax, seen.rdx, seen.sw_exit_info_1), (2, 1, 0));
    let seen = resumed(host, exit::MSR, [0; 2], set!(rcx = 0xdead));
    assert_eq!((seen.sw_exit_info_1, seen.sw_exit_info_2), (1, 0x8000_030d));
    resumed(host, exit::MSR, [1, 0], set!(rcx = 5, rax = 0xffff_ffff_0000_0001, rdx = 2));
    assert_eq!(host.written.pop(), Some((5, 0x2_0000_0001u64.to_le_bytes().to_vec())));
    let seen = resumed(host, exit::RDTSC, [0; 2], |_| {});
    assert_eq!((seen.rax, seen.rdx), (3, 2));
    let seen = resumed(host, exit::VMMCALL, [0; 2], set!(rax = 40, cpl = 0, rbx = 2));
    assert_eq!(seen.rax, 42);
    let seen = resumed(host, exit::VMMCALL, [0; 2], set!(rax = 40, cpl = 3));
    assert_eq!(seen.rax, -1i64 as u64);
    assert_eq!(resumed(host, exit::HV_FEATURES, [0; 2], |_| {}).sw_exit_info_2, 3);
    resumed(host, exit::AP_JUMP_TABLE, [0, 0x9000], |_| {});
    assert_eq!(resumed(host, exit::AP_JUMP_TABLE, [1, 0], |_| {}).sw_exit_info_2, 0x9000);
}

#[test]
fn port_io_reaches_user_space_and_comes_back() {
    let host = &mut Host::new();
    let (_, exit) = exits(host, exit::IOIO, [0x402 << 16 | 0x10, 0], set!(rax = 0x41));
    let expected = GhcbExit::Io { data: Some(vec![0x41]), port: 0x402, size: 1, count: 1 };
    assert_eq!(exit, expected);
    let (mut vcpu, exit) = exits(host, exit::IOIO, [0x60 << 16 | 0x11, 0], set!(rax = 0x1234));
    assert_eq!(exit, GhcbExit::Io { data: None, port: 0x60, size: 1, count: 1 });
    assert_eq!(vcpu.complete(host, Answer::Io(&[0x99])), Outcome::Resume);
    assert_eq!(host.ghcb().rax, 0x1299);
    host.ports.insert(0x61, 0xaabb_ccdd);
    let seen = resumed(host, exit::IOIO, [0x61 << 16 | 0x41, 0], |_| {});
    assert_eq!(seen.rax, 0xaabb_ccdd);
    resumed(host, exit::IOIO, [0x61 << 16 | 0x20, 0], set!(rax = 0x1_2345));
    assert_eq!(host.ports[&0x61], 0x2345);
}

#[test]
fn strings_pass_through_the_scratch_area() {
    let host = &mut Host::new();
    let ins = 0x1f0 << 16 | 0x41 | 0xc;
    let (mut vcpu, exit) = exits(host, exit::IOIO, [ins, 3], set!(sw_scratch = SCRATCH));
    assert_eq!(exit, GhcbExit::Io { data: None, port: 0x1f0, size: 4, count: 3 });
    assert_eq!(
        vcpu.complete(host, Answer::Io(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])),
        Outcome::Resume
    );
    assert_eq!(host.ghcb().shared_buffer[..13], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0]);
    for scratch in [GHCB, SCRATCH - 1, 0x2000, 0, !0, SCRATCH + 0x7f0 - 11] {
        let seen = resumed(host, exit::IOIO, [ins, 3], set!(sw_scratch = scratch));
        assert_eq!(error(&seen), 3, "{scratch:#x}");
    }
    let seen = resumed(host, exit::IOIO, [ins, 0x7fff_ffff], set!(sw_scratch = SCRATCH));
    assert_eq!(error(&seen), 3);
}

#[test]
fn mmio_has_one_to_eight_bytes() {
    let host = &mut Host::new();
    for len in 1..=8u64 {
        let (mut vcpu, exit) =
            exits(host, exit::MMIO_READ, [0xd000_0000, len], set!(sw_scratch = SCRATCH));
        assert_eq!(exit, GhcbExit::Mmio { gpa: 0xd000_0000, len: len as u8, data: None });
        assert_eq!(vcpu.complete(host, Answer::Mmio([0x5a; 8])), Outcome::Resume);
        let mut expected = [0; 9];
        expected[..len as usize].fill(0x5a);
        assert_eq!(host.ghcb().shared_buffer[..9], expected);
    }
    let nine = resumed(host, exit::MMIO_READ, [0xd000_0000, 9], set!(sw_scratch = SCRATCH));
    assert_eq!(error(&nine), 5);
    let none = resumed(host, exit::MMIO_READ, [0xd000_0000, 0], set!(sw_scratch = SCRATCH));
    assert_eq!(none.sw_exit_info_1, 0);
    let lapic = resumed(host, exit::MMIO_READ, [0xfee0_0020, 4], set!(sw_scratch = SCRATCH));
    assert_eq!(lapic.shared_buffer[..5], [0x77, 0x77, 0x77, 0x77, 0]);
    let (_, exit) = exits(host, exit::MMIO_WRITE, [0xd000_0000, 2], |ghcb| {
        set!(sw_scratch = SCRATCH)(ghcb);
        ghcb.shared_buffer[..2].copy_from_slice(&[6, 7]);
    });
    let data = Some([6, 7, 0, 0, 0, 0, 0, 0]);
    assert_eq!(exit, GhcbExit::Mmio { gpa: 0xd000_0000, len: 2, data });
}

fn psc(header: PscHeader, entries: &[PscEntry]) -> impl FnOnce(&mut Ghcb) {
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(entries.iter().flat_map(|entry| entry.0.to_le_bytes()));
    move |ghcb| {
        set!(sw_scratch = SCRATCH)(ghcb);
        ghcb.shared_buffer[..bytes.len()].copy_from_slice(&bytes);
    }
}

fn header(end_entry: u16) -> PscHeader {
    PscHeader { cur_entry: 0, end_entry, reserved: 0 }
}

fn psc_state(host: &Host) -> (u16, Vec<u16>) {
    let buffer = host.ghcb().shared_buffer;
    let (head, rest) = PscHeader::read_from_prefix(&buffer[..]).unwrap();
    let pages = rest
        .chunks_exact(8)
        .take(usize::from(head.end_entry) + 1)
        .map(|bytes| PscEntry(u64::from_le_bytes(bytes.try_into().unwrap())).current_page())
        .collect();
    (head.cur_entry, pages)
}

#[test]
fn neighbouring_entries_are_one_exit() {
    let host = &mut Host::new();
    let entries = [10, 11, 12].map(|gfn| PscEntry::new(gfn, psc_op::PRIVATE, false));
    let (mut vcpu, exit) = exits(host, exit::PSC, [0; 2], psc(header(2), &entries));
    let expected = GhcbExit::MapGpaRange { gpa: 0xa000, npages: 3, attributes: 0x10, flags: 0 };
    assert_eq!(exit, expected);
    assert_eq!(vcpu.complete(host, Answer::Hypercall(0)), Outcome::Resume);
    assert_eq!(psc_state(host), (3, vec![1, 1, 1]));
    assert_eq!((host.ghcb().sw_exit_info_1, host.ghcb().sw_exit_info_2), (0, 0));
}

#[test]
fn sizes_and_directions_are_not_mixed() {
    let host = &mut Host::new();
    let entries = [
        PscEntry::new(511, psc_op::SHARED, false),
        PscEntry::new(512, psc_op::SHARED, true),
        PscEntry::new(1024, psc_op::SHARED, true).with_current_page(1),
        PscEntry::new(1, psc_op::PSMASH, false),
        PscEntry::new(1536, psc_op::PRIVATE, true),
        PscEntry::new(2048, psc_op::PRIVATE, true),
    ];
    event(host, exit::PSC, [0; 2], psc(header(5), &entries));
    let mut vcpu = registered(host);
    let mut outcome = vcpu.handle(host);
    let mut seen = Vec::new();
    while let Outcome::Exit(GhcbExit::MapGpaRange { gpa, npages, attributes, .. }) = outcome {
        seen.push((gpa >> 12, npages, attributes));
        outcome = vcpu.complete(host, Answer::Hypercall(0));
    }
    assert_eq!(outcome, Outcome::Resume);
    let expected = [(511, 1, 0), (512, 512, 1), (1025, 511, 1), (1536, 1024, 0x11)];
    assert_eq!(seen, expected);
    assert_eq!(psc_state(host), (6, vec![1, 512, 512, 1, 512, 512]));
}

#[test]
fn malformed_page_state_changes_are_refused() {
    let host = &mut Host::new();
    let entry = PscEntry::new(1, psc_op::PRIVATE, true);
    for (header, entry, error) in [
        (header(300), entry, psc_error::INVALID_HEADER),
        (header(253), entry, psc_error::INVALID_HEADER),
        (header(0), entry, psc_error::INVALID_ENTRY),
        (header(0), PscEntry::new(512, 1, true).with_current_page(513), psc_error::INVALID_ENTRY),
        (header(0), PscEntry::new(512, 9, true), psc_error::INVALID_ENTRY),
        (PscHeader { cur_entry: 5, end_entry: 2, reserved: 0 }, entry, 0),
    ] {
        let seen = resumed(host, exit::PSC, [0; 2], psc(header, &[entry]));
        assert_eq!((seen.sw_exit_info_1, seen.sw_exit_info_2), (0, error));
    }
    let good = PscEntry::new(1, psc_op::PRIVATE, false);
    let (mut vcpu, _) = exits(host, exit::PSC, [0; 2], psc(header(0), &[good]));
    assert_eq!(vcpu.complete(host, Answer::Hypercall(22)), Outcome::Resume);
    assert_eq!(host.ghcb().sw_exit_info_2, psc_error::GENERIC);
    host.capability = false;
    let seen = resumed(host, exit::PSC, [0; 2], psc(header(0), &[good]));
    assert_eq!(seen.sw_exit_info_2, psc_error::GENERIC);
}

#[test]
fn processors_are_created_only_on_good_save_areas() {
    let host = &mut Host::new();
    let create = 1u64 << 32 | 1;
    resumed(host, exit::AP_CREATION, [create, 0x5000], set!(rax = 1));
    assert_eq!(host.aps.pop(), Some((1, ApRequest::Create(0x5000))));
    resumed(host, exit::AP_CREATION, [1 << 32, 0x5000], set!(rax = 1));
    assert_eq!(host.aps.pop(), Some((1, ApRequest::CreateOnInit(0x5000))));
    resumed(host, exit::AP_CREATION, [1 << 32 | 2, 0], |_| {});
    assert_eq!(host.aps.pop(), Some((1, ApRequest::Destroy)));
    for (info, rax) in [
        ([create, 0x5000], 3),
        ([create, 0x5008], 1),
        ([create, 0x20_0000], 1),
        ([create, 1 << 50], 1),
        ([1 << 16 | create, 0x5000], 1),
        ([7 << 32 | 1, 0x5000], 1),
        ([1 << 32 | 3, 0x5000], 1),
    ] {
        let seen = resumed(host, exit::AP_CREATION, info, set!(rax = rax));
        assert_eq!(error(&seen), 5, "{info:x?} {rax}");
    }
}

#[test]
fn a_held_processor_is_released_by_sipi() {
    let host = &mut Host::new();
    event(host, exit::AP_RESET_HOLD, [0; 2], |_| {});
    let mut vcpu = registered(host);
    vcpu.deliver_sipi();
    assert_eq!(vcpu.handle(host), Outcome::Hold);
    vcpu.deliver_sipi();
    assert_eq!(vcpu.complete(host, Answer::None), Outcome::Resume);
    assert_eq!(host.ghcb().sw_exit_info_2, 1);
    assert_eq!(msr_call(&mut vcpu, host, 0x006), Outcome::Hold);
    vcpu.deliver_sipi();
    assert_eq!(vcpu.complete(host, Answer::None), Outcome::Resume);
    assert_eq!(vcpu.msr(), 0x1007);
    assert_eq!(msr_call(&mut vcpu, host, 0x006), Outcome::Hold);
    assert_eq!(vcpu.complete(host, Answer::None), Outcome::Resume);
    assert_eq!(vcpu.msr(), 0x007, "woken by something else");
}

#[test]
fn guest_requests_go_to_firmware() {
    let host = &mut Host::new();
    let seen = resumed(host, exit::GUEST_REQUEST, [0x2000, 0x3000], |_| {});
    assert_eq!((seen.sw_exit_info_1, seen.sw_exit_info_2), (0, 0));
    assert_eq!(host.memory[&0x3000][0], 0xab);
    host.memory.insert(0x3000, [0; 4096]);
    host.firmware = Ok(FirmwareStatus::BAD_MEASUREMENT);
    let seen = resumed(host, exit::GUEST_REQUEST, [0x2000, 0x3000], |_| {});
    assert_eq!(seen.sw_exit_info_2, 0xb);
    assert_eq!(host.memory[&0x3000][0], 0xab, "written all the same");
    for info in [[0x2000, 0x2000], [0x2008, 0x3000], [0x2000, 0x3001]] {
        assert_eq!(error(&resumed(host, exit::GUEST_REQUEST, info, |_| {})), 5);
    }
    event(host, exit::GUEST_REQUEST, [0x2000, 0x8000], |_| {});
    assert_eq!(registered(host).handle(host), Outcome::Fail(EIO));
    host.firmware = Err(EBADF);
    event(host, exit::GUEST_REQUEST, [0x2000, 0x3000], |_| {});
    assert_eq!(registered(host).handle(host), Outcome::Fail(EBADF));
}

#[test]
fn certificates_come_from_user_space() {
    let host = &mut Host::new();
    let info = [0x2000, 0x3000];
    host.memory.get_mut(&0x2000).unwrap()[0x34] = 5;
    host.memory.insert(0x4000, [0xff; 4096]);
    resumed(host, exit::EXT_GUEST_REQUEST, info, set!(rax = 0x4000, rbx = 1));
    assert_eq!(host.memory[&0x4000][..25], [&[0; 24][..], &[0xff]].concat());
    assert_eq!(error(&resumed(host, exit::EXT_GUEST_REQUEST, info, set!(rax = 0x4000))), 5);
    host.certs = true;
    for (ret, npages, rbx, info_2) in [
        (0, 1, 1, 0),
        (ENOSPC as u64, 3, 3, 1 << 32),
        (EAGAIN as u64, 3, 1, 2 << 32),
        (EIO as u64, 3, 1, 0xffff_ffff << 32),
    ] {
        let (mut vcpu, exit) =
            exits(host, exit::EXT_GUEST_REQUEST, info, set!(rax = 0x4000, rbx = 1));
        assert_eq!(exit, GhcbExit::ReqCerts { gpa: 0x4000, npages: 1 });
        assert_eq!(vcpu.complete(host, Answer::Certs { ret, npages }), Outcome::Resume);
        assert_eq!((host.ghcb().rbx, host.ghcb().sw_exit_info_2), (rbx, info_2));
    }
    let (mut vcpu, _) = exits(host, exit::EXT_GUEST_REQUEST, info, set!(rax = 0x4000, rbx = 1));
    let answer = Answer::Certs { ret: 7, npages: 1 };
    assert_eq!(vcpu.complete(host, answer), Outcome::Fail(EINVAL));
    host.memory.get_mut(&0x2000).unwrap()[0x34] = 3;
    resumed(host, exit::EXT_GUEST_REQUEST, info, |_| {});
}

/// Random pages, MSR values and answers: whatever a guest or a monitor writes, an exit is finite
/// and nothing panics.
#[test]
fn noise_is_survived() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let codes = [
        0x27,
        0x37,
        0x6e,
        0x6f,
        0x72,
        0x76,
        0x7b,
        0x7c,
        0x81,
        0x87,
        0x89,
        0x8a,
        0x8b,
        0x8000_0001,
        0x8000_0002,
        0x8000_0003,
        0x8000_0004,
        0x8000_0005,
        0x8000_0010,
        0x8000_0011,
        0x8000_0012,
        0x8000_0013,
        0x8000_fffd,
        0x8000_fffe,
        0x8000_ffff,
    ];
    let mut exits_seen = 0u32;
    for round in 0..4000u64 {
        let host = &mut Host::new();
        host.certs = round & 1 == 0;
        let mut page = [0u8; 4096];
        for chunk in page.chunks_exact_mut(8) {
            chunk.copy_from_slice(&random().to_le_bytes());
        }
        let mut ghcb = Ghcb::read_from_bytes(&page).unwrap();
        ghcb.sw_exit_code = codes[random() as usize % codes.len()];
        ghcb.ghcb_usage = 0;
        ghcb.valid_bitmap = [0xff; 16];
        if random() & 3 != 0 {
            ghcb.sw_scratch = SCRATCH + random() % 0x900;
            ghcb.sw_exit_info_2 = random() % 0x400;
            let end = random() % 260;
            ghcb.shared_buffer[2..4].copy_from_slice(&(end as u16).to_le_bytes());
            ghcb.shared_buffer[0] = random() as u8;
            ghcb.shared_buffer[1] = 0;
        }
        host.put(&ghcb);
        let mut vcpu = registered(host);
        if random() & 7 == 0 {
            vcpu.set_msr(random());
        }
        let mut outcome = vcpu.handle(host);
        for turn in 0.. {
            assert!(turn < 600, "endless");
            let data = vec![random() as u8; random() as usize % 9];
            let answer = match &outcome {
                Outcome::Resume | Outcome::Fail(_) => break,
                Outcome::Hold => Answer::None,
                Outcome::Exit(exit) => {
                    exits_seen += 1;
                    match exit {
                        GhcbExit::Io { .. } => Answer::Io(&data),
                        GhcbExit::Mmio { .. } => Answer::Mmio(random().to_le_bytes()),
                        GhcbExit::MapGpaRange { .. } => Answer::Hypercall(random() & 1),
                        GhcbExit::Terminate { .. } => Answer::None,
                        GhcbExit::ReqCerts { .. } => {
                            Answer::Certs { ret: random() % 40, npages: random() }
                        }
                    }
                }
            };
            outcome = vcpu.complete(host, answer);
        }
    }
    assert!(exits_seen > 100);
}
