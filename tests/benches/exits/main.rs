//! What leaving the guest costs on softkvm's model of a Genoa machine, beside what was measured on one: is the model
//! calibrated?
//!
//! `cargo bench -p cvmm-tests --bench exits [-- --json FILE]`
//!
//! guest-init's probes in a Debian kernel, as an SNP guest and plain. The published values are medians of CVM_eval
//! (github.com/TUM-DSE/CVM_eval, raw logs of its exit benchmark, EPYC 9334, 2.7 GHz), taken by a kernel module; ours are
//! taken by a program, whose way through the kernel's #VC handler is longer by some dozen instructions. Of RDMSR, which a
//! program cannot do itself, the cost of the same way to a register that does not leave the guest is taken off.
//!
//! Ends with a failure if a value deviates by more than a tenth.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::{Value, json};

const KERNEL: &str = "7.2";
const PROFILE: &str = "epyc-genoa";
const CMDLINE: &str =
    "console=ttyS0 panic=-1 cvmm.probe=cpuid,rdmsr,pio,hypercall cvmm.probe.n=1000";
/// At most this much of the published value, in percent.
const TOLERANCE: f64 = 10.0;

/// Technology, operation, probe, published nanoseconds (the middle where a range was), and what it is made of.
const ROWS: [(&str, &str, &str, f64, &[&str]); 9] = [
    ("snp", "#VC without exit (CPUID)", "cpuid-guest", 640.0, &["vc"]),
    ("snp", "CPUID", "cpuid-host", 3855.0, &["vc", "vmgexit"]),
    ("snp", "RDMSR", "rdmsr", 3573.0, &["vc", "vmgexit"]),
    ("snp", "port I/O, in KVM", "pio-kernel", 3885.0, &["vc", "vmgexit", "port_io"]),
    ("snp", "hypercall", "hypercall", 3553.0, &["vc", "vmgexit"]),
    ("plain", "CPUID", "cpuid-host", 1229.0, &["exit"]),
    ("plain", "RDMSR", "rdmsr", 1290.0, &["exit"]),
    ("plain", "port I/O, in KVM", "pio-kernel", 1635.0, &["exit", "port_io"]),
    ("plain", "hypercall", "hypercall", 1255.0, &["exit"]),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let file = words.iter().skip_while(|word| *word != "--json").nth(1);
    let files = Files::fetch();
    let reports = ["snp", "plain"].map(|technology| (technology, files.boot(technology)));
    println!(
        "\nround trips on softkvm, profile {PROFILE}, Linux {KERNEL}: modelled, medians of 1000\n"
    );
    println!("{:6} {:26} {:>14} {:>14} {:>12}", "", "", "published ns", "modelled ns", "deviation");
    let (mut rows, mut missed, mut guessed) = (Vec::new(), false, false);
    for (technology, operation, probe, published, costs) in ROWS {
        let report = reports.iter().find(|(name, _)| *name == technology).map(|(_, report)| report);
        let report = report.expect("every row is of a technology that was run");
        let modelled = nanoseconds(report, probe);
        let deviation = (modelled / published - 1.0) * 100.0;
        let placeholder = rests_on_placeholder(report, costs);
        guessed |= placeholder;
        missed |= deviation.abs() > TOLERANCE;
        println!(
            "{technology:6} {operation:26} {published:14.0} {modelled:14.0} {deviation:+10.1} %{}{}",
            if placeholder { " *" } else { "" },
            if deviation.abs() > TOLERANCE { "  MISSED" } else { "" },
        );
        rows.push(json!({
            "technology": technology,
            "operation": operation,
            "published_ns": published,
            "modelled_ns": modelled,
            "deviation_percent": deviation,
            "placeholder": placeholder,
        }));
    }
    for (technology, report) in &reports {
        let modelled = nanoseconds(report, "pio-monitor");
        println!("{technology:6} {:26} {:>14} {modelled:14.0}", "port I/O, in the monitor", "-");
    }
    println!(
        "\n{}the port of the monitor has no published value: what it adds is an estimate",
        if guessed {
            "* rests on a cost that nobody has published; "
        } else {
            "no cost here is a placeholder; "
        }
    );
    if let Some(file) = file {
        let result =
            json!({ "schema": "cvmm-exits/1", "profile": PROFILE, "kernel": KERNEL, "rows": rows });
        std::fs::write(file, format!("{result:#}\n")).expect("the result can be written");
    }
    if missed {
        eprintln!("a value deviates by more than {TOLERANCE} %");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// A probe's median. Of RDMSR, the difference that the exit makes.
fn nanoseconds(report: &Value, name: &str) -> f64 {
    let rows = report["probes"].as_array().expect("probes").iter();
    let rows = rows.filter(|row| row["name"] == name);
    let medians: Vec<f64> = rows
        .map(|row| {
            assert_eq!(row["clock"], "modelled", "{row}");
            row["p50"].as_f64().unwrap_or_else(|| panic!("{name} is missing: {row}")) / 1e3
        })
        .collect();
    match medians[..] {
        [median] => median,
        [far, near] if name == "rdmsr" => far - near,
        _ => panic!("{name}: {medians:?}"),
    }
}

fn rests_on_placeholder(report: &Value, costs: &[&str]) -> bool {
    let known = report["platform"]["placeholder_costs"].as_array();
    let guessed = known.expect("softkvm names its placeholders");
    guessed.iter().any(|name| costs.iter().any(|cost| name == cost))
}

/// What a boot needs.
struct Files {
    cvmm: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl Files {
    /// Builds and fetches it.
    fn fetch() -> Self {
        let release = target().join("release");
        cargo(&["build", "--release", "--quiet", "-p", "cvmm", "-p", "softkvm-preload"]);
        let kernel = cargo(&["xtask", "kernel", KERNEL]);
        let initramfs = cargo(&["xtask", "initramfs", KERNEL]);
        let line = |text: &str| PathBuf::from(text.lines().next().expect("a path"));
        Self { cvmm: release.join("cvmm"), kernel: line(&kernel), initramfs: line(&initramfs) }
    }

    fn boot(&self, technology: &str) -> Value {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let report = dir.path().join("report.json");
        let status = Command::new(&self.cvmm)
            .arg(format!("--{technology}"))
            .arg(format!("--emulate={PROFILE}"))
            .args(["--memory", "512M", "--timeout", "300", "--console", "none"])
            .arg("--kernel")
            .arg(&self.kernel)
            .arg("--initrd")
            .arg(&self.initramfs)
            .args(["--cmdline", CMDLINE, "--report"])
            .arg(&report)
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "the {technology} guest did not end well"
        );
        let text = std::fs::read(&report).expect("the report was written");
        serde_json::from_slice(&text).expect("the report is JSON")
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), PathBuf::from)
}

/// Runs cargo; gives what it printed.
fn cargo(words: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output =
        Command::new(cargo).args(words).current_dir(root()).output().expect("cargo starts");
    assert!(
        output.status.success(),
        "cargo {}: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
