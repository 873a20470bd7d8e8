//! Who accepts memory, and when.

use std::fmt;
use std::str::FromStr;

use super::MemorySize;

/// Who accepts the guest's memory, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptMode {
    /// The shim, all of it, before the kernel runs.
    Eager,
    /// The shim as well; the host finds and maps the memory before the guest runs.
    Prefault,
    /// The shim as well, with the help of all processors.
    Parallel,
    /// The shim what the kernel and its files need, the kernel the rest when it needs it.
    Lazy {
        /// Memory that the shim accepts beside that: the kernel starts with it, and may place itself in it at random.
        window: Option<MemorySize>,
        /// The host finds and maps all that the shim accepts before the guest runs.
        prefault: bool,
        /// All processors help the shim.
        parallel: bool,
    },
}

impl AcceptMode {
    /// Does the kernel accept memory?
    pub fn is_lazy(self) -> bool {
        matches!(self, AcceptMode::Lazy { .. })
    }

    /// Does the host find and map what the shim accepts before the guest runs?
    pub fn prefaults(self) -> bool {
        matches!(self, AcceptMode::Prefault | AcceptMode::Lazy { prefault: true, .. })
    }

    /// Do all processors help the shim?
    pub fn is_parallel(self) -> bool {
        matches!(self, AcceptMode::Parallel | AcceptMode::Lazy { parallel: true, .. })
    }

    /// Bytes of the window.
    pub fn window(self) -> u64 {
        match self {
            AcceptMode::Lazy { window: Some(window), .. } => window.bytes(),
            _ => 0,
        }
    }
}

impl FromStr for AcceptMode {
    type Err = String;

    fn from_str(text: &str) -> Result<AcceptMode, String> {
        let mut words = text.split(',');
        let mode = words.next().unwrap_or_default();
        let mut options = words.peekable();
        match mode {
            "eager" | "prefault" | "parallel" if options.peek().is_some() => {
                Err(format!("{mode} has no options"))
            }
            "eager" => Ok(AcceptMode::Eager),
            "prefault" => Ok(AcceptMode::Prefault),
            "parallel" => Ok(AcceptMode::Parallel),
            "lazy" => {
                let (mut window, mut prefault, mut parallel) = (None, false, false);
                for option in options {
                    match option.strip_prefix("window=") {
                        Some(size) if window.is_none() => window = Some(size.parse()?),
                        None if option == "prefault" && !prefault => prefault = true,
                        None if option == "parallel" && !parallel => parallel = true,
                        _ => {
                            return Err(format!(
                                "lazy has no option '{option}', or has it once; write for instance \
                                 lazy,window=64M,prefault,parallel"
                            ));
                        }
                    }
                }
                Ok(AcceptMode::Lazy { window, prefault, parallel })
            }
            _ => Err(format!("'{mode}' is none of eager, prefault, parallel and lazy")),
        }
    }
}

impl fmt::Display for AcceptMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AcceptMode::Eager => f.write_str("eager"),
            AcceptMode::Prefault => f.write_str("prefault"),
            AcceptMode::Parallel => f.write_str("parallel"),
            AcceptMode::Lazy { window, prefault, parallel } => {
                f.write_str("lazy")?;
                if let Some(window) = window {
                    write!(f, ",window={window}")?;
                }
                f.write_str(if *prefault { ",prefault" } else { "" })?;
                f.write_str(if *parallel { ",parallel" } else { "" })
            }
        }
    }
}
