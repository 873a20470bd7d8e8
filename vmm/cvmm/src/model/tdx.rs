//! The terms of a TD.

use super::profile::{Price, Profile};
use super::term::{KERNEL, Term, Work};

/// TDH.MR.EXTEND measures 256 bytes.
const CHUNKS: u64 = 16;

/// What launching costs, and accepting memory.
pub fn launch(profile: &Profile, work: &Work) -> Vec<Term> {
    let Work { launch_pages, vcpus, memory_pages, prefaulted_pages, .. } = *work;
    let accepted = memory_pages.saturating_sub(launch_pages);
    let prefaulted = prefaulted_pages.min(accepted);
    let faulted = accepted - prefaulted;
    let ahead = Term::new(
        "memory mapped ahead",
        &["H3"],
        format!("{prefaulted} pages x page_aug"),
        profile.price(prefaulted, &["page_aug"]),
        "pages of the launch are there already",
    );
    let mut terms = vec![
        Term::new(
            "TD made",
            &["S0"],
            format!("mng_init + {vcpus} vCPUs x vp_init"),
            profile.price(1, &["mng_init"]).plus(profile.price(vcpus, &["vp_init"])),
            "",
        ),
        Term::new(
            "pages measured",
            &["S1"],
            format!("{launch_pages} pages x (page_add + {CHUNKS} x mr_extend)"),
            profile
                .price(launch_pages, &["page_add"])
                .plus(profile.price(launch_pages * CHUNKS, &["mr_extend"])),
            "pages of the secure EPT itself (sept_add) come with them; a page that is added and not measured has no mr_extend",
        ),
        Term::new(
            "TD sealed",
            &["S2"],
            "mr_finalize".into(),
            profile.price(1, &["mr_finalize"]),
            "",
        ),
        Term::new(
            "memory accepted",
            &["G2"],
            match prefaulted {
                0 => format!("{accepted} pages x (exit + page_aug + page_accept)"),
                _ => format!("{accepted} pages x page_accept + {faulted} x (exit + page_aug)"),
            },
            profile
                .price(accepted, &["page_accept"])
                .plus(profile.price(faulted, &["exit", "page_aug"])),
            "the run also executes the shim's loop and tries large pages first; files' copies are accepted later",
        ),
    ];
    terms.extend((prefaulted > 0).then_some(ahead));
    terms
}

/// What leaving the guest costs its kernel.
pub fn kernel(profile: &Profile, work: &Work) -> Term {
    let Work { monitor_exits, kvm_exits, changed_pages, kernel_ns, .. } = *work;
    let price = Price::known(kernel_ns)
        .plus(profile.price(monitor_exits, &["ve", "vmcall", "port_io", "user_exit"]))
        .plus(profile.price(kvm_exits, &["ve", "vmcall"]))
        .plus(profile.price(changed_pages, &["page_remove"]));
    Term::new(
        "kernel",
        KERNEL,
        format!(
            "own {:.1} ms + {monitor_exits} exits to the monitor x (ve + vmcall + port_io + user_exit) + {kvm_exits} to KVM x (ve + vmcall) \
             + {changed_pages} pages changed x page_remove",
            kernel_ns / 1e6
        ),
        price,
        "TDVMCALLs that the kernel makes by itself need no #VE; what the module answers alone, and what only a protected kernel executes, is not in it",
    )
}
