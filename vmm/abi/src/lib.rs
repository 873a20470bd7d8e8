#![no_std]
//! Layouts that hardware, firmware and the kernel fixed.
