//! Power-off and reset by hardware-reduced ACPI (ACPI specification 6.5, section 4.8.3.7).

/// SLEEP_CONTROL_REG.
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// SLEEP_STATUS_REG; always 0.
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// RESET_REG.
pub const RESET_PORT: u16 = 0x602;
/// What to write to [`RESET_PORT`].
pub const RESET_VALUE: u8 = 1;
/// The sleep type of S5, as `_S5_` in the DSDT names it.
pub const S5_SLEEP_TYPE: u8 = 5;
/// SLP_EN of SLEEP_CONTROL_REG.
const SLEEP_ENABLE: u8 = 1 << 5;
/// What a guest writes to [`SLEEP_CONTROL_PORT`] to be switched off.
pub const POWER_OFF: u8 = SLEEP_ENABLE | S5_SLEEP_TYPE << 2;

/// What the guest asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// S5.
    Off,
    /// A reset.
    Reset,
}

/// A byte written to one of the three ports.
pub fn write(port: u16, value: u8) -> Option<PowerRequest> {
    match port {
        SLEEP_CONTROL_PORT if value & SLEEP_ENABLE != 0 && value >> 2 & 7 == S5_SLEEP_TYPE => {
            Some(PowerRequest::Off)
        }
        RESET_PORT if value == RESET_VALUE => Some(PowerRequest::Reset),
        _ => None,
    }
}
