//! What a matrix can vary: its keys, and the values that one table gives them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cell::{Cell, Settings};
use super::spec::Given;

/// What can be varied. The order is that of names and tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// A name for what the table's other values are together.
    Label,
    /// `plain`, `snp` or `tdx`.
    Technology,
    /// false, true (softkvm with the technology's profile) or a profile.
    Emulate,
    /// As `--load`.
    Load,
    /// As `--accept`.
    Accept,
    /// As `--cpus`.
    Cpus,
    /// As `--memory`.
    Memory,
    /// As `--kernel`, or `builtin`: the guest of `cvmm selftest`.
    Kernel,
    /// As `--initrd`.
    Initrd,
    /// An initramfs of so many pages, of no use but to be loaded.
    InitrdPages,
    /// As `--cmdline`.
    Cmdline,
    /// Words behind the command line.
    Append,
    /// `default`, `idle=` something for the guest, or nanoseconds for KVM_CAP_HALT_POLL.
    Polling,
    /// How many guests run at the same time.
    Concurrent,
    /// Other flags of cvmm.
    Flags,
}

impl Key {
    /// Every key.
    pub const ALL: [Key; 15] = [
        Key::Label,
        Key::Technology,
        Key::Emulate,
        Key::Load,
        Key::Accept,
        Key::Cpus,
        Key::Memory,
        Key::Kernel,
        Key::Initrd,
        Key::InitrdPages,
        Key::Cmdline,
        Key::Append,
        Key::Polling,
        Key::Concurrent,
        Key::Flags,
    ];

    /// As a spec has it.
    pub fn name(self) -> &'static str {
        match self {
            Key::Label => "label",
            Key::Technology => "technology",
            Key::Emulate => "emulate",
            Key::Load => "load",
            Key::Accept => "accept",
            Key::Cpus => "cpus",
            Key::Memory => "memory",
            Key::Kernel => "kernel",
            Key::Initrd => "initrd",
            Key::InitrdPages => "initrd_pages",
            Key::Cmdline => "cmdline",
            Key::Append => "append",
            Key::Polling => "polling",
            Key::Concurrent => "concurrent",
            Key::Flags => "flags",
        }
    }

    /// Does it name a file?
    pub fn is_path(self) -> bool {
        matches!(self, Key::Kernel | Key::Initrd)
    }
}

/// One value: words, a number or a switch.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Switch(bool),
    Number(u64),
    Words(String),
}

impl Scalar {
    fn text(&self) -> String {
        match self {
            Scalar::Switch(switch) => switch.to_string(),
            Scalar::Number(number) => number.to_string(),
            Scalar::Words(words) => words.clone(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "a value, or a list of values: words, whole numbers, true or false")]
enum OneOrMore {
    One(Scalar),
    More(Vec<Scalar>),
}

impl OneOrMore {
    fn values(&self) -> Vec<String> {
        match self {
            OneOrMore::One(value) => vec![value.text()],
            OneOrMore::More(values) => values.iter().map(Scalar::text).collect(),
        }
    }
}

/// The values of a table.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Values(BTreeMap<Key, OneOrMore>);

/// A key, what is wrong with its value, and what would be right.
pub type Refused = (&'static str, String, String);

impl Values {
    /// These, and for keys that they lack those of `base`.
    pub fn over(&self, base: &Values) -> Values {
        let mut all = base.0.clone();
        all.extend(self.0.clone());
        Values(all)
    }

    /// Is a value of this key to be given on the command line?
    pub fn uses_variable(&self, key: Key) -> bool {
        let variable = format!("${}", key.name());
        self.0.get(&key).is_some_and(|values| values.values().contains(&variable))
    }

    /// The product of all lists.
    pub fn expand(&self, given: &Given, directory: &Path) -> Result<Vec<Cell>, Refused> {
        let mut cells = vec![Settings::new()];
        for key in Key::ALL {
            let Some(values) = self.values(key, given, directory)? else { continue };
            cells = cells
                .into_iter()
                .flat_map(|settings| {
                    values.iter().map(move |value| {
                        let mut settings = settings.clone();
                        settings.insert(key, value.clone());
                        settings
                    })
                })
                .collect();
        }
        if !self.0.contains_key(&Key::Technology) {
            return Err(("technology", "it is missing".into(), "give plain, snp or tdx".into()));
        }
        Ok(cells.into_iter().map(Cell::new).collect())
    }

    fn values(
        &self,
        key: Key,
        given: &Given,
        directory: &Path,
    ) -> Result<Option<Vec<String>>, Refused> {
        let of_user = given.values.iter().find(|(of, _)| *of == key).map(|(_, value)| value);
        let Some(values) = self.0.get(&key) else {
            if key == Key::Initrd && self.0.contains_key(&Key::InitrdPages) {
                return Ok(None);
            }
            return Ok(of_user.map(|value| vec![value.clone()]));
        };
        let values = values.values();
        if values.is_empty() {
            return Err((
                key.name(),
                "the list is empty".into(),
                "leave it out, or give a value".into(),
            ));
        }
        let variable = format!("${}", key.name());
        let fill = |value: String| {
            if value == variable {
                let missing = || {
                    let cure = format!("add --{} to the command line", key.name());
                    (key.name(), format!("nothing was given for {variable}"), cure)
                };
                return of_user.cloned().ok_or_else(missing);
            }
            if key.is_path() && value != BUILTIN {
                return Ok(directory.join(value).display().to_string());
            }
            Ok(value)
        };
        values.into_iter().map(fill).collect::<Result<_, _>>().map(Some)
    }
}

/// The kernel that needs no file.
pub const BUILTIN: &str = "builtin";
