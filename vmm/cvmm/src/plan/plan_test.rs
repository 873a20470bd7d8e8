//! The plan as a whole: small, reproducible, and sensitive to every input.

use super::*;
use crate::cli::Cli;
use crate::config::Config;
use crate::digest::launch_digest;

use clap::Parser;
use zerocopy::FromBytes;

fn config(args: &[&str]) -> GuestConfig {
    let cli = Cli::try_parse_from([&["cvmm", "--kernel", "k"], args].concat()).unwrap();
    Config::parse(&cli.flags).unwrap().guest
}

/// Inputs that depend on no build: the shim, too, is a fixed one.
fn inputs(kernel: u8, initrd: &[u8], cmdline: &str, shim: u8) -> Inputs {
    let mut file = super::kernel::tests::bzimage(0x3000);
    file[0x1000] = kernel;
    let mut inputs = Inputs::new("k".into(), file.into(), initrd.into(), cmdline).unwrap();
    inputs.shim = Some(vec![shim; 100].into());
    inputs.first_stage = Some(FirstStage { code: &[0x90; 9], program: &[0x5a; 300] });
    inputs
}

/// A kernel that the shim unpacks.
fn packed() -> Inputs {
    let file = super::payload::tests::packed_elf();
    let mut inputs = Inputs::unhashed("k".into(), file.into(), [1; 9000].into(), "quiet").unwrap();
    inputs.unpack_in_shim().unwrap();
    inputs.hash();
    inputs
}

/// What the shim is told, wherever it is.
fn parameters_of(plan: &Plan) -> ParameterPage {
    let mut parts = plan.regions.iter().chain(&plan.hashed);
    ParameterPage::read_from_bytes(&parts.find(|r| r.tag == "parameters").unwrap().bytes).unwrap()
}

fn digest(args: &[&str], inputs: &Inputs, cpus: u16) -> String {
    let cpus = CpuCount::new(cpus).unwrap();
    let plan = Plan::build(&config(args), inputs, cpus, &HostCaps::assumed()).unwrap();
    launch_digest(&plan).unwrap().to_string()
}

#[test]
fn a_hashed_launch_has_three_pages() {
    let inputs = inputs(0, &[1; 9000], "quiet", 2);
    for cpus in [1, 254] {
        let cpus = CpuCount::new(cpus).unwrap();
        let plan = Plan::build(&config(&["--snp"]), &inputs, cpus, &HostCaps::assumed()).unwrap();
        assert_eq!(plan.page_count(), 3);
        assert_eq!(plan.staged.len(), 4);
    }
    let real =
        Inputs::new("k".into(), inputs.kernel.clone(), inputs.initrd.clone(), "quiet").unwrap();
    let plan =
        Plan::build(&config(&["--snp"]), &real, CpuCount::ONE, &HostCaps::assumed()).unwrap();
    assert_eq!(plan.page_count(), 3, "with the built-in shim");
}

#[test]
fn the_boot_page_has_the_hash_of_all_that_waits_for_the_shim() {
    for load in ["hashed", "measured"] {
        let inputs = inputs(0, &[1; 9000], "quiet", 2);
        let args = ["--snp", "--load", load];
        let plan =
            Plan::build(&config(&args), &inputs, CpuCount::ONE, &HostCaps::assumed()).unwrap();
        let tags: Vec<_> = plan.hashed.iter().map(|r| r.tag).collect();
        assert_eq!(tags, ["shim", "parameters", "acpi"]);
        let waiting = plan.staged.iter().find(|blob| blob.tag == "second-stage").unwrap();
        assert_eq!(waiting.bytes.len() as u64, shim::snp::SECOND_STAGE_PAGES * PAGE);
        for part in &plan.hashed {
            let at = (part.gpa - SHIM_CODE_GPA) as usize;
            assert_eq!(waiting.bytes[at..at + part.bytes.len()], part.bytes);
        }
        assert_eq!(parameters_of(&plan).second_stage, waiting.gpa);

        let boot = &plan.regions[0];
        assert_eq!((boot.tag, boot.gpa, boot.bytes.len()), ("boot", 0x1_0000, 4096));
        let packed = boot.bytes[shim::snp::PACKED_OFFSET as usize..].chunks(8);
        let unpacked: Vec<u8> = packed.flat_map(|word| word[1..].to_vec()).collect();
        assert_eq!(unpacked[..32], Sha256::digest(&*waiting.bytes)[..]);
        // As many entries show it to the first stage.
        let shown = (0..shim::snp::SECOND_STAGE_PAGES)
            .map(|n| waiting.gpa + n * PAGE)
            .all(|gpa| boot.bytes.chunks(8).any(|entry| entry == (gpa | 0x61).to_le_bytes()));
        assert!(shown);
    }
}

#[test]
fn the_built_in_first_stage_makes_no_entries() {
    let stage = crate::shim_image::FIRST_STAGE;
    let page = snp::boot_page(stage, C_BIT, 0x300_0000, &[]).unwrap();
    let after = (shim::WORK_END / PAGE + 1 + shim::snp::SECOND_STAGE_PAGES) as usize * 8;
    assert!(page.bytes[after..].chunks(8).all(|word| word[0] & 1 == 0));
}

#[test]
fn the_shim_takes_the_parameters_of_every_plan() {
    let bzimage = inputs(0, &[1; 9000], "quiet", 2);
    let without_initrd = inputs(0, &[], "", 2);
    let elf =
        Inputs::new("k".into(), super::kernel::tests::elf().into(), [1; 9000].into(), "quiet")
            .unwrap();
    for inputs in [bzimage, without_initrd, elf, packed()] {
        for (flag, technology) in [
            ("--snp", shim::Technology::SNP),
            ("--tdx", shim::Technology::TDX),
            ("--plain", shim::Technology::PLAIN),
        ] {
            for (load, accept) in [
                ("hashed", "eager"),
                ("measured", "eager"),
                ("hashed", "lazy,window=16M"),
                ("measured", "lazy"),
            ] {
                for memory in ["512M", "2G", "8G"] {
                    let args = [flag, "--load", load, "--memory", memory, "--accept", accept];
                    let plan =
                        Plan::build(&config(&args), &inputs, CpuCount::ONE, &HostCaps::assumed())
                            .unwrap();
                    let outcome = ::shim::params::check(&parameters_of(&plan), technology);
                    assert_eq!(outcome, Ok(()), "{args:?}");
                }
            }
        }
    }
}

#[test]
fn what_the_shim_unpacks_is_hashed_as_it_is_in_the_file() {
    let file = super::payload::tests::packed_elf();
    let inputs = packed();
    let plan =
        Plan::build(&config(&["--snp"]), &inputs, CpuCount::ONE, &HostCaps::assumed()).unwrap();
    let payload = &plan.staged.iter().find(|blob| blob.tag == "kernel").unwrap().bytes;
    assert!(payload.starts_with(&[2, 0x21, 0x4c, 0x18]));
    assert!(file.windows(payload.len()).any(|part| part == &payload[..]));
    let page = parameters_of(&plan);
    assert_eq!(page.kernel_kind, shim::KernelKind::LZ4);
    assert_eq!(page.kernel.digest[..], Sha256::digest(&payload[..])[..]);
    assert_eq!(page.kernel.size, payload.len() as u64);
    assert_eq!(page.unpacked, Extent { addr: 0xff_f000, size: 0x1100 + 50 });
    // Every byte of it counts.
    let digest = launch_digest(&plan).unwrap();
    let at = file.windows(payload.len()).position(|part| part == &payload[..]).unwrap();
    let mut other = file.clone();
    other[at + payload.len() - 10] ^= 1;
    let mut inputs = Inputs::unhashed("k".into(), other.into(), [1; 9000].into(), "quiet").unwrap();
    inputs.unpack_in_shim().unwrap();
    inputs.hash();
    let changed =
        Plan::build(&config(&["--snp"]), &inputs, CpuCount::ONE, &HostCaps::assumed()).unwrap();
    assert_ne!(launch_digest(&changed).unwrap(), digest);
}

#[test]
fn a_plain_guest_has_the_same_plan_with_the_shim_in_place() {
    let inputs = inputs(0, &[1; 9000], "quiet", 2);
    let build = |args: &[&str]| {
        Plan::build(&config(args), &inputs, CpuCount::ONE, &HostCaps::assumed()).unwrap()
    };
    let (plain, snp) = (build(&["--plain"]), build(&["--snp"]));
    let mut layout = snp.layout.clone();
    layout.staging.len -= shim::snp::SECOND_STAGE_PAGES * PAGE;
    layout.second_stage = 0;
    assert_eq!(plain.layout, layout);
    assert!(plain.private.is_empty());
    let tags = |plan: &Plan| plan.regions.iter().map(|r| r.tag).collect::<Vec<_>>();
    assert_eq!(tags(&plain), ["page-table", "shim", "parameters", "acpi"]);
    assert_eq!(tags(&snp), ["boot", "cpuid", "secrets"]);
    assert!(plain.hashed.is_empty());
}

#[test]
fn a_td_has_few_launch_pages_for_any_number_of_vcpus() {
    let inputs = inputs(0, &[1; 9000], "quiet", 2);
    let build = |args: &[&str], inputs: &Inputs, cpus| {
        let cpus = CpuCount::new(cpus).unwrap();
        Plan::build(&config(args), inputs, cpus, &HostCaps::assumed()).unwrap()
    };
    let order = ["reset", "page-table", "shim", "parameters", "acpi", "mailbox"];
    for cpus in [1, 2, 254] {
        let plan = build(&["--tdx"], &inputs, cpus);
        assert!(plan.page_count() <= 9, "{}", plan.page_count());
        assert_eq!(plan.regions.iter().map(|r| r.tag).collect::<Vec<_>>(), order);
        assert!(plan.regions.iter().all(|r| r.kind == PageKind::Measured));
    }
    let real =
        Inputs::new("k".into(), inputs.kernel.clone(), inputs.initrd.clone(), "quiet").unwrap();
    assert!(build(&["--tdx"], &real, 1).page_count() <= 9, "with the built-in shim");

    let plan = build(&["--tdx"], &inputs, 1);
    let page = |tag| plan.regions.iter().find(|r| r.tag == tag).unwrap();
    let parameters = parameters_of(&plan);
    assert_eq!((parameters.technology, parameters.c_bit), (shim::Technology::TDX, 0));
    // A jump at the reset vector, to the first byte of the shim: E9, and what is missing from its end to there.
    let vector = &page("reset").bytes[0xff0..0xff5];
    let missing = i32::from_le_bytes(vector[1..].try_into().unwrap());
    assert_eq!((vector[0], 0xffff_fff5u32.wrapping_add_signed(missing)), (0xe9, 0x1_1000));
    assert_eq!(page("page-table").bytes, shim::initial_page_table(None).as_bytes());

    let reset = Range { gpa: 0xffff_f000, len: 0x1000 };
    assert!(plan.slots.contains(&reset) && plan.private.contains(&reset));
    assert!(!plan.layout.ram.contains(&reset), "it is not RAM for the kernel");
    let large = build(&["--tdx", "--memory", "8G"], &inputs, 1);
    for pair in large.slots.windows(2).chain(large.private.windows(2)) {
        assert!(pair[0].end() <= pair[1].gpa, "{pair:x?}");
    }
    for region in &plan.regions {
        let range = Range { gpa: region.gpa, len: region.bytes.len() as u64 };
        assert!(plan.private.iter().any(|p| p.gpa <= range.gpa && range.end() <= p.end()));
    }

    let measured = build(&["--tdx", "--load", "measured"], &inputs, 1);
    let tags: Vec<_> = measured.regions.iter().skip(6).map(|r| r.tag).collect();
    assert_eq!(tags, ["kernel", "initrd", "cmdline"]);
}

#[test]
fn a_tds_digest_depends_on_what_is_measured_alone() {
    let base = inputs(0, b"initrd", "quiet", 2);
    let reference = digest(&["--tdx"], &base, 1);
    assert_eq!(reference, digest(&["--tdx"], &inputs(0, b"initrd", "quiet", 2), 1));
    let changed = [
        digest(&["--tdx"], &inputs(1, b"initrd", "quiet", 2), 1),
        digest(&["--tdx"], &inputs(0, b"initrD", "quiet", 2), 1),
        digest(&["--tdx"], &inputs(0, b"initrd", "quiex", 2), 1),
        digest(&["--tdx"], &inputs(0, b"initrd", "quiet", 3), 1),
        digest(&["--tdx"], &base, 2),
        digest(&["--tdx", "--memory", "1G"], &base, 1),
        digest(&["--tdx", "--load", "measured"], &base, 1),
        digest(&["--snp"], &base, 1),
    ];
    for (at, one) in changed.iter().enumerate() {
        assert_ne!(*one, reference, "change {at}");
        assert!(!changed[at + 1..].contains(one), "change {at}");
    }
    // Not what the host's processor can do: no probing reaches a page.
    let mut host = HostCaps::assumed();
    host.c_bit = 47;
    host.cpuid = CpuidTable::from_rows(vec![cpuid::CpuidRow {
        function: 1,
        index: None,
        out: [u32::MAX; 4],
    }]);
    let plan = Plan::build(&config(&["--tdx"]), &base, CpuCount::ONE, &host).unwrap();
    assert_eq!(crate::digest::launch_digest(&plan).unwrap().to_string(), reference);
    let id = format!("--tdx=attributes=0x10000001,mrowner={}", "11".repeat(48));
    assert_eq!(digest(&[&id], &base, 1), reference, "attributes and identifiers are not in MRTD");
}

#[test]
fn every_input_changes_the_digest_and_nothing_else_does() {
    let base = inputs(0, b"initrd", "quiet", 2);
    let reference = digest(&["--snp"], &base, 1);
    assert_eq!(reference, digest(&["--snp"], &inputs(0, b"initrd", "quiet", 2), 1));
    let changed = [
        digest(&["--snp"], &inputs(1, b"initrd", "quiet", 2), 1),
        digest(&["--snp"], &inputs(0, b"initrD", "quiet", 2), 1),
        digest(&["--snp"], &inputs(0, b"initrd", "quiex", 2), 1),
        digest(&["--snp"], &inputs(0, b"initrd", "quiet", 3), 1),
        digest(&["--snp"], &base, 2),
        digest(&["--snp", "--memory", "1G"], &base, 1),
        digest(&["--snp", "--load", "measured"], &base, 1),
        digest(&["--snp", "--marks", "none"], &base, 1),
        digest(&["--snp=secure-tsc"], &base, 1),
        digest(&["--snp", "--console-device", "virtio"], &base, 1),
    ];
    for (at, one) in changed.iter().enumerate() {
        assert_ne!(*one, reference, "change {at}");
        assert!(!changed[at + 1..].contains(one), "change {at}");
    }
    let host_data = format!("--snp=policy=0xb0000,host-data={}", "11".repeat(32));
    assert_eq!(
        digest(&[&host_data], &base, 1),
        reference,
        "policy and host data are not in the digest"
    );
}

#[test]
fn measured_files_are_launch_pages_at_their_place() {
    let inputs = inputs(7, &[9; 5000], "quiet", 2);
    let plan = Plan::build(
        &config(&["--snp", "--load", "measured"]),
        &inputs,
        CpuCount::ONE,
        &HostCaps::assumed(),
    )
    .unwrap();
    assert_eq!(plan.staged.iter().map(|s| s.tag).collect::<Vec<_>>(), ["second-stage"]);
    let kernel = plan.regions.iter().find(|r| r.tag == "kernel").unwrap();
    let offset = usize::try_from(plan.layout.kernel.dest - kernel.gpa).unwrap();
    assert_eq!(kernel.bytes[offset..offset + inputs.kernel.len()], *inputs.kernel);
    // No page belongs to two regions.
    let mut pages: Vec<u64> = plan
        .regions
        .iter()
        .flat_map(|r| (0..r.bytes.len() as u64 / PAGE).map(move |p| r.gpa / PAGE + p))
        .collect();
    let all = pages.len();
    pages.sort_unstable();
    pages.dedup();
    assert_eq!(pages.len(), all);
}

#[test]
fn golden_digests() {
    let inputs = inputs(0, b"initrd", "console=ttyS0", 2);
    let golden = [
        (
            &["--snp"][..],
            1,
            "e0e5e1deef1afe5a4a3d921917a90b4a560f72b8dc917e3316874d7865440ee991167267834a9799c0f0bdfc46c2e2e6",
        ),
        (
            &["--snp"][..],
            4,
            "b6fd74de0379c6f31e6538ffe5e9b67375052470e4275e3a9707aeb40e263dc90642c62aafc02117c13037b750d28d45",
        ),
        (
            &["--snp", "--load", "measured", "--memory", "4G"][..],
            2,
            "ae034ca978dc1157eb0b922e17b3982806422704ecb164de8291592cf313b0880bf97e4e71b53eca5912da1800df4c4b",
        ),
    ];
    let found = golden.map(|(args, cpus, _)| digest(args, &inputs, cpus));
    assert_eq!(found, golden.map(|(_, _, expected)| expected));
}
