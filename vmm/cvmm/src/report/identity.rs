//! What a report says of the guest's identity beside its launch digest: the one place of the report that chooses by
//! technology.

use abi::tdx::{TdAttributes, Xfam};

use crate::config::Technology;
use crate::digest::{hex, runtime_registers};
use crate::plan::Plan;

use super::schema::TdFacts;

/// What the guest's owner lets the host do: SEV-SNP's policy, a TD's attributes.
pub(super) fn policy(technology: &Technology) -> Option<String> {
    match technology {
        Technology::Plain => None,
        Technology::Snp(snp) => Some(format!("{:#x}", snp.policy.0)),
        Technology::Tdx(tdx) => Some(format!("{:#x}", tdx.attributes.0)),
    }
}

pub(super) fn td(technology: &Technology, plan: &Plan, xfam: Option<Xfam>) -> Option<TdFacts> {
    let Technology::Tdx(config) = technology else { return None };
    let names = TdAttributes::NAMES.iter().filter(|(bit, _)| config.attributes.contains(*bit));
    Some(TdFacts {
        attributes: format!("{:#x}", config.attributes.0),
        attribute_names: names.map(|(_, name)| (*name).to_owned()).collect(),
        xfam: format!("{:#x}", xfam.unwrap_or_default().0),
        mrtd: crate::digest::tdx::mrtd(plan).to_string(),
        rtmr: runtime_registers(plan).map(|all| all.iter().map(ToString::to_string).collect()),
        mrconfigid: hex(&config.mrconfigid),
        mrowner: hex(&config.mrowner),
        mrownerconfig: hex(&config.mrownerconfig),
    })
}
