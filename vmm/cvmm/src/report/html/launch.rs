//! What was launched: every page of it.

use std::fmt::Write;

use super::markup::Text;
use crate::report::number::{bytes, grouped, time};
use crate::report::runs::Run;

/// More pages than this are not drawn one by one.
const SQUARES: u64 = 64;

/// Launch pages, and what waits in shared memory.
pub fn render(out: &mut String, run: &Run) {
    let launch = &run.report.launch;
    let protected = run.report.technology != "plain";
    if launch.regions.is_empty() {
        out.push_str("<p class=none>No pages were launched.</p>");
        return;
    }
    let _ = write!(
        out,
        "<div class=scroll tabindex=0 role=region aria-label=\"Launch pages of {}\"><table><thead><tr>\
         <th scope=col>region</th><th scope=col class=num>address</th><th scope=col class=num>pages</th>\
         <th scope=col>{}</th><th scope=col>kind</th></tr></thead><tbody>",
        Text(&run.name),
        if protected { "contents in the digest" } else { "digest" },
    );
    for region in &launch.regions {
        let measured = match (protected, region.measured) {
            (false, _) => "none",
            (true, true) => "yes",
            (true, false) => "no",
        };
        let _ = write!(
            out,
            "<tr><th scope=row>{}</th><td class=num>{:#x}</td><td class=num>{}</td><td>{measured}</td>\
             <td>{}</td></tr>",
            Text(&region.tag),
            region.gpa,
            pages(region.pages),
            Text(&region.page_type),
        );
    }
    if launch.vmsa_pages > 0 {
        let _ = write!(
            out,
            "<tr><th scope=row>vCPU registers</th><td class=num></td><td class=num>{}</td><td>yes</td><td>VMSA</td></tr>",
            pages(launch.vmsa_pages)
        );
    }
    for blob in &launch.staged {
        let _ = write!(
            out,
            "<tr class=quiet><th scope=row>{}</th><td class=num>{:#x}</td><td class=num>{}</td><td>{}</td>\
             <td>in shared memory</td></tr>",
            Text(&blob.tag),
            blob.gpa,
            bytes(blob.bytes),
            if protected { "by its hash" } else { "none" },
        );
    }
    out.push_str("</tbody></table></div>");
    cost(out, run);
}

fn pages(count: u64) -> String {
    let squares = if count <= SQUARES { count } else { 0 };
    format!(
        "<span class=squares aria-hidden=true>{}</span> {}",
        "■".repeat(squares as usize),
        grouped(count)
    )
}

fn cost(out: &mut String, run: &Run) {
    let launch = &run.report.launch;
    if let Some(measuring) = launch.measuring_modelled_ns {
        let _ = write!(
            out,
            "<p class=note>Measuring and sealing took {} of modelled time.",
            time(measuring)
        );
        if let Some(ovmf) = launch.psp_ovmf_modelled_ns {
            let _ = write!(
                out,
                " At the same rate the {} pages of a launch with OVMF would take {}.",
                grouped(launch.ovmf_pages),
                time(ovmf)
            );
        }
        out.push_str("</p>");
    }
}
