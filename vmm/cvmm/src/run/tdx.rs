//! What a TD asks user space for (GHCI 1.5, chapter 3), beside what every confidential guest does.

use std::sync::mpsc::Receiver;

use abi::shim;
use abi::tdx::vmcall::{FATAL_HAS_MESSAGE, Status};

use super::quote::{self, QuoteDesk, Request};
use super::vcpu::Loop;
use super::{Shared, lock};
use crate::config::tdx::QuoteService;
use crate::launch::TdServices;
use crate::outcome::Outcome;
use crate::sys::vcpu::Exit;
use crate::sys::vm::Msi;
use crate::termination::Termination;

/// GetTdVmCallInfo, leaf 1, R11: SetupEventNotifyInterrupt.
const EVENT_NOTIFY: u64 = 1 << 1;

/// What answers a TD's calls.
#[derive(Debug)]
pub(super) struct TdDesk {
    quotes: QuoteDesk,
    /// What GetTdVmCallInfo answers in R11.
    optional_calls: u64,
}

impl TdDesk {
    /// From what the launch has left, and what the quoting thread takes its work from.
    pub fn open(services: &TdServices) -> (TdDesk, Option<Receiver<Request>>) {
        let (quotes, requests) = QuoteDesk::open(services.quote.as_ref());
        let optional_calls = services.optional_calls & EVENT_NOTIFY;
        (TdDesk { quotes, optional_calls }, requests)
    }
}

/// The quoting thread.
pub(super) fn serve(shared: &Shared, service: &QuoteService, requests: &Receiver<Request>) {
    if let Some(desk) = &shared.td {
        quote::serve(shared, &desk.quotes, service, requests);
    }
}

/// Handles an exit that only a TD makes.
pub(super) fn handle(this: &mut Loop, exit: Exit) {
    let shared = this.shared;
    let vcpu = this.vcpu.id();
    let Some(desk) = &shared.td else {
        let what = "a TD's call, which it is not".into();
        return shared.stop(Outcome::Unhandled { vcpu, what });
    };
    match exit {
        Exit::GetQuote { gpa, size } => {
            let status = quote::ask(shared, &desk.quotes, gpa, size);
            this.vcpu.answer_vmcall(status, None);
        }
        Exit::GetTdVmCallInfo { .. } => {
            this.vcpu.answer_vmcall(Status::SUCCESS, Some([desk.optional_calls, 0, 0, 0]));
        }
        Exit::SetupEventNotify { vector } => {
            let status = match event_interrupt(vcpu, vector) {
                Some(msi) if desk.optional_calls & EVENT_NOTIFY != 0 => {
                    desk.quotes.set_notify(msi);
                    Status::SUCCESS
                }
                Some(_) => Status::SUBFUNC_UNSUPPORTED,
                None => Status::INVALID_OPERAND,
            };
            this.vcpu.answer_vmcall(status, None);
        }
        Exit::TdFatal { registers } => shared.stop(fatal(shared, vcpu, &registers)),
        // Whatever KVM has put there for what user space does not know.
        _ => {}
    }
}

/// The interrupt that a vCPU wants to be told with; vectors below 32 are exceptions.
fn event_interrupt(vcpu: u16, vector: u64) -> Option<Msi> {
    let vector = u8::try_from(vector).ok().filter(|vector| *vector >= 32)?;
    Some(Msi { address: 0xfee0_0000 | u32::from(vcpu) << 12, data: u32::from(vector) })
}

/// Who gave up, and why: the shim by its termination value, Linux by a message.
fn fatal(shared: &Shared, vcpu: u16, registers: &[u64; 16]) -> Outcome {
    let code = registers[R12];
    if let Some(reason) = shim::Termination::from_msr_value(code) {
        return Outcome::Terminated(Termination { set: shim::TERMINATION_SET, reason: reason.0 });
    }
    if lock(&shared.bus).output.panicked() {
        return Outcome::KernelPanic;
    }
    let code = code & !FATAL_HAS_MESSAGE;
    Outcome::FatalReport { vcpu, code, message: message(registers) }
}

const R12: usize = 12;
/// R14, R15, RBX, RDI, RSI, R8, R9, RDX: where the 64 bytes of a message are (GHCI 1.5, ReportFatalError).
const MESSAGE: [usize; 8] = [14, 15, 3, 7, 6, 8, 9, 2];

/// The message up to its first NUL. The bytes are the guest's: whatever is not printable ASCII is escaped.
fn message(registers: &[u64; 16]) -> String {
    let bytes = MESSAGE.iter().flat_map(|at| registers[*at].to_le_bytes());
    let text = bytes.take_while(|byte| *byte != 0);
    text.flat_map(std::ascii::escape_default).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_in_the_registers_order_and_is_harmless() {
        let mut registers = [0xdead_dead_dead_dead; 16];
        let text = b"SEPT #VE has to be disabled; and this text fills every register!";
        for (at, bytes) in MESSAGE.iter().zip(text.chunks_exact(8)) {
            registers[*at] = u64::from_le_bytes(bytes.try_into().unwrap());
        }
        assert_eq!(message(&registers).as_bytes(), text);
        registers[14] = u64::from_le_bytes(*b"\x1b[2J\n\"\0x");
        assert_eq!(message(&registers), "\\x1b[2J\\n\\\"");
        registers[14] = 0;
        assert_eq!(message(&registers), "");
    }

    #[test]
    fn an_event_interrupt_goes_to_the_vcpu_that_asked() {
        assert_eq!(event_interrupt(3, 0x50), Some(Msi { address: 0xfee0_3000, data: 0x50 }));
        for vector in [0, 31, 256, u64::MAX] {
            assert_eq!(event_interrupt(0, vector), None);
        }
    }
}
