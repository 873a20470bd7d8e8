//! errno values: how an ioctl refuses.

use std::fmt;

/// A positive errno.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

/// Result of an ioctl.
pub type Answer<T = ()> = Result<T, Errno>;

macro_rules! names {
    ($($name:ident),* $(,)?) => {
        #[expect(missing_docs, reason = "the names are those of errno(3)")]
        impl Errno {
            $(pub const $name: Self = Self(libc::$name);)*

            /// The errno of this name.
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($name) => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
        impl fmt::Debug for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$name => f.write_str(stringify!($name)),)*
                    Self(other) => write!(f, "errno {other}"),
                }
            }
        }
    };
}

names!(
    E2BIG, EACCES, EAGAIN, EBADF, EBUSY, EEXIST, EFAULT, EHWPOISON, EINTR, EINVAL, EIO, EMFILE,
    ENFILE, ENODEV, ENOENT, ENOMEM, ENOSPC, ENOTTY, ENXIO, EOPNOTSUPP, EPERM, ETIMEDOUT,
);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for Errno {}

impl Errno {
    /// The calling thread's errno.
    pub fn last() -> Self {
        Self(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }

    /// EINVAL unless `condition` holds.
    pub fn require(condition: bool) -> Answer {
        if condition { Ok(()) } else { Err(Self::EINVAL) }
    }
}
