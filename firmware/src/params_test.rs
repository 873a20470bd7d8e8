//! Every field of the parameter page, wrong once.

use abi::boot::E820Type;
use abi::shim::{
    CMDLINE_MAX, Flags, KernelKind, LOW_E820, LoadMode, PAGE, ParameterPage, SHIM_BASE, Technology,
    Termination,
};

use crate::mock::{Guest, INITRD, KERNEL_LOAD, MEMORY, STAGING};

type Damage = fn(&mut ParameterPage);

fn refused(damage: Damage) -> Option<Termination> {
    let mut guest = Guest::bzimage(Technology::SNP, LoadMode::HASHED);
    assert_eq!(guest.check(), Ok(()));
    damage(&mut guest.params);
    guest.check().err()
}

#[test]
fn head_fields() {
    let cases: [(Damage, Termination); 15] = [
        (|p| p.magic ^= 1, Termination::BAD_MAGIC),
        (|p| p.version += 1, Termination::BAD_VERSION),
        (|p| p.technology = Technology::PLAIN, Termination::BAD_TECHNOLOGY),
        (|p| p.technology = Technology(0), Termination::BAD_TECHNOLOGY),
        (|p| p.flags = 0x80, Termination::BAD_PARAMETER),
        (|p| p.c_bit = 0, Termination::BAD_PARAMETER),
        (|p| p.c_bit = 52, Termination::BAD_PARAMETER),
        (|p| p.vcpu_count = 0, Termination::BAD_PARAMETER),
        (|p| p.load_mode = LoadMode(0), Termination::BAD_PARAMETER),
        (|p| p.kernel_kind = KernelKind(4), Termination::BAD_PARAMETER),
        (|p| p.second_stage = 0, Termination::BAD_PARAMETER),
        (|p| p.reserved_038 = 1, Termination::BAD_PARAMETER),
        (|p| p.reserved_170[1] = 1, Termination::BAD_PARAMETER),
        (|p| p.reserved_780[0] = 1, Termination::BAD_PARAMETER),
        (|p| p.reserved_780[271] = 1, Termination::BAD_PARAMETER),
    ];
    for (index, (damage, code)) in cases.into_iter().enumerate() {
        assert_eq!(refused(damage), Some(code), "case {index}");
    }
}

#[test]
fn memory_map() {
    let cases: [Damage; 12] = [
        |p| p.e820_count = 0,
        |p| p.e820_count = 3,
        |p| p.e820_count = 65,
        |p| p.e820_count = u32::MAX,
        |p| p.e820[1].kind = E820Type::RAM,
        |p| p.e820[0].size = SHIM_BASE - PAGE,
        |p| p.e820[LOW_E820.len()].addr = 0xB_F000,
        |p| p.e820[LOW_E820.len()].size += 1,
        |p| p.e820[LOW_E820.len()].size = 0,
        |p| p.e820[LOW_E820.len()].size = u64::MAX - PAGE + 1,
        |p| p.e820[LOW_E820.len()].kind = E820Type(7),
        |p| p.e820[LOW_E820.len()].reserved = 1,
    ];
    for (index, damage) in cases.into_iter().enumerate() {
        assert_eq!(refused(damage), Some(Termination::BAD_E820), "case {index}");
    }
    // Overlap of two entries.
    let overlap: Damage = |p| {
        p.e820[6] = p.e820[LOW_E820.len()];
        p.e820_count += 1;
    };
    assert_eq!(refused(overlap), Some(Termination::BAD_E820));
}

#[test]
fn ranges_of_blobs() {
    let cases: [Damage; 23] = [
        |p| p.second_stage += 1,
        |p| p.second_stage = SHIM_BASE,
        |p| p.second_stage = MEMORY - PAGE,
        |p| p.second_stage = !(PAGE - 1),
        |p| p.second_stage = p.cmdline.staging,
        |p| p.kernel.size = 0,
        |p| p.kernel.size = u64::MAX,
        |p| p.kernel.dest = u64::MAX,
        |p| p.kernel.dest = 0,
        |p| p.kernel.dest = SHIM_BASE,
        |p| p.kernel.dest = MEMORY - PAGE,
        |p| p.kernel.staging = 0,
        |p| p.kernel.staging += 1,
        |p| p.kernel.staging = MEMORY,
        |p| p.kernel.staging = !(PAGE - 1),
        |p| p.kernel.reserved = 1,
        |p| p.initrd.dest = KERNEL_LOAD,
        |p| p.initrd.dest = STAGING,
        |p| p.initrd.dest = INITRD + 1,
        |p| p.initrd.staging = p.kernel.staging,
        |p| p.cmdline.size = 0,
        |p| p.cmdline.size = CMDLINE_MAX + 1,
        |p| p.cmdline.dest += PAGE,
    ];
    for (index, damage) in cases.into_iter().enumerate() {
        assert_eq!(refused(damage), Some(Termination::BAD_RANGE), "case {index}");
    }
    // Measured blobs have neither staging nor digest.
    assert_eq!(refused(|p| p.load_mode = LoadMode::MEASURED), Some(Termination::BAD_RANGE));
}

#[test]
fn parameters_are_for_one_technology() {
    let all = [Technology::PLAIN, Technology::SNP, Technology::TDX];
    for named in all {
        let mut guest = Guest::bzimage(named, LoadMode::HASHED);
        for processor in all {
            guest.mock.technology = processor;
            let expected =
                if processor == named { Ok(()) } else { Err(Termination::BAD_TECHNOLOGY) };
            assert_eq!(guest.check(), expected, "{named:?} on {processor:?}");
        }
    }
}

#[test]
fn a_td_has_neither_c_bit_nor_cpuid_page() {
    let mut guest = Guest::bzimage(Technology::TDX, LoadMode::HASHED);
    assert_eq!(guest.check(), Ok(()));
    guest.params.c_bit = 47;
    assert_eq!(guest.check(), Err(Termination::BAD_PARAMETER));
    guest.params.c_bit = 0;
    guest.params.flags |= Flags::CPUID_DIGEST.bits();
    assert_eq!(guest.check(), Err(Termination::BAD_PARAMETER));
    // Nor a second stage that would wait.
    guest.params.flags = 0;
    guest.params.second_stage = STAGING + (1 << 20);
    assert_eq!(guest.check(), Err(Termination::BAD_PARAMETER));
}

#[test]
fn only_processors_of_a_td_help() {
    for technology in [Technology::PLAIN, Technology::SNP, Technology::TDX] {
        let mut guest = Guest::bzimage(technology, LoadMode::HASHED);
        guest.params.flags |= Flags::PARALLEL.bits();
        let expected = match technology {
            Technology::TDX => Ok(()),
            _ => Err(Termination::BAD_PARAMETER),
        };
        assert_eq!(guest.check(), expected, "{technology:?}");
    }
}

#[test]
fn a_plain_guest_has_no_c_bit() {
    let mut guest = Guest::bzimage(Technology::PLAIN, LoadMode::HASHED);
    assert_eq!(guest.check(), Ok(()));
    guest.params.c_bit = 51;
    assert_eq!(guest.check(), Err(Termination::BAD_PARAMETER));
}
