//! The client: takes a guest from a pool, and is to its user what that guest's cvmm would be.

use std::io::{self, BufRead, BufReader, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use super::request::{Answer, LINE_MAX, Request};
use crate::cli::pool::{StatusFlags, TakeFlags};
use crate::error::{Error, ExitCode};
use crate::report::{check_writable, write_atomically};
use crate::sys::descriptors;

/// Takes one, and ends as it ends.
pub fn take(flags: &TakeFlags) -> Result<ExitCode, Error> {
    if let Some(path) = &flags.report {
        check_writable("report", path)?;
    }
    let setup = |source| Error::Setup { what: "the pipe for the report", source };
    let wait_ms = u32::try_from(flags.wait.as_millis()).unwrap_or(u32::MAX);
    let request = Request::Take { wait_ms };
    let (input, output, errors) = (io::stdin(), io::stdout(), io::stderr());
    let mut fds = vec![input.as_fd(), output.as_fd(), errors.as_fd()];
    let pipe = match &flags.report {
        Some(_) => Some(io::pipe().map_err(setup)?),
        None => None,
    };
    fds.extend(pipe.as_ref().map(|(_, writer)| writer.as_fd()));
    let mut answers = ask(&flags.socket, &request, &fds)?;
    drop(fds);
    // Ours must be closed, so that the report's end shows.
    let reader = pipe.map(|(reader, _)| thread::spawn(move || read_all(reader)));
    let problem = |problem: String, cure: &str| Error::Input {
        what: "pool",
        path: flags.socket.clone(),
        problem,
        cure: cure.into(),
    };
    match next(&mut answers, &flags.socket)? {
        Answer::Taken(hand_out) if flags.json => crate::say(&crate::json(&hand_out)?),
        Answer::Taken(_) => {}
        Answer::Error(told) => {
            return Err(problem(
                told,
                "try again, or with --wait SECONDS; or have the pool keep more ready",
            ));
        }
        other => {
            return Err(problem(format!("it answers {other:?}"), "use the same version of cvmm"));
        }
    }
    let code = match next(&mut answers, &flags.socket)? {
        Answer::Ended { code } => code,
        other => {
            return Err(problem(format!("it answers {other:?}"), "use the same version of cvmm"));
        }
    };
    if let (Some(path), Some(reader)) = (&flags.report, reader) {
        let report = reader.join().map_err(|_| Error::ThreadPanicked)?.map_err(setup)?;
        if !report.is_empty() {
            write_atomically("report", path, |out| out.write_all(&report))?;
        }
    }
    let known = ExitCode::ALL.into_iter().find(|known| *known as i32 == code);
    Ok(known.unwrap_or(ExitCode::Internal))
}

/// Prints how the pool is.
pub fn status(flags: &StatusFlags) -> Result<ExitCode, Error> {
    let mut answers = ask(&flags.socket, &Request::Status {}, &[])?;
    let answer = next(&mut answers, &flags.socket)?;
    crate::print_out(&crate::json(&answer)?)
}

fn ask(
    socket: &Path,
    request: &Request,
    fds: &[BorrowedFd],
) -> Result<BufReader<io::Take<UnixStream>>, Error> {
    let fail = |source| Error::ReadFile { what: "pool's socket", path: socket.to_owned(), source };
    let pool = UnixStream::connect(socket).map_err(fail)?;
    let mut line = serde_json::to_vec(request).map_err(|error| fail(error.into()))?;
    line.push(b'\n');
    descriptors::send(&pool, &line, fds).map_err(fail)?;
    // A pool says two lines.
    Ok(BufReader::new(pool.take(2 * LINE_MAX as u64)))
}

fn next(from: &mut impl BufRead, socket: &Path) -> Result<Answer, Error> {
    let fail =
        |source| Error::ReadFile { what: "pool's answer from", path: socket.to_owned(), source };
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line).map_err(fail)?;
    if line.is_empty() {
        return Err(fail(io::Error::new(io::ErrorKind::UnexpectedEof, "the pool has ended")));
    }
    serde_json::from_slice(&line).map_err(|error| fail(error.into()))
}

fn read_all(mut from: PipeReader) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).map(|_| bytes)
}
