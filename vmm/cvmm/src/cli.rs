//! The command line: flags and verbs, their help, and nothing else.

pub mod bench;
pub mod pool;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::check::Asked;
use crate::config::{
    AcceptMode, Console, ConsoleDevice, CpuRange, DEFAULT_CMDLINE, LoadMode, MarksMode, MemorySize,
    UnpackMode,
};
use crate::device::marks::Mark;
use crate::digest::LaunchDigest;
use crate::error::Complaint;
use bench::{BenchFlags, CompareFlags, ModelFlags};
use pool::PoolVerb;

const EXAMPLES: &str = "\
Examples:
  cvmm --snp --kernel bzImage --initrd initramfs.cpio --memory 1G --cpus 2
  cvmm --plain --kernel bzImage --initrd initramfs.cpio
  cvmm --tdx=quote=vsock:2:4050 --kernel bzImage --initrd initramfs.cpio
  cvmm --snp --kernel bzImage --emulate          # no SEV-SNP processor needed; not confidential
  cvmm --tdx --kernel bzImage --emulate          # no TDX processor needed; not confidential
  cvmm measure --snp --kernel bzImage --cpus 1..4
  cvmm --snp --firmware OVMF.amdsev.fd --kernel bzImage --initrd initramfs.cpio
  cvmm check                                     # can this host run guests, and if not, what is missing?
  cvmm selftest                                  # run every kind of guest that it can
  cvmm bench --list                              # experiments that run guests again and again

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

/// The flags of a run and nothing else.
#[derive(Debug, Parser)]
#[command(name = "cvmm", disable_help_flag = true)]
struct FlagsOnly {
    #[command(flatten)]
    flags: Flags,
}

impl Cli {
    /// Reads a command line, the program's name first. Where it is flags of a run, nothing of the verbs is set up: that takes
    /// clap about as long as KVM takes to make a VM, and a guest waits.
    ///
    /// # Errors
    /// clap's, which may also be the answer to --help.
    pub fn parse_quickly(words: &[OsString]) -> Result<Cli, clap::Error> {
        if words.get(1).is_some_and(|word| word.as_encoded_bytes().starts_with(b"-"))
            && let Ok(FlagsOnly { flags }) = FlagsOnly::try_parse_from(words)
        {
            return Ok(Cli { verb: None, flags });
        }
        Cli::try_parse_from(words)
    }
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
    /// Say whether this host can run guests, and what to do about everything that it lacks.
    Check(CheckFlags),
    /// Run every kind of guest that this host can run, and write one archive for a bug report.
    Selftest(Box<SelftestFlags>),
    /// Show what runs were: tables, a page, a trace, values for other tools.
    Report(ReportFlags),
    /// Run a matrix of guests again and again, keep every report, and say how they differ.
    Bench(Box<BenchFlags>),
    /// Say what changed between two reports, or between two files of `cvmm bench`.
    Compare(CompareFlags),
    /// Estimate a boot by unit costs, beside what a run took.
    Model(Box<ModelFlags>),
    /// Keep guests launched and sealed, and hand them out over a socket.
    #[command(subcommand)]
    Pool(PoolVerb),
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
        value_name = "policy=…,host-data=…,id-block=…,id-auth=…,certs=…,vcpu-sig=…,secure-tsc",
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
    /// [default profile: epyc-milan, for --tdx xeon-spr]. Behind a profile's name: ':low' or ':high' for costs at that end
    /// of their ranges, ':2m' for a host that backs private memory with 2 MiB.
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
    /// The kernel command line, or @FILE [default: console=ttyS0 panic=-1, or what names the --console-device].
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
    /// Who unpacks a bzImage (this is measured).
    ///
    /// kernel: the code that it brings along. shim: the shim, which then starts the kernel as it starts an ELF vmlinux, and
    /// spares it the page tables and the search for a place; the bzImage must be compressed with LZ4 (CONFIG_KERNEL_LZ4), and
    /// its kernel runs where it was linked to, without KASLR. What is hashed is the payload as it is in the file.
    #[arg(long, value_enum, default_value = "kernel", help_heading = "Guest")]
    pub unpack: UnpackMode,
    /// Who accepts the guest's memory, and when.
    ///
    /// eager: the shim, all of it, before the kernel runs. prefault: the same, but the host finds and maps the memory before the
    /// guest runs. parallel (TDX): as eager, but all processors do it. lazy: the shim what kernel and files need, the kernel (6.5 or newer,
    /// CONFIG_UNACCEPTED_MEMORY) the rest when it needs it. With window=SIZE the shim also accepts so much at the top of
    /// memory, above 4 GiB: the kernel starts with it, and a kernel with KASLR may place itself there. With prefault or
    /// parallel as well the same holds for all that the shim accepts.
    #[arg(
        long,
        value_name = "eager|prefault|parallel|lazy[,window=SIZE][,prefault][,parallel]",
        default_value = "eager",
        help_heading = "Guest"
    )]
    pub accept: AcceptMode,
    /// Which phase marks the shim writes (this is measured); a mark costs the guest an exit.
    #[arg(long, value_enum, default_value = "all", help_heading = "Guest")]
    pub marks: MarksMode,

    /// Which device the guest's console is (the ACPI tables name it, so this is measured): serial costs an exit or two for
    /// each byte, virtio (hvc0) one for each piece of text.
    #[arg(
        long,
        value_enum,
        value_name = "DEVICE",
        default_value = "serial",
        help_heading = "Guest"
    )]
    pub console_device: ConsoleDevice,
    /// Use this flat image in place of the built-in shim (it is measured like it); with --firmware, the EFI shim through
    /// which a firmware with secure boot starts --kernel.
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    pub shim: Option<PathBuf>,

    /// Where the guest's console goes: stdio, file=PATH or none.
    #[arg(long, value_name = "WHERE", default_value = "stdio", value_parser = parse_console, help_heading = "Run")]
    pub console: Console,
    /// Stop, successfully, when the guest reaches this mark (a phase such as U0, or a number).
    #[arg(long, value_name = "MARK", help_heading = "Run")]
    pub until: Option<Mark>,
    /// Stop, with exit code 124, after this many seconds.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = parse_seconds, help_heading = "Run")]
    pub timeout: Option<Duration>,
    /// How long KVM polls for a halted vCPU before it gives the processor away; 0 is not at all [default: the host's
    /// kvm.halt_poll_ns].
    #[arg(long, value_name = "NANOSECONDS", help_heading = "Run")]
    pub halt_poll_ns: Option<u32>,
    /// Do not start unless the launch digest is this one (96 hexadecimal digits).
    #[arg(long, value_name = "DIGEST", help_heading = "Run")]
    pub expect: Option<LaunchDigest>,

    /// Wait on standard input, a socket, until a client of `cvmm pool` takes the guest.
    #[arg(long, hide = true)]
    pub hold: bool,

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

const CHECK_EXAMPLES: &str = "\
Examples:
  cvmm check                   # everything; code 0 if plain and confidential guests (of one kind) can run
  cvmm check --snp             # code 0 if SEV-SNP guests can run
  sudo cvmm check --tdx        # root may see more: the BIOS's settings, the kernel's log
  cvmm check --json | jq -r '.groups[].findings[] | select(.verdict == \"missing\") | .cure // .follows'
  cvmm check --emulate         # the same of softkvm, a KVM in software

Each line has what was found and what is needed, and, where that is not the same, the one command or setting that changes it.
    ok       as it should be
    missing  a guest cannot run without it
    advice   guests run, but start or run slower than they could
    unknown  it cannot be seen from here

Exit codes:
    0  every technology that was asked for is ready; without a flag, plain and one of --snp and --tdx
    3  something is missing

docs/check.md explains every line and the layout of --json.";

/// The flags of `cvmm check`.
#[derive(Clone, Debug, Args)]
#[command(after_help = CHECK_EXAMPLES)]
pub struct CheckFlags {
    /// Look at what unprotected guests need.
    #[arg(long)]
    pub plain: bool,
    /// Look at what SEV-SNP guests need.
    #[arg(long)]
    pub snp: bool,
    /// Look at what TDX guests need.
    #[arg(long)]
    pub tdx: bool,
    /// Look at softkvm, a KVM in software, instead of this host [default profile: epyc-milan, for --tdx alone xeon-spr].
    #[arg(long, value_name = "PROFILE", num_args = 0..=1, require_equals = true)]
    pub emulate: Option<Option<String>>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

impl CheckFlags {
    /// What they ask for by name.
    pub fn asked(&self) -> Option<Asked> {
        let CheckFlags { plain, snp, tdx, .. } = *self;
        (plain || snp || tdx).then_some(Asked { plain, snp, tdx })
    }
}

const SELFTEST_EXAMPLES: &str = "\
Examples:
  cvmm selftest                                  # with a built-in guest of a few hundred bytes
  cvmm selftest --kernel bzImage --initrd initramfs.cpio
  cvmm selftest --only snp,plain-hashed          # some rungs
  cvmm selftest --emulate                        # the whole ladder on softkvm

Rungs: plain-exits; hashed-1, hashed-4, measured-1 and measured-4 of plain, snp and tdx; attest of snp and tdx.
    exits      the built-in guest in the place of the shim
    hashed-N   kernel and initrd are hashed by the shim; N vCPUs
    measured-N kernel and initrd are measured page by page
    attest     the guest fetches a report, which has to name the digest that cvmm measure predicts; with guest-init

Each rung is cvmm itself with --report. What `cvmm check` says is missing is skipped. The archive holds check-*.json,
selftest.json, and of every rung report, command line and cvmm's own words; no bytes of the guest.

Exit codes: 0 if every rung that this host can run has passed, 3 if it can run none, else that of the first that failed.";

/// The flags of `cvmm selftest`.
#[derive(Clone, Debug, Args)]
#[command(after_help = SELFTEST_EXAMPLES)]
pub struct SelftestFlags {
    /// Use softkvm, a KVM in software, instead of the host's [default profiles: epyc-milan, for TDX xeon-spr].
    #[arg(long, value_name = "PROFILE", num_args = 0..=1, require_equals = true)]
    pub emulate: Option<Option<String>>,
    /// Where the archive goes.
    #[arg(long, value_name = "FILE", default_value = "cvmm-selftest.tar")]
    pub out: PathBuf,
    /// The rungs to run, or the beginnings of their names, separated by commas.
    #[arg(long, value_name = "LIST")]
    pub only: Option<String>,
    /// A kernel that powers off by itself: bzImage or ELF vmlinux [default: a built-in guest].
    #[arg(short, long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Its initramfs.
    #[arg(short, long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Its command line.
    #[arg(short, long, value_name = "TEXT", default_value = DEFAULT_CMDLINE, allow_hyphen_values = true)]
    pub cmdline: String,
    /// Its memory, with suffix K, M or G.
    #[arg(short, long, value_name = "SIZE", default_value = "512M")]
    pub memory: String,
    /// How many seconds one rung may take.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = parse_seconds)]
    pub timeout: Duration,
    /// Put the guests' consoles into the archive as well: these are bytes of the guests.
    #[arg(long)]
    pub with_console: bool,
}

const REPORT_EXAMPLES: &str = "\
Examples:
  cvmm report run.json                           # the summary that the run would have printed
  cvmm report snp.json tdx.json plain.json       # side by side
  cvmm report snp.json tdx.json --html boot.html # one page, to look at in any browser, that fetches nothing
  cvmm report run.json --perfetto run.trace      # for ui.perfetto.dev or chrome://tracing
  cvmm report *.json --csv - | xsv table         # one value a row

Every figure carries its clock: `wall` was measured, `modelled` is the virtual time of softkvm's platform profile.

Exit codes: 2 if a file is no report of this version, 5 if one cannot be read or written; then nothing is written.
docs/report.md explains the fields of a report, and what the page, the trace and the columns hold.";

/// The flags of `cvmm report`.
#[derive(Clone, Debug, Args)]
#[command(after_help = REPORT_EXAMPLES)]
pub struct ReportFlags {
    /// Files that `cvmm --report` or `cvmm bench` wrote.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Write a page that shows everything, in one file.
    #[arg(long, value_name = "OUT")]
    pub html: Option<PathBuf>,
    /// Write a trace that Perfetto and chrome://tracing open.
    #[arg(long, value_name = "OUT")]
    pub perfetto: Option<PathBuf>,
    /// Write comma-separated values, one a row; each OUT may be - for standard output.
    #[arg(long, value_name = "OUT")]
    pub csv: Option<PathBuf>,
    /// Print the facts of each run as JSON.
    #[arg(long)]
    pub json: bool,
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
