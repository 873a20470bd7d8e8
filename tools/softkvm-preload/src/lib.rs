//! Interposes `open`, `ioctl` and the little else softkvm needs.
