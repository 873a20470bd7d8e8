//! Work that goes on in another thread while this one makes a guest. The timeline stays one line: it shows how long the
//! launch waited for the work in the end; when the work itself went on is kept beside the line.

use std::thread::{self, Scope, ScopedJoinHandle};

use crate::error::Error;
use crate::recorder::{Event, Op, Recorder};

/// Such work, on its way.
#[derive(Debug)]
pub struct Beside<'scope, R> {
    thread: ScopedJoinHandle<'scope, (R, Event)>,
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
        let timed = move || {
            let begin = started.elapsed();
            let result = work();
            (result, Event { op, tag, bytes, begin, end: started.elapsed(), guest: None })
        };
        let thread = thread::Builder::new()
            .name(tag.into())
            .spawn_scoped(scope, timed)
            .map_err(|source| Error::Setup { what: "a thread of the launch", source })?;
        Ok(Beside { thread, op, tag, bytes })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It panicked.
    pub fn wait(self, recorder: &mut Recorder) -> Result<R, Error> {
        let Beside { thread, op, tag, bytes } = self;
        let (result, event) =
            recorder.record(op, tag, bytes, || thread.join()).map_err(|_| Error::ThreadPanicked)?;
        recorder.push_beside(event);
        Ok(result)
    }
}
