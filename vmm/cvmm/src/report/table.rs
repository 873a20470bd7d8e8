//! The summary for people: plain text, numbers right-aligned, units in the header.

use std::fmt::Write;

use super::number::ms;
use super::{LedgerFacts, RunReport};

pub(super) fn render(report: &RunReport) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_table(&mut out, report);
    out
}

fn write_table(out: &mut String, report: &RunReport) -> std::fmt::Result {
    let platform = match &report.platform.profile {
        Some(profile) => format!("softkvm, profile {profile}: emulated, NOT confidential"),
        None => "kvm".to_owned(),
    };
    writeln!(out)?;
    writeln!(
        out,
        "cvmm: {} guest, {} vCPU(s), {} MiB, on {platform}",
        report.technology,
        report.guest.vcpus,
        report.guest.memory_bytes >> 20
    )?;
    if let Some(digest) = &report.digest {
        writeln!(out, "launch digest  {digest}")?;
    }
    if let (Some(policy), None) = (&report.policy, &report.td) {
        writeln!(out, "policy         {policy}")?;
    }
    if let Some(td) = &report.td {
        writeln!(out, "attributes     {} {}", td.attributes, td.attribute_names.join(" "))?;
        writeln!(out, "XFAM           {}", td.xfam)?;
    }
    if let Some(costs) = report.platform.placeholder_costs.as_ref().filter(|c| !c.is_empty()) {
        write!(out, "modelled costs {} are placeholders: orders of magnitude", costs.len())?;
        let total = report.total.placeholder_modelled_ns.zip(report.total.modelled_ns);
        if let Some((placeholder, modelled)) = total.filter(|(_, modelled)| *modelled > 0) {
            let share = placeholder as f64 / modelled as f64 * 100.0;
            write!(out, "; {share:.1} % of the modelled time comes of them")?;
        }
        writeln!(out)?;
    }
    writeln!(
        out,
        "outcome        {} (exit code {})",
        report.outcome.kind, report.outcome.exit_code
    )?;
    let modelled = report.phases.iter().any(|p| p.modelled_ns.is_some());
    writeln!(out)?;
    write!(out, "{:<4}{:<42}{:>14}", "", "phase", "wall ms")?;
    if modelled {
        write!(out, "{:>14}", "modelled ms")?;
    }
    writeln!(out, "{:>10}{:>10}{:>10}", "calls", "exits", "MiB")?;
    for phase in &report.phases {
        write!(out, "{:<4}{:<42}{:>14}", phase.id, phase.name, ms(phase.wall_ns))?;
        if modelled {
            write!(out, "{:>14}", phase.modelled_ns.map(ms).unwrap_or_default())?;
        }
        let mib = phase.bytes as f64 / f64::from(1 << 20);
        writeln!(out, "{:>10}{:>10}{mib:>10.1}", phase.operations, phase.exits)?;
    }
    write!(out, "{:<4}{:<42}{:>14}", "", "total", ms(report.total.wall_ns))?;
    if modelled {
        write!(out, "{:>14}", report.total.modelled_ns.map(ms).unwrap_or_default())?;
    }
    writeln!(out)?;
    writeln!(out)?;
    writeln!(out, "    {:<34}{:>14}{:>14}{:>10}", "exits", "guest ms", "monitor ms", "count")?;
    for reason in &report.exits.by_reason {
        writeln!(
            out,
            "    {:<34}{:>14}{:>14}{:>10}",
            reason.reason,
            ms(reason.guest_wall_ns),
            ms(reason.monitor_wall_ns),
            reason.count
        )?;
    }
    let recorder = &report.exits.recorder;
    writeln!(
        out,
        "    recording them took {:.0} ns each, {:.2} % of the run",
        recorder.wall_ns_per_exit,
        recorder.wall_share_of_run * 100.0
    )?;
    super::probes::write_table(out, &report.probes)?;
    let launch = &report.launch;
    writeln!(out)?;
    write!(out, "    {} launch pages", launch.pages)?;
    if report.td.is_none() {
        write!(out, " and {} VMSA(s)", launch.vmsa_pages)?;
    } else if let Some(measuring) = launch.measuring_modelled_ns {
        write!(out, "; TDX module {} ms modelled", ms(measuring))?;
    }
    if let Some(ours) = launch.psp_modelled_ns {
        write!(out, "; security processor {} ms modelled", ms(ours))?;
    }
    if let Some(theirs) = launch.psp_ovmf_modelled_ns {
        write!(out, " (OVMF's {} pages: {} ms)", launch.ovmf_pages, ms(theirs))?;
    }
    writeln!(out)?;
    let changes = &report.page_state_changes;
    writeln!(
        out,
        "    page state changes: {} to private ({} pages), {} to shared ({} pages), {} refused",
        changes.to_private_requests,
        changes.to_private_pages,
        changes.to_shared_requests,
        changes.to_shared_pages,
        changes.refused_requests
    )?;
    write_ledger(out, &report.ledger)
}

fn write_ledger(out: &mut String, ledger: &LedgerFacts) -> std::fmt::Result {
    writeln!(out)?;
    writeln!(out, "    {:<34}{:>14}{:>14}", "memory at the end", "pages", "MiB")?;
    for (state, bytes) in ledger.states_at_end.iter().filter(|(_, bytes)| **bytes > 0) {
        let state = state.replace('_', " ");
        writeln!(out, "    {state:<34}{:>14}{:>14}", bytes / abi::shim::PAGE, mib(*bytes))?;
    }
    let again = ledger.flip_flop_pages;
    if again > 0 {
        writeln!(out, "    {:<34}{again:>14}", "changed owner more than once")?;
    }
    if let Some(mismatches) = ledger.accepted.as_ref().and_then(|a| a.mismatches) {
        writeln!(out, "    {:<34}{mismatches:>14}", "2 MiB found to be 4 KiB")?;
    }
    let used = &ledger.memory;
    let halves = [("shared", &used.shared), ("private", &used.private)];
    let halves = halves.iter().filter_map(|(name, half)| Some((name, half.as_ref()?)));
    writeln!(out)?;
    writeln!(out, "    {:<34}{:>14}{:>14}", "host memory", "peak MiB", "end MiB")?;
    for (name, half) in halves {
        let (peak, end) = (mib(half.peak_bytes), mib(half.end_bytes));
        writeln!(out, "    {name:<34}{peak:>14}{end:>14}")?;
    }
    Ok(())
}

fn mib(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / f64::from(1 << 20))
}
