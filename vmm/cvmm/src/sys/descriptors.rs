//! Descriptors that go from one process to another, and the places of standard input, output and error.
//!
//! UNSAFETY: recvmsg(2) fills buffers of ours and makes descriptors; dup2(2) and umask(2) change the process as a whole.
#![allow(unsafe_code)]

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// The most descriptors that one message may bring.
pub const MOST: usize = 4;

/// Sends bytes and descriptors in one message.
///
/// # Errors
/// The system call's; or the peer takes only a part.
pub fn send(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    match socket.send_with_fds(&[bytes], &raw) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(error) => Err(io::Error::from_raw_os_error(error.errno())),
    }
}

/// Receives a message, and the descriptors in it; children do not inherit them.
///
/// # Errors
/// The system call's; or there are more than [`MOST`] descriptors.
pub fn receive(socket: &UnixStream, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    // Room for the header and, aligned like it, for the descriptors.
    let mut control = [0u64; 8];
    const _: () = assert!(size_of::<libc::cmsghdr>() + MOST * size_of::<RawFd>() <= 64);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros are a valid, empty message header.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // Lengths are of 64 bits with glibc, and of 32 with musl.
    // SAFETY: arithmetic on a number.
    message.msg_controllen = unsafe { libc::CMSG_SPACE((MOST * size_of::<RawFd>()) as u32) } as _;
    // SAFETY: the header names buffers of ours, which live until the call returns.
    let len =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    if len < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled the header, and as much of `control` as `msg_controllen` now says.
    unsafe {
        let mut entry = libc::CMSG_FIRSTHDR(&raw const message);
        while !entry.is_null() {
            if (*entry).cmsg_level == libc::SOL_SOCKET && (*entry).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(entry).cast::<RawFd>();
                let len: usize = (*entry).cmsg_len as _;
                let space = len - libc::CMSG_LEN(0) as usize;
                for at in 0..space / size_of::<RawFd>() {
                    // The kernel has just made this descriptor for us; nobody else owns it.
                    fds.push(OwnedFd::from_raw_fd(data.add(at).read_unaligned()));
                }
            }
            entry = libc::CMSG_NXTHDR(&raw const message, entry);
        }
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors"));
    }
    Ok((usize::try_from(len).unwrap_or(0), fds))
}

/// Puts these three in the places of standard input, output and error.
///
/// # Errors
/// The system call's.
pub fn become_standard(streams: [OwnedFd; 3]) -> io::Result<()> {
    for (place, stream) in (0..).zip(&streams) {
        // SAFETY: both are descriptors, and std owns none of the three places.
        if unsafe { libc::dup2(stream.as_raw_fd(), place) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A socket in the file system to which nobody but this user can connect. For a process that has no other thread yet.
///
/// # Errors
/// The system calls'.
pub fn listen_for_oneself(path: &Path) -> io::Result<UnixListener> {
    // SAFETY: no memory is passed.
    let before = unsafe { libc::umask(0o177) };
    let listener = UnixListener::bind(path);
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    listener
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn descriptors_arrive_and_are_not_inherited() {
        let (here, there) = UnixStream::pair().expect("a pair");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        send(&here, b"take this", &[writer.as_fd()]).expect("sent");
        drop(writer);
        let mut bytes = [0; 64];
        let (len, mut fds) = receive(&there, &mut bytes).expect("received");
        assert_eq!(&bytes[..len], b"take this");
        let mut file = File::from(fds.pop().expect("one"));
        assert!(fds.is_empty());
        // SAFETY: no memory is passed.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        file.write_all(b"through it").expect("written");
        drop(file);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "through it");
    }

    #[test]
    fn more_descriptors_than_there_is_room_for_are_refused() {
        let (here, there) = UnixStream::pair().expect("a pair");
        send(&here, b"x", &[here.as_fd(); MOST + 1]).expect("sent");
        let refused = receive(&there, &mut [0; 8]).expect_err("too many");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        drop(here);
        assert_eq!(receive(&there, &mut [0; 8]).expect("the end").0, 0);
    }
}
