//! The terms of an unprotected guest.

use super::profile::{Price, Profile};
use super::term::{KERNEL, Term, Work};

/// Nothing is measured or accepted.
pub fn launch() -> Vec<Term> {
    Vec::new()
}

/// What an exit costs: Intel's profiles have a cost of their own for plain guests.
fn exit(profile: &Profile) -> &'static str {
    if profile.costs.contains_key("plain_exit") { "plain_exit" } else { "exit" }
}

/// What an exit to the monitor costs.
pub fn monitor_exit(profile: &Profile, count: u64) -> Price {
    profile.price(count, &[exit(profile), "user_exit"])
}

/// What leaving the guest costs its kernel.
pub fn kernel(profile: &Profile, work: &Work) -> Term {
    let Work { monitor_exits, kvm_exits, kernel_ns, .. } = *work;
    let price = Price::known(kernel_ns)
        .plus(monitor_exit(profile, monitor_exits))
        .plus(profile.price(kvm_exits, &[exit(profile)]));
    Term::new(
        "kernel",
        KERNEL,
        format!(
            "own {:.1} ms + {monitor_exits} exits to the monitor x ({name} + user_exit) + {kvm_exits} to KVM x {name}",
            kernel_ns / 1e6,
            name = exit(profile)
        ),
        price,
        "",
    )
}
