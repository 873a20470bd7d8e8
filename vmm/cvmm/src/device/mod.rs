//! The few devices of a guest, all on ports: serial line, power and reset, marks.

pub mod acpi_pm;
pub mod bus;
pub mod marks;
pub mod serial;
