//! The files of /sys by which the modelled host shows itself: what a monitor reads there beside its ioctls. The preload library
//! answers them in place of the files of the machine that softkvm runs on, whose processor is another one.
//!
//! Linux 7.2 arch/x86/kvm/svm/sev.c and arch/x86/kvm/vmx/main.c (module parameters), kernel/cgroup/misc.c (the `misc`
//! controller of the root cgroup), drivers/virt/coco/tdx-host/tdx-host.c (the module's version).

use super::errno::{Answer, Errno};
use super::machine::Machine;

const AMD: &str = "/sys/module/kvm_amd/";
const INTEL: &str = "/sys/module/kvm_intel/";
const CGROUPS: &str = "/sys/fs/cgroup/";
const TDX_VERSION: &str = "/sys/devices/faux/tdx_host/version";

/// Whether the modelled host answers for a path, whatever the answer.
pub fn concerns(path: &str) -> bool {
    let misc = path.starts_with(CGROUPS) && path.contains("misc.");
    misc || path.starts_with(AMD) || path.starts_with(INTEL) || path == TDX_VERSION
}

/// What a file reads as; ENOENT where the modelled host has none of this name.
pub fn read(machine: &Machine, path: &str) -> Answer<String> {
    let intel = machine.xeon.is_some();
    let loaded = machine.faults.has_module();
    if let Some(name) = path.strip_prefix(AMD) {
        return parameter(machine, loaded && !intel, name, &["npt", "sev", "sev_es", "sev_snp"]);
    }
    if let Some(name) = path.strip_prefix(INTEL) {
        return parameter(machine, loaded && intel, name, &["ept", "tdx"]);
    }
    match &machine.xeon {
        Some(xeon) if path == TDX_VERSION && loaded => {
            let number = xeon.tdx.module.name.split(' ').next().unwrap_or_default();
            return Ok(format!("{number}\n"));
        }
        _ => {}
    }
    let key = if intel { "tdx" } else { "sev_es" };
    let (used, all) = machine.ids_in_use();
    match path.strip_prefix(CGROUPS).and_then(|path| path.rsplit('/').next()) {
        // There is no module, and so nothing that it would have registered.
        Some(_) if !loaded => Err(Errno::ENOENT),
        Some("misc.capacity") => Ok(format!("{key} {all}\n")),
        Some("misc.current") => Ok(format!("{key} {used}\n")),
        // The root cgroup has no limits.
        _ => Err(Errno::ENOENT),
    }
}

/// A parameter of a module: the last of `names` is the technology's own.
fn parameter(machine: &Machine, loaded: bool, name: &str, names: &[&str]) -> Answer<String> {
    let name = name.strip_prefix("parameters/").filter(|name| loaded && names.contains(name));
    let name = name.ok_or(Errno::ENOENT)?;
    let on = names.last() != Some(&name) || machine.faults.switched_on();
    Ok(if on { "Y\n" } else { "N\n" }.to_owned())
}
