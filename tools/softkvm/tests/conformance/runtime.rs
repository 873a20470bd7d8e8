//! Rows 56 to 73: a guest runs.

use std::thread;
use std::time::Duration;

use abi::ghcb::{Ghcb, PscEntry, PscHeader, exit, psc_op};
use abi::kvm_snp::SevInit;
use abi::snp::{SevFeatures, VMSA_SIZE, Vmsa, VmsaSegment};
use iced_x86::code_asm::*;
use kvm_bindings::{kvm_mp_state, kvm_run};
use libc::EINVAL;
use softkvm::kvm::Options;
use std::mem::offset_of;
use zerocopy::{FromZeros, IntoBytes};

use crate::guest::*;
use crate::harness::*;
use crate::interrupt::interrupting;
use crate::stats::{GET_STATS_FD, Stats};

const SET_MP_STATE: u64 = 0x4004_ae99;
const RUNNABLE: u32 = 0;
const UNINITIALIZED: u32 = 1;
const HALTED: u32 = 3;

fn answer_hypercall(run: &mut kvm_run, ret: u64) {
    run.__bindgen_anon_1.hypercall.ret = ret;
}

/// Prepares the GHCB from the host's side: it is shared memory.
fn prepare(guest: &mut Guest<'_>, code: u64, info: [u64; 2], fill: impl FnOnce(&mut Ghcb)) {
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
    guest.launch.shared.page((GHCB >> 12) as usize).copy_from_slice(ghcb.as_bytes());
}

fn ghcb(guest: &mut Guest<'_>) -> Ghcb {
    zerocopy::FromBytes::read_from_bytes(&guest.launch.shared.page((GHCB >> 12) as usize)[..])
        .unwrap()
}

/// A guest that issues the one event its GHCB holds, then terminates.
fn one_event(host: &Host, code: u64, info: [u64; 2], fill: impl FnOnce(&mut Ghcb)) -> Guest<'_> {
    let mut guest = Guest::new(host, |a| {
        register_ghcb(a);
        vmgexit(a);
        terminate(a);
    })
    .seal();
    prepare(&mut guest, code, info, fill);
    guest
}

#[test]
fn row_56_termination_requests() {
    let host = Host::new();
    let mut guest = Guest::new(&host, terminate).seal();
    assert_eq!(guest.run(), Exit::Terminate(0x100));
    let mut guest = one_event(&host, exit::TERM_REQUEST, [0x21, 0], |_| {});
    assert_eq!(guest.run(), Exit::Terminate(GHCB));
}

#[test]
fn row_57_a_triple_fault_is_a_shutdown() {
    let host = Host::new();
    let mut guest = Guest::new(&host, |a| a.ud2().unwrap()).seal();
    assert_eq!(guest.run(), Exit::Shutdown);
}

#[test]
fn row_58_the_msr_protocol() {
    let host = Host::new();
    let mut guest = Guest::new(&host, |a| {
        read_msr(a, 0);
        for (slot, request) in [(1, 0x002), (2, 0x080), (3, 0x010), (4, 0x8_0012), (5, 0x016)] {
            msr_call(a, request, slot);
        }
        terminate(a);
    })
    .seal();
    guest.finish();
    let results: [u64; 6] = std::array::from_fn(|slot| guest.result(slot));
    let info = 0x0002_0001_3300_0001;
    assert_eq!(results, [info, info, 0x3081, 0xffff_ffff_ffff_f011, 0x8_0013, 0x016]);
}

#[test]
fn row_59_page_state_change_by_msr() {
    let host = Host::new();
    for (ret, reply) in [(0, Some(0x15)), (22, Some(1 << 63 | 0x15)), (1, None)] {
        let mut guest = Guest::new(&host, |a| {
            msr_call(a, 1 << 52 | UNACCEPTED << 12 | 0x014, 0);
            terminate(a);
        })
        .seal();
        assert_eq!(guest.run(), Exit::Hypercall([UNACCEPTED << 12, 1, 0x10]));
        answer_hypercall(guest.runs[0].page(), ret);
        match reply {
            Some(reply) => {
                guest.finish();
                assert_eq!(guest.result(0), reply);
            }
            None => assert_eq!(guest.run(), Exit::Errno(EINVAL)),
        }
    }
}

#[test]
fn row_60_an_unregistered_ghcb() {
    let host = Host::new();
    let mut guest = Guest::new(&host, |a| {
        write_msr(a, GHCB);
        vmgexit(a);
        terminate(a);
    })
    .seal();
    prepare(&mut guest, exit::HV_FEATURES, [0; 2], |_| {});
    guest.finish();
    let seen = ghcb(&mut guest);
    assert_eq!((seen.sw_exit_info_1, seen.sw_exit_info_2), (2, 1));
}

#[test]
fn row_61_page_state_change_by_page() {
    let host = Host::new();
    let mut guest = one_event(&host, exit::PSC, [0; 2], |ghcb| {
        ghcb.sw_scratch = GHCB + 0x800;
        ghcb.set_valid(offset_of!(Ghcb, sw_scratch));
        let header = PscHeader { cur_entry: 0, end_entry: 2, reserved: 0 };
        ghcb.shared_buffer[..8].copy_from_slice(header.as_bytes());
        for index in 0..3 {
            let entry = PscEntry::new(UNACCEPTED + index, psc_op::PRIVATE, false);
            ghcb.shared_buffer[8 + 8 * index as usize..][..8].copy_from_slice(entry.as_bytes());
        }
    });
    assert_eq!(guest.run(), Exit::Hypercall([UNACCEPTED << 12, 3, 0x10]));
    answer_hypercall(guest.runs[0].page(), 0);
    guest.finish();
    assert_eq!(ghcb(&mut guest).shared_buffer[0], 3);
}

#[test]
fn row_62_io_through_the_ghcb() {
    let host = Host::new();
    let mut guest = one_event(&host, exit::MMIO_READ, [0xd000_0000, 4], |ghcb| {
        ghcb.sw_scratch = GHCB + 0x800;
        ghcb.set_valid(offset_of!(Ghcb, sw_scratch));
    });
    assert_eq!(guest.run(), Exit::Mmio { gpa: 0xd000_0000, len: 4, write: false });
    guest.runs[0].page().__bindgen_anon_1.mmio.data = [1, 2, 3, 4, 5, 6, 7, 8];
    guest.finish();
    assert_eq!(ghcb(&mut guest).shared_buffer[..5], [1, 2, 3, 4, 0]);

    let mut guest = one_event(&host, exit::IOIO, [0x402 << 16 | 0x10, 0], |ghcb| {
        ghcb.rax = 0x41;
        ghcb.set_valid(offset_of!(Ghcb, rax));
    });
    assert_eq!(guest.run(), Exit::Io { out: true, port: 0x402, size: 1, count: 1 });
    assert_eq!(guest.runs[0].io_data(1), [0x41]);
    guest.finish();

    let mut guest = one_event(&host, exit::IOIO, [0x1f0 << 16 | 0x41 | 0xc, 3], |ghcb| {
        ghcb.sw_scratch = GHCB + 0x800;
        ghcb.set_valid(offset_of!(Ghcb, sw_scratch));
    });
    assert_eq!(guest.run(), Exit::Io { out: false, port: 0x1f0, size: 4, count: 3 });
    guest.runs[0].io_data(12).copy_from_slice(&[9; 12]);
    guest.finish();
    assert_eq!(ghcb(&mut guest).shared_buffer[..13], [9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 0]);
}

#[test]
fn row_63_an_unsupported_event() {
    let host = Host::new();
    let mut guest = one_event(&host, exit::UNSUPPORTED_EVENT, [0x72, 0], |_| {});
    assert_eq!(guest.run(), Exit::Errno(EINVAL));
}

#[test]
fn row_64_attribute_and_c_bit_disagree() {
    let host = Host::new();
    // C=1 on a shared frame, then C=0 on a private one; both go on once converted.
    let encrypted = (SHARED + 5 + ALIAS) << 12;
    let decrypted = (SPARE + ALIAS) << 12;
    let mut guest = Guest::with(&host, 1, &[pattern(3)], |a| {
        a.mov(rax, qword_ptr(decrypted)).unwrap();
        a.mov(qword_ptr(RESULT), rax).unwrap();
        a.mov(rax, qword_ptr(encrypted)).unwrap();
        terminate(a);
    })
    .seal();
    let frame = SPARE << 12;
    assert_eq!(guest.run(), Exit::MemoryFault { flags: 0, gpa: frame, size: 4096 });
    guest.launch.shared.page(SPARE as usize)[..8].copy_from_slice(&77u64.to_le_bytes());
    guest.launch.vm.attributes(frame, 4096, 0).unwrap();
    let frame = (SHARED + 5) << 12;
    assert_eq!(guest.run(), Exit::MemoryFault { flags: 8, gpa: frame, size: 4096 });
    assert_eq!(guest.result(0), 77);
    guest.launch.vm.attributes(frame, 4096, PRIVATE).unwrap();
    assert_eq!(guest.run(), Exit::Shutdown, "#VC 0x404 without a handler");
}

#[test]
fn row_65_private_to_shared_and_back() {
    let host = Host::new();
    for (rescind, carry) in [(true, 0), (false, 1)] {
        let frame = SPARE << 12;
        let mut guest = Guest::with(&host, 1, &[pattern(3)], |a| {
            if rescind {
                pvalidate(a, frame, false, false, 0);
            }
            msr_call(a, 2 << 52 | frame | 0x014, 1);
            msr_call(a, 1 << 52 | frame | 0x014, 2);
            pvalidate(a, frame, false, true, 3);
            a.mov(rax, qword_ptr(frame)).unwrap();
            a.mov(qword_ptr(RESULT + 32), rax).unwrap();
            terminate(a);
        })
        .seal();
        for attributes in [0, PRIVATE] {
            assert!(matches!(guest.run(), Exit::Hypercall(_)));
            guest.launch.vm.attributes(frame, 4096, attributes).unwrap();
            answer_hypercall(guest.runs[0].page(), 0);
        }
        guest.finish();
        assert_eq!(guest.result(3), carry << 32, "CF after coming back");
        let old = u64::from_le_bytes(pattern(3)[..8].try_into().unwrap());
        assert_eq!(guest.result(4), old, "the page was not punched");
    }
}

#[test]
fn row_66_pvalidate_and_rmpadjust() {
    let host = Host::new();
    let page = UNACCEPTED << 12;
    let guest = Guest::new(&host, |a| {
        pvalidate(a, 0x20_0000, true, true, 0);
        pvalidate(a, page, false, true, 1);
        pvalidate(a, page, false, true, 2);
        // Any byte of the page names it.
        rmpadjust(a, page + 0x123, 1, 3);
        rmpadjust(a, page, 0, 4);
        a.mov(qword_ptr(page), rax).unwrap();
        pvalidate(a, page, false, false, 5);
        a.mov(dword_ptr(RESULT + 48), 1).unwrap();
        a.mov(rax, qword_ptr(page)).unwrap();
        terminate(a);
    });
    let (shared, memfd) = (Pages::new(512), guest.launch.vm.memfd(512 << 12, 0).unwrap());
    guest.launch.vm.region(1, 4, 512, 512, shared.address(), memfd, 0).unwrap();
    guest.launch.vm.attributes(0x20_0000, 512 << 12, PRIVATE).unwrap();
    let mut guest = guest.seal();
    assert_eq!(guest.run(), Exit::Shutdown, "#VC 0x404 after rescinding");
    assert_eq!(guest.result(0) as u32, 6, "2 MiB");
    assert_eq!((guest.result(1), guest.result(2)), (0, 1 << 32));
    assert_eq!((guest.result(3), guest.result(4)), (0, 2));
    assert_eq!((guest.result(5), guest.result(6)), (0, 1));
}

/// A save area for a second processor that starts in the middle of the code page.
fn second_vmsa(rip: u64) -> [u8; 4096] {
    let mut area = Vmsa::new_zeroed();
    let data = VmsaSegment { selector: 0x18, attrib: 0xc93, limit: !0, base: 0 };
    (area.es, area.ss, area.ds, area.fs, area.gs) = (data, data, data, data, data);
    area.cs = VmsaSegment { selector: 0x10, attrib: 0xa9b, limit: !0, base: 0 };
    area.tr = VmsaSegment { selector: 0, attrib: 0x8b, limit: 0xffff, base: 0 };
    area.efer = 0x1d00;
    area.cr0 = 0x8000_0031;
    area.cr3 = 0x1000 | 1 << 51;
    area.cr4 = 0x60;
    area.dr6 = 0xffff_0ff0;
    area.dr7 = 0x400;
    area.rflags = 2;
    area.rip = rip;
    area.g_pat = 0x0007_0406_0007_0406;
    area.xcr0 = 1;
    area.mxcsr = 0x1f80;
    area.x87_fcw = 0x37f;
    area.sev_features = SevFeatures::SNP_ACTIVE;
    let mut page = [0; 4096];
    page[..VMSA_SIZE].copy_from_slice(area.as_bytes());
    page
}

/// A guest whose first vCPU creates the second, which leaves a mark and terminates.
fn two_processors(host: &Host, features: u64) -> Guest<'_> {
    const SECOND: u64 = CODE + 0x800;
    let vmsa = SPARE << 12;
    let mut guest = Guest::with(host, 2, &[second_vmsa(SECOND)], |a| {
        rmpadjust(a, vmsa, 1 << 16 | 1, 0);
        register_ghcb(a);
        vmgexit(a);
        terminate(a);
        let mut second = CodeAssembler::new(64).unwrap();
        second.mov(dword_ptr(RESULT + 8), 0x5ec0).unwrap();
        write_msr(&mut second, 0x1_0100);
        vmgexit(&mut second);
        let second = second.assemble(SECOND).unwrap();
        // The first part is padded up to where the second starts.
        let first = a.assemble(CODE).unwrap().len();
        a.db(&vec![0xcc; (SECOND - CODE) as usize - first]).unwrap();
        a.db(&second).unwrap();
    })
    .seal();
    let mut state = kvm_mp_state { mp_state: HALTED };
    host.with(guest.launch.vcpus[1], SET_MP_STATE, &mut state).unwrap();
    prepare(&mut guest, exit::AP_CREATION, [1 << 32 | 1, vmsa], |ghcb| {
        ghcb.rax = features;
        ghcb.set_valid(offset_of!(Ghcb, rax));
    });
    guest
}

#[test]
fn row_67_a_second_processor_is_created() {
    let host = Host::new();
    let mut guest = two_processors(&host, 1);
    let (vcpu, mut run) = (guest.launch.vcpus[1], guest.runs.pop().unwrap());
    thread::scope(|scope| {
        let second = scope.spawn(|| run.enter(&host, vcpu));
        thread::sleep(Duration::from_millis(50));
        assert_eq!(guest.run(), Exit::Terminate(0x100));
        assert_eq!(second.join().unwrap(), Exit::Terminate(0x1_0100));
    });
    assert_eq!(guest.result(0), 0, "RMPADJUST");
    assert_eq!(guest.result(1), 0x5ec0);
    assert_eq!(ghcb(&mut guest).sw_exit_info_1, 0);

    let mut guest = two_processors(&host, 3);
    guest.finish();
    let seen = ghcb(&mut guest);
    assert_eq!((seen.sw_exit_info_1, seen.sw_exit_info_2), (2, 5), "other features");
}

#[test]
fn row_68_an_uninitialised_processor_is_never_started() {
    let host = Host::new();
    let mut guest = two_processors(&host, 1);
    let vcpu = guest.launch.vcpus[1];
    let mut state = kvm_mp_state { mp_state: UNINITIALIZED };
    host.with(vcpu, SET_MP_STATE, &mut state).unwrap();
    guest.finish();
    for _ in 0..3 {
        assert_eq!(host.call(vcpu, RUN, 0), Err(libc::EAGAIN));
    }
}

#[test]
fn row_69_a_destroyed_processor_cannot_be_forced_to_run() {
    let host = Host::new();
    let mut guest = two_processors(&host, 1);
    prepare(&mut guest, exit::AP_CREATION, [1 << 32 | 2, 0], |_| {});
    guest.finish();
    let vcpu = guest.launch.vcpus[1];
    let mut state = kvm_mp_state { mp_state: RUNNABLE };
    host.with(vcpu, SET_MP_STATE, &mut state).unwrap();
    assert_eq!(host.call(vcpu, RUN, 0), Err(EINVAL));
}

/// A guest that sends the message in its shared request page once.
fn requester<'h>(host: &'h Host, vm: Vm<'h>, code: u64) -> Guest<'h> {
    let mut guest = Guest::over(host.launch_in(vm, 1), &[], |a| {
        register_ghcb(a);
        vmgexit(a);
        terminate(a);
    })
    .seal();
    guest.launch.shared.page((REQUEST >> 12) as usize)[0x34] = 5;
    prepare(&mut guest, code, [REQUEST, RESPONSE], |ghcb| {
        (ghcb.rax, ghcb.rbx) = (CERTS, 1);
        ghcb.set_valid(offset_of!(Ghcb, rax));
        ghcb.set_valid(offset_of!(Ghcb, rbx));
    });
    guest.launch.shared.page((CERTS >> 12) as usize).fill(0xff);
    guest
}

const REQUEST: u64 = (SHARED + 2) << 12;
const RESPONSE: u64 = (SHARED + 3) << 12;
const CERTS: u64 = (SHARED + 4) << 12;

#[test]
fn row_70_certificates_come_from_the_monitor() {
    let host = Host::new();
    for (ret, npages, pages, error) in
        [(28, 3, 3, 1u64), (11, 1, 1, 2), (5, 1, 1, 0xffff_ffff), (0, 1, 1, 0)]
    {
        let vm = host.ready();
        vm.op(abi::kvm_snp::cmd::SNP_ENABLE_REQ_CERTS, 0).unwrap();
        let mut guest = requester(&host, vm, exit::EXT_GUEST_REQUEST);
        assert_eq!(guest.run(), Exit::Certs { gpa: CERTS, npages: 1 });
        *guest.runs[0].words() = [CERTS, npages, ret];
        guest.finish();
        let seen = ghcb(&mut guest);
        assert_eq!((seen.rbx, seen.sw_exit_info_2 >> 32), (pages, error), "answer {ret}");
        assert_eq!(seen.sw_exit_info_2 as u32 != 0, ret == 0, "firmware was asked");
    }
    let vm = host.ready();
    vm.op(abi::kvm_snp::cmd::SNP_ENABLE_REQ_CERTS, 0).unwrap();
    let mut guest = requester(&host, vm, exit::EXT_GUEST_REQUEST);
    guest.run();
    guest.runs[0].words()[2] = 7;
    assert_eq!(guest.run(), Exit::Errno(EINVAL));

    let mut guest = requester(&host, host.ready(), exit::EXT_GUEST_REQUEST);
    guest.finish();
    let table = *guest.launch.shared.page((CERTS >> 12) as usize);
    assert_eq!((table[..24].to_vec(), table[24]), (vec![0; 24], 0xff), "an empty table");
}

#[test]
fn row_71_requests_that_fail() {
    let host = Host::new();
    let mut guest = requester(&host, host.ready(), exit::GUEST_REQUEST);
    guest.launch.shared.page((RESPONSE >> 12) as usize).fill(0xff);
    guest.finish();
    assert_ne!(ghcb(&mut guest).sw_exit_info_2 as u32, 0, "not a message");
    assert_eq!(guest.launch.shared.page((RESPONSE >> 12) as usize)[0], 0, "written all the same");

    let mut vm = host.ready();
    // SAFETY: a descriptor of our own, closed below before the guest asks.
    vm.sev_fd = unsafe { libc::dup(host.sev) };
    let mut guest = requester(&host, vm, exit::GUEST_REQUEST);
    // SAFETY: as above.
    unsafe { libc::close(guest.launch.vm.sev_fd) };
    assert_eq!(guest.run(), Exit::Errno(libc::EBADF));
}

#[test]
fn row_72_a_halted_processor_does_not_exit() {
    let host = Host::new();
    let guest = Guest::new(&host, |a| {
        a.hlt().unwrap();
        terminate(a);
    })
    .seal();
    let vcpu = guest.launch.vcpus[0];
    assert_eq!(interrupting(|| host.call(vcpu, RUN, 0), || {}), Err(libc::EINTR));
}

#[test]
fn row_73_running_before_finish_fails_entry() {
    let host = Host::new();
    let mut guest = Guest::new(&host, terminate);
    assert_eq!(guest.run(), Exit::FailEntry(!0));
}

#[test]
fn statistics_of_a_guest_that_validates() {
    let host = Host::new();
    let page = UNACCEPTED << 12;
    let guest = Guest::new(&host, |a| {
        pvalidate(a, 0x20_0000, true, true, 0);
        pvalidate(a, page, false, true, 1);
        pvalidate(a, page, false, false, 2);
        pvalidate(a, page, false, true, 3);
        terminate(a);
    });
    let (shared, memfd) = (Pages::new(512), guest.launch.vm.memfd(512 << 12, 0).unwrap());
    guest.launch.vm.region(1, 4, 512, 512, shared.address(), memfd, 0).unwrap();
    guest.launch.vm.attributes(0x20_0000, 512 << 12, PRIVATE).unwrap();
    let stats = Stats::new(guest.launch.vm.call(GET_STATS_FD, 0).unwrap());
    let launching = stats.get("softkvm_psp_busy_ns");
    let mut guest = guest.seal();
    let launched = stats.get("softkvm_psp_busy_ns");
    assert!(launched > launching && launching > 0);
    assert_eq!(stats.get("pages_4k"), 0, "the launch maps nothing");
    guest.finish();
    let names = ["softkvm_pvalidate_4k", "softkvm_pvalidate_2m", "softkvm_pvalidate_mismatch"];
    assert_eq!(stats.values(&names), [2, 0, 1]);
    assert_eq!(stats.get("softkvm_psp_busy_ns"), launched);
    let mapped = stats.get("pages_4k");
    assert!(mapped > 2, "{mapped}");
    // A page that changes hands is no longer mapped.
    guest.launch.vm.attributes(page, 4096, 0).unwrap();
    assert_eq!(stats.get("pages_4k"), mapped - 1);
    let guessed = stats.get("softkvm_placeholder_ns");
    // Three PVALIDATEs of 300 ns, one that fails among them, and RMPUPDATEs of 500 ns.
    assert!(guessed >= 4 * 300 && guessed < stats.get("softkvm_time_ns"), "{guessed}");
}

/// Sets a vCPU's frequency; on the VM it is another call.
const SET_TSC_KHZ: u64 = 0xaea2;

#[test]
fn row_74_a_secure_counter_has_a_frequency_that_no_other_guest_can_read() {
    let options = || Options { profile: Some("epyc-genoa".to_owned()), ..Default::default() };
    let frequency = |a: &mut CodeAssembler| {
        a.mov(ecx, abi::snp::MSR_GUEST_TSC_FREQ).unwrap();
        a.rdmsr().unwrap();
        a.mov(dword_ptr(RESULT), eax).unwrap();
        a.mov(dword_ptr(RESULT + 4), edx).unwrap();
        terminate(a);
    };
    let host = Host::on(options());
    let vm = host.snp();
    let vmsa_features = SevFeatures::SECURE_TSC.0;
    vm.init2(&SevInit { vmsa_features, ..Default::default() }).unwrap();
    let mut guest = Guest::over(host.launch_in(vm, 1), &[], frequency).seal();
    // Nobody changes it any more.
    assert_eq!(host.call(guest.launch.vcpus[0], SET_TSC_KHZ, 2_700_000), Err(EINVAL));
    guest.finish();
    assert_eq!(guest.result(0), 2700, "MHz");

    // Elsewhere it is intercepted: #VC, which this guest does not expect.
    let host = Host::on(options());
    let mut guest = Guest::new(&host, frequency).seal();
    assert_eq!(host.call(guest.launch.vcpus[0], SET_TSC_KHZ, 2_700_000), Ok(0));
    assert_eq!(guest.run(), Exit::Shutdown);

    // A processor without it offers none.
    let host = Host::new();
    assert_eq!(
        host.snp().init2(&SevInit { vmsa_features, ..Default::default() }),
        Err((EINVAL, 0))
    );
}
