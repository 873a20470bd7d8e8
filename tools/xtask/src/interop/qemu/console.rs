//! What a guest has printed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The text of a serial line.
pub struct Console {
    text: String,
    file: PathBuf,
}

impl Console {
    /// `file` is where it can be read again.
    pub fn new(text: &str, file: &Path) -> Self {
        Self { text: text.replace('\r', ""), file: file.to_owned() }
    }

    /// Whether this text is in it.
    pub fn says(&self, what: &str) -> Result<()> {
        if !self.text.contains(what) {
            bail!("the guest never said {what:?}; see {}", self.file.display());
        }
        Ok(())
    }

    /// The bytes that guest-init prints between two lines.
    pub fn dump(&self, what: &str) -> Result<Vec<u8>> {
        let begin = format!("cvmm-init: {what} BEGIN\n");
        let end = format!("cvmm-init: {what} END");
        let inside = self.text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
        let (digits, _) =
            inside.with_context(|| format!("no {what} in {}", self.file.display()))?;
        let digits: Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
            .collect::<Result<_>>()
            .with_context(|| format!("damaged {what} in {}", self.file.display()))
    }
}
