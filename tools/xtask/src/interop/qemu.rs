//! Debian's QEMU as a monitor of every kind of guest that softkvm has.

mod console;
mod emulator;
mod varstore;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use console::Console;
use emulator::{Emulator, Machine};

use super::Stage;
use super::row::{Outcome, Row};
use crate::kernel::{self, Kernel};
use crate::run::{capture, root};
use crate::{initramfs, oracle};

/// How long one guest may take.
const LIMIT: Duration = Duration::from_secs(300);
/// 64 bytes that the guest puts into its attestation report.
const REPORT_DATA: [u8; 64] = [0xab; 64];
/// The AMD processor that every part with SNP can play. It takes the vendor of the processor that QEMU runs on unless told;
/// leaf 0xD, which a guest of SNP takes amiss without XSAVES, is above its highest.
const EPYC: &str = "EPYC-v4,vendor=AuthenticAMD,level=7";
/// The processor of the profile xeon-spr: `host` takes these from the processor that QEMU runs on, too, and the TDX module
/// refuses any but the platform's own.
const SPR: &str = "host,family=6,model=0x8f,stepping=8";

/// What all guests are made of.
struct Parts<'a> {
    emulator: &'a Emulator,
    stage: &'a Stage,
    kernel: Kernel,
    initramfs: std::path::PathBuf,
}

/// A guest: its name, and what runs it and says what was seen.
type Guest = (&'static str, fn(&Parts<'_>) -> Result<String>);

const GUESTS: [Guest; 5] = [
    ("qemu/microvm", microvm),
    ("qemu/q35", q35),
    ("qemu/ovmf", ovmf),
    ("qemu/tdx", tdx),
    ("qemu/snp", snp),
];

/// Boots Debian's kernel in every guest.
pub fn run(stage: &Stage) -> Result<Vec<Row>> {
    let emulator = Emulator::fetch(stage)?;
    let version = emulator.version()?;
    let kernel = kernel::fetch("6.12")?;
    let initramfs = initramfs::build(&kernel)?;
    let parts = Parts { emulator: &emulator, stage, kernel, initramfs };
    let test = |(name, guest): Guest| {
        let start = Instant::now();
        let (outcome, reason) = match guest(&parts) {
            Ok(seen) => (Outcome::Passed, seen),
            Err(error) => (Outcome::Failed, format!("{error:#}")),
        };
        eprintln!("{name}: {} s", start.elapsed().as_secs());
        Row::new(name, &version, outcome, reason)
    };
    Ok(GUESTS.into_iter().map(test).collect())
}

impl Parts<'_> {
    /// QEMU with the kernel in its hands.
    fn machine(&self, name: &str, profile: &str) -> Machine {
        self.emulator
            .machine(name, profile)
            .arg("-kernel")
            .arg(&self.kernel.bzimage)
            .arg("-initrd")
            .arg(&self.initramfs)
            .args(["-append", &cmdline(), "-m", "512"])
    }

    /// Runs it to user space and looks for what every guest must say.
    fn boot(&self, machine: Machine, cpus: u32) -> Result<Console> {
        let console = machine.run(self.stage.limit(LIMIT))?;
        console.says(&format!("cvmm-init: {cpus} cpus online"))?;
        console.says("cvmm-init: ready")?;
        Ok(console)
    }
}

fn cmdline() -> String {
    format!("console=ttyS0 panic=-1 cvmm.report={}", hex(&REPORT_DATA))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SeaBIOS without a PCI bus; 8259s, 8254 and IOAPICs in QEMU, local APIC in KVM.
fn microvm(parts: &Parts<'_>) -> Result<String> {
    let machine = parts.machine("microvm", "epyc-milan").args(["-M", "microvm", "-cpu", EPYC]);
    parts.boot(machine, 1)?;
    Ok("SeaBIOS, 1 vCPU, to user space".to_owned())
}

/// SeaBIOS on a PC with all chips in KVM.
fn q35(parts: &Parts<'_>) -> Result<String> {
    let machine = parts.machine("q35", "epyc-milan").args([
        "-M",
        "q35,kernel-irqchip=on",
        "-cpu",
        EPYC,
        "-smp",
        "2",
    ]);
    parts.boot(machine, 2)?;
    Ok("SeaBIOS, 2 vCPUs, to user space".to_owned())
}

/// Plain OVMF: 16-bit and 32-bit code in a read-only slot, variables in another that is one now and then.
fn ovmf(parts: &Parts<'_>) -> Result<String> {
    let images = parts.emulator.root.join("usr/share/OVMF");
    let variables = parts.emulator.scratch("variables.fd");
    fs::copy(images.join("OVMF_VARS_4M.fd"), &variables).context("the variables of OVMF")?;
    let flash = |file: &Path, options: &str| {
        format!("if=pflash,format=raw{options},file={}", file.display())
    };
    let machine = parts
        .machine("ovmf", "xeon-spr")
        .args(["-M", "q35", "-cpu", SPR, "-smp", "2"])
        .args(["-drive", &flash(&images.join("OVMF_CODE_4M.fd"), ",readonly=on")])
        .args(["-drive", &flash(&variables, "")]);
    parts.boot(machine, 2)?;
    Ok("OVMF in flash, 2 vCPUs, to user space".to_owned())
}

/// A TD: OVMF is measured, and MRTD is what comes of it.
fn tdx(parts: &Parts<'_>) -> Result<String> {
    let firmware = parts.emulator.root.join("usr/share/ovmf/OVMF.inteltdx.ms.fd");
    // Microsoft's key in this image's variables has signed no kernel. Variables are not in MRTD.
    let open = parts.emulator.scratch("inteltdx.fd");
    fs::write(&open, varstore::without(&fs::read(&firmware)?, "PK")?)?;
    let machine = parts
        .machine("tdx", "xeon-spr")
        .args(["-object", "tdx-guest,id=td"])
        .args(["-M", "q35,kernel-irqchip=split,confidential-guest-support=td"])
        .args(["-cpu", SPR, "-smp", "2"])
        .arg("-bios")
        .arg(&open);
    let console = parts.boot(machine, 2)?;
    console.says("Memory Encryption Features active: Intel TDX")?;
    let report = console.dump("tdreport")?;
    let mrtd = hex(report.get(528..576).context("the TDREPORT is too short")?);
    ensure!(report.get(128..192) == Some(&REPORT_DATA[..]), "the report holds other data");
    let script = root().join("tests/oracles/mrtd.py");
    let expected = line(Command::new(oracle::python()?).arg(script).arg(&firmware))?;
    same("MRTD", &mrtd, &expected)?;
    Ok(format!("OVMF, 2 vCPUs, to user space; MRTD {}… as predicted", &mrtd[..16]))
}

/// A guest of SEV-SNP: OVMF measures kernel, initrd and command line by their hashes.
fn snp(parts: &Parts<'_>) -> Result<String> {
    let firmware = parts.emulator.root.join("usr/share/ovmf/OVMF.amdsev.fd");
    // QEMU asks the processor that it runs on for the C-bit, and goes on only with that.
    let bare = std::arch::x86_64::__cpuid(0x8000_001f).ebx & 0x3f;
    let object =
        format!("sev-snp-guest,id=sev,cbitpos={bare},reduced-phys-bits=1,kernel-hashes=on");
    let machine = parts
        .machine("snp", "epyc-milan")
        .softkvm("--host-c-bit")
        .args(["-object", &object, "-object", "memory-backend-memfd,id=ram,size=512M"])
        .args(["-M", "q35,confidential-guest-support=sev,memory-backend=ram"])
        .args(["-cpu", EPYC, "-smp", "2"])
        .arg("-bios")
        .arg(&firmware);
    let console = parts.boot(machine, 2)?;
    console.says("Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP")?;
    let report = console.dump("report")?;
    let digest = hex(report.get(0x90..0xc0).context("the attestation report is too short")?);
    ensure!(report.get(0x50..0x90) == Some(&REPORT_DATA[..]), "the report holds other data");
    let expected = line(
        Command::new(oracle::python()?.with_file_name("sev-snp-measure"))
            .args(["--mode", "snp", "--vcpus", "2", "--vcpu-type", "EPYC-v4"])
            .args(["--append", &cmdline(), "--ovmf"])
            .arg(&firmware)
            .arg("--kernel")
            .arg(&parts.kernel.bzimage)
            .arg("--initrd")
            .arg(&parts.initramfs),
    )?;
    same("launch digest", &digest, &expected)?;
    Ok(format!("OVMF, 2 vCPUs, to user space; launch digest {}… as predicted", &digest[..16]))
}

/// What an oracle prints.
fn line(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8(capture(command)?)?.trim().to_owned())
}

fn same(what: &str, seen: &str, expected: &str) -> Result<()> {
    if seen != expected {
        bail!("the guest reports {what} {seen}, and {expected} was predicted");
    }
    Ok(())
}
