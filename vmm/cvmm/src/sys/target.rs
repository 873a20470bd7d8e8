//! What a call to the host was about, as its error tells it.

use std::fmt;

/// What a call was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The VM, or the host, as a whole.
    Whole,
    /// What is said in these words.
    Words(String),
    /// A range of guest addresses.
    Range {
        /// Its first address.
        gpa: u64,
        /// Its length in bytes.
        len: u64,
        /// What was to become of it.
        what: &'static str,
    },
    /// Pages of the launch.
    Pages(LaunchPages),
}

/// How far a region of launch pages got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchPages {
    /// The page that was refused.
    pub gpa: u64,
    /// What it is for the protection.
    pub kind: &'static str,
    /// The region's name in reports.
    pub tag: &'static str,
    /// Pages of the region that were added before.
    pub done: u64,
    /// Pages that it has.
    pub count: u64,
}

impl Target {
    /// A vCPU.
    pub fn vcpu(id: u16) -> Target {
        Target::Words(format!("on vCPU {id}"))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Whole => Ok(()),
            Target::Words(words) => write!(f, " {words}"),
            Target::Range { gpa, len, what } => {
                let end = gpa.saturating_add(*len);
                match len.div_ceil(PAGE) {
                    1 => write!(f, " for {gpa:#x} to {end:#x} (1 page{what})"),
                    pages => write!(f, " for {gpa:#x} to {end:#x} ({pages} pages{what})"),
                }
            }
            Target::Pages(LaunchPages { gpa, kind, tag, done, count }) => {
                write!(f, " at {gpa:#x}: {kind} page {} of {count} of \"{tag}\", ", done + 1)?;
                match done {
                    0 => write!(f, "none was added"),
                    1 => write!(f, "1 was added"),
                    _ => write!(f, "{done} were added"),
                }
            }
        }
    }
}

const PAGE: u64 = 4096;
