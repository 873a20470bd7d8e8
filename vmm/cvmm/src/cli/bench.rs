//! The flags of `cvmm bench`, and of the verbs that read what it leaves.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;

use crate::config::MemorySize;

const BENCH_EXAMPLES: &str = "\
Examples:
  cvmm bench --list                              # the experiments that come with cvmm
  cvmm bench technologies --emulate --kernel bzImage --initrd initramfs.cpio
  cvmm bench my-experiment.toml --out runs.jsonl # again after a kill or Ctrl-C: goes on
  cvmm bench --show runs.jsonl --json            # tables of a file, nothing is run

Each run is cvmm itself with --report, and one line of --out as soon as it has ended. docs/bench.md has the keys of a spec, the
layout of the file, and what the statistics are.

Exit codes: 0 if every run ended well, else that of the first that failed; 2 if spec or file cannot be used, 3 if this host cannot
run a cell, 5 if the file cannot be written (what is in it stays), 130 if stopped.";

/// The flags of `cvmm bench`.
#[derive(Clone, Debug, Args)]
#[command(after_help = BENCH_EXAMPLES)]
pub struct BenchFlags {
    /// The experiment: a file, or a name that --list shows.
    #[arg(value_name = "SPEC", required_unless_present_any = ["list", "show"])]
    pub spec: Option<String>,
    /// Where runs are kept [default: the spec's name with .jsonl]. If it holds some already, they are not done again.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Say which specs come with cvmm, and what each needs.
    #[arg(long, conflicts_with_all = ["spec", "show"])]
    pub list: bool,
    /// Print the tables of a file of runs, without running anything.
    #[arg(long, value_name = "FILE", conflicts_with = "spec")]
    pub show: Option<PathBuf>,
    /// Use softkvm, a KVM in software, for cells that say nothing of it.
    #[arg(long, value_name = "PROFILE", num_args = 0..=1, require_equals = true)]
    pub emulate: Option<Option<String>>,
    /// The kernel for cells that ask for it ($kernel) or name none; `builtin` is the guest of `cvmm selftest`.
    #[arg(short, long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// The initramfs for cells that ask for it ($initrd) or name none.
    #[arg(short, long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// How many runs of each cell count, in place of what the spec says.
    #[arg(long, value_name = "N")]
    pub repetitions: Option<NonZeroU32>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

const COMPARE_EXAMPLES: &str = "\
Examples:
  cvmm compare before.json after.json            # two reports of --report
  cvmm compare before.jsonl after.jsonl          # two files of `cvmm bench`, cell by cell

Modelled times are compared with modelled ones and measured with measured ones. Two reports are one run each: they show what is
modelled or counted exactly, and cannot show whether a measured difference is more than chance.

Exit codes: 0 whatever has changed, 2 if the two cannot be compared, 5 if one cannot be read.";

/// The flags of `cvmm compare`.
#[derive(Clone, Debug, Args)]
#[command(after_help = COMPARE_EXAMPLES)]
pub struct CompareFlags {
    /// The first: a report, or a file of runs.
    #[arg(value_name = "A")]
    pub a: PathBuf,
    /// The other, of the same kind.
    #[arg(value_name = "B")]
    pub b: PathBuf,
    /// Compare only what is counted, which is allowed where one guest's time is modelled and the other's measured.
    #[arg(long)]
    pub counts: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

const MODEL_EXAMPLES: &str = "\
Examples:
  cvmm model --technology snp --profile epyc-milan --pages 3 --memory 256M --exits 2500
  cvmm model --report run.json                   # counts from a run of --emulate, and beside it what it took
  cvmm model --report run.json --plain-report plain.json    # the kernel's own time from a plain run

The estimate is counts times the unit costs of softkvm's profile, which the output lists with their sources. All times are modelled.

Exit codes: 0, 2 if the reports do not fit the flags or each other, 3 if softkvm is not there, 5 if a file cannot be read.";

/// The flags of `cvmm model`.
#[derive(Clone, Debug, Args)]
#[command(after_help = MODEL_EXAMPLES)]
pub struct ModelFlags {
    /// plain, snp or tdx [default: the report's].
    #[arg(long, value_parser = ["plain", "snp", "tdx"])]
    pub technology: Option<String>,
    /// A profile of softkvm's, or the file of one [default: the report's, else that of the technology].
    #[arg(long, value_name = "PROFILE")]
    pub profile: Option<String>,
    /// Launch pages, without those of vCPUs.
    #[arg(long, value_name = "N")]
    pub pages: Option<u64>,
    /// Memory that is accepted, with suffix K, M or G.
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<MemorySize>,
    /// Number of vCPUs.
    #[arg(short = 'j', long, value_name = "N")]
    pub cpus: Option<u16>,
    /// Bytes of kernel and initramfs, which the shim copies and hashes.
    #[arg(long, value_name = "BYTES")]
    pub payload: Option<u64>,
    /// Exits of the kernel to the monitor.
    #[arg(long, value_name = "N")]
    pub exits: Option<u64>,
    /// Exits of the kernel that KVM answers by itself.
    #[arg(long, value_name = "N")]
    pub kvm_exits: Option<u64>,
    /// Pages that the kernel makes shared or private.
    #[arg(long, value_name = "N")]
    pub changed_pages: Option<u64>,
    /// The kernel's own time, without anything that leaves the guest, in milliseconds [default: 16.8].
    #[arg(long, value_name = "MS", conflicts_with = "plain_report")]
    pub kernel_ms: Option<f64>,
    /// Take the kernel's own time from this report of a plain run of it.
    #[arg(long, value_name = "FILE")]
    pub plain_report: Option<PathBuf>,
    /// Compare with this run, and take from it what no flag says.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
