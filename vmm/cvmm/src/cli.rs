//! The command line: flags and verbs, their help, and nothing else.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::{AcceptMode, Console, CpuRange, LoadMode, MemorySize};
use crate::device::marks::Mark;
use crate::digest::LaunchDigest;
use crate::error::Complaint;

const EXAMPLES: &str = "\
Examples:
  cvmm --snp --kernel bzImage --initrd initramfs.cpio --memory 1G --cpus 2
  cvmm --plain --kernel bzImage --initrd initramfs.cpio
  cvmm --tdx=quote=vsock:2:4050 --kernel bzImage --initrd initramfs.cpio
  cvmm --snp --kernel bzImage --emulate          # no SEV-SNP processor needed; not confidential
  cvmm --tdx --kernel bzImage --emulate          # no TDX processor needed; not confidential
  cvmm measure --snp --kernel bzImage --cpus 1..4
  cvmm --snp --firmware OVMF.amdsev.fd --kernel bzImage --initrd initramfs.cpio

Exit codes:
    0  the guest powered off, or the mark of --until was reached
    1  internal error of cvmm
    2  unusable command line, kernel, initrd or other input
    3  this host lacks something the guest needs (no /dev/kvm, no SEV-SNP, no TDX, ...)
    4  the firmware, the TDX module or the kernel refused the launch
    5  a file or device of the host could not be read, written or set up
    6  the guest crashed, or asked to be terminated
    7  the launch digest differs from --expect
    8  the guest's kernel panicked
    9  the guest asked for a reset
  124  --timeout ran out
  130  stopped by the user (Ctrl-A x, Ctrl-C, SIGTERM)";

/// Boots Linux directly as a confidential guest, and accounts for every phase, page and exit of it.
#[derive(Debug, Parser)]
#[command(name = "cvmm", version, after_help = EXAMPLES, subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; without a verb, run the guest.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// The flags of a run.
    #[command(flatten)]
    pub flags: Flags,
}

/// What cvmm can do beside running a guest.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the guest (the default).
    Run(Box<Flags>),
    /// Print the launch digest of a guest, without running it.
    Measure {
        /// The flags of the guest.
        #[command(flatten)]
        flags: Box<Flags>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say what a status of firmware or TDX module, a guest's termination code or an exit code means.
    Explain {
        /// The code, for instance 7, 0x16, 5:2 (set:reason) or 0xC000010000000045.
        code: String,
    },
}

/// The flags that a run and `measure` share.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    /// Run a confidential guest: AMD SEV-SNP.
    #[arg(
        long,
        value_name = "policy=…,host-data=…,id-block=…,id-auth=…,certs=…,vcpu-sig=…",
        num_args = 0..=1,
        require_equals = true,
        help_heading = "Protection (exactly one)"
    )]
    pub snp: Option<Option<String>>,
    /// Run an unprotected guest: the baseline.
    #[arg(long, help_heading = "Protection (exactly one)")]
    pub plain: bool,
    /// Run a confidential guest: Intel TDX.
    #[arg(
        long,
        value_name = "attributes=…,mrconfigid=…,mrowner=…,mrownerconfig=…,quote=…",
        num_args = 0..=1,
        require_equals = true,
        help_heading = "Protection (exactly one)"
    )]
    pub tdx: Option<Option<String>>,
    /// Use softkvm, a KVM in software, instead of the host's: the guest is then NOT confidential
    /// [default profile: epyc-milan, for --tdx xeon-spr].
    #[arg(
        long,
        value_name = "PROFILE",
        num_args = 0..=1,
        require_equals = true,
        help_heading = "Run"
    )]
    pub emulate: Option<Option<String>>,

    /// Start this OVMF image in place of the built-in shim (it is measured); it then starts --kernel, if there is one.
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    pub firmware: Option<PathBuf>,
    /// The kernel: bzImage or ELF vmlinux; with --firmware, a bzImage with EFI stub.
    #[arg(short, long, value_name = "FILE", help_heading = "Guest")]
    pub kernel: Option<PathBuf>,
    /// The initramfs.
    #[arg(short, long, value_name = "FILE", alias = "initramfs", help_heading = "Guest")]
    pub initrd: Option<PathBuf>,
    /// The kernel command line, or @FILE [default: console=ttyS0 panic=-1].
    #[arg(
        short,
        long,
        value_name = "TEXT",
        visible_alias = "append",
        allow_hyphen_values = true,
        help_heading = "Guest"
    )]
    pub cmdline: Option<String>,
    /// Guest memory, with suffix K, M or G.
    #[arg(
        short,
        long,
        value_name = "SIZE",
        allow_negative_numbers = true,
        default_value = "512M",
        help_heading = "Guest"
    )]
    pub memory: MemorySize,
    /// Number of vCPUs; for `measure` also a range like 1..4.
    #[arg(
        short = 'j',
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value = "1",
        visible_alias = "vcpus",
        help_heading = "Guest"
    )]
    pub cpus: CpuRange,
    /// How kernel and initrd come under the measurement.
    #[arg(long, value_enum, default_value = "hashed", help_heading = "Guest")]
    pub load: LoadMode,
    /// Who accepts the guest's memory, and when.
    #[arg(long, value_enum, default_value = "eager", help_heading = "Guest")]
    pub accept: AcceptMode,

    /// Use this flat image in place of the built-in shim (it is measured like it); with --firmware, the EFI shim through
    /// which a firmware with secure boot starts --kernel.
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    pub shim: Option<PathBuf>,

    /// The guest's serial console: stdio, file=PATH or none.
    #[arg(long, value_name = "WHERE", default_value = "stdio", value_parser = parse_console, help_heading = "Run")]
    pub console: Console,
    /// Stop, successfully, when the guest reaches this mark (a phase such as U0, or a number).
    #[arg(long, value_name = "MARK", help_heading = "Run")]
    pub until: Option<Mark>,
    /// Stop, with exit code 124, after this many seconds.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = parse_seconds, help_heading = "Run")]
    pub timeout: Option<Duration>,
    /// Do not start unless the launch digest is this one (96 hexadecimal digits).
    #[arg(long, value_name = "DIGEST", help_heading = "Run")]
    pub expect: Option<LaunchDigest>,

    /// Write the run's report as JSON; without it a summary goes to stderr.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub report: Option<PathBuf>,
    /// Write every launch page as one line of JSON, in launch order.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub dump_pages: Option<PathBuf>,
    /// Say more on stderr (-v, -vv).
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,
    /// Write the log to this file instead of stderr.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub log: Option<PathBuf>,
}

/// clap's complaint in our three lines.
pub fn complaint(error: &clap::Error) -> Complaint {
    let text = error.to_string();
    let mut paragraphs = text.split("\n\n").map(str::trim);
    let first: Vec<&str> = paragraphs.next().unwrap_or_default().split_whitespace().collect();
    let first = first.join(" ");
    let mut what = first.strip_prefix("error: ").unwrap_or(&first);
    let mut cause = "the command line cannot be used as it stands".to_owned();
    if let Some(source) = std::error::Error::source(error) {
        // clap appends the reason to the line as well.
        cause = source.to_string();
        what = what.strip_suffix(&format!(": {cause}")).unwrap_or(what);
    }
    let tip = paragraphs.find_map(|paragraph| paragraph.strip_prefix("tip: "));
    let cure = tip.unwrap_or("see `cvmm --help`").to_owned();
    Complaint { error: what.to_owned(), cause, cure }
}

fn parse_console(text: &str) -> Result<Console, String> {
    match text {
        "stdio" => Ok(Console::Stdio),
        "none" => Ok(Console::None),
        _ => match text.strip_prefix("file=") {
            Some(path) if !path.is_empty() => Ok(Console::File(path.into())),
            _ => Err(format!("'{text}' is not a console; write stdio, file=PATH or none")),
        },
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
        .filter(|d| !d.is_zero() && *d <= Duration::from_secs(31_536_000))
        .ok_or_else(|| format!("'{text}' is not a positive number of seconds"))
}
