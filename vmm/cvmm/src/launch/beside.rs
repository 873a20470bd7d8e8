//! Work that goes on in another thread while this one makes a guest. The timeline stays one line: it shows how long the
//! launch waited for the work in the end; when the work itself went on is kept beside the line.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, Scope, ScopedJoinHandle};

use crate::error::Error;
use crate::recorder::{Event, Op, Recorder};
use crate::sys::signals;

/// Such work, on its way.
#[derive(Debug)]
pub struct Beside<'scope, R> {
    result: Receiver<(R, Event)>,
    thread: ScopedJoinHandle<'scope, ()>,
    op: Op,
    tag: &'static str,
    bytes: u64,
}

impl<'scope, R: Send + 'scope> Beside<'scope, R> {
    /// Starts it.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn begin(
        scope: &'scope Scope<'scope, '_>,
        recorder: &Recorder,
        (op, tag, bytes): (Op, &'static str, u64),
        work: impl FnOnce() -> R + Send + 'scope,
    ) -> Result<Beside<'scope, R>, Error> {
        let started = recorder.started();
        let (done, result) = sync_channel(1);
        let timed = move || {
            signals::leave_to_others();
            // Who no longer wants the result has gone.
            drop(done.send(started.timed(op, tag, bytes, work)));
        };
        let thread = thread::Builder::new()
            .name(tag.into())
            .spawn_scoped(scope, timed)
            .map_err(|source| Error::Setup { what: "a thread of the launch", source })?;
        Ok(Beside { result, thread, op, tag, bytes })
    }

    /// Waits for its result.
    ///
    /// # Errors
    /// It panicked.
    pub fn wait(self, recorder: &mut Recorder) -> Result<R, Error> {
        let Beside { result, thread, op, tag, bytes } = self;
        let Ok((result, event)) = recorder.record(op, tag, bytes, || result.recv()) else {
            // The scope must not panic as well.
            drop(thread.join());
            return Err(Error::ThreadPanicked);
        };
        // Nobody joins it: who does has to unmap its stack, which interrupts the processor that it ran on.
        recorder.push_beside(event);
        Ok(result)
    }
}
