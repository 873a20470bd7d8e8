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
fn exactly_one_protection_is_named() {
    assert!(problem(&["--kernel", "k"]).contains("exactly one"));
    assert!(problem(&["--plain", "--snp", "--kernel", "k"]).contains("exactly one"));
    assert!(problem(&["--tdx", "--kernel", "k"]).contains("not built yet"));
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
fn an_unmeasured_guest_has_no_digest_to_expect() {
    let digest = "00".repeat(48);
    assert!(problem(&["--plain", "--kernel", "k", "--expect", &digest]).contains("not measured"));
    clap_refuses(&["--snp", "--kernel", "k", "--expect", "00"]);
}
