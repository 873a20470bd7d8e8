//! Several monitors at one security processor: their launch commands queue.
//!
//! A real host has one security processor, which serves one command at a time; monitors that start guests together wait for
//! each other there. `SOFTKVM_PSP` lets several processes share a modelled one:
//!
//! ```text
//! FILE;of=N[;index=I][;patience=SECONDS]
//! ```
//!
//! | word | meaning |
//! |---|---|
//! | `FILE` | where they meet; made by the first who comes, and used again once all have come and left, or when patience has ended |
//! | `of=` | how many SNP VMs there will be, 1 to 1024, in as many processes |
//! | `index=` | this one's place where two come at the same time, from 0; else the first that is free |
//! | `patience=` | seconds of the host's time without any progress after which a command fails with ETIMEDOUT; 60 if nothing is said |
//!
//! Commands are served in the order of the modelled times at which they come, of equal ones the lower index first. Each VM's clock
//! is its own and starts at 0 when the VM is made, so all VMs are taken to be made at the same moment. What comes first
//! is known only when nobody can come earlier: a command waits, in the host's time, until every other participant either waits with
//! a later one, is known to be beyond that moment (no command of it can come before its last one ended), or takes no part any more.
//! This is a conservative simulation of discrete events; nothing in it depends on how the host schedules the processes,
//! but who gets which index where none is given. Monitors that do the same get the same set of times in whatever order they
//! are started. A command then begins when the processor is free, at its own time at the earliest, and its VM's clock goes to its
//! end.
//!
//! A page of LAUNCH_UPDATE is a command, as in Linux 7.2 arch/x86/kvm/svm/sev.c `sev_gmem_post_populate`. A VM takes part from
//! KVM_CREATE_VM to LAUNCH_FINISH; its guest's requests (attestation) do not queue between processes. A process that dies
//! leaves, which locks on the file tell; so does one that closes its VM, when it makes another or ends. Who never comes is waited for
//! until patience ends.
//!
//! UNSAFETY: locks of a file, futexes and words in a mapping that processes share; the words are atomic.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::errno::{Answer, Errno};
use super::fd::Mapping;

/// Most participants.
const MOST: usize = 1024;
/// "softkvmQ".
const MAGIC: u64 = u64::from_le_bytes(*b"softkvmQ");
/// Words before those of the participants: magic, participants, frequency, when the processor is free, number of
/// changes, time of the last one.
const HEAD: usize = 8;
/// Words of a participant: state, time.
const SEAT: usize = 2;
/// Where the head holds when something has changed last, in seconds of the host's clock.
const LAST: usize = 5;
/// Bytes of the file.
const SIZE: usize = (HEAD + MOST * SEAT) * 8;
/// How long to sleep before looking who has died.
const NAP: Duration = Duration::from_millis(50);
/// How long to sleep before trying to get the lock again.
const RETRY: Duration = Duration::from_micros(50);

/// The value of `SOFTKVM_PSP` is none.
#[derive(Debug, thiserror::Error)]
#[error("SOFTKVM_PSP: {word:?}: {problem}")]
pub struct PspQueueError {
    word: String,
    problem: &'static str,
}

/// What `SOFTKVM_PSP` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meeting {
    file: PathBuf,
    of: usize,
    index: Option<usize>,
    patience: Duration,
}

impl Meeting {
    /// Reads the value; `None` if it is empty.
    pub fn parse(text: &str, realtime: bool) -> Result<Option<Self>, PspQueueError> {
        let error = |word: &str, problem| PspQueueError { word: word.to_owned(), problem };
        let mut words = text.split(';').map(str::trim);
        let Some(file) = words.next().filter(|_| !text.is_empty()) else { return Ok(None) };
        if file.is_empty() {
            return Err(error(text, "no file in front"));
        }
        if realtime {
            return Err(error(text, "only modelled time can be shared"));
        }
        let (mut of, mut index, mut patience) = (None, None, 60);
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let number = value.parse::<usize>().map_err(|_| error(word, "a number is missing"))?;
            match key {
                "of" => of = Some(number),
                "index" => index = Some(number),
                "patience" => patience = number,
                _ => return Err(error(word, "neither of=, index= nor patience=")),
            }
        }
        let of = of.filter(|of| (1..=MOST).contains(of));
        let of = of.ok_or_else(|| error(text, "of= says how many there are, 1 to 1024"))?;
        if index.is_some_and(|index| index >= of) {
            return Err(error(text, "index= is less than of="));
        }
        let patience = Duration::from_secs(patience as u64);
        Ok(Some(Self { file: PathBuf::from(file), of, index, patience }))
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

/// Where a participant is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It has not come: its clock stands at 0.
    Absent,
    /// It does something else, and no command of it comes before that time.
    Busy,
    /// It waits with a command that came at that time.
    Waiting,
    /// It takes no part any more.
    Gone,
}

impl State {
    fn from_word(word: u64) -> Self {
        match word {
            1 => Self::Busy,
            2 => Self::Waiting,
            3 => Self::Gone,
            _ => Self::Absent,
        }
    }
}

/// A VM's place in the queue.
pub struct Place {
    file: File,
    map: Mapping,
    of: usize,
    index: usize,
    patience: Duration,
    /// It has left.
    gone: bool,
}

impl Place {
    /// Takes a place. Cycles are those of a counter of `khz`.
    pub fn take(meeting: &Meeting, khz: u32) -> Answer<Self> {
        let Meeting { of, patience, .. } = *meeting;
        let file = open(meeting)?;
        let shared = file.try_clone().map_err(errno)?;
        let _guard = Seats { file: &shared }.lock(patience)?;
        let fresh = match file.metadata().map_err(errno)?.len() {
            0 => true,
            len if len == SIZE as u64 => false,
            _ => {
                complain(meeting, &"the file is something else");
                return Err(Errno::EINVAL);
            }
        };
        file.set_len(SIZE as u64).map_err(errno)?;
        let map = Mapping::of(file.as_raw_fd(), SIZE)?;
        let mut place = Self { file, map, of, index: 0, patience, gone: true };
        place.open_round(meeting, khz, fresh)?;
        let mut wanted = meeting.index.map_or(0..of, |index| index..index + 1);
        let free = wanted.find(|index| place.state(*index) == State::Absent);
        let Some(index) = free.filter(|index| place.seats().hold(*index)) else {
            complain(meeting, &"no place is free");
            return Err(Errno::EBUSY);
        };
        (place.index, place.gone) = (index, false);
        place.put(index, State::Busy, 0);
        Ok(place)
    }

    /// Makes the file ready for a round if none is going on.
    fn open_round(&self, meeting: &Meeting, khz: u32, fresh: bool) -> Answer {
        let head = [MAGIC, self.of as u64, u64::from(khz)];
        let found = [0, 1, 2].map(|index| self.word(index).load(Ordering::SeqCst));
        if !fresh && found[0] != MAGIC {
            complain(meeting, &"the file is something else");
            return Err(Errno::EINVAL);
        }
        self.bury();
        let alive = |index| matches!(self.state(index), State::Busy | State::Waiting);
        let all_came = !fresh
            && (0..MOST.min(found[1] as usize)).all(|index| self.state(index) == State::Gone);
        let quiet = now_s().saturating_sub(self.word(LAST).load(Ordering::SeqCst));
        let over = !(0..MOST).any(alive) && (all_came || quiet > self.patience.as_secs());
        if over {
            (0..SIZE / 8).for_each(|index| self.word(index).store(0, Ordering::SeqCst));
            head.iter()
                .enumerate()
                .for_each(|(i, word)| self.word(i).store(*word, Ordering::SeqCst));
        } else if found != head {
            complain(meeting, &"others meet there who are not as many, or have another profile");
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// A command that comes at `now` and takes `cost`: when it ends. Waits until it can be told.
    pub fn serve(&mut self, now: u64, cost: u64) -> Answer<u64> {
        if self.gone {
            return Ok(now + cost);
        }
        let mut guard = self.seats().lock(self.patience)?;
        self.put(self.index, State::Waiting, now);
        let mut since = Instant::now();
        loop {
            if self.is_next(now) {
                let free = self.word(3).load(Ordering::SeqCst);
                let end = now.max(free) + cost;
                self.word(3).store(end, Ordering::SeqCst);
                self.put(self.index, State::Busy, end);
                return Ok(end);
            }
            let changes = self.changes().load(Ordering::SeqCst);
            drop(guard);
            self.sleep(changes);
            guard = self.seats().lock(self.patience)?;
            if self.changes().load(Ordering::SeqCst) != changes || self.bury() {
                since = Instant::now();
            } else if since.elapsed() > self.patience {
                let absent = (0..self.of).filter(|i| self.state(*i) == State::Absent).count();
                drop(guard);
                super::say(format_args!(
                    "SOFTKVM_PSP: nothing has happened for {} s; {absent} of {} have not come",
                    self.patience.as_secs(),
                    self.of
                ));
                self.leave();
                return Err(Errno::ETIMEDOUT);
            }
        }
    }

    /// The launch is over: nobody has to wait for this VM any more.
    pub fn leave(&mut self) {
        if !std::mem::replace(&mut self.gone, true)
            && let Ok(_guard) = self.seats().lock(self.patience)
        {
            self.put(self.index, State::Gone, 0);
        }
    }

    /// Whether nobody can come before this VM's command that came at `now`.
    fn is_next(&self, now: u64) -> bool {
        (0..self.of).filter(|other| *other != self.index).all(|other| match self.state(other) {
            State::Gone => true,
            State::Absent | State::Busy | State::Waiting => {
                (self.time(other), other) > (now, self.index)
            }
        })
    }

    /// Those who have died are gone. Whether there were any.
    fn bury(&self) -> bool {
        let taken = |state| matches!(state, State::Busy | State::Waiting);
        let mut any = false;
        for other in 0..MOST {
            let me = !self.gone && other == self.index;
            if !me && taken(self.state(other)) && !self.seats().held(other) {
                self.put(other, State::Gone, 0);
                any = true;
            }
        }
        any
    }

    fn seats(&self) -> Seats<'_> {
        Seats { file: &self.file }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!((index + 1) * 8 <= self.map.size());
        // SAFETY: inside the mapping, which is page-aligned and lives as long as `self`; all accesses are atomic.
        unsafe { AtomicU64::from_ptr(self.map.base().add(index * 8).cast()) }
    }

    /// Counts changes; those who wait sleep on it.
    fn changes(&self) -> &AtomicU32 {
        const CHANGES: usize = 4;
        assert!((CHANGES + 1) * 8 <= self.map.size());
        // SAFETY: as in `word`; these four bytes are only ever accessed as such.
        unsafe { AtomicU32::from_ptr(self.map.base().add(CHANGES * 8).cast()) }
    }

    fn state(&self, index: usize) -> State {
        State::from_word(self.word(HEAD + index * SEAT).load(Ordering::SeqCst))
    }

    fn time(&self, index: usize) -> u64 {
        self.word(HEAD + index * SEAT + 1).load(Ordering::SeqCst)
    }

    fn put(&self, index: usize, state: State, time: u64) {
        self.word(HEAD + index * SEAT).store(state as u64, Ordering::SeqCst);
        self.word(HEAD + index * SEAT + 1).store(time, Ordering::SeqCst);
        self.word(LAST).store(now_s(), Ordering::SeqCst);
        self.changes().fetch_add(1, Ordering::SeqCst);
        // SAFETY: wakes whoever sleeps on a word of ours.
        unsafe {
            libc::syscall(libc::SYS_futex, self.changes().as_ptr(), libc::FUTEX_WAKE, i32::MAX)
        };
    }

    /// Until something changes, or for a while.
    fn sleep(&self, changes: u32) {
        let nap = libc::timespec { tv_sec: 0, tv_nsec: i64::from(NAP.subsec_nanos()) };
        let word = self.changes().as_ptr();
        // SAFETY: sleeps on a word of ours, with a time of ours.
        unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, changes, &raw const nap) };
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

fn now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn errno(error: std::io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

fn open(meeting: &Meeting) -> Answer<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(libc::O_CLOEXEC);
    options.open(&meeting.file).inspect_err(|error| complain(meeting, error)).map_err(errno)
}

fn complain(meeting: &Meeting, why: &dyn std::fmt::Display) {
    super::say(format_args!("SOFTKVM_PSP: {}: {why}", meeting.file.display()));
}

/// Locks of the file's bytes: the first is the queue's own, the others are held by who has a place. They belong to the opened file, so
/// that the kernel gives them back when its process dies.
struct Seats<'a> {
    file: &'a File,
}

/// The queue's lock.
struct Guard<'a> {
    file: &'a File,
}

impl<'a> Seats<'a> {
    /// Nobody holds this lock for longer than it takes to look at a few words, unless it has been stopped.
    fn lock(&self, patience: Duration) -> Answer<Guard<'a>> {
        let since = Instant::now();
        while !set(self.file, libc::F_WRLCK, 0) {
            if since.elapsed() > patience {
                super::say(format_args!("SOFTKVM_PSP: the file is locked by who does not go on"));
                return Err(Errno::ETIMEDOUT);
            }
            std::thread::sleep(RETRY);
        }
        Ok(Guard { file: self.file })
    }

    /// Takes a place's lock.
    fn hold(&self, index: usize) -> bool {
        set(self.file, libc::F_WRLCK, index as i64 + 1)
    }

    /// Whether somebody else holds a place's lock.
    fn held(&self, index: usize) -> bool {
        let mut lock = range(libc::F_WRLCK, index as i64 + 1);
        // SAFETY: asks with a structure of ours.
        let asked = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
        asked != 0 || i32::from(lock.l_type) != libc::F_UNLCK
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        set(self.file, libc::F_UNLCK, 0);
    }
}

fn range(kind: i32, byte: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

fn set(file: &File, kind: i32, byte: i64) -> bool {
    let lock = range(kind, byte);
    // SAFETY: sets a lock with a structure of ours.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) == 0 }
}

#[cfg(test)]
#[path = "psp_queue_test.rs"]
mod psp_queue_test;
