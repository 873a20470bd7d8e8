//! ELF executables of a test's own: a guest small enough to know every instruction of.

/// An x86-64 executable for physical memory, as cvmm loads it.
pub struct Elf {
    entry: u64,
    segments: Vec<(u64, Vec<u8>, u64)>,
}

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

impl Elf {
    /// One segment of code, entered at its first byte.
    pub fn of_code(address: u64, code: &[u8]) -> Self {
        Self { entry: address, segments: vec![(address, code.to_vec(), code.len() as u64)] }
    }

    /// Another segment: file contents, and how much memory it has.
    pub fn segment(mut self, address: u64, contents: &[u8], memory: u64) -> Self {
        self.segments.push((address, contents.to_vec(), memory));
        self
    }

    /// Another entry point.
    pub fn entry(mut self, entry: u64) -> Self {
        self.entry = entry;
        self
    }

    /// The file (System V ABI, chapters 4 and 5).
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        let half = |file: &mut Vec<u8>, value: u16| file.extend(value.to_le_bytes());
        let word = |file: &mut Vec<u8>, value: u32| file.extend(value.to_le_bytes());
        let long = |file: &mut Vec<u8>, value: u64| file.extend(value.to_le_bytes());
        half(&mut file, 2);
        half(&mut file, 62);
        word(&mut file, 1);
        long(&mut file, self.entry);
        long(&mut file, HEADER as u64);
        long(&mut file, 0);
        word(&mut file, 0);
        for value in [HEADER, PROGRAM_HEADER, self.segments.len(), 0, 0, 0] {
            half(&mut file, value as u16);
        }
        let mut offset = (HEADER + self.segments.len() * PROGRAM_HEADER) as u64;
        for (address, contents, memory) in &self.segments {
            word(&mut file, 1);
            word(&mut file, 7);
            for value in [offset, *address, *address, contents.len() as u64, *memory, 4096] {
                long(&mut file, value);
            }
            offset += contents.len() as u64;
        }
        for (_, contents, _) in &self.segments {
            file.extend(contents);
        }
        file
    }
}
