//! Platform profiles: the part that is modelled and what its operations cost, from a TOML file. A part has either a table
//! `[sev]` or a table `[tdx]`, and with it its vendor, its devices and its costs. Nobody knows all costs: with `:low` or `:high`
//! behind a profile's name those that have a range are at that end of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use abi::snp::{SnpPolicy, TcbParts};
use abi::tdx::Xfam;
use serde::Deserialize;

use crate::price::Price;
use crate::snp::platform::{Costs, Platform};
use crate::tdx::{TdxCosts, TdxModule, TdxPlatform};

/// Profiles that come with the program.
const BUILT_IN: &[(&str, &str)] = &[
    ("epyc-milan", include_str!("../../profiles/epyc-milan.toml")),
    ("epyc-genoa", include_str!("../../profiles/epyc-genoa.toml")),
    ("xeon-spr", include_str!("../../profiles/xeon-spr.toml")),
    ("xeon-emr", include_str!("../../profiles/xeon-emr.toml")),
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
    /// The failures that were asked for are none.
    #[error(transparent)]
    Failures(#[from] super::failures::FailuresError),
    /// Something is to be wrong with the host that cannot be.
    #[error(transparent)]
    Fault(#[from] super::faults::FaultError),
    /// A shared security processor is described by what is none.
    #[error(transparent)]
    PspQueue(#[from] super::psp_queue::PspQueueError),
    /// The symbols of the guest's kernel cannot be used.
    #[error(transparent)]
    Symbols(#[from] super::symbols::SymbolsError),
    /// It has none of the protections, or both.
    #[error("profile {name:?} needs one of the tables [sev] and [tdx]")]
    Protection {
        /// The profile.
        name: String,
    },
    /// Its TDX module is not known.
    #[error("profile {name:?}: no TDX module {module:?} ({})", modules())]
    Module {
        /// The profile.
        name: String,
        /// The module.
        module: String,
    },
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
    /// The least and the most that it may be; every placeholder has one.
    pub range: Option<[u64; 2]>,
    /// Where the value comes from.
    pub source: String,
    /// "high", "medium", "low" or "none".
    pub confidence: String,
}

impl Cost {
    /// Nobody has published it: an order of magnitude.
    pub fn is_placeholder(&self) -> bool {
        self.confidence == "none"
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tcb {
    boot_loader: u8,
    tee: u8,
    snp: u8,
    microcode: u8,
}

/// What an AMD part has beyond its costs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sev {
    c_bit: u8,
    firmware_api: [u8; 2],
    firmware_build: u8,
    tcb: Tcb,
    report_version: u32,
    asids: u32,
    /// Can a guest have a time stamp counter that its host cannot change?
    #[serde(default)]
    secure_tsc: bool,
}

/// What an Intel part has beyond its costs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tdx {
    module: String,
    five_level_ept: bool,
    hkids: u16,
    cpus: u16,
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
    /// Physical address bits.
    pub phys_bits: u8,
    /// TSC frequency.
    pub tsc_khz: u32,
    sev: Option<Sev>,
    tdx: Option<Tdx>,
    /// What operations cost.
    pub costs: BTreeMap<String, Cost>,
    /// Guest memory descriptors come in pieces of 2 MiB: `:2m` behind the name.
    #[serde(skip)]
    pub large_folios: bool,
}

/// A profile's part.
#[derive(Clone, Debug)]
pub enum Part {
    /// An AMD part, without its CPUID.
    Amd(Box<Platform>),
    /// An Intel part.
    Intel(Box<Xeon>),
}

/// An Intel part.
#[derive(Clone, Debug)]
pub struct Xeon {
    /// The part with its module, without its CPUID.
    pub tdx: TdxPlatform,
    /// What plain VMs' exits cost: [`Costs::exit`], [`Costs::port_io`] and [`Costs::user_exit`], nothing else.
    pub costs: Costs,
    /// Logical processors of the host.
    pub cpus: u16,
}

/// Names of the modules.
fn modules() -> String {
    TdxModule::ALL.iter().map(|module| module.name).collect::<Vec<_>>().join(", ")
}

/// The ends of ranges, as they stand behind a profile's name.
const ENDS: [&str; 2] = [":low", ":high"];
/// What stands behind the name where the host's guest memory descriptors have large folios.
const LARGE_FOLIOS: &str = ":2m";

/// Names of the built-in profiles.
pub fn built_in() -> Vec<&'static str> {
    BUILT_IN.iter().map(|(name, _)| *name).collect()
}

impl Profile {
    /// A built-in profile, or the one in a file; behind the name `:low` or `:high` for the costs at that end of their ranges,
    /// and `:2m` for a host whose guest memory descriptors come in pieces of 2 MiB.
    pub fn load(name: &str) -> Result<Self, ProfileError> {
        for (end, suffix) in ENDS.iter().enumerate() {
            if let Some(name) = name.strip_suffix(suffix) {
                let mut profile = Self::load(name)?;
                profile.name.push_str(suffix);
                for cost in profile.costs.values_mut() {
                    cost.ns = cost.range.map_or(cost.ns, |range| range[end]);
                }
                return Ok(profile);
            }
        }
        if let Some(name) = name.strip_suffix(LARGE_FOLIOS) {
            let profile = Self::load(name)?;
            let name = profile.name.clone() + LARGE_FOLIOS;
            return Ok(Self { name, large_folios: true, ..profile });
        }
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
        profile.part(0)?;
        profile.check_ranges()?;
        Ok(profile)
    }

    fn check_ranges(&self) -> Result<(), ProfileError> {
        let wrong = |cost: &Cost| match cost.range {
            None if cost.is_placeholder() => Some("a placeholder without a range"),
            Some([low, high]) if !(low..=high).contains(&cost.ns) => Some("outside its range"),
            _ => None,
        };
        let found = self.costs.iter().find_map(|(name, cost)| Some((name, wrong(cost)?)));
        found.map_or(Ok(()), |(cost, problem)| {
            Err(ProfileError::Cost { name: self.name.clone(), cost: cost.clone(), problem })
        })
    }

    /// The costs that nobody has published: their names.
    pub fn placeholders(&self) -> Vec<&str> {
        let guessed = self.costs.iter().filter(|(_, cost)| cost.is_placeholder());
        guessed.map(|(name, _)| name.as_str()).collect()
    }

    /// What operations cost, for those who estimate with it: the name, and for each cost `ns`, `range`, `source` and `confidence`.
    pub fn costs_as_json(&self) -> serde_json::Value {
        let costs = self.costs.iter().map(|(name, cost)| {
            let Cost { ns, range, source, confidence } = cost;
            let facts = serde_json::json!(
                { "ns": ns, "range": range, "source": source, "confidence": confidence }
            );
            (name.clone(), facts)
        });
        let costs: serde_json::Map<String, serde_json::Value> = costs.collect();
        serde_json::json!({ "name": self.name, "costs": costs })
    }

    /// Fills in costs in cycles, each from the entry of its name: nothing may be missing or left over.
    fn fill<'a>(
        &self,
        fields: impl IntoIterator<Item = (&'a str, &'a mut Price)>,
    ) -> Result<(), ProfileError> {
        let error = |cost: &str, problem| ProfileError::Cost {
            name: self.name.clone(),
            cost: cost.to_owned(),
            problem,
        };
        let mut fields: BTreeMap<&str, &mut Price> = fields.into_iter().collect();
        if let Some(name) = self.costs.keys().find(|name| !fields.contains_key(name.as_str())) {
            return Err(error(name, "unknown"));
        }
        for (name, field) in &mut fields {
            let cost = self.costs.get(*name).ok_or_else(|| error(name, "missing"))?;
            let cycles = (u128::from(cost.ns) * u128::from(self.tsc_khz) / 1_000_000) as u64;
            **field =
                if cost.is_placeholder() { Price::guess(cycles) } else { Price::known(cycles) };
        }
        Ok(())
    }

    fn sev_costs(&self) -> Result<Costs, ProfileError> {
        let mut costs = Costs::default();
        self.fill([
            ("launch_start", &mut costs.launch_start),
            ("launch_update", &mut costs.launch_update),
            ("launch_finish", &mut costs.launch_finish),
            ("guest_request", &mut costs.guest_request),
            ("rmpupdate", &mut costs.rmpupdate),
            ("pvalidate", &mut costs.pvalidate),
            ("rmpadjust", &mut costs.rmpadjust),
            ("vmgexit", &mut costs.vmgexit),
            ("exit", &mut costs.exit),
            ("port_io", &mut costs.port_io),
            ("user_exit", &mut costs.user_exit),
            ("vc", &mut costs.vc),
        ])?;
        Ok(costs)
    }

    /// Costs of TDs, and of plain VMs on the same part.
    fn tdx_costs(&self) -> Result<(TdxCosts, Costs), ProfileError> {
        let mut costs = TdxCosts::default();
        let mut plain = Costs::default();
        self.fill([
            ("mng_init", &mut costs.mng_init),
            ("vp_init", &mut costs.vp_init),
            ("sept_add", &mut costs.sept_add),
            ("page_add", &mut costs.page_add),
            ("mr_extend", &mut costs.mr_extend),
            ("mr_finalize", &mut costs.mr_finalize),
            ("page_aug", &mut costs.page_aug),
            ("page_accept", &mut costs.page_accept),
            ("page_remove", &mut costs.page_remove),
            ("tdcall", &mut costs.tdcall),
            ("mr_report", &mut costs.mr_report),
            ("emulation", &mut costs.emulation),
            ("ve", &mut costs.ve),
            ("vmcall", &mut costs.vmcall),
            ("exit", &mut costs.exit),
            ("plain_exit", &mut plain.exit),
            ("port_io", &mut plain.port_io),
            ("user_exit", &mut costs.user_exit),
        ])?;
        plain.user_exit = costs.user_exit;
        Ok((costs, plain))
    }

    /// The part.
    pub fn part(&self, seed: u64) -> Result<Part, ProfileError> {
        match (&self.sev, &self.tdx) {
            (Some(sev), None) => Ok(Part::Amd(Box::new(self.epyc(sev, seed)?))),
            (None, Some(tdx)) => Ok(Part::Intel(Box::new(self.xeon(tdx)?))),
            _ => Err(ProfileError::Protection { name: self.name.clone() }),
        }
    }

    fn xeon(&self, tdx: &Tdx) -> Result<Xeon, ProfileError> {
        let module = TdxModule::ALL.iter().find(|module| module.name == tdx.module);
        let module = module.ok_or_else(|| ProfileError::Module {
            name: self.name.clone(),
            module: tdx.module.clone(),
        })?;
        let (td_costs, costs) = self.tdx_costs()?;
        let platform = TdxPlatform {
            module,
            family: self.family,
            model: self.model,
            stepping: self.stepping,
            phys_bits: self.phys_bits,
            five_level_ept: tdx.five_level_ept,
            tsc_khz: self.tsc_khz,
            hkids: tdx.hkids,
            // The software processor has no other states.
            xfam_fixed0: Xfam::FIXED1,
            costs: td_costs,
            ..TdxPlatform::default()
        };
        Ok(Xeon { tdx: platform, costs, cpus: tdx.cpus })
    }

    fn epyc(&self, sev: &Sev, seed: u64) -> Result<Platform, ProfileError> {
        let default = Platform::default();
        Ok(Platform {
            family: self.family,
            model: self.model,
            stepping: self.stepping,
            c_bit: sev.c_bit,
            api: (sev.firmware_api[0], sev.firmware_api[1]),
            build: sev.firmware_build,
            tcb: TcbParts {
                fmc: 0,
                boot_loader: sev.tcb.boot_loader,
                tee: sev.tcb.tee,
                snp: sev.tcb.snp,
                microcode: sev.tcb.microcode,
            },
            chip_seed: default.chip_seed ^ seed,
            tsc_khz: self.tsc_khz,
            report_version: sev.report_version,
            extra_policy: SnpPolicy(0),
            asids: sev.asids,
            secure_tsc: sev.secure_tsc,
            costs: self.sev_costs()?,
            ..default
        })
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
            match profile.part(0).unwrap() {
                Part::Amd(platform) => {
                    assert_eq!(platform.tsc_khz, profile.tsc_khz);
                    assert!(platform.costs.launch_update > platform.costs.vmgexit);
                }
                Part::Intel(xeon) => {
                    assert_eq!(xeon.tdx.tsc_khz, profile.tsc_khz);
                    assert_eq!(profile.tsc_khz % 25_000, 0, "TDs count in 25 MHz");
                    assert!(xeon.tdx.costs.page_accept > xeon.tdx.costs.tdcall);
                    assert!(!profile.placeholders().is_empty());
                }
            }
        }
    }

    #[test]
    fn all_costs_are_told_with_their_origin() {
        for name in built_in() {
            let profile = Profile::load(name).unwrap();
            let told = profile.costs_as_json();
            assert_eq!(told["name"], name);
            let costs = told["costs"].as_object().unwrap();
            assert_eq!(costs.len(), profile.costs.len());
            let guessed = costs.iter().filter(|(_, cost)| cost["confidence"] == "none");
            assert!(guessed.map(|(name, _)| name.as_str()).eq(profile.placeholders()), "{told}");
            let user_exit = profile.costs.get("user_exit").unwrap();
            assert_eq!(costs["user_exit"]["ns"], user_exit.ns);
            assert_eq!(costs["user_exit"]["source"], user_exit.source);
        }
    }

    #[test]
    fn costs_are_at_the_ends_of_their_ranges_on_demand() {
        for name in built_in() {
            let load = |suffix: &str| Profile::load(&format!("{name}{suffix}")).unwrap();
            let (low, usual, high) = (load(":low"), load(""), load(":high"));
            assert_eq!((low.name, high.name), (format!("{name}:low"), format!("{name}:high")));
            for (cost, value) in &usual.costs {
                let ends = [low.costs[cost].ns, high.costs[cost].ns];
                assert_eq!(ends, value.range.unwrap_or([value.ns; 2]), "{name} {cost}");
            }
        }
    }

    #[test]
    fn a_placeholder_needs_a_range_that_holds_it() {
        let text = BUILT_IN[0].1;
        let lacking = text.replace("range = [200, 2_000]\n", "");
        let beside = text.replace("range = [100, 1_000]", "range = [400, 1_000]");
        let dir = tempfile::tempdir().unwrap();
        for (text, problem) in
            [(lacking, "\"rmpadjust\" is a placeholder"), (beside, "\"pvalidate\" is outside")]
        {
            let path = dir.path().join("profile.toml");
            std::fs::write(&path, text).unwrap();
            let error = Profile::load(path.to_str().unwrap()).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn an_unknown_profile_is_named_in_the_error() {
        let error = Profile::load("epyc-naples").unwrap_err().to_string();
        assert!(error.contains("epyc-naples") && error.contains("epyc-milan"), "{error}");
    }
}
