//! The few devices of a guest: serial line, power and reset, marks on ports, and an IOAPIC where KVM's cannot be had. A
//! guest that starts in a firmware image has a few more.

pub mod acpi_pm;
pub mod bus;
pub mod fw_cfg;
pub mod host_bridge;
pub mod ioapic;
pub mod legacy;
pub mod marks;
pub mod mmio;
pub mod output;
pub mod records;
pub mod rtc;
pub mod serial;
pub mod virtio;
