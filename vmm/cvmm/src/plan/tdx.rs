//! The plan of a TD: the page with the reset vector, and the mailbox at which all but one of its processors wait.

use abi::shim::tdx::{AP_RESET_VECTOR_GPA, MAILBOX_GPA, RESET_PAGE_GPA, reset_page};
use abi::shim::{self, Flags, PAGE};

use super::acpi::Wakeup;
use super::layout::Range;
use super::region;
use super::technology::{Shape, Technology};
use crate::shim_image::TDX_SHIM_CODE;

pub(super) fn shape() -> Shape {
    Shape {
        technology: Technology::Tdx,
        named: shim::Technology::TDX,
        flags: Flags::RAM_PRIVATE,
        c_bit: None,
        shim: TDX_SHIM_CODE,
        first_stage: None,
        first: vec![region("reset", RESET_PAGE_GPA, &reset_page())],
        last: vec![region("mailbox", MAILBOX_GPA, &[0; PAGE as usize])],
        extra: vec![Range { gpa: RESET_PAGE_GPA, len: PAGE }],
        wakeup: Some(Wakeup { mailbox: MAILBOX_GPA, reset_vector: AP_RESET_VECTOR_GPA }),
    }
}
