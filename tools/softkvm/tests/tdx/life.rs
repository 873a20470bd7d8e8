//! A TD's life: TDH.MNG.INIT's checks, vCPUs, the secure EPT's states.

use abi::tdx::{TdAttributes, TdParams, TdxStatus, Xfam, operand};
use softkvm::tdx::{OpState, PageState, PrivateAccess, Td, TdxModule, TdxPlatform};

use crate::{params, platform, running, td};

const GPA: u64 = 0x20_3000;

fn init(change: impl FnOnce(&mut TdParams)) -> Result<(), TdxStatus> {
    let mut params = params();
    change(&mut params);
    Td::new().init(&platform(), &params)
}

fn refused(id: u32) -> Result<(), TdxStatus> {
    Err(TdxStatus::OPERAND_INVALID.with(id))
}

#[test]
fn parameters_are_checked() {
    assert_eq!(init(|_| {}), Ok(()));
    type Change = fn(&mut TdParams);
    let table: &[(Change, u32)] = &[
        (|p| p.attributes = TdAttributes::PERFMON, operand::ATTRIBUTES),
        (|p| p.attributes = TdAttributes::MIGRATABLE, operand::ATTRIBUTES),
        (|p| p.attributes.0 = 1 << 1, operand::ATTRIBUTES),
        (|p| p.xfam.0 = 1, operand::XFAM),
        (|p| p.xfam.0 = 0x403, operand::XFAM),
        (|p| p.xfam.0 = 0xe3, operand::XFAM),
        (|p| p.xfam.0 = 0x67, operand::XFAM),
        (|p| p.xfam.0 = 0x2_0003, operand::XFAM),
        (|p| p.xfam.0 = Xfam::CET.0 | 3, operand::XFAM),
        (|p| p.config_flags = 2, operand::EXEC_CONTROLS),
        (|p| p.config_flags = 8, operand::EXEC_CONTROLS),
        (|p| p.eptp_controls = 0x18, operand::EPTP_CONTROLS),
        (|p| p.eptp_controls = 0x16, operand::EPTP_CONTROLS),
        (|p| p.eptp_controls = 0x5e, operand::EPTP_CONTROLS),
        (|p| p.eptp_controls = 0x101e, operand::EPTP_CONTROLS),
        (|p| p.config_flags |= TdParams::MAX_GPAW, operand::EPTP_CONTROLS),
        (|p| p.max_vcpus = 0, operand::MAX_VCPUS),
        (|p| p.tsc_frequency = 3, operand::TSC_FREQUENCY),
        (|p| p.tsc_frequency = 401, operand::TSC_FREQUENCY),
        (|p| p.reserved_12[5] = 1, operand::RDX),
        (|p| p.reserved_2a[0] = 1, operand::RDX),
        (|p| p.reserved_e0[31] = 1, operand::RDX),
        (|p| p.cpuid_values[18] = [1, 0, 0, 0], operand::RDX),
        (|p| p.cpuid_values[0][0] = 0x8_06f7, operand::CPUID_CONFIG),
        (|p| p.cpuid_values[0][2] = 1, operand::CPUID_CONFIG),
        (|p| p.cpuid_values[5][1] = 1 << 4, operand::CPUID_CONFIG),
        (|p| p.cpuid_values[5][1] = 1 << 29, operand::CPUID_CONFIG),
    ];
    for (row, (change, id)) in table.iter().enumerate() {
        assert_eq!(init(change), refused(*id), "row {row}");
    }
    let allowed: &[Change] = &[
        |p| p.xfam = Xfam(0x3 | Xfam::AVX.0 | Xfam::AVX512.0 | Xfam::AMX.0 | Xfam::PKRU.0),
        |p| p.tsc_frequency = 4,
        |p| p.tsc_frequency = 400,
        |p| (p.config_flags, p.eptp_controls) = (TdParams::MAX_GPAW, 0x26),
        |p| p.cpuid_values[0][0] = TdxPlatform::default().signature(),
        |p| p.cpuid_values[5][1] = 1 << 4 | 1 << 11,
    ];
    for change in allowed {
        assert_eq!(init(change), Ok(()));
    }
}

#[test]
fn the_first_wrong_operand_is_named() {
    let all = |p: &mut TdParams| {
        p.attributes.0 = !0;
        p.xfam.0 = 0;
        p.max_vcpus = 0;
        p.config_flags = !0;
        p.tsc_frequency = 0;
    };
    assert_eq!(init(all), refused(operand::ATTRIBUTES));
    let rest = |p: &mut TdParams| {
        all(p);
        p.attributes.0 = 0;
    };
    assert_eq!(init(rest), refused(operand::XFAM));
}

#[test]
fn platform_and_module_limit_what_a_td_can_be() {
    let small = TdxPlatform { five_level_ept: false, ..platform() };
    let mut wide = params();
    (wide.config_flags, wide.eptp_controls) = (TdParams::MAX_GPAW, 0x26);
    assert_eq!(Td::new().init(&small, &wide), refused(operand::EPTP_CONTROLS));
    let old = TdxPlatform { module: &TdxModule::V1_5_01, ..platform() };
    assert_eq!(Td::new().init(&old, &params()), refused(operand::EXEC_CONTROLS));
    let must = TdxPlatform { attributes_fixed1: TdAttributes::PKS, ..platform() };
    assert_eq!(Td::new().init(&must, &params()), refused(operand::ATTRIBUTES));
    assert_eq!(TdxModule::V1_5_01.cpuid_config.len(), 12);
    assert_eq!(TdxModule::V1_5_05.cpuid_config.len(), 18);
    assert!(TdxModule::V1_5_01.cpuid_config.iter().all(|config| config.leaf != 0x1f));
}

#[test]
fn a_refused_td_can_be_initialised_again_and_then_no_more() {
    let mut td = Td::new();
    let mut bad = params();
    bad.max_vcpus = 0;
    assert_eq!(td.init(&platform(), &bad), refused(operand::MAX_VCPUS));
    assert_eq!(td.op_state(), OpState::Uninitialized);
    assert_eq!(td.init(&platform(), &params()), Ok(()));
    assert_eq!(td.init(&platform(), &params()), Err(TdxStatus::OP_STATE_INCORRECT));
}

#[test]
fn functions_belong_to_states() {
    let wrong = Err(TdxStatus::OP_STATE_INCORRECT);
    let mut new = Td::new();
    assert_eq!(new.page_aug(GPA), wrong);
    assert_eq!(new.page_add(GPA), wrong);
    assert_eq!(new.mr_finalize(), wrong);
    assert_eq!(new.init_vcpu(0, 0).err(), wrong.err());
    let mut built = td(&params());
    assert_eq!(built.mr_finalize(), Err(TdxStatus(0xc000_0609_0000_0000)));
    let vcpu = built.init_vcpu(0, 0).unwrap();
    assert_eq!(built.enter(&vcpu), wrong);
    let (mut run, mut vcpu) = running(&params());
    assert_eq!(run.enter(&vcpu), Ok(()));
    assert_eq!(run.page_add(GPA), wrong);
    assert_eq!(run.mr_extend(GPA, &[0; 256]), wrong);
    assert_eq!(run.mr_finalize(), wrong);
    assert_eq!(run.init_vcpu(9, 0).err(), wrong.err());
    run.sept_add(GPA).unwrap();
    assert_eq!(run.page_aug(GPA), Ok(()));
    vcpu.triple_fault();
    assert_eq!(run.enter(&vcpu), Err(TdxStatus::NON_RECOVERABLE_VCPU));
}

#[test]
fn vcpus_are_numbered_and_counted() {
    let mut td = td(&params());
    for (index, id) in [(0, 7), (1, 0), (2, 3), (3, 4)] {
        assert_eq!(td.init_vcpu(id, 0).unwrap().index(), index);
        if index == 1 {
            assert_eq!(td.init_vcpu(7, 0).err(), Some(TdxStatus(0xc000_0621_0000_0000)));
        }
    }
    assert_eq!(td.init_vcpu(9, 0).err(), Some(TdxStatus::MAX_VCPUS_EXCEEDED));
    assert_eq!((td.num_vcpus(), td.max_vcpus()), (4, 4));
}

#[test]
fn host_addresses_are_private_pages() {
    let mut td = td(&params());
    let invalid = Err(TdxStatus::OPERAND_INVALID.with(operand::RCX));
    for gpa in [1, 0x800, 1 << 47, 1 << 47 | 0x1000, 1 << 48, 1 << 51] {
        assert_eq!(td.page_add(gpa), invalid, "{gpa:#x}");
        assert_eq!(td.page_aug(gpa), invalid, "{gpa:#x}");
        assert_eq!(td.range_block(gpa), invalid, "{gpa:#x}");
    }
    assert_eq!(td.mr_extend(0x1010, &[0; 256]), invalid);
    assert_eq!(td.page_add(GPA), Err(TdxStatus::EPT_WALK_FAILED.with(1)), "no table");
    assert_eq!(td.mr_extend(GPA, &[0; 256]), Err(TdxStatus::EPT_ENTRY_NOT_PRESENT.with(1)));
    assert_eq!(td.sept_add(GPA), Ok(true));
    assert_eq!(td.sept_add(GPA + 0x1000), Ok(false), "same 2 MiB");
    assert_eq!(td.mr_extend(GPA, &[0; 256]), Err(TdxStatus::EPT_ENTRY_NOT_PRESENT));
    assert_eq!(td.page_add(GPA), Ok(()));
    assert_eq!(td.page_add(GPA), Err(TdxStatus::EPT_ENTRY_STATE_INCORRECT.with(1)));
    assert_eq!(td.page_aug(GPA), Err(TdxStatus::EPT_ENTRY_STATE_INCORRECT.with(1)));
}

/// The states of a page, as the host can change them; the guest's part is TDCALL's.
#[test]
fn a_page_goes_through_its_states() {
    let (mut td, _) = running(&params());
    td.sept_add(GPA).unwrap();
    let gfn = GPA >> 12;
    let bad = |status: TdxStatus| Err(status.with(operand::RCX));
    assert_eq!(td.range_block(GPA), bad(TdxStatus::EPT_ENTRY_STATE_INCORRECT));
    assert_eq!(td.page_remove(GPA), bad(TdxStatus::EPT_ENTRY_STATE_INCORRECT));
    td.page_aug(GPA).unwrap();
    assert_eq!(td.sept().state(gfn), PageState::Pending);
    assert_eq!(td.page_remove(GPA), bad(TdxStatus::GPA_RANGE_NOT_BLOCKED));
    td.range_block(GPA).unwrap();
    assert_eq!(td.sept().state(gfn), PageState::PendingBlocked);
    assert_eq!(td.range_block(GPA), bad(TdxStatus::GPA_RANGE_ALREADY_BLOCKED));
    assert_eq!(td.page_remove(GPA), bad(TdxStatus::TLB_TRACKING_NOT_DONE));
    td.track().unwrap();
    assert_eq!(td.page_remove(GPA), Ok(()));
    assert_eq!(td.sept().state(gfn), PageState::Free);
    assert!(td.sept().has_table(gfn), "tables stay");
    assert_eq!((td.sept().tables(), td.sept().pages()), (1, 0));
    assert_eq!(td.page_aug(GPA), Ok(()), "and it can be given again");
}

#[test]
fn pages_of_a_td_that_is_being_built_need_no_tracking() {
    let mut td = td(&params());
    td.sept_add(GPA).unwrap();
    td.page_add(GPA).unwrap();
    assert_eq!(td.page_remove(GPA), Ok(()));
}

#[test]
fn the_state_decides_about_an_access() {
    for (attributes, pending) in [
        (TdAttributes::SEPT_VE_DISABLE, PrivateAccess::PendingExit),
        (TdAttributes(0), PrivateAccess::PendingVe),
    ] {
        let mut params = params();
        params.attributes = attributes;
        let mut td = td(&params);
        td.init_vcpu(0, 0).unwrap();
        td.sept_add(GPA).unwrap();
        td.page_add(GPA).unwrap();
        td.mr_finalize().unwrap();
        assert_eq!(td.private_access(GPA + 0xfff), PrivateAccess::Allowed);
        assert_eq!(td.private_access(GPA + 0x1000), PrivateAccess::EptViolation);
        assert_eq!(td.private_access(GPA + 0x20_0000), PrivateAccess::EptViolation);
        td.page_aug(GPA + 0x1000).unwrap();
        assert_eq!(td.private_access(GPA + 0x1008), pending);
        td.range_block(GPA).unwrap();
        assert_eq!(td.private_access(GPA), PrivateAccess::EptViolation);
        // Found by fuzzing (target `sept`: SEPT.ADD, PAGE.AUG, RANGE.BLOCK, an access): a blocked page is not one that could be accepted.
        td.range_block(GPA + 0x1000).unwrap();
        assert_eq!(td.private_access(GPA + 0x1000), PrivateAccess::EptViolation);
    }
}
