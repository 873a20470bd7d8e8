//! What the module's functions and the ways into and out of a TD cost.

/// Costs in TSC cycles. Every SEAMCALL includes the way into the module and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdxCosts {
    /// TDH.MNG.CREATE, KEY.CONFIG, ADDCX and INIT together.
    pub mng_init: u64,
    /// TDH.VP.CREATE, ADDCX and INIT together.
    pub vp_init: u64,
    /// TDH.MEM.SEPT.ADD of one page of the secure EPT.
    pub sept_add: u64,
    /// TDH.MEM.PAGE.ADD of one 4 KiB page.
    pub page_add: u64,
    /// TDH.MR.EXTEND of one chunk of 256 bytes.
    pub mr_extend: u64,
    /// TDH.MR.FINALIZE.
    pub mr_finalize: u64,
    /// TDH.MEM.PAGE.AUG of one 4 KiB page, without the exit that led to it.
    pub page_aug: u64,
    /// TDG.MEM.PAGE.ACCEPT of one 4 KiB page, clearing it included.
    pub page_accept: u64,
    /// TDH.MEM.RANGE.BLOCK, TRACK, PAGE.REMOVE and PHYMEM.PAGE.WBINVD of one 4 KiB page.
    pub page_remove: u64,
    /// Any other TDCALL that the module answers itself.
    pub tdcall: u64,
    /// TDG.MR.REPORT.
    pub mr_report: u64,
    /// An instruction that the module emulates: CPUID, an MSR, a control register.
    pub emulation: u64,
    /// Delivery of #VE.
    pub ve: u64,
    /// TDG.VP.VMCALL to the kernel and TDH.VP.ENTER back.
    pub vmcall: u64,
    /// Another TD exit and entry (EPT violation, interrupt).
    pub exit: u64,
    /// Return to user space and back, on top of [`Self::vmcall`] or [`Self::exit`].
    pub user_exit: u64,
}

impl Default for TdxCosts {
    /// Orders of magnitude of a 2 GHz Sapphire Rapids part: a SEAMCALL takes about a microsecond, a round trip to the
    /// kernel three, a page is added or accepted in two.
    fn default() -> Self {
        Self {
            mng_init: 2_000_000,
            vp_init: 200_000,
            sept_add: 4_000,
            page_add: 6_000,
            mr_extend: 5_000,
            mr_finalize: 5_000,
            page_aug: 4_000,
            page_accept: 3_500,
            page_remove: 14_000,
            tdcall: 1_600,
            mr_report: 40_000,
            emulation: 1_600,
            ve: 2_200,
            vmcall: 6_000,
            exit: 6_500,
            user_exit: 4_000,
        }
    }
}
