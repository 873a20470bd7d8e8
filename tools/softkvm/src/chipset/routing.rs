//! The GSI routing table: where KVM_IRQ_LINE and irqfds lead (Linux virt/kvm/irqchip.c and
//! arch/x86/kvm/irq_comm.c).

use super::interrupt::Interrupt;
use super::ioapic::PINS;

/// KVM_MAX_IRQ_ROUTES.
pub const MAX_ROUTES: u32 = 4096;

/// An interrupt chip in KVM's numbering (KVM_IRQCHIP_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chip {
    /// First 8259.
    PicMaster,
    /// Second 8259.
    PicSlave,
    /// IOAPIC.
    Ioapic,
}

impl Chip {
    /// From the number of KVM_IRQCHIP_*.
    pub fn from_kvm(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::PicMaster),
            1 => Some(Self::PicSlave),
            2 => Some(Self::Ioapic),
            _ => None,
        }
    }
}

/// Where a GSI leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To a pin of an in-kernel chip.
    Pin {
        /// Which chip.
        chip: Chip,
        /// Its own pin number.
        pin: u32,
    },
    /// To a message.
    Msi {
        /// Address.
        address: u64,
        /// Data.
        data: u32,
    },
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The GSI.
    pub gsi: u32,
    /// Where it leads.
    pub target: Target,
}

/// Why KVM_SET_GSI_ROUTING is refused (EINVAL in every case).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoutingError {
    /// GSI beyond KVM_MAX_IRQ_ROUTES.
    #[error("GSI {0} is out of range")]
    Gsi(u32),
    /// Two entries of one GSI exclude each other.
    #[error("GSI {0} is routed twice to the same chip or mixed with an MSI")]
    Twice(u32),
    /// No such pin.
    #[error("GSI {gsi}: {chip:?} has no pin {pin}")]
    Pin {
        /// The GSI.
        gsi: u32,
        /// The chip.
        chip: Chip,
        /// The pin asked for.
        pin: u32,
    },
    /// There is no in-kernel chip to route to.
    #[error("GSI {0} leads to a chip that the kernel does not hold")]
    NoChip(u32),
    /// Destination bits where the wide format has none.
    #[error("GSI {0}: reserved bits in the MSI address")]
    Address(u32),
}

/// The table.
#[derive(Clone, Debug, Default)]
pub struct Routing {
    routes: Vec<Route>,
}

impl Routing {
    /// What KVM_CREATE_IRQCHIP sets up: GSI n is pin n of the IOAPIC, and below 16 also line n of
    /// the 8259s.
    pub fn with_chips() -> Self {
        let mut routes = Vec::new();
        for gsi in 0..PINS as u32 {
            routes.push(Route { gsi, target: Target::Pin { chip: Chip::Ioapic, pin: gsi } });
            if gsi < 16 {
                let chip = if gsi < 8 { Chip::PicMaster } else { Chip::PicSlave };
                routes.push(Route { gsi, target: Target::Pin { chip, pin: gsi % 8 } });
            }
        }
        Self { routes }
    }

    /// Replaces the table. `chips` says whether PIC and IOAPIC are in the kernel, `wide` whether MSI
    /// addresses carry wide destinations.
    pub fn set(&mut self, routes: &[Route], chips: bool, wide: bool) -> Result<(), RoutingError> {
        let mut checked: Vec<Route> = Vec::with_capacity(routes.len());
        for &route in routes {
            check(route, chips, wide)?;
            for other in checked.iter().filter(|other| other.gsi == route.gsi) {
                match (other.target, route.target) {
                    (Target::Pin { chip: a, .. }, Target::Pin { chip: b, .. }) if a != b => {}
                    _ => return Err(RoutingError::Twice(route.gsi)),
                }
            }
            checked.push(route);
        }
        self.routes = checked;
        Ok(())
    }

    /// All targets of a GSI.
    pub fn targets(&self, gsi: u32) -> impl Iterator<Item = Target> + '_ {
        self.routes.iter().filter(move |route| route.gsi == gsi).map(|route| route.target)
    }

    /// The first GSI that leads to a pin.
    pub fn gsi_of(&self, chip: Chip, pin: u32) -> Option<u32> {
        let target = Target::Pin { chip, pin };
        self.routes.iter().find(|route| route.target == target).map(|route| route.gsi)
    }

    /// The level-triggered messages of the user-space IOAPIC's pins (GSIs below `pins`): their EOIs
    /// are told to user space.
    pub fn level_messages(&self, pins: u32, wide: bool) -> impl Iterator<Item = Interrupt> + '_ {
        self.routes.iter().filter(move |route| route.gsi < pins).filter_map(move |route| {
            match route.target {
                Target::Msi { address, data } => Some(Interrupt::from_msi(address, data, wide)),
                Target::Pin { .. } => None,
            }
            .filter(|irq| irq.level)
        })
    }
}

fn check(route: Route, chips: bool, wide: bool) -> Result<(), RoutingError> {
    let gsi = route.gsi;
    if gsi >= MAX_ROUTES {
        return Err(RoutingError::Gsi(gsi));
    }
    match route.target {
        Target::Pin { chip, pin } => {
            let pins = if chip == Chip::Ioapic { PINS as u32 } else { 8 };
            if !chips {
                Err(RoutingError::NoChip(gsi))
            } else if pin >= pins {
                Err(RoutingError::Pin { gsi, chip, pin })
            } else {
                Ok(())
            }
        }
        Target::Msi { address, .. } if wide && address >> 32 & 0xff != 0 => {
            Err(RoutingError::Address(gsi))
        }
        Target::Msi { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(gsi: u32, chip: Chip, pin: u32) -> Route {
        Route { gsi, target: Target::Pin { chip, pin } }
    }

    fn msi(gsi: u32, address: u64) -> Route {
        Route { gsi, target: Target::Msi { address, data: 0x41 } }
    }

    #[test]
    fn the_default_table_is_the_kernels() {
        let table = Routing::with_chips();
        assert_eq!(table.targets(0).count(), 2);
        assert_eq!(
            table.targets(9).collect::<Vec<_>>(),
            [
                Target::Pin { chip: Chip::Ioapic, pin: 9 },
                Target::Pin { chip: Chip::PicSlave, pin: 1 }
            ]
        );
        assert_eq!(table.targets(23).count(), 1);
        assert_eq!(table.targets(24).count(), 0);
        assert_eq!(table.gsi_of(Chip::PicSlave, 1), Some(9));
    }

    #[test]
    fn refusals() {
        let cases: [(&[Route], bool, bool, RoutingError); 6] = [
            (&[msi(4096, 0xfee0_0000)], true, false, RoutingError::Gsi(4096)),
            (&[msi(5, 0xfee0_0000); 2], true, false, RoutingError::Twice(5)),
            (&[pin(5, Chip::Ioapic, 5), msi(5, 0xfee0_0000)], true, false, RoutingError::Twice(5)),
            (&[pin(5, Chip::Ioapic, 5)], false, false, RoutingError::NoChip(5)),
            (
                &[pin(5, Chip::PicSlave, 8)],
                true,
                false,
                RoutingError::Pin { gsi: 5, chip: Chip::PicSlave, pin: 8 },
            ),
            (&[msi(5, 0x1_fee0_0000)], true, true, RoutingError::Address(5)),
        ];
        for (routes, chips, wide, error) in cases {
            let mut table = Routing::default();
            assert_eq!(table.set(routes, chips, wide), Err(error), "{routes:?}");
        }
        let mut table = Routing::default();
        let both = [pin(5, Chip::Ioapic, 5), pin(5, Chip::PicMaster, 5)];
        assert_eq!(table.set(&both, true, false), Ok(()));
    }
}
