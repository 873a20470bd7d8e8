//! What to do about a call that the host refused: the first row that fits call and errno.
//!
//! What firmware and TDX module say in addition has cures of its own, beside the tables of their statuses.

use std::io;

/// A row: calls (all, if there are none), the errno, the cure.
pub type Cure = (&'static [&'static str], i32, &'static str);

const BUG: &str =
    "report this as a bug, with the lines above and the host's kernel version (uname -r)";
const NO_MEMORY: &str = "free memory on the host, give less --memory, or raise the memory limit of cvmm's control group (memory.max)";
const GAVE_UP: &str =
    "KVM has given this VM up: `dmesg | grep -i kvm` on the host says why; start the guest again";
const RELOAD: &str =
    "`dmesg | grep -i kvm` on the host says why; load KVM's modules anew if nothing else helps";
const FORBIDDEN: &str = "a security module, a seccomp filter or a container forbids it: allow it there, or run cvmm outside (`dmesg | grep -i -e audit -e apparmor`)";

/// What holds for one call.
const OF_CALLS: &[Cure] = &[
    (&["KVM_CHECK_EXTENSION", "KVM_GET_API_VERSION", "KVM_GET_SUPPORTED_CPUID"], libc::EIO, RELOAD),
    (&["KVM_IRQFD", "KVM_SIGNAL_MSI", "KVM_SET_GSI_ROUTING"], libc::EINVAL, BUG),
    (&["KVM_IRQFD"], libc::EBUSY, BUG),
    (
        &["KVM_CREATE_VM"],
        libc::EINVAL,
        "KVM does not have VMs of this type: `dmesg | grep -i -e kvm -e sev -e tdx` says what is missing",
    ),
    (
        &["KVM_CREATE_VM"],
        libc::EBUSY,
        "another hypervisor holds the processor's virtualisation: stop it (VirtualBox, VMware)",
    ),
    (
        &["KVM_CREATE_VM"],
        libc::EIO,
        "virtualisation cannot be switched on: check the BIOS setting and `dmesg | grep -i kvm`",
    ),
    (&["KVM_CREATE_VCPU"], libc::EINVAL, "give fewer --cpus: KVM allows this VM no further one"),
    (
        &["KVM_CREATE_IRQCHIP", "KVM_IRQFD"],
        libc::ENODEV,
        "use a kernel with CONFIG_KVM_IOAPIC and in-kernel interrupt controllers",
    ),
    (
        &["KVM_ENABLE_CAP"],
        libc::EINVAL,
        "update the host's kernel: it lacks the capability, or has it not for this type of VM (SEV-SNP needs 6.11, TDX 6.16)",
    ),
    (
        &["KVM_GET_TSC_KHZ", "KVM_SET_TSC_KHZ"],
        libc::EIO,
        "use a host whose TSC is stable: `dmesg | grep -i tsc` says what is wrong with it",
    ),
    (
        &["KVM_SET_TSC_KHZ"],
        libc::EINVAL,
        "use a host whose TSC can be scaled, or runs at a multiple of 25 MHz (`dmesg | grep -i tsc`)",
    ),
    (
        &["KVM_SET_USER_MEMORY_REGION", "KVM_SET_USER_MEMORY_REGION2"],
        libc::EINVAL,
        "give less --memory; if it is below 8T already, report this as a bug",
    ),
    (
        &["KVM_CREATE_GUEST_MEMFD"],
        libc::EINVAL,
        "use a kernel of 6.8 or newer with CONFIG_KVM_GUEST_MEMFD (or CONFIG_KVM_PRIVATE_MEM)",
    ),
    (
        &["KVM_SET_MEMORY_ATTRIBUTES"],
        libc::ENOMEM,
        "free memory on the host, or give less --memory: the kernel keeps an entry for every page that is private",
    ),
    (
        &["KVM_SET_MEMORY_ATTRIBUTES"],
        libc::EINVAL,
        "use a kernel of 6.8 or newer with CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES",
    ),
    (
        &["KVM_SET_CPUID2"],
        libc::EPERM,
        "the host withholds a processor state that CPUID names (arch_prctl ARCH_REQ_XCOMP_GUEST_PERM): report this as a bug, with `cpuid -r`",
    ),
    (
        &["KVM_SET_CPUID2", "KVM_GET_SUPPORTED_CPUID"],
        libc::EINVAL,
        "report this as a bug, with the output of `cpuid -r`",
    ),
    (
        &["KVM_SET_CPUID2", "KVM_GET_SUPPORTED_CPUID"],
        libc::E2BIG,
        "report this as a bug, with the output of `cpuid -r`",
    ),
    (
        &["KVM_RUN"],
        libc::EFAULT,
        "the host could not back a page that the guest touched: free memory on the host, look at memory.max of cvmm's control group and at `dmesg`",
    ),
    (
        &["KVM_RUN"],
        libc::EINVAL,
        "KVM finds the vCPU's state impossible: report this as a bug, with the host's kernel version (uname -r)",
    ),
    (
        &["mmap"],
        libc::ENOMEM,
        "raise the limit of this process's address space (ulimit -v) or of mappings (sysctl vm.max_map_count)",
    ),
    (
        &["mmap of guest memory"],
        libc::ENOMEM,
        "give less --memory, raise the limit of this process's address space (ulimit -v), or let the kernel overcommit (sysctl vm.overcommit_memory)",
    ),
    (
        &["KVM_PRE_FAULT_MEMORY"],
        libc::ENOMEM,
        "free memory on the host, give less --memory, or leave --accept prefault out: then only what the guest uses is found",
    ),
    (
        &["KVM_PRE_FAULT_MEMORY"],
        libc::EOPNOTSUPP,
        "leave --accept prefault out: this host's KVM maps no memory of such a guest ahead",
    ),
    (&["fallocate"], libc::EINTR, "start the guest again: a signal came in between"),
    (
        &["a vCPU thread", "the quoting thread"],
        libc::EAGAIN,
        "raise the limit of processes (ulimit -u), or pids.max of cvmm's control group",
    ),
    (
        &["/dev/kvm", "/dev/sev"],
        libc::EBUSY,
        "stop what holds it (another hypervisor, a firmware update), and try again",
    ),
    (
        &["/dev/kvm", "/dev/sev"],
        libc::ENODEV,
        "switch virtualisation (SVM or VT-x) on in the BIOS and load the module (`dmesg | grep -i -e kvm -e ccp` says what is missing), or add --emulate",
    ),
];

/// What holds for every call.
const OF_ALL: &[Cure] = &[
    (&[], libc::ENOMEM, NO_MEMORY),
    (
        &[],
        libc::EMFILE,
        "raise the limit of open files (ulimit -n): a guest takes about 11, and two for each vCPU",
    ),
    (&[], libc::ENFILE, "raise the host's limit of open files (sysctl fs.file-max)"),
    (&[], libc::EPERM, FORBIDDEN),
    (&[], libc::EACCES, FORBIDDEN),
    (&[], libc::EIO, GAVE_UP),
    (
        &[],
        libc::EHWPOISON,
        "the host's memory is broken: `dmesg | grep -i -e mce -e poison` names the page; replace the module",
    ),
    (&[], libc::EINTR, "start the guest again: a signal came first"),
    (&[], libc::EAGAIN, "try again"),
    (&[], libc::EBUSY, "try again; if it stays so, look at the host's `dmesg`"),
    (&[], libc::ENOSPC, "free what is used up: the host's `dmesg` names it"),
    (
        &[],
        libc::ENOTTY,
        "update the host's kernel: it does not know this call (SEV-SNP needs 6.11, TDX 6.16)",
    ),
    (&[], libc::ENOSYS, "update the host's kernel: it does not know this call"),
    (&[], libc::ENXIO, "use a host, or a kernel, that has it: `dmesg | grep -i kvm`"),
    (&[], libc::ENODEV, "use a host, or a kernel, that has it: `dmesg | grep -i kvm`"),
    (&[], libc::EOPNOTSUPP, "use a host, or a kernel, that has it: `dmesg | grep -i kvm`"),
    (
        &[],
        libc::EINVAL,
        "update the host's kernel if it is older than 6.11; else report this as a bug, with its version (uname -r)",
    ),
];

/// What to do; `tables` are asked before what holds for every call.
pub fn find(call: &str, source: &io::Error, tables: &[&[Cure]]) -> &'static str {
    let errno = source.raw_os_error();
    tables
        .iter()
        .copied()
        .chain([OF_CALLS, OF_ALL])
        .flatten()
        .find(|(calls, of, _)| Some(*of) == errno && (calls.is_empty() || calls.contains(&call)))
        .map_or(BUG, |(_, _, cure)| cure)
}

/// What to do about an ordinary call.
pub fn of(call: &str, source: &io::Error) -> &'static str {
    find(call, source, &[])
}
