//! What the command line becomes.

use clap::Parser;

use super::*;
use crate::cli::Cli;
use crate::error::ExitCode;

fn parse(args: &[&str]) -> Result<Config, Error> {
    let cli = Cli::try_parse_from([&["cvmm"], args].concat()).expect("clap takes it");
    Config::parse(&cli.flags)
}

fn clap_refuses(args: &[&str]) -> String {
    Cli::try_parse_from([&["cvmm"], args].concat()).expect_err("clap takes it").to_string()
}

fn problem(args: &[&str]) -> String {
    let error = parse(args).expect_err("accepted");
    assert_eq!(error.exit_code(), ExitCode::Usage, "{error}");
    error.to_string()
}

#[test]
fn defaults_are_strict_and_small() {
    let config = parse(&["--snp", "--kernel", "k"]).unwrap();
    let Technology::Snp(snp) = &config.guest.technology else { panic!("not SNP") };
    assert_eq!(snp.policy.0, 0x30000);
    assert!(!snp.policy.debug());
    assert_eq!(config.guest.memory.bytes(), 512 << 20);
    assert_eq!(config.cpus, CpuCount::ONE);
    assert_eq!(config.guest.cmdline, DEFAULT_CMDLINE);
    assert_eq!(config.guest.load, LoadMode::Hashed);
}

#[test]
fn a_command_line_means_the_same_however_quickly_it_is_read() {
    let lines: [&[&str]; 11] = [
        &["--snp", "--kernel", "k"],
        &["--plain", "-k", "k", "-c", "measure", "-j2", "-vv"],
        &["-k", "k", "--cmdline", "--help", "--tdx=quote=vsock:2:4050"],
        &["run", "--plain", "--kernel", "k"],
        &["--plain", "run"],
        &["measure", "--snp", "--kernel", "k"],
        &["--snp", "measure"],
        &["--help"],
        &["--version"],
        &["--plain", "--memory", "-1"],
        &[],
    ];
    for line in lines {
        let words: Vec<_> = ["cvmm"].iter().chain(line).map(Into::into).collect();
        let whole = Cli::try_parse_from(&words).map_err(|error| error.to_string());
        let quick = Cli::parse_quickly(&words).map_err(|error| error.to_string());
        assert_eq!(format!("{quick:?}"), format!("{whole:?}"), "{line:?}");
    }
}

#[test]
fn only_private_memory_is_prefaulted() {
    let config = parse(&["--tdx", "--kernel", "k", "--accept", "prefault"]).unwrap();
    assert_eq!(config.guest.accept, AcceptMode::Prefault);
    assert!(problem(&["--plain", "--kernel", "k", "--accept=prefault"]).contains("--accept"));
}

#[test]
fn exactly_one_protection_is_named() {
    assert!(problem(&["--kernel", "k"]).contains("exactly one"));
    assert!(problem(&["--plain", "--snp", "--kernel", "k"]).contains("exactly one"));
    assert!(problem(&["--tdx", "--snp", "--kernel", "k"]).contains("exactly one"));
    assert!(problem(&["--tdx", "--plain", "--kernel", "k"]).contains("exactly one"));
}

#[test]
fn snp_options_are_checked_one_by_one() {
    let bad = |options: &str| problem(&[&format!("--snp={options}"), "--kernel", "k"]);
    assert!(bad("policy=0x10000").contains("bit 17"));
    assert!(bad("policy=0x70000").contains("bit 18"));
    assert!(bad("policy=x").contains("not a number"));
    assert!(bad("host-data=00").contains("32 bytes"));
    assert!(bad("host-data=+f").contains("hexadecimal"));
    assert!(bad("id-block=a").contains("id-auth"));
    assert!(bad("policy=0x30000,policy=0x30000").contains("twice"));
    assert!(bad("color=red").contains("no such option"));
    let hex = "0123456789abcdef".repeat(4);
    let config =
        parse(&[&format!("--snp=host-data={hex},policy=0xb0000"), "--kernel", "k"]).unwrap();
    let Technology::Snp(snp) = &config.guest.technology else { panic!("not SNP") };
    assert_eq!(snp.host_data[..3], [1, 0x23, 0x45]);
    assert!(snp.policy.debug());
}

#[test]
fn tdx_options_are_checked_one_by_one() {
    let bad = |options: &str| problem(&[&format!("--tdx={options}"), "--kernel", "k"]);
    assert!(bad("attributes=1").contains("bit 28"));
    assert!(bad("attributes=0x10000002").contains("0x2"));
    assert!(bad("attributes=x").contains("not a number"));
    assert!(bad("mrowner=00").contains("48 bytes"));
    assert!(bad("mrowner=+f").contains("hexadecimal"));
    assert!(bad("mrowner").contains("no value"));
    let id = "0123456789abcdef".repeat(6);
    assert!(bad(&format!("mrowner={id},mrowner={id}")).contains("twice"));
    assert!(bad("quote=tcp:1:2").contains("unix:PATH"));
    assert!(bad("quote=unix:").contains("1 to 107"));
    assert!(bad("quote=vsock:2").contains("vsock:CID:PORT"));
    assert!(bad("color=red").contains("no such option"));
}

#[test]
fn tdx_options_are_read() {
    let tdx = |options: &str| {
        let config = parse(&[options, "--kernel", "k"]).unwrap();
        let Technology::Tdx(tdx) = config.guest.technology else { panic!("not TDX") };
        tdx
    };
    let plain = tdx("--tdx");
    assert_eq!(plain.attributes.0, 1 << 28);
    assert!(!plain.debug());
    assert_eq!((plain.mrconfigid, plain.quote), ([0; 48], None));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("id");
    std::fs::write(&file, [7; 48]).unwrap();
    let id = "0123456789abcdef".repeat(6);
    let full = tdx(&format!(
        "--tdx=attributes=0x10000001,mrconfigid=@{},mrowner={id},mrownerconfig={id},quote=vsock:2:4050",
        file.display()
    ));
    assert!(full.debug());
    assert_eq!(full.mrconfigid, [7; 48]);
    assert_eq!((&full.mrowner[..2], full.mrownerconfig[47]), (&[1, 0x23][..], 0xef));
    assert_eq!(full.quote, Some(tdx::QuoteService::Vsock { cid: 2, port: 4050 }));
    let unix = tdx("--tdx=quote=unix:/run/q:gs");
    assert_eq!(unix.quote, Some(tdx::QuoteService::Unix("/run/q:gs".into())));
}

#[test]
fn emulation_has_a_platform_for_every_technology() {
    let profile = |flag: &str| {
        let config = parse(&[flag, "--kernel", "k", "--emulate"]).unwrap();
        let of = |named| crate::emulate::profile_for(config.guest.technology.name(), named);
        assert_eq!(of(Some(":2m")), of(None) + ":2m");
        assert_eq!(of(Some("epyc-genoa")), "epyc-genoa");
        of(None)
    };
    assert_eq!(
        [profile("--plain"), profile("--snp"), profile("--tdx")],
        ["epyc-milan", "epyc-milan", "xeon-spr"]
    );
}

#[test]
fn quantities_have_limits() {
    for memory in ["0", "1", "12Q", "-1M", "999999999G", "1000K", "99999999999999999999"] {
        clap_refuses(&["--plain", "--kernel", "k", &format!("--memory={memory}")]);
    }
    for cpus in ["0", "255", "256", "-1", "4..2", "x"] {
        clap_refuses(&["--plain", "--kernel", "k", &format!("--cpus={cpus}")]);
    }
    assert!(problem(&["--plain", "--kernel", "k", "--cpus", "1..4"]).contains("range"));
    assert_eq!("1G".parse::<MemorySize>().unwrap().bytes(), 1 << 30);
    assert_eq!("1..4".parse::<CpuRange>().unwrap().counts().count(), 4);
}

#[test]
fn the_command_line_may_come_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cmdline");
    std::fs::write(&file, "quiet root=/dev/vda\n").unwrap();
    let named = format!("@{}", file.display());
    let config = parse(&["--plain", "--kernel", "k", "--append", &named]).unwrap();
    assert_eq!(config.guest.cmdline, "quiet root=/dev/vda");
    std::fs::write(&file, "a\0b").unwrap();
    assert!(problem(&["--plain", "--kernel", "k", "-c", &named]).contains("NUL"));
}

#[test]
fn a_firmware_takes_the_place_of_the_shim() {
    let guest = parse(&["--snp", "--firmware", "f"]).unwrap().guest;
    assert_eq!((guest.kernel, guest.firmware), (None, Some("f".into())));
    parse(&["--tdx", "--firmware", "f", "--kernel", "k", "--initrd", "i", "--shim", "s"]).unwrap();
    assert!(problem(&["--snp"]).contains("no kernel"));
    for flag in ["--initrd", "--cmdline", "--shim"] {
        assert!(problem(&["--snp", "--firmware", "f", flag, "x"]).contains("no kernel"), "{flag}");
    }
    let measured = ["--snp", "--firmware", "f", "--kernel", "k", "--load", "measured"];
    assert!(problem(&measured).contains("in its own way"));
    let unmarked = ["--snp", "--firmware", "f", "--kernel", "k", "--marks", "none"];
    assert!(problem(&unmarked).contains("no marks of the shim's"));
}

#[test]
fn a_kernel_unpacks_itself_unless_the_shim_does() {
    let unpack = |words: &[&str]| {
        let words = [&["--snp", "--kernel", "k"], words].concat();
        parse(&words).unwrap().guest.unpack
    };
    assert_eq!(unpack(&[]), UnpackMode::Kernel);
    assert_eq!(unpack(&["--unpack", "kernel"]), UnpackMode::Kernel);
    assert_eq!(unpack(&["--unpack", "shim"]), UnpackMode::Shim);
    let firmware = ["--snp", "--firmware", "f", "--kernel", "k", "--unpack", "shim"];
    assert!(problem(&firmware).contains("unpacks itself"));
}

#[test]
fn a_signature_is_for_guests_that_start_in_a_firmware() {
    let signature = |options: &str| {
        let config = parse(&[options, "--firmware", "f"]).unwrap();
        let Technology::Snp(snp) = config.guest.technology else { panic!("not SNP") };
        snp.vcpu_signature
    };
    assert_eq!(signature("--snp"), 0x80_0f12);
    assert_eq!(signature("--snp=vcpu-sig=0xa00f11"), 0xa0_0f11);
    assert!(problem(&["--snp=vcpu-sig=1", "--kernel", "k"]).contains("firmware"));
    assert!(problem(&["--snp=vcpu-sig=x", "--firmware", "f"]).contains("not a number"));
    assert!(problem(&["--snp=vcpu-sig=0x100000000", "--firmware", "f"]).contains("32 bits"));
}

#[test]
fn an_unmeasured_guest_has_no_digest_to_expect() {
    let digest = "00".repeat(48);
    assert!(problem(&["--plain", "--kernel", "k", "--expect", &digest]).contains("not measured"));
    clap_refuses(&["--snp", "--kernel", "k", "--expect", "00"]);
}

#[test]
fn acceptance_is_eager_or_lazy_with_a_window() {
    let accept =
        |text: &str| parse(&["--tdx", "--kernel", "k", "--accept", text]).unwrap().guest.accept;
    assert_eq!(accept("eager"), AcceptMode::Eager);
    assert_eq!(accept("prefault"), AcceptMode::Prefault);
    assert_eq!(accept("lazy"), AcceptMode::Lazy { window: None, prefault: false, parallel: false });
    let window = AcceptMode::Lazy {
        window: Some(MemorySize::from_mib(64)),
        prefault: false,
        parallel: false,
    };
    assert_eq!(
        (accept("lazy,window=64M"), window.to_string().as_str()),
        (window, "lazy,window=64M")
    );
    let both = AcceptMode::Lazy {
        window: Some(MemorySize::from_mib(64)),
        prefault: true,
        parallel: false,
    };
    for text in ["lazy,window=64M,prefault", "lazy,prefault,window=64M"] {
        assert_eq!(accept(text), both);
    }
    assert_eq!(both.to_string(), "lazy,window=64M,prefault");
    for text in ["parallel", "lazy,parallel", "lazy,window=64M,prefault,parallel"] {
        assert_eq!((accept(text).is_parallel(), accept(text).to_string().as_str()), (true, text));
    }
    assert!(!both.is_parallel() && !AcceptMode::Parallel.prefaults());
    for (technology, complaint) in [("--snp", "not for SEV-SNP"), ("--plain", "no private memory")]
    {
        for text in ["parallel", "lazy,parallel"] {
            let refusal = problem(&[technology, "--kernel", "k", "--accept", text]);
            assert!(refusal.contains(complaint), "{refusal}");
        }
    }
    for (text, complaint) in [
        ("lazy,prefault,prefault", "or has it once"),
        ("lazy,parallel,parallel", "or has it once"),
        ("parallel,prefault", "parallel has no options"),
        ("late", "'late' is none of eager, prefault, parallel and lazy"),
        ("eager,window=2M", "eager has no options"),
        ("lazy,size=2M", "lazy,window=64M"),
        ("lazy,window=", "is not a size"),
        ("lazy,window=5", "is not a whole number of MiB"),
    ] {
        let refusal = clap_refuses(&["--snp", "--kernel", "k", "--accept", text]);
        assert!(refusal.contains(complaint), "{refusal}");
    }
    let refusal = problem(&["--snp", "--firmware", "f", "--kernel", "k", "--accept", "lazy"]);
    assert!(refusal.contains("a firmware decides itself"), "{refusal}");
}

#[test]
fn a_console_device_brings_its_command_line() {
    let cmdline = |device: &str| {
        let config = parse(&["--snp", "--kernel", "k", "--console-device", device]).unwrap();
        config.guest.cmdline
    };
    assert_eq!(cmdline("serial"), DEFAULT_CMDLINE);
    assert_eq!(cmdline("virtio"), "console=hvc0 panic=-1");
    assert_eq!(cmdline("none"), "panic=-1");
    let given = ["--snp", "--kernel", "k", "--console-device", "virtio", "--cmdline", "quiet"];
    assert_eq!(parse(&given).unwrap().guest.cmdline, "quiet");
    assert!(clap_refuses(&["--snp", "--console-device", "hvc0"]).contains("invalid value"));
    let firmware = ["--snp", "--firmware", "f", "--kernel", "k", "--console-device", "virtio"];
    assert!(problem(&firmware).contains("writes to the serial line"));
}

#[test]
fn a_secure_time_stamp_counter_is_a_switch() {
    let secure = |options: &str| {
        let config = parse(&[options, "--kernel", "k"]).unwrap();
        let Technology::Snp(snp) = config.guest.technology else { panic!("not SNP") };
        snp.secure_tsc
    };
    assert!(!secure("--snp"));
    assert!(secure("--snp=secure-tsc"));
    assert!(secure("--snp=policy=0x30000,secure-tsc"));
    assert!(problem(&["--snp=secure-tsc,secure-tsc", "--kernel", "k"]).contains("twice"));
    assert!(problem(&["--snp=secure-tsc=1", "--kernel", "k"]).contains("no such option"));
}
