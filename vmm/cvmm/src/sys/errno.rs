//! errno values by their names: what people look for in manuals and on the web.

use std::io;

macro_rules! names {
    ($($name:ident)*) => {
        const NAMES: &[(i32, &str)] = &[$((libc::$name, stringify!($name))),*];
    };
}

names! {
    E2BIG EACCES EAGAIN EBADF EBUSY EEXIST EFAULT EFBIG EHWPOISON EINTR EINVAL EIO EISDIR EMFILE ENAMETOOLONG ENFILE ENODEV ENOENT
    ENOMEM ENOSPC ENOSYS ENOTDIR ENOTTY ENXIO EOPNOTSUPP EPERM EPIPE EROFS ESRCH ETIMEDOUT
}

/// Name and meaning of what the kernel answered.
pub fn tell(source: &io::Error) -> String {
    let Some(errno) = source.raw_os_error() else { return source.to_string() };
    let said = source.to_string();
    let meaning = said.split(" (os error").next().unwrap_or_default();
    match NAMES.iter().find(|(number, _)| *number == errno) {
        Some((_, name)) => format!("{name} ({meaning})"),
        None => format!("errno {errno} ({meaning})"),
    }
}
