//! The two cascaded 8259 interrupt controllers and their ELCR (Intel 8259A datasheet; Linux
//! arch/x86/kvm/i8259.c for what KVM's state structure holds).

/// `sizeof(struct kvm_pic_state)`.
pub const IMAGE_LEN: usize = 16;

/// One 8259, field by field as `struct kvm_pic_state`.
#[derive(Clone, Copy, Debug, Default)]
struct Chip {
    last_irr: u8,
    irr: u8,
    imr: u8,
    isr: u8,
    priority_add: u8,
    irq_base: u8,
    read_isr: bool,
    poll: bool,
    special_mask: bool,
    init_state: u8,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    fully_nested: bool,
    init4: bool,
    elcr: u8,
    elcr_mask: u8,
}

impl Chip {
    fn set_irq(&mut self, line: u8, level: bool) -> i32 {
        let bit = 1 << line;
        let mut fresh = 1;
        if self.elcr & bit != 0 {
            if level {
                fresh = i32::from(self.irr & bit == 0);
                self.irr |= bit;
                self.last_irr |= bit;
            } else {
                self.irr &= !bit;
                self.last_irr &= !bit;
            }
        } else if level {
            if self.last_irr & bit == 0 {
                fresh = i32::from(self.irr & bit == 0);
                self.irr |= bit;
            }
            self.last_irr |= bit;
        } else {
            self.last_irr &= !bit;
        }
        if self.imr & bit != 0 { -1 } else { fresh }
    }

    /// Rank (0 is most urgent) of the highest-priority line in `lines`.
    fn rank(&self, lines: u8) -> Option<u8> {
        (0..8).find(|&rank| lines & 1 << ((rank + self.priority_add) & 7) != 0)
    }

    fn line(&self, rank: u8) -> u8 {
        (rank + self.priority_add) & 7
    }

    fn request(&self, master: bool) -> Option<u8> {
        let rank = self.rank(self.irr & !self.imr)?;
        let mut busy = self.isr;
        if self.fully_nested && master {
            busy &= !(1 << 2);
        }
        if self.special_mask {
            busy &= !self.imr;
        }
        match self.rank(busy) {
            Some(current) if current <= rank => None,
            _ => Some(self.line(rank)),
        }
    }

    fn acknowledge(&mut self, line: u8) -> bool {
        let bit = 1 << line;
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.priority_add = (line + 1) & 7;
            }
            return true;
        }
        self.isr |= bit;
        false
    }

    fn init(&mut self, icw1: u8) {
        self.init4 = icw1 & 1 != 0;
        self.last_irr = 0;
        self.irr &= self.elcr;
        self.imr = 0;
        self.priority_add = 0;
        self.special_mask = false;
        self.read_isr = false;
        if !self.init4 {
            self.fully_nested = false;
            self.auto_eoi = false;
        }
        self.init_state = 1;
    }

    /// Writes the command port; returns the line whose service ended.
    fn write_command(&mut self, value: u8) -> Option<u8> {
        if value & 0x10 != 0 {
            self.init(value);
            return None;
        }
        if value & 0x08 != 0 {
            self.poll |= value & 4 != 0;
            if value & 2 != 0 {
                self.read_isr = value & 1 != 0;
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
            return None;
        }
        let (command, line) = (value >> 5, value & 7);
        match command {
            0 | 4 => self.rotate_on_auto_eoi = command == 4,
            1 | 5 => {
                let line = self.line(self.rank(self.isr)?);
                self.isr &= !(1 << line);
                if command == 5 {
                    self.priority_add = (line + 1) & 7;
                }
                return Some(line);
            }
            3 | 7 => {
                self.isr &= !(1 << line);
                if command == 7 {
                    self.priority_add = (line + 1) & 7;
                }
                return Some(line);
            }
            6 => self.priority_add = (line + 1) & 7,
            _ => {}
        }
        None
    }

    fn write_data(&mut self, value: u8) {
        match self.init_state {
            0 => self.imr = value,
            1 => {
                self.irq_base = value & 0xf8;
                self.init_state = 2;
            }
            2 => self.init_state = if self.init4 { 3 } else { 0 },
            _ => {
                self.fully_nested = value & 0x10 != 0;
                self.auto_eoi = value & 2 != 0;
                self.init_state = 0;
            }
        }
    }
}

/// What a port write or an acknowledge did beyond the chip: the lines (0..16) that were acked.
pub type Acked = Option<u8>;

/// Both chips.
#[derive(Clone, Debug)]
pub struct Pic {
    chips: [Chip; 2],
}

impl Default for Pic {
    fn default() -> Self {
        let chip = |elcr_mask| Chip { elcr_mask, ..Chip::default() };
        Self { chips: [chip(0xf8), chip(0xde)] }
    }
}

impl Pic {
    /// Changes line 0..16. Returns what KVM_IRQ_LINE_STATUS reports: negative when masked, zero
    /// when coalesced.
    pub fn set_line(&mut self, line: u8, level: bool) -> i32 {
        let result = self.chips[usize::from(line >> 3 & 1)].set_irq(line & 7, level);
        self.cascade();
        result
    }

    /// Passes the slave's request on to the master's line 2.
    fn cascade(&mut self) {
        if self.chips[1].request(false).is_some() {
            self.chips[0].set_irq(2, true);
            self.chips[0].set_irq(2, false);
        }
    }

    /// Level of the INTR output.
    pub fn output(&self) -> bool {
        self.chips[0].request(true).is_some()
    }

    /// The interrupt acknowledge cycle: the vector, and the line that an automatic EOI ended.
    pub fn acknowledge(&mut self) -> (u8, Acked) {
        let Some(line) = self.chips[0].request(true) else {
            return (self.chips[0].irq_base + 7, None);
        };
        let mut acked = self.chips[0].acknowledge(line).then_some(line);
        let mut vector = self.chips[0].irq_base + line;
        if line == 2 {
            // No request left on the slave: its spurious vector.
            let line2 = self.chips[1].request(false);
            if let Some(line2) = line2 {
                acked = self.chips[1].acknowledge(line2).then_some(line2 + 8);
            }
            vector = self.chips[1].irq_base + line2.unwrap_or(7);
        }
        self.cascade();
        (vector, acked)
    }

    /// IN from one of the PIC's ports.
    pub fn port_in(&mut self, port: u16) -> Option<u8> {
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 => {
                let slave = port & 0x80 != 0;
                let chip = &mut self.chips[usize::from(slave)];
                if chip.poll {
                    chip.poll = false;
                    return Some(self.poll(slave));
                }
                Some(match (port & 1 == 0, chip.read_isr) {
                    (true, true) => chip.isr,
                    (true, false) => chip.irr,
                    (false, _) => chip.imr,
                })
            }
            0x4d0 | 0x4d1 => Some(self.chips[usize::from(port & 1)].elcr),
            _ => None,
        }
    }

    fn poll(&mut self, slave: bool) -> u8 {
        let result = self.chips[usize::from(slave)].request(!slave);
        if let Some(line) = result {
            if slave {
                self.chips[0].isr &= !(1 << 2);
                self.chips[0].irr &= !(1 << 2);
            }
            let chip = &mut self.chips[usize::from(slave)];
            chip.irr &= !(1 << line);
            chip.isr &= !(1 << line);
        }
        self.cascade();
        result.map_or(7, |line| line | 0x80)
    }

    /// OUT to one of the PIC's ports; `None` if the port is not the PIC's.
    pub fn port_out(&mut self, port: u16, value: u8) -> Option<Acked> {
        let acked = match port {
            0x20 | 0xa0 => {
                let slave = port & 0x80 != 0;
                let line = self.chips[usize::from(slave)].write_command(value);
                line.map(|line| line + if slave { 8 } else { 0 })
            }
            0x21 | 0xa1 => {
                self.chips[usize::from(port & 0x80 != 0)].write_data(value);
                None
            }
            0x4d0 | 0x4d1 => {
                let chip = &mut self.chips[usize::from(port & 1)];
                chip.elcr = value & chip.elcr_mask;
                None
            }
            _ => return None,
        };
        self.cascade();
        Some(acked)
    }

    /// `struct kvm_pic_state` of the master (0) or the slave (1).
    pub fn save(&self, slave: bool) -> [u8; IMAGE_LEN] {
        let c = &self.chips[usize::from(slave)];
        [
            c.last_irr,
            c.irr,
            c.imr,
            c.isr,
            c.priority_add,
            c.irq_base,
            c.read_isr.into(),
            c.poll.into(),
            c.special_mask.into(),
            c.init_state,
            c.auto_eoi.into(),
            c.rotate_on_auto_eoi.into(),
            c.fully_nested.into(),
            c.init4.into(),
            c.elcr,
            c.elcr_mask,
        ]
    }

    /// Takes a `struct kvm_pic_state`.
    pub fn restore(&mut self, slave: bool, image: &[u8; IMAGE_LEN]) {
        let elcr_mask = self.chips[usize::from(slave)].elcr_mask;
        self.chips[usize::from(slave)] = Chip {
            last_irr: image[0],
            irr: image[1],
            imr: image[2],
            isr: image[3],
            priority_add: image[4] & 7,
            irq_base: image[5] & 0xf8,
            read_isr: image[6] != 0,
            poll: image[7] != 0,
            special_mask: image[8] != 0,
            init_state: image[9],
            auto_eoi: image[10] != 0,
            rotate_on_auto_eoi: image[11] != 0,
            fully_nested: image[12] != 0,
            init4: image[13] != 0,
            elcr: image[14] & elcr_mask,
            elcr_mask,
        };
        self.cascade();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initialised() -> Pic {
        let mut pic = Pic::default();
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 4),
            (0x21, 1),
            (0xa0, 0x11),
            (0xa1, 0x38),
            (0xa1, 2),
            (0xa1, 1),
        ] {
            assert_eq!(pic.port_out(port, value), Some(None));
        }
        pic
    }

    #[test]
    fn every_line_arrives_with_its_vector_and_ends_with_its_eoi() {
        for line in (0..16u8).filter(|&l| l != 2) {
            let mut pic = initialised();
            assert_eq!(pic.set_line(line, true), 1);
            assert!(pic.output());
            assert_eq!(pic.acknowledge().0, 0x30 + line, "line {line}");
            assert!(!pic.output());
            if line >= 8 {
                assert_eq!(pic.port_out(0xa0, 0x20), Some(Some(line)));
                assert_eq!(pic.port_out(0x20, 0x20), Some(Some(2)));
            } else {
                assert_eq!(pic.port_out(0x20, 0x60 | line), Some(Some(line)));
            }
            pic.set_line(line, false);
            pic.set_line(line, true);
            assert_eq!(pic.acknowledge().0, 0x30 + line);
        }
    }

    #[test]
    fn a_masked_line_waits() {
        let mut pic = initialised();
        pic.port_out(0x21, 0xff);
        assert_eq!(pic.set_line(4, true), -1);
        assert!(!pic.output());
        pic.port_out(0x21, 0xef);
        assert_eq!(pic.acknowledge().0, 0x34);
    }

    #[test]
    fn lower_lines_wait_for_higher_ones() {
        let mut pic = initialised();
        pic.set_line(3, true);
        assert_eq!(pic.acknowledge().0, 0x33);
        pic.set_line(5, true);
        assert!(!pic.output());
        pic.set_line(1, true);
        assert_eq!(pic.acknowledge().0, 0x31);
        pic.port_out(0x20, 0x20);
        pic.port_out(0x20, 0x20);
        assert_eq!(pic.acknowledge().0, 0x35);
    }

    #[test]
    fn a_level_line_repeats_until_lowered() {
        let mut pic = initialised();
        pic.port_out(0x4d1, 0x08);
        assert_eq!(pic.port_in(0x4d1), Some(0x08));
        pic.set_line(11, true);
        assert_eq!(pic.acknowledge().0, 0x3b);
        pic.port_out(0xa0, 0x20);
        pic.port_out(0x20, 0x20);
        assert!(pic.output());
        pic.set_line(11, false);
        pic.acknowledge();
        pic.port_out(0x20, 0x20);
        assert!(!pic.output());
    }

    #[test]
    fn no_request_means_the_spurious_vector() {
        assert_eq!(initialised().acknowledge().0, 0x37);
    }

    #[test]
    fn status_registers_and_polling_read_back() {
        let mut pic = initialised();
        pic.set_line(6, true);
        assert_eq!(pic.port_in(0x20), Some(0x40));
        pic.acknowledge();
        pic.port_out(0x20, 0x0b);
        assert_eq!(pic.port_in(0x20), Some(0x40));
        pic.port_out(0x20, 0x20);
        pic.set_line(4, true);
        pic.port_out(0x20, 0x0c);
        assert_eq!(pic.port_in(0x20), Some(0x84));
    }

    #[test]
    fn images_round_trip() {
        let mut pic = initialised();
        pic.port_out(0xa1, 0x5a);
        pic.set_line(9, true);
        let mut other = Pic::default();
        for slave in [false, true] {
            other.restore(slave, &pic.save(slave));
            assert_eq!(other.save(slave), pic.save(slave));
        }
    }
}
