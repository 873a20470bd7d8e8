//! KVM's own statistics of the run, as it names them.

use std::fmt::Write;

use super::markup::Text;
use crate::report::number::grouped;
use crate::report::runs::Run;
use crate::report::schema::Statistics;

/// Folded: there are many.
pub fn render(out: &mut String, run: &Run) {
    let stats = &run.report.kvm_stats;
    if stats.vm.is_empty() && stats.vcpus.iter().all(Statistics::is_empty) {
        return;
    }
    out.push_str("<details><summary>KVM's own statistics</summary><div class=two>");
    list(out, "VM", &stats.vm);
    for (at, vcpu) in stats.vcpus.iter().enumerate() {
        list(out, &format!("vCPU {at}"), vcpu);
    }
    out.push_str("</div></details>");
}

fn list(out: &mut String, of: &str, statistics: &Statistics) {
    if statistics.is_empty() {
        return;
    }
    let _ = write!(
        out,
        "<table><thead><tr><th scope=col>{of}</th><th scope=col class=num>value</th></tr></thead><tbody>"
    );
    for (name, values) in statistics {
        let values: Vec<String> = values.iter().map(|value| grouped(*value)).collect();
        let _ = write!(
            out,
            "<tr><th scope=row>{}</th><td class=num>{}</td></tr>",
            Text(&name.replace('_', " ")),
            values.join(" ")
        );
    }
    out.push_str("</tbody></table>");
}
