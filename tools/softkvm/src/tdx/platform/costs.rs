//! What the module's functions and the ways into and out of a TD cost.

use crate::price::Price;

/// Costs in TSC cycles. Every SEAMCALL includes the way into the module and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdxCosts {
    /// TDH.MNG.CREATE, KEY.CONFIG, ADDCX and INIT together.
    pub mng_init: Price,
    /// TDH.VP.CREATE, ADDCX and INIT together.
    pub vp_init: Price,
    /// TDH.MEM.SEPT.ADD of one page of the secure EPT.
    pub sept_add: Price,
    /// TDH.MEM.PAGE.ADD of one 4 KiB page.
    pub page_add: Price,
    /// TDH.MR.EXTEND of one chunk of 256 bytes.
    pub mr_extend: Price,
    /// TDH.MR.FINALIZE.
    pub mr_finalize: Price,
    /// TDH.MEM.PAGE.AUG of one 4 KiB page, without the exit that led to it.
    pub page_aug: Price,
    /// TDG.MEM.PAGE.ACCEPT of one 4 KiB page, clearing it included.
    pub page_accept: Price,
    /// TDH.MEM.RANGE.BLOCK, TRACK, PAGE.REMOVE and PHYMEM.PAGE.WBINVD of one 4 KiB page.
    pub page_remove: Price,
    /// Any other TDCALL that the module answers itself.
    pub tdcall: Price,
    /// TDG.MR.REPORT.
    pub mr_report: Price,
    /// An instruction that the module emulates: CPUID, an MSR, a control register.
    pub emulation: Price,
    /// Delivery of #VE.
    pub ve: Price,
    /// TDG.VP.VMCALL to the kernel and TDH.VP.ENTER back.
    pub vmcall: Price,
    /// Another TD exit and entry (EPT violation, interrupt).
    pub exit: Price,
    /// Return to user space and back, on top of [`Self::vmcall`] or [`Self::exit`].
    pub user_exit: Price,
}

impl Default for TdxCosts {
    /// Orders of magnitude of a 2 GHz Sapphire Rapids part: a SEAMCALL takes about a microsecond, a round trip to the
    /// kernel three, a page is added or accepted in two.
    fn default() -> Self {
        Self {
            mng_init: Price::known(2_000_000),
            vp_init: Price::known(200_000),
            sept_add: Price::known(4_000),
            page_add: Price::known(6_000),
            mr_extend: Price::known(5_000),
            mr_finalize: Price::known(5_000),
            page_aug: Price::known(4_000),
            page_accept: Price::known(3_500),
            page_remove: Price::known(14_000),
            tdcall: Price::known(1_600),
            mr_report: Price::known(40_000),
            emulation: Price::known(1_600),
            ve: Price::known(2_200),
            vmcall: Price::known(6_000),
            exit: Price::known(6_500),
            user_exit: Price::known(4_000),
        }
    }
}
