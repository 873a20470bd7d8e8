//! The reference engine: one instruction at a time.

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};

use super::cache::Mix;
use crate::cpu::{Exit, Mode, Processor, Step, Stop, exec, flags};
use std::hash::Hasher;

/// Instructions that need no decoding again: many that the fast engine hands over come often.
pub(crate) struct Decoded {
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    rip: u64,
    mode: Mode,
    bytes: [u8; 15],
    insn: Instruction,
}

const ENTRIES: usize = 512;

impl Default for Decoded {
    fn default() -> Self {
        Self { entries: vec![Entry::default(); ENTRIES] }
    }
}

/// Address width of a mode's decoder.
pub(crate) fn bitness(mode: Mode) -> u32 {
    match mode {
        Mode::Real16 | Mode::Prot16 => 16,
        Mode::Prot32 => 32,
        Mode::Long64 => 64,
    }
}

/// Fetches and decodes the instruction at RIP.
pub(crate) fn decode(p: &mut Processor) -> Step<Instruction> {
    let mut bytes = [0; 15];
    let mut len = p.fetch(&mut bytes)?;
    let (rip, mode) = (p.core.rip, p.core.mode);
    let mut hash = Mix::default();
    hash.write_u64(rip);
    let slot = hash.finish() as usize >> 20 & (ENTRIES - 1);
    let Entry { rip: at, mode: within, bytes: known, insn } = p.hot.decoded.entries[slot];
    let size = insn.len();
    let first = size.min(len);
    if size != 0 && at == rip && within == mode && known[..first] == bytes[..first] {
        if size > len {
            // It begins as the known one does, so it reaches into the second page as well.
            len = p.fetch_more(&mut bytes, len)?;
        }
        if size <= len && known[first..size] == bytes[first..size] {
            return Ok(insn);
        }
    }
    let mut insn = Instruction::default();
    let error = decode_bytes(&bytes[..len], rip, mode, &mut insn);
    if error == DecoderError::NoMoreBytes && len < 15 {
        len = p.fetch_more(&mut bytes, len)?;
        decode_bytes(&bytes[..len], rip, mode, &mut insn);
    }
    p.hot.decoded.entries[slot] = Entry { rip, mode, bytes, insn };
    Ok(insn)
}

fn decode_bytes(bytes: &[u8], rip: u64, mode: Mode, insn: &mut Instruction) -> DecoderError {
    let mut decoder = Decoder::with_ip(bitness(mode), bytes, rip, DecoderOptions::NONE);
    decoder.decode_out(insn);
    decoder.last_error()
}

/// Executes one instruction. `Ok` when it has retired (also when it stops the processor
/// afterwards: the exit is then the value), `Err` when it has not.
pub(crate) fn step(p: &mut Processor) -> Step<Option<Exit>> {
    p.core.instructions = p.hot.limit.wrapping_sub(p.hot.budget as u64);
    let insn = decode(p)?;
    let before = p.core.rflags;
    let mut exit = None;
    let started = p.core.instructions;
    p.hot.room = p.hot.budget as u64;
    let result = exec::execute(p, &insn);
    // Iterations of a repeated instruction count.
    p.hot.budget -= p.core.instructions.wrapping_sub(started) as i64;
    if result.is_err() {
        match p.core.stop.take() {
            // These have happened when they are reported.
            Some(Stop::Exit(e @ (Exit::Halt | Exit::Vmgexit | Exit::Tdcall))) => exit = Some(e),
            stop => {
                p.core.stop = stop;
                return Err(crate::cpu::Trapped);
            }
        }
    }
    p.hot.budget -= 1;
    if before & flags::RF != 0 {
        p.core.rflags &= !flags::RF;
    }
    Ok(exit)
}
