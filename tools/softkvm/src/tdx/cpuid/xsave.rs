//! Sizes of the XSAVE area: what the processor says in the answers that depend on XCR0 and IA32_XSS.

use super::super::TdxPlatform;
use super::rules::STATES;

/// Legacy region and header.
const BASE: u32 = 576;

#[derive(Clone, Copy, Debug, Default)]
struct Component {
    bit: u64,
    size: u32,
    /// In the standard format.
    offset: u32,
    /// In the compacted format, on a boundary of 64 bytes.
    aligned: bool,
}

/// The processor's state components.
#[derive(Clone, Debug, Default)]
pub(super) struct XsaveArea(Vec<Component>);

impl XsaveArea {
    pub fn of(platform: &TdxPlatform) -> Self {
        Self(
            STATES
                .map(|state| {
                    let [size, offset, ecx, _] = platform.native(0xd, state);
                    Component { bit: 1 << state, size, offset, aligned: ecx & 2 != 0 }
                })
                .filter(|component| component.size != 0)
                .collect(),
        )
    }

    /// Bytes of the standard format for these states.
    pub fn standard(&self, states: u64) -> u32 {
        self.used(states).map(|c| c.offset + c.size).fold(BASE, u32::max)
    }

    /// Bytes of the compacted format for these states.
    pub fn compacted(&self, states: u64) -> u32 {
        self.used(states).fold(BASE, |end, c| {
            let start = if c.aligned { end.next_multiple_of(64) } else { end };
            start + c.size
        })
    }

    fn used(&self, states: u64) -> impl Iterator<Item = &Component> {
        self.0.iter().filter(move |component| component.bit & states != 0)
    }
}
