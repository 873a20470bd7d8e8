//! The guest's side of a pool: cvmm, launched and sealed, that waits on its standard input to be handed out (`--hold`).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::request::Held;
use crate::config::Config;
use crate::digest::launch_digest;
use crate::error::Error;
use crate::plan::Plan;
use crate::recorder::{Event, Op, Recorder};
use crate::sys::descriptors;

/// What a member says when it has its client's descriptors.
pub const TAKEN: &[u8] = b"taken\n";

/// Who has taken the guest.
#[derive(Debug)]
pub struct Taken {
    /// Where it wants the report; held open for as long as this lives.
    report: Option<File>,
}

impl Taken {
    /// A path to where the report goes: a pipe.
    pub fn report(&self) -> Option<PathBuf> {
        self.report.as_ref().map(|file| format!("/proc/self/fd/{}", file.as_raw_fd()).into())
    }
}

/// Says that the guest is ready, and waits for whoever takes it; nothing if nobody ever will.
///
/// # Errors
/// The socket's.
pub fn wait(config: &Config, plan: &Plan, recorder: &mut Recorder) -> Result<Option<Taken>, Error> {
    let held = held(config, plan, recorder);
    recorder
        .record(Op::Hold, "held", 0, || hand_over(&held))
        .map_err(|source| Error::Setup { what: "the connection to the pool", source })
}

fn held(config: &Config, plan: &Plan, recorder: &Recorder) -> Held {
    let measuring = recorder
        .events()
        .iter()
        .filter(|event| matches!(event.op, Op::LaunchStart | Op::LaunchUpdate | Op::LaunchFinish));
    let wall = |event: &Event| event.end.0 - event.begin.0;
    let modelled = measuring.clone().filter_map(|event| event.guest);
    Held {
        technology: config.guest.technology.name().into(),
        digest: launch_digest(plan).map(|digest| digest.to_string()),
        launch_wall_ns: recorder.since_exec(recorder.now()),
        measuring_wall_ns: measuring.clone().map(wall).sum(),
        measuring_modelled_ns: recorder
            .reads_guest_clock()
            .then(|| modelled.map(|(begin, end)| end.0 - begin.0).sum()),
    }
}

fn hand_over(held: &Held) -> io::Result<Option<Taken>> {
    let mut pool = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut line = serde_json::to_vec(held)?;
    line.push(b'\n');
    pool.write_all(&line)?;
    let mut byte = [0];
    let (len, fds) = descriptors::receive(&pool, &mut byte)?;
    if len == 0 {
        return Ok(None);
    }
    let few =
        |_| io::Error::new(io::ErrorKind::InvalidData, "three or four descriptors are needed");
    let mut fds = fds.into_iter();
    let streams: Vec<OwnedFd> = fds.by_ref().take(3).collect();
    descriptors::become_standard(streams.try_into().map_err(few)?)?;
    pool.write_all(TAKEN)?;
    Ok(Some(Taken { report: fds.next().map(File::from) }))
}
