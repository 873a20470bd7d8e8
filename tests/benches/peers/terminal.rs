//! A terminal for a monitor that insists on one.
//!
//! UNSAFETY: openpty(3), which writes two integers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::ptr::null_mut;

/// One end of a new terminal. The other stays open as long as this process lives: nobody types.
pub fn open() -> io::Result<OwnedFd> {
    let (mut ours, mut theirs) = (0, 0);
    // SAFETY: both integers are valid for writes; the rest may be null.
    let result = unsafe {
        libc::openpty(&mut ours, &mut theirs, null_mut(), null_mut::<_>(), null_mut::<_>())
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor for us.
    let theirs = unsafe { OwnedFd::from_raw_fd(theirs) };
    // SAFETY: as above; it is left open on purpose.
    let _ = unsafe { OwnedFd::from_raw_fd(ours) }.into_raw_fd();
    Ok(theirs)
}
