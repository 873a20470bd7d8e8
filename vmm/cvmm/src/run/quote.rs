//! GetQuote: a TD's report goes to the quoting service, and the quote comes back into the guest's shared buffer, while the
//! guest runs (GHCI 1.5, `TDG.VP.VMCALL<GetQuote>`).
//!
//! Everything in the buffer is the guest's to change at any time: it is read once, and what was read is checked. The status
//! is written last.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use abi::tdx::TdReport;
use abi::tdx::qgs;
use abi::tdx::quote::QuoteBuffer;
use abi::tdx::vmcall::Status;
use zerocopy::{FromZeros, IntoBytes};

use super::quote_message::{NoQuote, request, response};
use super::{Shared, lock};
use crate::config::tdx::QuoteService;
use crate::sys::socket::Stream;
use crate::sys::vm::Msi;

const PAGE: u64 = 4096;
/// Requests that may wait. A guest that asks faster is told to ask again.
const QUEUE: usize = 4;
/// The largest buffer: Linux's has 128 KiB, a quote less than 10.
const BUFFER_MAX: u64 = 1 << 20;
/// How often the worker looks whether the run has ended.
const TICK: Duration = Duration::from_millis(20);

/// A guest's buffer, checked when it was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buffer {
    gpa: u64,
    size: u64,
}

impl Buffer {
    /// `None` if no such buffer can be.
    pub fn new(gpa: u64, size: u64) -> Option<Buffer> {
        let fits = gpa.is_multiple_of(PAGE)
            && size.is_multiple_of(PAGE)
            && (1..=BUFFER_MAX).contains(&size);
        (fits && gpa.checked_add(size).is_some()).then_some(Buffer { gpa, size })
    }

    /// Bytes for report or quote.
    fn room(self) -> u64 {
        self.size - size_of::<QuoteBuffer>() as u64
    }
}

/// A report on its way.
#[derive(Debug)]
pub(super) struct Request {
    buffer: Buffer,
    report: Vec<u8>,
}

/// Where vCPUs leave requests.
#[derive(Debug)]
pub(super) struct QuoteDesk {
    queue: Option<SyncSender<Request>>,
    notify: std::sync::Mutex<Option<Msi>>,
}

impl QuoteDesk {
    /// A desk, and what its worker takes requests from. Without a service nobody works.
    pub fn open(service: Option<&QuoteService>) -> (QuoteDesk, Option<Receiver<Request>>) {
        let (queue, requests) = service.map(|_| sync_channel(QUEUE)).unzip();
        (QuoteDesk { queue, notify: std::sync::Mutex::new(None) }, requests)
    }

    /// The interrupt that says that a quote is there; the last that was asked for counts.
    pub fn set_notify(&self, msi: Msi) {
        *lock(&self.notify) = Some(msi);
    }
}

/// Takes a request from the guest.
pub(super) fn ask(shared: &Shared, desk: &QuoteDesk, gpa: u64, size: u64) -> Status {
    let Some(buffer) = Buffer::new(gpa, size).filter(|buffer| usable(shared, *buffer)) else {
        return Status::INVALID_OPERAND;
    };
    let mut head = QuoteBuffer::new_zeroed();
    let ram = &shared.memory.ram;
    if ram.read(gpa, head.as_mut_bytes()).is_err() || head.version != QuoteBuffer::VERSION {
        return Status::INVALID_OPERAND;
    }
    // One page holds head and report, so that the buffer does.
    let mut report = vec![0; size_of::<TdReport>()];
    if u64::from(head.in_len) != report.len() as u64
        || ram.read(gpa + size_of::<QuoteBuffer>() as u64, &mut report).is_err()
    {
        finish(shared, desk, buffer, Err(QuoteBuffer::ERROR));
        return Status::SUCCESS;
    }
    let Some(queue) = &desk.queue else {
        tracing::warn!("the guest asks for a quote, but --tdx=quote=… names no quoting service");
        finish(shared, desk, buffer, Err(QuoteBuffer::UNAVAILABLE));
        return Status::SUCCESS;
    };
    // Before the worker can be done.
    if ram.publish(gpa + STATUS, QuoteBuffer::IN_FLIGHT).is_err() {
        return Status::INVALID_OPERAND;
    }
    match queue.try_send(Request { buffer, report }) {
        Ok(()) => Status::SUCCESS,
        Err(TrySendError::Full(_)) => {
            // The range was memory a moment ago, and memory does not go away.
            let _ = ram.publish(gpa + STATUS, head.status);
            Status::RETRY
        }
        Err(TrySendError::Disconnected(_)) => {
            finish(shared, desk, buffer, Err(QuoteBuffer::UNAVAILABLE));
            Status::SUCCESS
        }
    }
}

const STATUS: u64 = std::mem::offset_of!(QuoteBuffer, status) as u64;
const OUT_LEN: u64 = std::mem::offset_of!(QuoteBuffer, out_len) as u64;

/// Is the buffer memory that guest and host share?
fn usable(shared: &Shared, Buffer { gpa, size }: Buffer) -> bool {
    shared.memory.ram.covers(gpa, size) && lock(&shared.ledger).is_shared(gpa, size)
}

/// Works until the run ends.
pub(super) fn serve(
    shared: &Shared,
    desk: &QuoteDesk,
    service: &QuoteService,
    requests: &Receiver<Request>,
) {
    while !shared.stopping() {
        let request = match requests.recv_timeout(TICK) {
            Ok(request) => request,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let stop = || shared.stopping();
        let answer = fetch(service, &request.report, &stop).map_err(|failure| {
            tracing::warn!("no quote from {service}: {failure}");
            failure.status()
        });
        // The guest may have taken the buffer back meanwhile: then nobody waits.
        if usable(shared, request.buffer) {
            finish(shared, desk, request.buffer, answer.as_deref().map_err(|status| *status));
        }
    }
}

/// Puts a quote or a status into the buffer and tells the guest.
fn finish(shared: &Shared, desk: &QuoteDesk, buffer: Buffer, answer: Result<&[u8], u64>) {
    let ram = &shared.memory.ram;
    let (quote, status) = match answer {
        Ok(quote) if quote.len() as u64 <= buffer.room() => (quote, QuoteBuffer::SUCCESS),
        Ok(quote) => {
            tracing::warn!(bytes = quote.len(), "the guest's buffer is too small for its quote");
            (&[][..], QuoteBuffer::ERROR)
        }
        Err(status) => (&[][..], status),
    };
    let len = u32::try_from(quote.len()).unwrap_or(0);
    let written = ram
        .write(buffer.gpa + size_of::<QuoteBuffer>() as u64, quote)
        .and_then(|()| ram.write(buffer.gpa + OUT_LEN, &len.to_le_bytes()))
        .and_then(|()| ram.publish(buffer.gpa + STATUS, status));
    let told =
        written.and_then(|()| lock(&desk.notify).map_or(Ok(()), |msi| shared.vm.signal(msi)));
    if let Err(error) = told {
        tracing::warn!(%error, "the guest cannot be told that its quote is there");
    }
}

/// Why there is no quote.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the quoting service cannot be reached: {0}")]
    Unreachable(io::Error),
    #[error("the quoting service does not answer: {0}")]
    Broken(io::Error),
    #[error(transparent)]
    NoQuote(#[from] NoQuote),
}

impl Failure {
    /// What the guest is told.
    fn status(&self) -> u64 {
        match self {
            Failure::Unreachable(_) => QuoteBuffer::UNAVAILABLE,
            Failure::Broken(_) | Failure::NoQuote(_) => QuoteBuffer::ERROR,
        }
    }
}

/// One conversation with the service.
fn fetch(
    service: &QuoteService,
    report: &[u8],
    stop: &dyn Fn() -> bool,
) -> Result<Vec<u8>, Failure> {
    let deadline = Instant::now() + Duration::from_secs(qgs::TIMEOUT_SECONDS);
    let patience = || match stop() {
        true => Err(io::Error::other("the run has ended")),
        false if Instant::now() >= deadline => Err(io::ErrorKind::TimedOut.into()),
        false => Ok(()),
    };
    let mut stream = match service {
        QuoteService::Unix(path) => Stream::unix(path, &patience),
        QuoteService::Vsock { cid, port } => Stream::vsock(*cid, *port, &patience),
    }
    .map_err(Failure::Unreachable)?;
    stream.write_all(&request(report), &patience).map_err(Failure::Broken)?;
    let mut prefix = [0; qgs::PREFIX];
    stream.read_exact(&mut prefix, &patience).map_err(Failure::Broken)?;
    let len = u64::from(u32::from_be_bytes(prefix));
    if len > BUFFER_MAX {
        return Err(NoQuote::Malformed("it is larger than any quote").into());
    }
    let mut message = vec![0; len as usize];
    stream.read_exact(&mut message, &patience).map_err(Failure::Broken)?;
    Ok(response(&message)?.to_vec())
}

#[cfg(test)]
#[path = "quote_test.rs"]
mod tests;
