//! What operations cost on a modelled platform, as softkvm's profiles have it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::emulate;
use crate::error::Error;

/// A cost with its origin.
#[derive(Clone, Debug, Deserialize)]
pub struct Cost {
    /// Nanoseconds.
    pub ns: u64,
    /// Where it comes from.
    pub source: String,
    /// `high`, `medium`, `low`, or `none`: a placeholder.
    pub confidence: String,
}

/// A profile, as far as the model needs it.
#[derive(Clone, Debug, Deserialize)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Costs by name.
    pub costs: BTreeMap<String, Cost>,
}

/// A time that is a sum of costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Price {
    /// All of it.
    pub ns: f64,
    /// The part that rests on placeholders.
    pub placeholder_ns: f64,
}

impl Price {
    /// A time that is no cost of the profile.
    pub fn known(ns: f64) -> Price {
        Price { ns, placeholder_ns: 0.0 }
    }

    /// Both.
    pub fn plus(self, other: Price) -> Price {
        Price { ns: self.ns + other.ns, placeholder_ns: self.placeholder_ns + other.placeholder_ns }
    }
}

impl Profile {
    /// From a file, or from softkvm by its name. For the latter the process starts again with softkvm below it.
    ///
    /// # Errors
    /// The file is no profile, or softkvm is not there or does not say.
    pub fn load(name: &str) -> Result<Profile, Error> {
        let path = Path::new(name);
        if path.is_file() {
            let text = std::fs::read_to_string(path).map_err(|source| Error::ReadFile {
                what: "profile",
                path: path.to_owned(),
                source,
            })?;
            return toml::from_str(&text).map_err(|error| Error::Input {
                what: "profile",
                path: path.to_owned(),
                problem: error.message().to_owned(),
                cure: "it has a name, and for each cost a table with ns, source and confidence"
                    .into(),
            });
        }
        emulate::ensure(name)?;
        let told = emulate::profile_costs().and_then(|text| serde_json::from_str(&text).ok());
        told.ok_or_else(|| Error::Emulate {
            problem: format!("softkvm does not tell the costs of {name}"),
        })
    }

    /// So many of these together, each once. A cost that the profile lacks is of another technology, and 0.
    pub fn price(&self, count: u64, names: &[&str]) -> Price {
        let mut price = Price::default();
        for cost in names.iter().filter_map(|name| self.costs.get(*name)) {
            let ns = count as f64 * cost.ns as f64;
            let placeholder_ns = if cost.confidence == "none" { ns } else { 0.0 };
            price = price.plus(Price { ns, placeholder_ns });
        }
        price
    }
}
