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
    /// The shim what the kernel and its files need, the kernel the rest when it needs it.
    Lazy {
        /// Memory that the shim accepts beside that: the kernel starts with it, and may place itself in it at random.
        window: Option<MemorySize>,
    },
}

impl AcceptMode {
    /// Does the kernel accept memory?
    pub fn is_lazy(self) -> bool {
        matches!(self, AcceptMode::Lazy { .. })
    }

    /// Bytes of the window.
    pub fn window(self) -> u64 {
        match self {
            AcceptMode::Eager | AcceptMode::Prefault | AcceptMode::Lazy { window: None } => 0,
            AcceptMode::Lazy { window: Some(window) } => window.bytes(),
        }
    }
}

impl FromStr for AcceptMode {
    type Err = String;

    fn from_str(text: &str) -> Result<AcceptMode, String> {
        let (mode, option) = match text.split_once(',') {
            Some((mode, option)) => (mode, Some(option)),
            None => (text, None),
        };
        match (mode, option) {
            ("eager", None) => Ok(AcceptMode::Eager),
            ("prefault", None) => Ok(AcceptMode::Prefault),
            ("eager" | "prefault", Some(_)) => Err(format!("{mode} has no options")),
            ("lazy", None) => Ok(AcceptMode::Lazy { window: None }),
            ("lazy", Some(option)) => {
                let size = option.strip_prefix("window=").ok_or_else(|| {
                    format!("lazy has no option '{option}'; write for instance lazy,window=64M")
                })?;
                Ok(AcceptMode::Lazy { window: Some(size.parse()?) })
            }
            _ => Err(format!("'{mode}' is none of eager, prefault and lazy")),
        }
    }
}

impl fmt::Display for AcceptMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AcceptMode::Eager => f.write_str("eager"),
            AcceptMode::Prefault => f.write_str("prefault"),
            AcceptMode::Lazy { window: None } => f.write_str("lazy"),
            AcceptMode::Lazy { window: Some(window) } => write!(f, "lazy,window={window}"),
        }
    }
}
