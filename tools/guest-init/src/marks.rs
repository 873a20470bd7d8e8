//! The way of marks and records to the monitor.

use abi::marks::{MARK_PORT, Mark, MarkId};
use abi::records::Record;

use crate::sys::{self, File};
use crate::{machine, td};

/// The way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// The kernel does not let us, or nobody wants any.
    None,
    /// To the mark port.
    Port,
    /// Over the console. In a TD an OUT raises #VE, and the kernel handles none of user space but CPUID's (Linux
    /// arch/x86/coco/tdx/tdx.c `virt_exception_user`).
    Console,
}

impl Marks {
    /// The way that there is.
    pub fn open() -> Self {
        if td::here() {
            return Self::Console;
        }
        sys::allow_ports(MARK_PORT, 4).map_or(Self::None, |()| Self::Port)
    }

    /// Sends a mark.
    pub fn send(self, id: MarkId, number: u32) {
        let mark = Mark::new(id, number);
        match self {
            Self::None => {}
            Self::Port => machine::port_out(MARK_PORT, mark.0),
            Self::Console => Self::write(&mark.on_console()),
        }
    }

    /// Sends a record. Nobody else may be sending one.
    pub fn send_record(self, record: Record) {
        match self {
            Self::None => {}
            Self::Port => record.as_marks().for_each(|mark| machine::port_out(MARK_PORT, mark.0)),
            Self::Console => {
                let (text, len) = record.on_console();
                Self::write(&text[..len]);
            }
        }
    }

    fn write(bytes: &[u8]) {
        // What cannot be written is missing in the monitor's report; nobody else is to be told.
        let _ = File::OUT.write_all(bytes).and_then(|()| File::OUT.drain());
    }
}
