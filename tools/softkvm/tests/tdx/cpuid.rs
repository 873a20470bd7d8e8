//! CPUID of a TD: which leaves raise #VE, which bits are whose.

use abi::tdx::leaf::td_ctls;
use abi::tdx::{TdParams, TdxStatus, Xfam, operand};
use softkvm::cpu::{Core, Mode};
use softkvm::tdx::cpuid::{CpuidAnswer, answer};
use softkvm::tdx::{Td, TdVcpu, TdxModule, TdxPlatform};

use crate::tdcall::write_field;
use crate::{params, platform, running};

fn core() -> Core {
    let mut core = Core::at_reset();
    core.mode = Mode::Long64;
    core
}

fn value(td: &Td, vcpu: &TdVcpu, leaf: u32, subleaf: u32) -> [u32; 4] {
    match answer(td, vcpu, &core(), leaf, subleaf) {
        CpuidAnswer::Value(value) => value,
        CpuidAnswer::Ve => panic!("#VE at {leaf:#x}.{subleaf:#x}"),
    }
}

#[test]
fn leaves_are_answered_or_raise_ve() {
    let (td, vcpu) = running(&params());
    let mut answered = vec![];
    for leaf in (0..=0x30).chain(0x8000_0000..=0x8000_0010) {
        for subleaf in 0..0x20 {
            if answer(&td, &vcpu, &core(), leaf, subleaf) != CpuidAnswer::Ve {
                answered.push((leaf, subleaf));
            }
        }
    }
    let mut expected = vec![];
    for leaf in
        [0, 1, 3, 5, 8, 0xa, 0xe, 0x11, 0x12, 0x13, 0x15, 0x19, 0x1a, 0x1c, 0x1e, 0x20, 0x22]
    {
        expected.extend((0..0x20).map(|subleaf| (leaf, subleaf)));
    }
    for leaf in [0x8000_0000, 0x8000_0001, 0x8000_0007, 0x8000_0008] {
        expected.extend((0..0x20).map(|subleaf| (leaf, subleaf)));
    }
    for (leaf, last) in [(4, 4), (7, 2), (0xd, 0x12), (0x14, 1), (0x1d, 1), (0x21, 0), (0x23, 3)] {
        expected.extend((0..=last).map(|subleaf| (leaf, subleaf)));
    }
    // Beyond the last leaf stands leaf 0x23.
    for leaf in (0x24..=0x30).chain(0x8000_0009..=0x8000_0010) {
        expected.extend((0..4).map(|subleaf| (leaf, subleaf)));
    }
    expected.sort_unstable();
    answered.sort_unstable();
    assert_eq!(answered, expected);
    for leaf in [0x4000_0000, 0x4000_0001, 0x4fff_ffff] {
        assert_eq!(answer(&td, &vcpu, &core(), leaf, 0), CpuidAnswer::Ve);
    }
    assert_eq!(value(&td, &vcpu, 0x1234_5678, 0), value(&td, &vcpu, 0x23, 0));
}

#[test]
fn identity_is_fixed() {
    let (td, vcpu) = running(&params());
    assert_eq!(value(&td, &vcpu, 0, 0), [0x23, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]);
    assert_eq!(value(&td, &vcpu, 0x21, 0), [0, 0x6574_6e49, 0x2020_2020, 0x5844_546c]);
    assert_eq!(value(&td, &vcpu, 0x8000_0000, 0), [0x8000_0008, 0, 0, 0]);
    assert_eq!(value(&td, &vcpu, 0x15, 0), [1, 80, 25_000_000, 0]);
    for leaf in [3, 8, 0xa, 0xe, 0x12, 0x19, 0x20, 0x22, 0x23] {
        assert_eq!(value(&td, &vcpu, leaf, 0), [0; 4], "{leaf:#x}");
    }
    // Address widths of the processor, 48-bit linear addresses; GPAW is not shown.
    assert_eq!(value(&td, &vcpu, 0x8000_0008, 0), [0x3034, 0, 0, 0]);
}

#[test]
fn what_is_not_configured_is_hidden_and_what_is_fixed_stays() {
    let (td, vcpu) = running(&params());
    let [eax, _, ecx, edx] = value(&td, &vcpu, 1, 0);
    assert_eq!(eax, TdxPlatform::default().signature(), "0 is the processor's own");
    let configurable = TdxModule::V1_5_05.cpuid_config[0].allow;
    assert_eq!((ecx & configurable[2], edx & configurable[3]), (0, 0));
    for (bit, set) in [(31, true), (21, true), (5, false), (6, false), (27, false), (25, true)] {
        assert_eq!(ecx >> bit & 1 != 0, set, "ECX {bit}");
    }
    for (bit, set) in [(9, true), (17, false), (7, true), (12, true)] {
        assert_eq!(edx >> bit & 1 != 0, set, "EDX {bit}");
    }
    let [_, ebx, ecx, edx] = value(&td, &vcpu, 7, 0);
    for (bit, set) in [(0, true), (1, false), (2, false), (7, true), (9, false), (14, false)] {
        assert_eq!(ebx >> bit & 1 != 0, set, "7.EBX {bit}");
    }
    for (bit, set) in [(3, false), (4, false), (15, false), (16, false), (23, false), (29, false)] {
        assert_eq!(ecx >> bit & 1 != 0, set, "7.ECX {bit}");
    }
    assert_eq!(edx & 1 << 14, 0);
    let [.., edx] = value(&td, &vcpu, 0x8000_0001, 0);
    assert_eq!(edx, 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29);
}

#[test]
fn configured_bits_follow_the_host_and_the_processor() {
    let mut params = params();
    params.cpuid_values[0] = [0, 0x0008_0000, 1 << 3 | 1 << 24, 1 << 28];
    params.cpuid_values[1] = [0x1c00_4121, 0x02c0_003f & !0xfff, 63, 0];
    params.cpuid_values[5] = [0, 1 << 9 | 1 << 19, 1 << 2 | 1 << 16, 1 << 4];
    params.cpuid_values[9] = [0, 0x200, 0, 0];
    let (td, vcpu) = running(&params);
    let [_, ebx, ecx, edx] = value(&td, &vcpu, 1, 0);
    assert_eq!(ebx & 0x00ff_0000, 0x0008_0000);
    assert_eq!((ecx >> 3 & 1, ecx >> 24 & 1, edx >> 28 & 1), (1, 1, 1));
    assert_eq!(value(&td, &vcpu, 4, 0), [0x1c00_4121, 0x02c0_0000, 63, 0]);
    let [_, ebx, ecx, edx] = value(&td, &vcpu, 7, 0);
    assert_eq!(
        (ebx >> 9 & 1, ebx >> 19 & 1, ecx >> 2 & 1, ecx >> 16 & 1, edx >> 4 & 1),
        (1, 1, 1, 1, 1)
    );
    assert_eq!(value(&td, &vcpu, 0x8000_0008, 0), [0x3934, 0x200, 0, 0], "LA57");
    assert_ne!(value(&td, &vcpu, 5, 0), [0; 4], "MONITOR");
    let flags = td.cpuid_table().flags();
    assert!(flags.monitor && flags.tsc_deadline && flags.la57 && !flags.tsx);

    // Allowed, but not there.
    let mut platform = platform();
    platform.native_cpuid.iter_mut().filter(|e| e.function == 7).for_each(|e| e.ebx = 0);
    let mut poor = Td::new();
    poor.init(&platform, &params).unwrap();
    let vcpu = poor.init_vcpu(0, 0).unwrap();
    assert_eq!(value(&poor, &vcpu, 7, 0)[1], 0);
}

#[test]
fn states_of_xfam_bring_their_features() {
    let mut params = params();
    params.cpuid_values[0][2] = 1 << 28 | 1 << 29;
    params.cpuid_values[5] = [0, 1 << 16, 1 << 9, 1 << 8];
    let features = |xfam| {
        let mut params = params;
        params.xfam = Xfam(xfam);
        let (td, vcpu) = running(&params);
        let [_, _, leaf_1, _] = value(&td, &vcpu, 1, 0);
        let [_, ebx, ecx, edx] = value(&td, &vcpu, 7, 0);
        let d = value(&td, &vcpu, 0xd, 0);
        (
            [
                leaf_1 >> 28 & 1,
                ebx >> 5 & 1,
                ecx >> 9 & 1,
                ebx >> 16 & 1,
                edx >> 8 & 1,
                edx >> 24 & 1,
            ],
            [d[0], d[2]],
        )
    };
    assert_eq!(features(0x3), ([0, 0, 0, 0, 0, 0], [0x3, 576]));
    assert_eq!(features(0x7), ([1, 1, 1, 0, 0, 0], [0x7, 832]));
    assert_eq!(features(0xe7), ([1, 1, 1, 1, 1, 0], [0xe7, 2688]));
    assert_eq!(features(0x6_0003), ([0, 0, 0, 0, 0, 1], [0x6_0003, 11008]));
}

#[test]
fn some_bits_are_of_the_moment() {
    let mut params = params();
    params.xfam = Xfam(0x3 | Xfam::AVX.0 | Xfam::PKRU.0 | Xfam::AMX.0);
    let (td, vcpu) = running(&params);
    let ask = |core: &Core, leaf, subleaf| match answer(&td, &vcpu, core, leaf, subleaf) {
        CpuidAnswer::Value(value) => value,
        CpuidAnswer::Ve => panic!(),
    };
    let mut core = core();
    core.xcr0 = 1;
    assert_eq!(ask(&core, 1, 0)[2] >> 27 & 1, 0);
    assert_eq!(ask(&core, 7, 0)[2] >> 4 & 1, 0);
    assert_eq!((ask(&core, 0xd, 0)[1], ask(&core, 0xd, 1)[1]), (576, 576));
    core.cr4 |= 1 << 18 | 1 << 22;
    core.xcr0 = 0x207;
    assert_eq!(ask(&core, 1, 0)[2] >> 27 & 1, 1);
    assert_eq!(ask(&core, 7, 0)[2] >> 4 & 1, 1);
    assert_eq!((ask(&core, 0xd, 0)[1], ask(&core, 0xd, 1)[1]), (2696, 576 + 256 + 8));
    core.xcr0 = 0x6_0203;
    assert_eq!(ask(&core, 0xd, 1)[1], 640 + 64 + 8192, "tiles are aligned");
    core.mode = Mode::Prot32;
    assert_eq!(ask(&core, 0x8000_0001, 0)[3] >> 11 & 1, 0, "SYSCALL");
    // vCPU index, not x2APIC ID.
    assert_eq!(ask(&core, 1, 0)[1] >> 24, 0);
}

#[test]
fn topology_is_shown_on_request() {
    let mut params = params();
    params.cpuid_values[12] = [1, 2, 0x100, 0];
    params.cpuid_values[13] = [3, 4, 0x201, 0];
    params.cpuid_values[14] = [5, 16, 0x502, 0];
    let (mut td, mut vcpu) = running(&params);
    for leaf in [0xb, 0x1f] {
        assert_eq!(answer(&td, &vcpu, &core(), leaf, 0), CpuidAnswer::Ve);
    }
    assert_eq!(value(&td, &vcpu, 1, 0)[1] >> 24, 0);
    write_field(&mut td, &mut vcpu, td_ctls::ENUM_TOPOLOGY).unwrap();
    assert_eq!(value(&td, &vcpu, 1, 0)[1] >> 24, 0x23, "eight bits of 0x123");
    assert_eq!(value(&td, &vcpu, 0x1f, 0), [1, 2, 0x100, 0x123]);
    assert_eq!(value(&td, &vcpu, 0x1f, 1), [3, 4, 0x201, 0x123]);
    assert_eq!(value(&td, &vcpu, 0x1f, 2), [5, 16, 0x502, 0x123]);
    assert_eq!(value(&td, &vcpu, 0x1f, 5), [0, 0, 0, 0x123]);
    assert_eq!(value(&td, &vcpu, 0xb, 0), [1, 2, 0x100, 0x123]);
    assert_eq!(value(&td, &vcpu, 0xb, 1), [5, 16, 0x201, 0x123], "cores reach to the last level");
    assert_eq!(answer(&td, &vcpu, &core(), 0xb, 2), CpuidAnswer::Ve);
    assert_eq!(answer(&td, &vcpu, &core(), 0x1f, 6), CpuidAnswer::Ve);
}

#[test]
fn topology_is_the_processors_own_or_in_order() {
    let (mut td, mut vcpu) = running(&params());
    write_field(&mut td, &mut vcpu, td_ctls::ENUM_TOPOLOGY).unwrap();
    assert_eq!(value(&td, &vcpu, 0x1f, 1), [7, 112, 0x201, 0x123]);
    let bad = Err(TdxStatus::OPERAND_INVALID.with(operand::CPUID_CONFIG));
    for levels in [
        [[1, 2, 0x100, 0], [0; 4]],           // no core
        [[3, 4, 0x200, 0], [1, 2, 0x101, 0]], // descending
        [[3, 4, 0x200, 0], [3, 4, 0x201, 0]], // twice
        [[0; 4], [3, 4, 0x201, 0]],           // a hole
        [[0x20, 4, 0x200, 0], [0; 4]],        // no such shift
        [[1, 0x1_0000, 0x200, 0], [0; 4]],    // no such count
    ] {
        let mut params = params();
        params.cpuid_values[12..14].copy_from_slice(&levels);
        assert_eq!(Td::new().init(&platform(), &params), bad, "{levels:x?}");
    }
}

#[test]
fn a_guest_can_have_every_cpuid_fault() {
    let (mut td, mut vcpu) = running(&params());
    let mut user = core();
    user.cpl = 3;
    for (bits, kernel_faults, user_faults) in
        [(0, false, false), (1, true, false), (2, false, true), (3, true, true)]
    {
        let mut call = core();
        (call.gpr[0], call.gpr[1]) = (5, bits);
        softkvm::tdx::tdcall(&mut td, &mut vcpu, &mut call, &mut NoMemory);
        let faults = |core| answer(&td, &vcpu, core, 0x21, 0) == CpuidAnswer::Ve;
        assert_eq!((faults(&core()), faults(&user)), (kernel_faults, user_faults));
    }
}

/// For calls that touch no memory.
struct NoMemory;

impl softkvm::tdx::TdMemory for NoMemory {
    fn read(
        &mut self,
        _: u64,
        _: bool,
        _: &mut [u8],
    ) -> Result<(), softkvm::tdx::tdcall::MemoryFault> {
        panic!()
    }
    fn write(
        &mut self,
        _: u64,
        _: bool,
        _: &[u8],
    ) -> Result<(), softkvm::tdx::tdcall::MemoryFault> {
        panic!()
    }
    fn clear(&mut self, _: u64) -> Result<(), softkvm::tdx::tdcall::MemoryFault> {
        panic!()
    }
}

fn with_module(module: &'static TdxModule) -> (Td, TdVcpu) {
    let mut params: TdParams = params();
    params.config_flags = 0;
    params.cpuid_values[0][2] = 1 << 24;
    params.cpuid_values[1] = [0x0400_4121, 0, 0, 0];
    let mut td = Td::new();
    td.init(&TdxPlatform { module, ..platform() }, &params).unwrap();
    let vcpu = td.init_vcpu(0x123, 0).unwrap();
    (td, vcpu)
}

#[test]
fn an_old_module_answers_fewer_leaves() {
    let (td, vcpu) = with_module(&TdxModule::V1_5_01);
    for leaf in [0xb, 0x1a, 0x1f] {
        assert_eq!(answer(&td, &vcpu, &core(), leaf, 0), CpuidAnswer::Ve);
    }
    assert!(td.cpuid_table().entries().all(|e| !matches!(e.function, 0xb | 0x1a | 0x1f)));
}

#[test]
fn a_young_module_answers_all_but_the_hypervisors() {
    let (mut td, mut vcpu) = with_module(&TdxModule::REDUCE_VE);
    assert_eq!(answer(&td, &vcpu, &core(), 2, 0), CpuidAnswer::Ve);
    assert_eq!(value(&td, &vcpu, 1, 0)[2] >> 24 & 1, 1);
    write_field(&mut td, &mut vcpu, td_ctls::REDUCE_VE).unwrap();
    assert_eq!(value(&td, &vcpu, 2, 0), [0x00fe_ff01, 0, 0, 0]);
    for leaf in [6, 9, 0xc, 0x10, 0x16, 0x8000_0002, 0x8000_0005] {
        assert_eq!(value(&td, &vcpu, leaf, 0), [0; 4], "{leaf:#x}");
    }
    assert_eq!(value(&td, &vcpu, 0x1f, 9), [0, 0, 9, 0x123]);
    assert_eq!(answer(&td, &vcpu, &core(), 0x4000_0000, 0), CpuidAnswer::Ve);
    let [_, _, ecx, edx] = value(&td, &vcpu, 1, 0);
    assert_eq!((ecx >> 24 & 1, edx >> 7 & 1, edx >> 12 & 1), (0, 0, 0), "the host's features");
    assert_eq!(value(&td, &vcpu, 4, 0)[0], 0x0400_4000, "sharing as configured, caches native");
}

#[test]
fn the_host_reads_the_table_in_order() {
    let (td, _) = running(&params());
    let entries: Vec<_> = td.cpuid_table().entries().collect();
    let keys: Vec<_> = entries.iter().map(|e| (e.function, e.index)).collect();
    assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(keys.contains(&(0x21, 0)) && keys.contains(&(0xd, 0x12)) && keys.contains(&(0x1f, 5)));
    for absent in [2, 6, 9, 0xf, 0x10, 0x16, 0x4000_0000, 0x8000_0002] {
        assert!(keys.iter().all(|(leaf, _)| *leaf != absent), "{absent:#x}");
    }
    for entry in entries {
        let has_subleaves =
            matches!(entry.function, 4 | 7 | 0xb | 0xd | 0x14 | 0x1d | 0x1f | 0x21 | 0x23);
        assert_eq!(entry.flags != 0, has_subleaves, "{:#x}", entry.function);
        if entry.function == 1 {
            assert_eq!(entry.ebx >> 24, 0, "what depends on the vCPU is 0");
        }
    }
}
