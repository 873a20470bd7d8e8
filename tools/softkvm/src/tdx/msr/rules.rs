//! The module's MSR table (TDX module source, "MSR configuration"), by ranges. What is not here raises #VE, which is also
//! what the module does outside the two ranges of MSR bitmaps.

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The access is not intercepted.
    Native,
    /// #VE.
    Ve,
    /// #GP(0).
    Gp,
    /// The module has a value.
    Module,
    /// Native where the TD has a feature, else #GP(0).
    NativeIf(Condition),
    /// #VE where the TD has a feature, else #GP(0).
    VeIf(Condition),
}

/// A feature of a TD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Dca,
    Tme,
    Mktme,
    TscDeadline,
    Tsx,
    Waitpkg,
    Xfd,
    Perfmon,
    Pks,
    Xfam(u64),
}

/// What happens to a range of registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    first: u32,
    last: u32,
    pub read: Action,
    pub write: Action,
}

const fn rule(first: u32, last: u32, read: Action, write: Action) -> Rule {
    Rule { first, last, read, write }
}

const fn native(first: u32, last: u32) -> Rule {
    rule(first, last, Action::Native, Action::Native)
}

const fn gp(first: u32, last: u32) -> Rule {
    rule(first, last, Action::Gp, Action::Gp)
}

const fn native_if(first: u32, last: u32, condition: Condition) -> Rule {
    rule(first, last, Action::NativeIf(condition), Action::NativeIf(condition))
}

const fn ve_if(first: u32, last: u32, condition: Condition) -> Rule {
    rule(first, last, Action::VeIf(condition), Action::VeIf(condition))
}

/// States of XFAM.
mod state {
    pub const PT: u64 = 1 << 8;
    pub const CET: u64 = 0b11 << 11;
    pub const UINTR: u64 = 1 << 14;
    pub const LBR: u64 = 1 << 15;
}

const RULES: &[Rule] = &[
    // Time stamp counter; IA32_MISC_PACKAGE_CTLS; IA32_DEBUG_INTERFACE: readable.
    rule(0x10, 0x10, Action::Native, Action::Ve),
    rule(0xbc, 0xbc, Action::Native, Action::Ve),
    rule(0xc80, 0xc80, Action::Native, Action::Ve),
    // SPEC_CTRL, PRED_CMD.
    native(0x48, 0x49),
    ve_if(0x87, 0x87, Condition::Mktme),
    // SGX keys, cache flushes of SMM, SMM, overclocking, SLAM.
    gp(0x8c, 0x8f),
    gp(0x98, 0x9b),
    gp(0x9e, 0x9e),
    gp(0x195, 0x195),
    gp(0x276, 0x276),
    // Read-only: the module answers reads, the processor refuses writes.
    rule(0xbd, 0xbd, Action::Module, Action::Gp),
    rule(0x10a, 0x10a, Action::Module, Action::Gp),
    native_if(0xe1, 0xe1, Condition::Waitpkg),
    // FLUSH_CMD.
    native(0x10b, 0x10b),
    native_if(0x122, 0x122, Condition::Tsx),
    // SYSENTER.
    native(0x174, 0x176),
    // MISC_ENABLE: native with PERFMON.
    rule(0x1a0, 0x1a0, Action::Native, Action::Ve),
    native_if(0x1c4, 0x1c5, Condition::Xfd),
    rule(0x1d9, 0x1d9, Action::Native, Action::Native),
    ve_if(0x1f8, 0x1fa, Condition::Dca),
    // PAT.
    native(0x277, 0x277),
    // Performance monitoring.
    native_if(0xc1, 0xc8, Condition::Perfmon),
    native_if(0x186, 0x18d, Condition::Perfmon),
    native_if(0x1a6, 0x1a7, Condition::Perfmon),
    native_if(0x309, 0x310, Condition::Perfmon),
    native_if(0x329, 0x329, Condition::Perfmon),
    native_if(0x345, 0x345, Condition::Perfmon),
    native_if(0x38d, 0x392, Condition::Perfmon),
    native_if(0x3f1, 0x3f2, Condition::Perfmon),
    native_if(0x3f6, 0x3f7, Condition::Perfmon),
    native_if(0x4c1, 0x4c8, Condition::Perfmon),
    // VMX capabilities, of nested VMs.
    rule(0x480, 0x480, Action::Module, Action::Gp),
    rule(0x481, 0x484, Action::Ve, Action::Gp),
    rule(0x485, 0x489, Action::Module, Action::Gp),
    rule(0x48a, 0x48a, Action::Ve, Action::Gp),
    rule(0x48b, 0x492, Action::Module, Action::Gp),
    gp(0x500, 0x500),
    // Processor trace.
    native_if(0x560, 0x561, Condition::Xfam(state::PT)),
    native_if(0x570, 0x572, Condition::Xfam(state::PT)),
    native_if(0x580, 0x587, Condition::Xfam(state::PT)),
    // DS_AREA.
    native(0x600, 0x600),
    native_if(0x6a0, 0x6a0, Condition::Xfam(state::CET)),
    native_if(0x6a2, 0x6a2, Condition::Xfam(state::CET)),
    native_if(0x6a4, 0x6a8, Condition::Xfam(state::CET)),
    ve_if(0x6e0, 0x6e0, Condition::TscDeadline),
    native_if(0x6e1, 0x6e1, Condition::Pks),
    // x2APIC: reserved numbers, and what the virtual APIC page holds. The others are the host's.
    gp(0x800, 0x801),
    gp(0x804, 0x807),
    native(0x808, 0x80c),
    native(0x80e, 0x80e),
    native(0x810, 0x827),
    gp(0x829, 0x82e),
    gp(0x831, 0x831),
    native(0x83f, 0x83f),
    gp(0x840, 0x8ff),
    ve_if(0x981, 0x984, Condition::Tme),
    native_if(0x985, 0x98a, Condition::Xfam(state::UINTR)),
    // MPX, PASID.
    gp(0xd90, 0xd90),
    gp(0xd93, 0xd93),
    // XSS and EFER: writes have rules of their own.
    native(0xda0, 0xda0),
    native(0xc000_0080, 0xc000_0080),
    native_if(0x1200, 0x12ff, Condition::Xfam(state::LBR)),
    native_if(0x14ce, 0x14cf, Condition::Xfam(state::LBR)),
    native_if(0x1500, 0x16ff, Condition::Xfam(state::LBR)),
    // IA32_UARCH_MISC_CTL.
    native(0x1b01, 0x1b01),
    // STAR, LSTAR, FMASK (not CSTAR); FS.base, GS.base, KERNEL_GS_BASE, TSC_AUX.
    native(0xc000_0081, 0xc000_0082),
    native(0xc000_0084, 0xc000_0084),
    native(0xc000_0100, 0xc000_0103),
];

/// The rule of a register.
pub(super) fn find(index: u32) -> Option<&'static Rule> {
    RULES.iter().find(|rule| (rule.first..=rule.last).contains(&index))
}
