//! Platform profiles: the part that is modelled and what its operations cost, from a TOML file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use abi::snp::{SnpPolicy, TcbParts};
use serde::Deserialize;

use crate::snp::platform::{Costs, Platform};

/// Profiles that come with the program.
const BUILT_IN: &[(&str, &str)] = &[
    ("epyc-milan", include_str!("../../profiles/epyc-milan.toml")),
    ("epyc-genoa", include_str!("../../profiles/epyc-genoa.toml")),
];

/// Name of the profile that is used if none is asked for.
pub const DEFAULT: &str = "epyc-milan";

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Neither a built-in name nor a file.
    #[error("no profile {name:?}: neither built in ({}) nor a file", built_in().join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The file cannot be read.
    #[error("cannot read profile {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not a profile.
    #[error("profile {name:?} is malformed")]
    Parse {
        /// Its name.
        name: String,
        /// Why.
        source: Box<toml::de::Error>,
    },
    /// The host is asked to cheat in a way it cannot.
    #[error(transparent)]
    Hostile(#[from] super::hostile::HostileError),
    /// A cost is missing or unknown.
    #[error("profile {name:?}: cost {cost:?} is {problem}")]
    Cost {
        /// The profile.
        name: String,
        /// The cost.
        cost: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// One cost with its origin.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Nanoseconds.
    pub ns: u64,
    /// Where the value comes from.
    pub source: String,
    /// "high", "medium", "low" or "none".
    pub confidence: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tcb {
    boot_loader: u8,
    tee: u8,
    snp: u8,
    microcode: u8,
}

/// A profile as it stands in its file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// CPUID brand string.
    pub brand: String,
    family: u8,
    model: u8,
    stepping: u8,
    c_bit: u8,
    /// Physical address bits.
    pub phys_bits: u8,
    /// TSC frequency.
    pub tsc_khz: u32,
    firmware_api: [u8; 2],
    firmware_build: u8,
    tcb: Tcb,
    report_version: u32,
    asids: u32,
    /// What operations cost.
    pub costs: BTreeMap<String, Cost>,
}

/// Names of the built-in profiles.
pub fn built_in() -> Vec<&'static str> {
    BUILT_IN.iter().map(|(name, _)| *name).collect()
}

impl Profile {
    /// A built-in profile, or the one in a file.
    pub fn load(name: &str) -> Result<Self, ProfileError> {
        let text = match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => (*text).to_owned(),
            None => {
                let path = Path::new(name);
                if !path.is_file() {
                    return Err(ProfileError::Unknown { name: name.to_owned() });
                }
                std::fs::read_to_string(path)
                    .map_err(|source| ProfileError::Read { path: path.to_owned(), source })?
            }
        };
        let profile: Self = toml::from_str(&text).map_err(|source| ProfileError::Parse {
            name: name.to_owned(),
            source: Box::new(source),
        })?;
        profile.costs()?;
        Ok(profile)
    }

    /// Costs in cycles.
    fn costs(&self) -> Result<Costs, ProfileError> {
        let error = |cost: &str, problem| ProfileError::Cost {
            name: self.name.clone(),
            cost: cost.to_owned(),
            problem,
        };
        let mut costs = Costs::default();
        let mut fields: Vec<(&str, &mut u64)> = vec![
            ("launch_start", &mut costs.launch_start),
            ("launch_update", &mut costs.launch_update),
            ("launch_finish", &mut costs.launch_finish),
            ("guest_request", &mut costs.guest_request),
            ("rmpupdate", &mut costs.rmpupdate),
            ("pvalidate", &mut costs.pvalidate),
            ("rmpadjust", &mut costs.rmpadjust),
            ("vmgexit", &mut costs.vmgexit),
            ("exit", &mut costs.exit),
            ("user_exit", &mut costs.user_exit),
            ("vc", &mut costs.vc),
        ];
        if let Some(name) = self.costs.keys().find(|name| !fields.iter().any(|(f, _)| f == name)) {
            return Err(error(name, "unknown"));
        }
        for (name, field) in &mut fields {
            let cost = self.costs.get(*name).ok_or_else(|| error(name, "missing"))?;
            **field = (u128::from(cost.ns) * u128::from(self.tsc_khz) / 1_000_000) as u64;
        }
        Ok(costs)
    }

    /// The part, without its CPUID.
    pub fn platform(&self, seed: u64) -> Platform {
        let default = Platform::default();
        Platform {
            family: self.family,
            model: self.model,
            stepping: self.stepping,
            c_bit: self.c_bit,
            api: (self.firmware_api[0], self.firmware_api[1]),
            build: self.firmware_build,
            tcb: TcbParts {
                fmc: 0,
                boot_loader: self.tcb.boot_loader,
                tee: self.tcb.tee,
                snp: self.tcb.snp,
                microcode: self.tcb.microcode,
            },
            chip_seed: default.chip_seed ^ seed,
            tsc_khz: self.tsc_khz,
            report_version: self.report_version,
            extra_policy: SnpPolicy(0),
            asids: self.asids,
            costs: self.costs().unwrap_or_default(),
            ..default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_profiles_are_complete() {
        for name in built_in() {
            let profile = Profile::load(name).unwrap();
            assert_eq!(profile.name, name);
            let platform = profile.platform(0);
            assert_eq!(platform.tsc_khz, profile.tsc_khz);
            assert!(platform.costs.launch_update > platform.costs.vmgexit);
        }
    }

    #[test]
    fn an_unknown_profile_is_named_in_the_error() {
        let error = Profile::load("epyc-naples").unwrap_err().to_string();
        assert!(error.contains("epyc-naples") && error.contains("epyc-milan"), "{error}");
    }
}
