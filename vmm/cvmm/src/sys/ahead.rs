//! What KVM says of CPUID, asked for by a thread of its own while the flags are still being read. On a host that is a guest
//! itself every CPUID instruction of KVM's is an exit, and this one answer takes longer than the rest of a start.

use std::ffi::OsString;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;

use super::{elsewhere, signals, ticks};
use crate::recorder::{Event, Op, Started};

/// Who leaves unmaps the rest of a thread, and that interrupts the processor that is about to enter the guest.
const LINGER: Duration = Duration::from_millis(20);

/// The answer, on its way.
#[derive(Debug, Default)]
pub struct Ahead(Option<Receiver<(CpuId, Event)>>);

impl Ahead {
    /// Asks, if the words of the command line look like those of a run on this host's KVM. A wrong guess costs nothing but
    /// the question.
    pub fn begin(words: &[OsString], started: Started) -> Ahead {
        let begins =
            |word: &OsString, with: &str| word.as_encoded_bytes().starts_with(with.as_bytes());
        let mut words = words.iter().skip(1);
        let runs = words.next().is_some_and(|word| begins(word, "-") || word == "run");
        if !runs || words.any(|word| begins(word, "--emulate")) {
            return Ahead::default();
        }
        let (answer, answered) = sync_channel(1);
        let ask = move || {
            signals::leave_to_others();
            let (op, tag) = (Op::CheckExtension, "KVM_GET_SUPPORTED_CPUID");
            let (cpuid, event) = started
                .timed(op, tag, 0, || Kvm::new()?.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES));
            // After a refusal, or where nobody waits any more, there is nothing to say.
            match cpuid {
                Ok(cpuid) => drop(answer.send((cpuid, event))),
                Err(_) => drop(answer),
            }
            ticks::is_invariant();
            thread::sleep(LINGER);
        };
        // Nobody joins it: who does has to unmap its stack, which interrupts the processor that it ran on.
        let thread = thread::Builder::new().name("cpuid".into()).spawn(ask);
        thread.iter().for_each(elsewhere::place);
        Ahead(Some(answered))
    }

    /// The answer and when it came; nothing where nobody has asked, or KVM has refused. Then whoever asks again is told why.
    pub fn wait(self) -> Option<(CpuId, Event)> {
        self.0?.recv().ok()
    }
}
