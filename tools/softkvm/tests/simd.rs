//! What the host cannot be asked about: availability checks, pending x87 errors, save areas.

use iced_x86::{Decoder, DecoderOptions};
use softkvm::cpu::bare::Bare;
use softkvm::cpu::fxsave::FXSAVE_SIZE;
use softkvm::cpu::state::{RAX, RBX, RCX, RDX, cr0, cr4};
use softkvm::cpu::{Core, Exception, Features, Fpu, Processor, Seg, Segment, Stop, exec};

/// A 32-bit flat processor without paging; `long` makes it 64-bit (still unpaged: no access below
/// goes through a page table).
struct Machine {
    p: Processor,
    world: Bare,
}

const CODE: u64 = 0x1000;
const AREA: u64 = 0x2000;

impl Machine {
    fn new() -> Self {
        let mut core = Core::at_reset();
        core.cr0 = cr0::PE | cr0::NE | cr0::MP | cr0::ET;
        core.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
        core.features = Features::all() - Features::ABSENT;
        core.xcr0 = 3;
        core.seg = [Segment { selector: 0x10, attrib: 0xc93, limit: u32::MAX, base: 0 }; 6];
        core.seg[Seg::Cs as usize] =
            Segment { selector: 8, attrib: 0xc9b, limit: u32::MAX, base: 0 };
        core.update_mode();
        core.gpr[RBX] = AREA;
        Self { p: Processor::new(core), world: Bare::new(4) }
    }

    /// Executes one instruction at a fixed place.
    fn run(&mut self, bytes: &[u8]) -> Result<(), Exception> {
        self.p.core.rip = CODE;
        let insn = Decoder::with_ip(32, bytes, CODE, DecoderOptions::NONE).decode();
        let step = self.p.with_world(&mut self.world, |p| exec::execute(p, &insn));
        match (step, self.p.core.stop.take()) {
            (Ok(()), _) => {
                assert_eq!(self.p.core.rip, CODE + bytes.len() as u64);
                Ok(())
            }
            (Err(_), Some(Stop::Fault(exception))) => {
                assert_eq!(self.p.core.rip, CODE);
                Err(exception)
            }
            (Err(_), other) => panic!("{other:?}"),
        }
    }
}

const ADDPS: &[u8] = &[0x0f, 0x58, 0xc1];
const PADDB_MMX: &[u8] = &[0x0f, 0xfc, 0xc1];
const FLD1: &[u8] = &[0xd9, 0xe8];
const FLDZ: &[u8] = &[0xd9, 0xee];
const FDIVP: &[u8] = &[0xde, 0xf9];
const FWAIT: &[u8] = &[0x9b];
const FNSTSW_AX: &[u8] = &[0xdf, 0xe0];
const FNCLEX: &[u8] = &[0xdb, 0xe2];
const FXSAVE: &[u8] = &[0x0f, 0xae, 0x03];
const FXRSTOR: &[u8] = &[0x0f, 0xae, 0x0b];
const XSAVE: &[u8] = &[0x0f, 0xae, 0x23];
const XRSTOR: &[u8] = &[0x0f, 0xae, 0x2b];
const XSAVEC: &[u8] = &[0x0f, 0xc7, 0x23];

#[test]
fn task_switched_makes_state_unavailable() {
    let mut m = Machine::new();
    m.p.core.cr0 |= cr0::TS;
    for code in [ADDPS, PADDB_MMX, FLD1, FXSAVE, XSAVE, FWAIT, FNSTSW_AX] {
        assert_eq!(m.run(code), Err(Exception::NM), "{code:02x?}");
    }
    m.p.core.cr0 &= !cr0::MP;
    assert_eq!(m.run(FWAIT), Ok(()), "FWAIT looks at TS only with MP");
}

#[test]
fn emulation_hides_simd_and_traps_x87() {
    let mut m = Machine::new();
    m.p.core.cr0 |= cr0::EM;
    assert_eq!(m.run(ADDPS), Err(Exception::UD));
    assert_eq!(m.run(PADDB_MMX), Err(Exception::UD));
    assert_eq!(m.run(FLD1), Err(Exception::NM));
}

#[test]
fn sse_needs_osfxsr_and_mmx_does_not() {
    let mut m = Machine::new();
    m.p.core.cr4 &= !cr4::OSFXSR;
    assert_eq!(m.run(ADDPS), Err(Exception::UD));
    assert_eq!(m.run(PADDB_MMX), Ok(()));
    assert_eq!(m.p.core.fpu.ftw, 0xff);
}

#[test]
fn unmasked_simd_exception_is_xm_or_ud() {
    let mut m = Machine::new();
    // 1 / 0 in all lanes.
    const DIVPS: &[u8] = &[0x0f, 0x5e, 0xc1];
    let one = u128::from(1f32.to_bits());
    m.p.core.fpu.xmm[0] = one | one << 32 | one << 64 | one << 96;
    let before = m.p.core.fpu.xmm[0];
    m.p.core.fpu.mxcsr = 0x1f80 & !0x200;
    assert_eq!(m.run(DIVPS), Err(Exception::XM));
    assert_eq!(m.p.core.fpu.xmm[0], before);
    assert_eq!(m.p.core.fpu.mxcsr & 0x3f, 4);
    m.p.core.cr4 &= !cr4::OSXMMEXCPT;
    assert_eq!(m.run(DIVPS), Err(Exception::UD));
}

#[test]
fn unmasked_x87_exception_waits_for_the_next_instruction() {
    let mut m = Machine::new();
    m.p.core.fpu.fcw = 0x37f & !4;
    m.run(FLD1).expect("FLD1");
    m.run(FLDZ).expect("FLDZ");
    assert_eq!(m.run(FDIVP), Ok(()), "the faulting instruction itself retires");
    assert_eq!(m.p.core.fpu.fsw & 0x8084, 0x8084);
    assert_eq!(m.run(FWAIT), Err(Exception::MF));
    assert_eq!(m.run(FLD1), Err(Exception::MF));
    assert_eq!(m.run(PADDB_MMX), Err(Exception::MF));
    m.run(FNSTSW_AX).expect("not a waiting instruction");
    assert_eq!(m.p.core.gpr[RAX] & 0x8084, 0x8084);
    m.run(FNCLEX).expect("not a waiting instruction");
    assert_eq!(m.run(FWAIT), Ok(()));
}

#[test]
fn pointers_of_the_last_x87_instruction_are_kept() {
    let mut m = Machine::new();
    m.run(&[0xd9, 0x43, 0x10]).expect("FLD dword [EBX+16]");
    assert_eq!((m.p.core.fpu.fip, m.p.core.fpu.fdp), (CODE, AREA + 16));
    m.run(FNSTSW_AX).expect("a control instruction");
    assert_eq!((m.p.core.fpu.fip, m.p.core.fpu.fdp), (CODE, AREA + 16));
}

fn some_state() -> Fpu {
    let mut fpu = Fpu { mxcsr: 0x1fa1, fcw: 0x27f, fsw: 0x2900, ftw: 0xa5, ..Fpu::default() };
    for i in 0..16 {
        fpu.xmm[i] = (i as u128 + 1) * 0x0123_4567_89ab_cdef_0011_2233;
    }
    for i in 0..8 {
        fpu.st[i] = 0x3fff << 64 | 1 << 63 | i as u128;
    }
    fpu
}

#[test]
fn image_conversion_is_lossless_for_every_top() {
    for top in 0..8 {
        let mut fpu = some_state();
        fpu.fsw = fpu.fsw & !0x3800 | top << 11;
        (fpu.fip, fpu.fdp, fpu.fop) = (0x1_2345_6789_abcd, 0xffff_8000_0000_1234, 0x7ff);
        let mut back = Fpu::default();
        back.load_fxsave(&fpu.to_fxsave(true), true);
        assert_eq!(back.to_fxsave(true), fpu.to_fxsave(true));
        assert_eq!((back.st, back.xmm, back.fip), (fpu.st, fpu.xmm, fpu.fip));
    }
}

#[test]
fn fxsave_and_fxrstor_move_what_the_mode_can_name() {
    let mut m = Machine::new();
    m.p.core.fpu = some_state();
    m.world.put(AREA, &[0xee; 1024]);
    m.run(FXSAVE).expect("FXSAVE");
    let mut image = [0; FXSAVE_SIZE];
    image.copy_from_slice(&m.world.bytes()[AREA as usize..][..FXSAVE_SIZE]);
    let full = some_state().to_fxsave(false);
    assert_eq!(image[..288], full[..288], "XMM0..7 in 32-bit mode");
    assert_eq!(image[288..], [0xee; 224], "the rest is not touched");
    m.p.core.fpu = Fpu::default();
    m.p.core.fpu.xmm[9] = 7;
    m.run(FXRSTOR).expect("FXRSTOR");
    assert_eq!(m.p.core.fpu.xmm[7], some_state().xmm[7]);
    assert_eq!(m.p.core.fpu.xmm[9], 7);
    assert_eq!(m.p.core.fpu.mxcsr, 0x1fa1);
}

#[test]
fn save_areas_must_be_aligned_and_sane() {
    let mut m = Machine::new();
    m.p.core.gpr[RBX] = AREA + 8;
    assert_eq!(m.run(FXSAVE), Err(Exception::gp(0)));
    m.p.core.gpr[RBX] = AREA + 16;
    assert_eq!(m.run(FXSAVE), Ok(()));
    assert_eq!(m.run(XSAVE), Err(Exception::gp(0)));
    m.world.put(AREA + 16 + 24, &0x1_1f80u32.to_le_bytes());
    assert_eq!(m.run(FXRSTOR), Err(Exception::gp(0)), "reserved MXCSR bits");
}

#[test]
fn xsave_round_trip_honours_the_requested_components() {
    let mut m = Machine::new();
    m.p.core.fpu = some_state();
    m.p.core.gpr[RAX] = 3;
    m.p.core.gpr[RDX] = 0;
    m.run(XSAVE).expect("XSAVE");
    assert_eq!(m.world.get64(AREA + 512), 3);
    m.p.core.fpu = Fpu::default();
    m.p.core.gpr[RAX] = 2;
    m.run(XRSTOR).expect("XRSTOR");
    assert_eq!(m.p.core.fpu.xmm[3], some_state().xmm[3]);
    assert_eq!(m.p.core.fpu.fcw, 0x37f, "x87 was not asked for");
    // A component absent from XSTATE_BV is initialised.
    m.world.put64(AREA + 512, 1);
    m.p.core.gpr[RAX] = 3;
    m.run(XRSTOR).expect("XRSTOR");
    assert_eq!(m.p.core.fpu.xmm[3], 0);
    assert_eq!(m.p.core.fpu.fcw, 0x27f);
    m.world.put64(AREA + 512, 4);
    assert_eq!(m.run(XRSTOR), Err(Exception::gp(0)), "a component that XCR0 lacks");
    m.p.core.cr4 &= !cr4::OSXSAVE;
    assert_eq!(m.run(XSAVE), Err(Exception::UD));
}

#[test]
fn xsavec_leaves_out_initial_components() {
    let mut m = Machine::new();
    m.p.core.gpr[RAX] = 3;
    m.p.core.gpr[RDX] = 0;
    m.p.core.fpu.xmm[1] = 5;
    m.run(XSAVEC).expect("XSAVEC");
    assert_eq!(m.world.get64(AREA + 512), 2);
    assert_eq!(m.world.get64(AREA + 520), 1 << 63 | 3);
    m.p.core.fpu = some_state();
    m.run(XRSTOR).expect("XRSTOR");
    assert_eq!((m.p.core.fpu.xmm[1], m.p.core.fpu.ftw, m.p.core.fpu.fcw), (5, 0, 0x37f));
}

#[test]
fn xsaves_and_xrstors_are_the_supervisors_compacted_forms() {
    // xsaves [ebx]; xrstors [ebx]
    const XSAVES: &[u8] = &[0x0f, 0xc7, 0x2b];
    const XRSTORS: &[u8] = &[0x0f, 0xc7, 0x1b];
    let mut m = Machine::new();
    m.p.core.gpr[RAX] = u64::MAX;
    m.p.core.gpr[RDX] = u64::MAX;
    m.p.core.fpu = some_state();
    m.run(XSAVES).expect("XSAVES");
    assert_eq!((m.world.get64(AREA + 512), m.world.get64(AREA + 520)), (3, 1 << 63 | 3));
    m.p.core.fpu = Fpu::default();
    m.run(XRSTORS).expect("XRSTORS");
    assert_eq!(m.p.core.fpu.xmm[3], some_state().xmm[3]);
    assert_eq!(m.p.core.fpu.fcw, some_state().fcw);
    m.world.put64(AREA + 520, 0);
    assert_eq!(m.run(XRSTORS), Err(Exception::gp(0)), "the standard format");
    m.p.core.cpl = 3;
    assert_eq!(m.run(XSAVES), Err(Exception::gp(0)));
    assert_eq!(m.run(XRSTORS), Err(Exception::gp(0)));
}

#[test]
fn xgetbv_1_tells_which_components_are_in_use() {
    const XGETBV: &[u8] = &[0x0f, 0x01, 0xd0];
    let mut m = Machine::new();
    m.p.core.gpr[RCX] = 1;
    m.run(XGETBV).expect("XGETBV");
    assert_eq!(m.p.core.gpr[RAX], 0);
    m.p.core.fpu.xmm[9] = 1;
    m.run(XGETBV).expect("XGETBV");
    assert_eq!(m.p.core.gpr[RAX], 2);
}
