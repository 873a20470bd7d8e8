//! LZ4: unpacks the payload of a bzImage that was built with CONFIG_KERNEL_LZ4.
//!
//! A legacy frame ("LZ4 Frame Format Description" 1.6.4, "Legacy frame") of blocks that know nothing of each other ("LZ4
//! Block Format Description"), then the length of it all, which Linux appends (7.2 scripts/Makefile.lib `size_append`).
//! All of it is verified by now, but a stranger may have made it: nothing is read outside of it, nothing written outside of
//! the room.

use crate::platform::Platform;
use crate::range::Range;

/// What a legacy frame begins with.
const MAGIC: u64 = 0x184C_2102;
/// Bytes of the magic, of a block's length, and of the length at the end.
const WORD: usize = 4;
/// Half a token: a length, or as much of a longer one.
const NIBBLE: u64 = 15;
/// A match is so much longer than it says.
const MATCH_MIN: u64 = 4;
/// More than a short sequence takes of block and room, with all that is copied beyond its ends.
const FAR: u64 = 64;
/// Bytes copied at once where there is room beyond the end.
const STEP: u64 = 8;

/// Unpacks everything; `None` where it is malformed, or does not fill the room to the last byte.
pub fn unpack<P: Platform>(platform: &mut P, packed: Range, mut room: Range) -> Option<()> {
    let mut rest = Range { start: packed.start, end: packed.end - WORD as u64 };
    if number::<WORD>(platform, &mut rest)? != MAGIC {
        return None;
    }
    while !rest.is_empty() {
        let len = number::<WORD>(platform, &mut rest)?;
        let block = cut(&mut rest, len)?;
        unpack_block(platform, block, &mut room)?;
    }
    room.is_empty().then_some(())
}

/// Unpacks a block to the beginning of the room.
fn unpack_block<P: Platform>(platform: &mut P, mut block: Range, room: &mut Range) -> Option<()> {
    let first = room.start;
    let mut token = 0;
    // A sequence has literals and a match; the last has literals alone. One piece of code does for both: it is small.
    let mut literals = true;
    loop {
        if literals && block.start + FAR <= block.end && room.start + FAR <= room.end {
            // Most sequences are short, and far from the end: copied without a look at how short.
            let mut ahead = block;
            let token = number::<1>(platform, &mut ahead)?;
            let (literals, len) = (token >> 4, token & NIBBLE);
            steps(platform, room.start, ahead.start, NIBBLE);
            ahead.start += literals;
            let offset = number::<2>(platform, &mut ahead)?;
            let target = room.start + literals;
            if literals < NIBBLE && len < NIBBLE && offset >= STEP && offset <= target - first {
                steps(platform, target, target - offset, NIBBLE + MATCH_MIN);
                room.start = target + len + MATCH_MIN;
                block = ahead;
                continue;
            }
        }
        let mut source = *room;
        let mut len = if literals {
            token = number::<1>(platform, &mut block)?;
            token >> 4
        } else {
            let offset = number::<2>(platform, &mut block)?;
            if offset == 0 || offset > room.start - first {
                return None;
            }
            source.start -= offset;
            token & NIBBLE
        };
        if len == NIBBLE {
            loop {
                let more = number::<1>(platform, &mut block)?;
                len += more;
                if more != 0xFF {
                    break;
                }
            }
        }
        if literals {
            source = block;
            cut(&mut block, len)?;
        } else {
            len += MATCH_MIN;
        }
        let mut target = cut(room, len)?;
        let mut apart = target.start.wrapping_sub(source.start);
        // What repeats in less than a step repeats in twice as much, too.
        while apart < STEP && apart < len {
            platform.copy(target.start, source.start, apart);
            target.start += apart;
            len -= apart;
            apart += apart;
        }
        platform.copy(target.start, source.start, len);
        if literals && block.is_empty() {
            return Some(());
        }
        literals = !literals;
    }
}

/// Copies whole steps, the last perhaps beyond the end.
#[inline(always)]
fn steps<P: Platform>(platform: &mut P, target: u64, source: u64, len: u64) {
    let mut done = 0;
    while done < len {
        let mut step = [0; STEP as usize];
        step.copy_from_slice(platform.bytes(source + done, STEP));
        platform.bytes_mut(target + done, STEP).copy_from_slice(&step);
        done += STEP;
    }
}

/// Takes so many bytes off the front.
#[inline(always)]
fn cut(rest: &mut Range, len: u64) -> Option<Range> {
    let front = Range { start: rest.start, end: rest.start + len };
    rest.start = front.end;
    (front.end <= rest.end).then_some(front)
}

/// Takes a number of so many bytes, the lowest first.
#[inline(always)]
fn number<const LEN: usize>(platform: &impl Platform, rest: &mut Range) -> Option<u64> {
    let at = cut(rest, LEN as u64)?.start;
    let mut number = [0; 8];
    number.get_mut(..LEN)?.copy_from_slice(platform.bytes(at, LEN as u64));
    Some(u64::from_le_bytes(number))
}
