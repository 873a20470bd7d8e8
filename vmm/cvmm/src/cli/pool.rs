//! The flags of `cvmm pool`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::parse_seconds;

const SERVE_EXAMPLES: &str = "\
Examples:
  cvmm pool serve --socket /run/user/1000/pool --ready 4 -- --snp --kernel bzImage --initrd initramfs.cpio
  cvmm pool take --socket /run/user/1000/pool --report run.json
  cvmm pool status --socket /run/user/1000/pool

What follows -- are the flags of a run. Each guest is a process that has launched and sealed it and stops before its first
instruction; a client that takes it gives it its own standard input, output and error. All guests of a pool have the same
launch digest, host data, command line and initrd: what tells one from another must come afterwards, for instance in the report
data of its attestation. A guest takes all of its memory that the launch or --accept prefault touches while it waits.

Only this user can connect. The pool ends by Ctrl-C or SIGTERM, and with it every guest.

Exit codes: 0 when it was told to end, 2 if the flags or the socket's place cannot be used, 4 if its first launch fails, which has
then said why, 5 if a file cannot be written. docs/pool.md has the protocol for other clients.";

/// What to do with a pool.
#[derive(Clone, Debug, Subcommand)]
pub enum PoolVerb {
    /// Keep guests ready until Ctrl-C.
    Serve(ServeFlags),
    /// Take a guest: its console is here, and it ends as a run of cvmm does.
    Take(TakeFlags),
    /// Print how a pool is, as JSON.
    Status(StatusFlags),
}

/// The flags of `cvmm pool serve`.
#[derive(Clone, Debug, Args)]
#[command(after_help = SERVE_EXAMPLES)]
pub struct ServeFlags {
    /// Where to listen. The socket is made anew; anything else that is there stays, and is an error.
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// How many guests to keep ready.
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub ready: u16,
    /// How many guests may be handed out at the same time.
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub out: u16,
    /// Write what was handed out, and how long it took, as JSON, when the pool ends.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// The flags of a run.
    #[arg(last = true, required = true, value_name = "FLAGS")]
    pub guest: Vec<OsString>,
}

/// The flags of `cvmm pool take`.
#[derive(Clone, Debug, Args)]
pub struct TakeFlags {
    /// The pool's socket.
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// Where no guest is ready, wait for one this many seconds.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = parse_wait)]
    pub wait: Duration,
    /// Write the run's report as JSON; without it a summary goes to stderr.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print on stderr, as JSON, what was handed out and how long that took.
    #[arg(long)]
    pub json: bool,
}

/// The flags of `cvmm pool status`.
#[derive(Clone, Debug, Args)]
pub struct StatusFlags {
    /// The pool's socket.
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
}

/// A timeout, or none at all.
fn parse_wait(text: &str) -> Result<Duration, String> {
    match text {
        "0" => Ok(Duration::ZERO),
        _ => parse_seconds(text),
    }
}
