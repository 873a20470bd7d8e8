//! The terms of an SEV-SNP guest.

use super::profile::{Price, Profile};
use super::term::{KERNEL, Term, Work};

/// What launching costs, and accepting memory.
pub fn launch(profile: &Profile, work: &Work) -> Vec<Term> {
    let Work { launch_pages, vcpus, memory_pages, prefaulted_pages, .. } = *work;
    let accepted = memory_pages.saturating_sub(launch_pages);
    let prefaulted = prefaulted_pages.min(accepted);
    let faulted = accepted - prefaulted;
    let ahead = Term::new(
        "memory mapped ahead",
        &["H3"],
        format!("{prefaulted} pages x rmpupdate"),
        profile.price(prefaulted, &["rmpupdate"]),
        "pages of the launch are there already",
    );
    let mut terms = vec![
        Term::new(
            "launch begun",
            &["S0"],
            "launch_start".into(),
            profile.price(1, &["launch_start"]),
            "",
        ),
        Term::new(
            "pages measured",
            &["S1"],
            format!("{launch_pages} pages x launch_update"),
            profile.price(launch_pages, &["launch_update"]),
            "",
        ),
        Term::new(
            "launch sealed",
            &["S2"],
            format!("launch_finish + {vcpus} VMSAs x launch_update"),
            profile.price(1, &["launch_finish"]).plus(profile.price(vcpus, &["launch_update"])),
            "",
        ),
        Term::new(
            "memory accepted",
            &["G2"],
            match prefaulted {
                0 => format!("{accepted} pages x (exit + rmpupdate + pvalidate)"),
                _ => format!("{accepted} pages x pvalidate + {faulted} x (exit + rmpupdate)"),
            },
            profile
                .price(accepted, &["pvalidate"])
                .plus(profile.price(faulted, &["exit", "rmpupdate"])),
            "the run also executes the shim's loop, and asks for page state changes; files' copies are accepted later",
        ),
    ];
    terms.extend((prefaulted > 0).then_some(ahead));
    terms
}

/// What leaving the guest costs its kernel.
pub fn kernel(profile: &Profile, work: &Work) -> Term {
    let Work { monitor_exits, kvm_exits, changed_pages, kernel_ns, .. } = *work;
    let price = Price::known(kernel_ns)
        .plus(profile.price(monitor_exits, &["vc", "vmgexit", "port_io", "user_exit"]))
        .plus(profile.price(kvm_exits, &["vc", "vmgexit"]))
        .plus(profile.price(changed_pages, &["rmpupdate", "pvalidate"]));
    Term::new(
        "kernel",
        KERNEL,
        format!(
            "own {:.1} ms + {monitor_exits} exits to the monitor x (vc + vmgexit + port_io + user_exit) + {kvm_exits} to KVM x (vc + vmgexit) \
             + {changed_pages} pages changed x (rmpupdate + pvalidate)",
            kernel_ns / 1e6
        ),
        price,
        "the instructions of the #VC handler (1169 each time in Linux 6.12 and 7.2), and of flushing and clearing what is converted, \
         are not in it; of the exits, those that are no port I/O or need no #VC are priced too high",
    )
}
