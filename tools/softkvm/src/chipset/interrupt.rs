//! An interrupt message on its way to local APICs: what MSIs, IOAPIC pins and IPIs have in common.

/// APIC delivery mode (AMD APM vol. 2, table 16-3); open, as the guest writes all eight values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery(u8);

impl Delivery {
    /// To every destination.
    pub const FIXED: Self = Self(0);
    /// To one of the destinations.
    pub const LOWEST: Self = Self(1);
    /// System management interrupt.
    pub const SMI: Self = Self(2);
    /// Remote read; KVM uses it as "kick a halted vCPU".
    pub const REMOTE_READ: Self = Self(3);
    /// Non-maskable interrupt.
    pub const NMI: Self = Self(4);
    /// INIT.
    pub const INIT: Self = Self(5);
    /// Start-up IPI.
    pub const STARTUP: Self = Self(6);
    /// Vector comes from the 8259s.
    pub const EXTINT: Self = Self(7);

    /// From a 3-bit field.
    pub const fn from_bits(bits: u32) -> Self {
        Self((bits & 7) as u8)
    }

    /// The 3-bit field.
    pub const fn bits(self) -> u8 {
        self.0
    }
}

/// ICR destination shorthand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shorthand {
    /// Use the destination field.
    None,
    /// The sender itself.
    Myself,
    /// Everybody.
    All,
    /// Everybody but the sender.
    Others,
}

/// An interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Vector, or the start-up page for a start-up IPI.
    pub vector: u8,
    /// Delivery mode.
    pub delivery: Delivery,
    /// Logical rather than physical destination.
    pub logical: bool,
    /// Level-triggered.
    pub level: bool,
    /// Asserted (an INIT level de-assert is not).
    pub assert: bool,
    /// Destination: 8 bits from xAPIC, IOAPIC and MSI, 32 bits from x2APIC.
    pub dest: u32,
    /// Shorthand of an IPI.
    pub shorthand: Shorthand,
    /// MSI redirection hint: one of the destinations suffices.
    pub hint: bool,
}

impl Interrupt {
    /// Decodes an MSI (AMD APM vol. 2, 16.5; Linux arch/x86/kvm/irq_comm.c kvm_set_msi_irq).
    ///
    /// `wide` says that bits 63:40 of the address carry destination bits 31:8 (KVM_CAP_X2APIC_API).
    pub fn from_msi(address: u64, data: u32, wide: bool) -> Self {
        let low = address as u32;
        let mut dest = low >> 12 & 0xff;
        if wide {
            dest |= (address >> 32) as u32 & 0xffff_ff00;
        }
        Self {
            vector: data as u8,
            delivery: Delivery::from_bits(data >> 8),
            logical: low & 1 << 2 != 0,
            level: data & 1 << 15 != 0,
            assert: true,
            dest,
            shorthand: Shorthand::None,
            hint: low & 1 << 3 != 0,
        }
    }

    /// Decodes an interrupt command register.
    pub fn from_icr(icr: u32, dest: u32) -> Self {
        Self {
            vector: icr as u8,
            delivery: Delivery::from_bits(icr >> 8),
            logical: icr & 1 << 11 != 0,
            level: icr & 1 << 15 != 0,
            assert: icr & 1 << 14 != 0,
            dest,
            shorthand: match icr >> 18 & 3 {
                1 => Shorthand::Myself,
                2 => Shorthand::All,
                3 => Shorthand::Others,
                _ => Shorthand::None,
            },
            hint: false,
        }
    }

    /// Whether one of the matching processors is chosen.
    pub fn lowest(&self) -> bool {
        self.delivery == Delivery::LOWEST || self.hint
    }
}
