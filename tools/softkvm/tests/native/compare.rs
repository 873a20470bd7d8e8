//! What must be equal afterwards, and how a difference is told.

use iced_x86::{Code, Register, RflagsBits};
use softkvm::cpu::flags::{AF, CF, OF, PF, SF, ZF};

use crate::forms::Instance;
use crate::host::{SANDBOX, SANDBOX_LEN, State};

/// Flags that the instruction leaves undefined, RFLAGS bits.
pub fn undefined_flags(instance: &Instance, state: &State) -> u64 {
    let insn = &instance.insn;
    let bits = insn.rflags_undefined();
    let map = [
        (RflagsBits::CF, CF),
        (RflagsBits::PF, PF),
        (RflagsBits::AF, AF),
        (RflagsBits::ZF, ZF),
        (RflagsBits::SF, SF),
        (RflagsBits::OF, OF),
    ];
    let mut undefined = map.iter().filter(|(bit, _)| bits & bit != 0).fold(0, |u, (_, f)| u | f);
    // By CL the decoder cannot know the count: none for zero, OF defined for one.
    if insn.op_count() >= 2 && insn.op_register(insn.op_count() - 1) == Register::CL {
        let wide = insn.op0_register().size() == 8 || insn.memory_size().size() == 8;
        match state.gpr[1] & if wide { 63 } else { 31 } {
            0 => undefined = 0,
            1 => undefined &= !OF,
            _ => (),
        }
    }
    undefined
}

/// Bytes of the memory operand that are not compared: last-instruction pointers and the
/// processor's MXCSR mask.
fn not_compared(code: Code) -> Option<std::ops::Range<usize>> {
    match code {
        Code::Fnstenv_m14byte | Code::Fnsave_m94byte => Some(6..14),
        Code::Fnstenv_m28byte | Code::Fnsave_m108byte => Some(12..28),
        Code::Fxsave_m512byte | Code::Fxsave64_m512byte => Some(6..32),
        _ => None,
    }
}

/// What differs, in words.
pub fn differences(names: [&str; 2], native: &State, soft: &State, flags: u64) -> Vec<String> {
    let [a, b] = names;
    let mut found = Vec::new();
    for (i, (n, s)) in native.gpr.iter().zip(&soft.gpr).enumerate() {
        if n != s {
            found.push(format!("gpr {i}: {a} {n:016x} {b} {s:016x}"));
        }
    }
    if native.taken != soft.taken {
        found.push(format!("branch taken: {a} {} {b} {}", native.taken, soft.taken));
    }
    if (native.rflags ^ soft.rflags) & flags != 0 {
        let (n, s) = (native.rflags & flags, soft.rflags & flags);
        found.push(format!("rflags: {a} {n:06x} {b} {s:06x}"));
    }
    let mut bytes = |name: &str, range: std::ops::Range<usize>| {
        let (n, s) = (&native.fx[range.clone()], &soft.fx[range]);
        if n != s {
            let hex = |b: &[u8]| b.iter().rev().map(|b| format!("{b:02x}")).collect::<String>();
            found.push(format!("{name}: {a} {} {b} {}", hex(n), hex(s)));
        }
    };
    bytes("fcw", 0..2);
    bytes("fsw", 2..4);
    bytes("ftw", 4..5);
    bytes("mxcsr", 24..28);
    for i in 0..8 {
        bytes(&format!("st {i}"), 32 + 16 * i..42 + 16 * i);
    }
    for i in 0..16 {
        bytes(&format!("xmm {i}"), 160 + 16 * i..176 + 16 * i);
    }
    found
}

pub fn describe(instance: &Instance, before: &State, at: Option<u64>, found: &[String]) -> String {
    let mut text = format!("{} {:02x?}", instance.insn, instance.bytes);
    if let Some(at) = at {
        text += &format!(" memory at {at:x}");
    }
    text += &format!("\n    rflags {:x} gpr {:x?}", before.rflags, before.gpr);
    text += &format!(
        "\n    fcw,fsw {:02x?} ftw {:02x} mxcsr {:02x?}",
        &before.fx[..4],
        before.fx[4],
        &before.fx[24..28]
    );
    for difference in found {
        text += &format!("\n    {difference}");
    }
    text
}

/// Makes bytes equal that are not compared.
pub fn align_memory(instance: &Instance, at: Option<u64>, native: &[u8], soft: &mut [u8]) {
    if let (Some(range), Some(at)) = (not_compared(instance.insn.code()), at) {
        let start = (at - SANDBOX) as usize;
        let range = start + range.start..(start + range.end).min(SANDBOX_LEN);
        if !range.is_empty() {
            soft[range.clone()].copy_from_slice(&native[range]);
        }
    }
}

/// PE with unmasked overflow or underflow is not exact: see `sse::float`.
pub fn forgive_precision(native: &mut State, soft: &mut State) {
    let mxcsr = u16::from_le_bytes([native.fx[24], native.fx[25]]);
    if mxcsr & !(mxcsr >> 7) & 0x18 != 0 {
        native.fx[24] |= 0x20;
        soft.fx[24] |= 0x20;
    }
}

/// Where two memories differ.
pub fn memory(names: [&str; 2], first: &[u8], second: &[u8]) -> String {
    let differ: Vec<usize> = (0..SANDBOX_LEN).filter(|&i| first[i] != second[i]).collect();
    let (Some(&from), Some(&to)) = (differ.first(), differ.last()) else {
        return String::new();
    };
    let end = to.min(from + 31);
    format!(
        "memory {:x}..={:x}: {} {:02x?} {} {:02x?}",
        SANDBOX + from as u64,
        SANDBOX + to as u64,
        names[0],
        &first[from..=end],
        names[1],
        &second[from..=end]
    )
}
