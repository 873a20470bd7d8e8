//! Instruction forms: every legacy-encoded user-mode instruction the decoder knows, with operands
//! chosen at random.

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, Encoder, EncodingKind, FlowControl, Instruction,
    Mnemonic, OpCodeOperandKind as K, OpKind, Register,
};

use crate::random::Random;

/// How the address registers must be set so that the operand lies at a given place.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub base: Register,
    pub index: Register,
    pub scale: u32,
    pub displacement: u64,
    /// Where a RIP-relative or absolute operand lies.
    pub fixed: Option<u64>,
}

/// One instruction with its operands.
pub struct Instance {
    pub bytes: Vec<u8>,
    pub insn: Instruction,
    pub rip: u64,
    pub bits: u32,
    pub plan: Option<Plan>,
}

/// Why forms are left out: they do not run at CPL 3, end the stub or depend on the machine.
fn excluded(code: Code) -> bool {
    use Mnemonic as M;
    let mnemonic = code.mnemonic();
    matches!(
        mnemonic,
        // Machine-dependent results.
        M::Cpuid | M::Rdtsc | M::Rdtscp | M::Rdrand | M::Rdseed | M::Rdpid | M::Rdpmc | M::Xgetbv
            | M::Rdpru | M::Xsave | M::Xsave64 | M::Xsavec | M::Xsavec64 | M::Xsaveopt
            | M::Xsaveopt64 | M::Xrstor | M::Xrstor64
            // Segment registers and descriptor tables are the operating system's.
            | M::Lar | M::Lsl | M::Verr | M::Verw | M::Sldt | M::Str | M::Smsw | M::Sgdt | M::Sidt
            | M::Lss | M::Lds | M::Les | M::Lfs | M::Lgs | M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase
            // Undefined or not executable everywhere.
            | M::Ud0 | M::Ud1 | M::Ud2 | M::Monitor | M::Mwait | M::Monitorx | M::Mwaitx | M::Umonitor | M::Umwait
            | M::Tpause | M::Wrpkru | M::Rdpkru | M::Getsec | M::Enqcmd | M::Pvalidate
            | M::Clzero | M::Ptwrite | M::Rdsspd | M::Rdsspq | M::Incsspd | M::Incsspq
            | M::Saveprevssp | M::Rstorssp | M::Endbr32 | M::Cldemote | M::Movdiri
            | M::Movdir64b | M::Serialize | M::Stui | M::Clui | M::Testui | M::Senduipi | M::Uiret
            | M::Reservednop | M::Invlpgb | M::Tlbsync | M::Xresldtrk | M::Xsusldtrk
    )
}

/// The VEX-encoded forms that work on general registers.
fn bit_manipulation(code: Code) -> bool {
    code.op_code().encoding() == EncodingKind::VEX
        && code
            .cpuid_features()
            .iter()
            .any(|feature| matches!(feature, CpuidFeature::BMI1 | CpuidFeature::BMI2))
}

fn kind_excluded(kind: K) -> bool {
    matches!(
        kind,
        K::seg_reg
            | K::cr_reg
            | K::dr_reg
            | K::tr_reg
            | K::cs
            | K::ds
            | K::es
            | K::ss
            | K::fs
            | K::gs
            | K::bnd_reg
            | K::mem_mpx
            | K::mem_mib
            | K::sibmem
    )
}

/// Extensions that softkvm does not have or that no current processor has.
fn extension_excluded(code: Code) -> bool {
    use CpuidFeature as C;
    code.cpuid_features().iter().any(|feature| {
        matches!(
            feature,
            C::D3NOW
                | C::D3NOWEXT
                | C::SSE4A
                | C::MPX
                | C::CET_SS
                | C::GFNI
                | C::KL
                | C::WIDE_KL
                | C::AESKLE
                | C::RAO_INT
                | C::CMPCCXADD
                | C::VMX
                | C::SVM
                | C::SMX
                | C::SKINIT
                | C::RTM
                | C::HLE_or_RTM
                | C::CYRIX_FPU
                | C::CYRIX_EMMI
                | C::CYRIX_DDI
                | C::CYRIX_SMM
                | C::CYRIX_SMINT
                | C::CYRIX_SHR
                | C::CYRIX_DMI
                | C::PADLOCK_ACE
                | C::PADLOCK_PHE
                | C::PADLOCK_PMM
                | C::PADLOCK_RNG
                | C::PADLOCK_GMI
                | C::PADLOCK_UNDOC
                | C::FPU287XL_ONLY
                | C::FPU387SL_ONLY
                | C::UDBG
                | C::CL1INVMB
                | C::KNC
                | C::AMX_TILE
                | C::TSXLDTRK
                | C::UINTR
                | C::HRESET
                | C::WBNOINVD
                | C::MCOMMIT
                | C::PCOMMIT
                | C::CLZERO
                | C::PTWRITE
                | C::INVPCID
                | C::SEV_ES
        )
    })
}

/// Forms for kernel code: also the privileged and far ones.
pub fn kernel() -> Vec<Code> {
    use Mnemonic as M;
    Code::values()
        .filter(|&code| {
            let info = code.op_code();
            info.encoding() == EncodingKind::Legacy
                && info.is_instruction()
                && info.mode64()
                && !extension_excluded(code)
                && !matches!(code.mnemonic(), M::INVALID | M::Xbegin | M::Ud0 | M::Ud1)
                && !code.cpuid_features().contains(&CpuidFeature::FPU)
                && !(0..info.op_count()).any(|i| {
                    matches!(info.op_kind(i), K::br16_1 | K::br16_2 | K::br32_1 | K::br32_4)
                })
        })
        .collect()
}

/// All forms, in the decoder's order.
pub fn all(bits: u32) -> Vec<Code> {
    Code::values()
        .filter(|&code| {
            let info = code.op_code();
            (info.encoding() == EncodingKind::Legacy || bit_manipulation(code))
                && info.is_instruction()
                && if bits == 64 { info.mode64() } else { info.mode32() }
                && info.cpl3()
                && !info.is_privileged()
                && !info.is_input_output()
                && !matches!(info.mnemonic(), Mnemonic::INVALID)
                && plain_flow(code, bits)
                && !excluded(code)
                && !extension_excluded(code)
                && !forgotten(code)
                && (0..info.op_count()).all(|i| !kind_excluded(info.op_kind(i)))
        })
        .collect()
}

/// Forms of a few steppings of the 386 and 486 and of the Itanium, whose encodings mean something
/// else today.
fn forgotten(code: Code) -> bool {
    use Mnemonic as M;
    matches!(code.mnemonic(), M::Jmpe | M::Umov | M::Xbts | M::Ibts | M::Altinst)
        || code.cpuid_features().contains(&CpuidFeature::INTEL486_A_ONLY)
}

/// Straight-line code and near branches of the mode's own width.
fn plain_flow(code: Code, bits: u32) -> bool {
    use Mnemonic as M;
    let near = !matches!(code, Code::Jmp_rm16 | Code::Call_rm16 | Code::Retnw | Code::Retnw_imm16)
        && !matches!(
            code.mnemonic(),
            M::Retf
                | M::Iret
                | M::Iretd
                | M::Iretq
                | M::Syscall
                | M::Sysenter
                | M::Sysexit
                | M::Sysexitq
                | M::Sysret
                | M::Sysretq
                | M::Vmgexit
                | M::Vmcall
                | M::Vmmcall
                | M::Xbegin
                | M::Into
        );
    match code.flow_control() {
        FlowControl::Next => true,
        FlowControl::ConditionalBranch
        | FlowControl::UnconditionalBranch
        | FlowControl::IndirectBranch
        | FlowControl::IndirectCall
        | FlowControl::Call
        | FlowControl::Return => {
            let info = code.op_code();
            near && !code.is_jmp_far()
                && !code.is_call_far()
                && !code.is_jmp_far_indirect()
                && !code.is_call_far_indirect()
                && !(0..info.op_count()).any(|i| {
                    let kind = info.op_kind(i);
                    matches!(kind, K::br16_1 | K::br16_2)
                        || bits == 64 && matches!(kind, K::br32_1 | K::br32_4)
                })
        }
        _ => false,
    }
}

const GPR8: [Register; 20] = [
    Register::AL,
    Register::CL,
    Register::DL,
    Register::BL,
    Register::AH,
    Register::CH,
    Register::DH,
    Register::BH,
    Register::SPL,
    Register::BPL,
    Register::SIL,
    Register::DIL,
    Register::R8L,
    Register::R9L,
    Register::R10L,
    Register::R11L,
    Register::R12L,
    Register::R13L,
    Register::R14L,
    Register::R15L,
];

fn general(random: &mut Random, bits: u32, size: usize) -> Register {
    let n = random.below(if bits == 64 { 16 } else { 8 }) as u32;
    match size {
        1 => GPR8[random.below(if bits == 64 { 20 } else { 8 }) as usize],
        2 => Register::AX + n,
        4 => Register::EAX + n,
        _ => Register::RAX + n,
    }
}

/// Sets a memory operand; registers in `taken` are left alone.
fn memory(
    random: &mut Random,
    insn: &mut Instruction,
    bits: u32,
    i: u32,
    taken: &[Register],
) -> Plan {
    insn.set_op_kind(i, OpKind::Memory);
    let fixed = crate::host::SANDBOX + 0x600 + random.below(0x1400);
    let fixed = if random.below(2) == 0 { fixed & !0x3f } else { fixed };
    let none = Register::None;
    let narrow = random.below(8) == 0 || bits == 32;
    let first = if narrow { Register::EAX } else { Register::RAX };
    let mut pick = |avoid: &[Register]| loop {
        let register = first + random.below(if bits == 64 { 16 } else { 8 }) as u32;
        if !avoid.iter().any(|r| r.full_register() == register.full_register()) {
            return register;
        }
    };
    let base = pick(taken);
    let mut avoid = taken.to_vec();
    avoid.extend([base, Register::RSP]);
    let index = pick(&avoid);
    let scale = 1 << random.below(4);
    let displacement = match random.below(3) {
        0 => 0,
        1 => random.below(256).wrapping_sub(128),
        _ => random.next() as i32 as i64 as u64,
    };
    let mask = if narrow { 0xffff_ffff } else { u64::MAX };
    let plan = match random.below(8) {
        0 if bits == 64 => Plan {
            base: Register::RIP,
            index: none,
            scale: 1,
            displacement: fixed,
            fixed: Some(fixed),
        },
        0 | 1 => {
            Plan { base: none, index: none, scale: 1, displacement: fixed, fixed: Some(fixed) }
        }
        2 | 3 => Plan { base, index, scale, displacement, fixed: None },
        4 if base.number() != 4 => {
            // No base: the index alone must reach the place, so only scale 1.
            Plan { base: none, index: base, scale: 1, displacement, fixed: None }
        }
        _ => Plan { base, index: none, scale: 1, displacement, fixed: None },
    };
    insn.set_memory_base(plan.base);
    insn.set_memory_index(plan.index);
    insn.set_memory_index_scale(plan.scale);
    insn.set_memory_displacement64(plan.displacement & mask);
    let displ_size = match (plan.fixed, plan.displacement as i64) {
        (Some(_), _) => {
            if plan.base == Register::RIP {
                8
            } else {
                4
            }
        }
        (None, 0) => 0,
        (None, -128..=127) => 1,
        _ => {
            if narrow {
                4
            } else {
                8
            }
        }
    };
    insn.set_memory_displ_size(displ_size);
    plan
}

fn needs_memory_choice(kind: K) -> bool {
    matches!(
        kind,
        K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem | K::mm_or_mem | K::xmm_or_mem
    )
}

/// Whether the form can have a memory operand, a register operand in its place, or both.
pub fn variants(code: Code) -> Vec<bool> {
    let info = code.op_code();
    if (0..info.op_count()).any(|i| needs_memory_choice(info.op_kind(i))) {
        vec![false, true]
    } else {
        vec![false]
    }
}

/// One instance of a form; `None` if the encoder refuses the choice of operands.
pub fn instance(
    code: Code,
    in_memory: bool,
    random: &mut Random,
    rip: u64,
    bits: u32,
) -> Option<Instance> {
    let info = code.op_code();
    let mut insn = Instruction::default();
    insn.set_code(code);
    let mut taken: Vec<Register> = Vec::new();
    let mut place = None;
    let mut immediates = 0;
    for i in 0..info.op_count() {
        let kind = info.op_kind(i);
        let register = match kind {
            K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::mm_or_mem
            | K::xmm_or_mem
                if in_memory =>
            {
                place = Some(i);
                continue;
            }
            K::mem => {
                place = Some(i);
                continue;
            }
            K::r8_or_mem | K::r8_reg | K::r8_opcode => general(random, bits, 1),
            K::r16_or_mem | K::r16_reg | K::r16_rm | K::r16_opcode => general(random, bits, 2),
            K::r32_or_mem | K::r32_vvvv | K::r32_reg | K::r32_rm | K::r32_opcode => {
                general(random, bits, 4)
            }
            K::r64_or_mem | K::r64_vvvv | K::r64_reg | K::r64_rm | K::r64_opcode => {
                general(random, bits, 8)
            }
            K::mm_or_mem | K::mm_reg | K::mm_rm => Register::MM0 + random.below(8) as u32,
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm => {
                Register::XMM0 + random.below(if bits == 64 { 16 } else { 8 }) as u32
            }
            K::al => Register::AL,
            K::cl => Register::CL,
            K::ax => Register::AX,
            K::dx => Register::DX,
            K::eax => Register::EAX,
            K::rax => Register::RAX,
            K::st0 => Register::ST0,
            K::seg_reg => Register::ES + random.below(6) as u32,
            K::fs => Register::FS,
            K::gs => Register::GS,
            K::cr_reg => Register::CR0 + [0, 2, 3, 4, 8][random.below(5) as usize],
            K::dr_reg => Register::DR0 + random.below(8) as u32,
            K::sti_opcode => Register::ST0 + random.below(8) as u32,
            _ => {
                other_operand(random, &mut insn, i, kind, &mut immediates, rip, bits)?;
                continue;
            }
        };
        insn.set_op_kind(i, OpKind::Register);
        insn.set_op_register(i, register);
        taken.push(register);
    }
    let mut plan = place.map(|i| memory(random, &mut insn, bits, i, &taken));
    if code.op_code().op_count() > 0 && (0..info.op_count()).any(|i| info.op_kind(i) == K::mem_offs)
    {
        let fixed = crate::host::SANDBOX + 0x800 + random.below(0x1000);
        insn.set_memory_displacement64(fixed);
        insn.set_memory_displ_size(bits / 8);
        let none = Register::None;
        plan = Some(Plan {
            base: none,
            index: none,
            scale: 1,
            displacement: fixed,
            fixed: Some(fixed),
        });
    }
    prefixes(random, &mut insn, code);
    let mut encoder = Encoder::new(bits);
    let len = encoder.encode(&insn, rip).ok()?;
    if matches!(insn.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32) {
        let target = crate::host::Host::target(rip, len);
        if bits == 64 {
            insn.set_near_branch64(target);
        } else {
            insn.set_near_branch32(target as u32);
        }
        encoder = Encoder::new(bits);
        encoder.encode(&insn, rip).ok()?;
    }
    let bytes = encoder.take_buffer();
    let decoded = Decoder::with_ip(bits, &bytes, rip, DecoderOptions::NONE).decode();
    // A few forms share an encoding (NOP and XCHG EAX, EAX).
    (decoded.code() == code && decoded.len() == bytes.len()).then_some(Instance {
        bytes,
        insn: decoded,
        rip,
        bits,
        plan,
    })
}

fn prefixes(random: &mut Random, insn: &mut Instruction, code: Code) {
    let info = code.op_code();
    if info.can_use_lock_prefix() && insn.op0_kind() == OpKind::Memory && random.below(4) == 0 {
        insn.set_has_lock_prefix(true);
    }
    if insn.is_string_instruction() {
        match random.below(3) {
            0 if info.can_use_rep_prefix() => insn.set_has_rep_prefix(true),
            1 if info.can_use_repne_prefix() => insn.set_has_repne_prefix(true),
            _ => (),
        }
    }
}

fn other_operand(
    random: &mut Random,
    insn: &mut Instruction,
    i: u32,
    kind: K,
    immediates: &mut u32,
    rip: u64,
    bits: u32,
) -> Option<()> {
    let value = random.operand();
    let second = *immediates > 0;
    let mut immediate = |insn: &mut Instruction, kind: OpKind| {
        *immediates += 1;
        insn.set_op_kind(i, kind);
    };
    match kind {
        K::imm8 if second => {
            immediate(insn, OpKind::Immediate8_2nd);
            insn.set_immediate8_2nd(value as u8 & 7);
        }
        K::imm8 => {
            immediate(insn, OpKind::Immediate8);
            insn.set_immediate8(value as u8);
        }
        K::imm8_const_1 => {
            immediate(insn, OpKind::Immediate8);
            insn.set_immediate8(1);
        }
        K::imm8sex16 => {
            immediate(insn, OpKind::Immediate8to16);
            insn.set_immediate8to16(i16::from(value as i8));
        }
        K::imm8sex32 => {
            immediate(insn, OpKind::Immediate8to32);
            insn.set_immediate8to32(i32::from(value as i8));
        }
        K::imm8sex64 => {
            immediate(insn, OpKind::Immediate8to64);
            insn.set_immediate8to64(i64::from(value as i8));
        }
        K::imm16 => {
            immediate(insn, OpKind::Immediate16);
            let enter = insn.mnemonic() == Mnemonic::Enter;
            insn.set_immediate16(value as u16 & if enter { 0xff } else { 0xffff });
        }
        K::imm32 => {
            immediate(insn, OpKind::Immediate32);
            insn.set_immediate32(value as u32);
        }
        K::imm32sex64 => {
            immediate(insn, OpKind::Immediate32to64);
            insn.set_immediate32to64(i64::from(value as i32));
        }
        K::imm64 => {
            immediate(insn, OpKind::Immediate64);
            insn.set_immediate64(value);
        }
        K::br64_1 | K::br64_4 => {
            insn.set_op_kind(i, OpKind::NearBranch64);
            // Corrected once the instruction's length is known.
            insn.set_near_branch64(rip + 32);
        }
        K::br32_1 | K::br32_4 => {
            insn.set_op_kind(i, OpKind::NearBranch32);
            insn.set_near_branch32(rip as u32 + 32);
        }
        K::seg_rSI if bits == 64 => insn.set_op_kind(i, OpKind::MemorySegRSI),
        K::es_rDI if bits == 64 => insn.set_op_kind(i, OpKind::MemoryESRDI),
        K::seg_rDI if bits == 64 => insn.set_op_kind(i, OpKind::MemorySegRDI),
        K::seg_rSI => insn.set_op_kind(i, OpKind::MemorySegESI),
        K::es_rDI => insn.set_op_kind(i, OpKind::MemoryESEDI),
        K::seg_rDI => insn.set_op_kind(i, OpKind::MemorySegEDI),
        K::mem_offs => {
            insn.set_op_kind(i, OpKind::Memory);
        }
        K::seg_rBX_al => {
            insn.set_op_kind(i, OpKind::Memory);
            insn.set_memory_base(if bits == 64 { Register::RBX } else { Register::EBX });
            insn.set_memory_index(Register::AL);
        }
        _ => return None,
    }
    if matches!(kind, K::seg_rSI | K::seg_rDI | K::seg_rBX_al | K::mem_offs) {
        insn.set_segment_prefix(Register::None);
    }
    Some(())
}
