//! The `cvmm` command.

fn main() {}
