//! The few devices of a guest: serial line, power and reset, marks on ports, and an IOAPIC where KVM's cannot be had.

pub mod acpi_pm;
pub mod bus;
pub mod ioapic;
pub mod marks;
pub mod mmio;
pub mod serial;
