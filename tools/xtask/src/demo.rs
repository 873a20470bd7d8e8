//! `cargo xtask demo`: a stock kernel as an SEV-SNP guest, on any Linux machine.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{images, initramfs, kernel, run};

/// What to show.
#[derive(clap::Args)]
pub struct Args {
    /// Which kernel: 6.1, 6.12, 7.2 or minimal.
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// Without memory encryption, for comparison.
    #[arg(long)]
    plain: bool,
    /// Virtual processors.
    #[arg(short = 'j', long, default_value_t = 2)]
    cpus: u32,
    /// Guest memory.
    #[arg(short, long, default_value = "512M")]
    memory: String,
}

/// 64 bytes that the guest puts into its attestation report.
const REPORT_DATA: &[u8; 64] = b"cvmm demo: this sentence is inside the signed report  0123456789";

/// Fetches what is missing, says what is going to happen, and boots.
pub fn demo(args: &Args) -> Result<()> {
    eprintln!("[1/4] building cvmm and softkvm (release mode, a few minutes the first time)");
    let tools = images::tools()?;
    eprintln!("[2/4] fetching Debian's cloud kernel {}", args.kernel);
    let kernel = kernel::fetch(&args.kernel)?;
    eprintln!("[3/4] writing an initramfs with guest-init and the attestation modules");
    let initramfs = initramfs::build(&kernel)?;
    let technology = if args.plain { "--plain" } else { "--snp" };
    let mut command = Command::new(tools.join("cvmm"));
    command
        .args([technology, "--emulate"])
        .arg("--kernel")
        .arg(&kernel.bzimage)
        .arg("--initrd")
        .arg(&initramfs)
        .args(["--memory", &args.memory, "--cpus", &args.cpus.to_string()])
        .args(["--timeout", "300"])
        .arg("--cmdline")
        .arg(format!("console=ttyS0 panic=-1 cvmm.report={}", hex(REPORT_DATA)));
    eprintln!("[4/4] booting\n");
    explain(args);
    eprintln!("$ {}\n", render(&command));
    let status = command.status().context("cannot start cvmm")?;
    if !status.success() {
        bail!("the guest did not end well: cvmm said {status} (see the lines above)");
    }
    eprintln!("\nThe same run without protection: cargo xtask demo --plain");
    Ok(())
}

fn explain(args: &Args) {
    if args.plain {
        eprintln!("An unmodified Debian kernel boots as an ordinary guest of softkvm.");
        return;
    }
    eprintln!(
        "You are about to see an unmodified Debian kernel boot as an AMD SEV-SNP guest, on a\n\
         processor made of software: softkvm answers /dev/kvm and /dev/sev, checks every page\n\
         against a reverse map table, and signs attestation reports with keys of its own.\n\
         Nothing here is confidential; everything is as it would be, bit by bit.\n\n\
         Watch for three things:\n\
           - 'Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP', the kernel's own words;\n\
           - the attestation report that the guest fetched, printed in hex by its /init;\n\
           - cvmm's table at the end: where the time went, which pages changed owner, and the\n\
             launch digest, equal to the measurement inside the report."
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn render(command: &Command) -> String {
    let root = run::root();
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    for word in &mut words {
        if let Ok(relative) = std::path::Path::new(word.as_str()).strip_prefix(&root) {
            *word = relative.to_string_lossy().into_owned();
        }
        if word.contains(' ') {
            *word = format!("'{word}'");
        }
    }
    words.join(" ")
}
