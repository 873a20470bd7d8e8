//! The meaning of every instruction, in every mode; SIMD and x87 are handed on to their modules.
//!
//! [`execute`] is the reference: the fast handlers of the engine must agree with it. Virtual-8086
//! mode and task switches are not modelled; meeting them ends the run.

mod arith;
mod bits;
pub(crate) mod breakpoints;
mod cr;
mod data;
mod desc;
mod flow;
mod io;
pub mod msr;
mod muldiv;
mod shift;
pub(super) mod stack;
mod string;
mod syscall;
mod system;

#[cfg(test)]
#[path = "integer_test.rs"]
mod integer_test;
#[cfg(test)]
#[path = "modes_test.rs"]
mod modes_test;
#[cfg(test)]
#[path = "system_test.rs"]
mod system_test;

use iced_x86::{ConditionCode, CpuidFeature, Instruction, Mnemonic as M};

use super::flags::{self, Flags};
use super::state::cr4;
use super::{Core, Exception, Exit, Features, Mode, Processor, Step, Stop, sse};

/// Executes one decoded instruction at [`Core::rip`]. On `Ok` RIP is that of the next instruction,
/// and the trap of a single step is left in [`Core::pending`] for [`super::deliver::pending`]; a fault is
/// left in [`Core::stop`] for [`super::deliver::exception`].
pub fn execute(p: &mut Processor, insn: &Instruction) -> Step {
    let before = p.core.rflags & flags::TF != 0;
    let held = std::mem::take(&mut p.core.debug_held);
    if breakpoints::enabled(p) && !held {
        breakpoints::instruction(p)?;
    }
    let shadow = std::mem::take(&mut p.core.shadow);
    let at = p.core.rip;
    let result = checked(p, insn);
    if result.is_err() {
        if p.core.rip == at {
            p.core.shadow = shadow;
            p.core.debug_held = held;
        }
        // A repeated instruction traps between its iterations; other faults forget the traps.
        if p.core.stop == Some(Stop::Exit(Exit::Turn)) {
            breakpoints::trap(p, before);
        } else {
            p.core.debug_hits = 0;
        }
        return result;
    }
    let step = match insn.mnemonic() {
        // These have delivered their own event, or look at TF themselves.
        M::Int | M::Int3 | M::Into | M::Int1 | M::Syscall | M::Sysret | M::Sysretq => false,
        _ => before,
    };
    // MOV SS holds the trap off, and a breakpoint on the next instruction.
    p.core.debug_held = p.core.shadow && insn.mnemonic() != M::Sti;
    if !p.core.debug_held {
        breakpoints::trap(p, step);
    }
    Ok(())
}

/// RIP of the instruction after `insn`.
fn next_rip(core: &Core, insn: &Instruction) -> u64 {
    let next = core.rip.wrapping_add(insn.len() as u64);
    if core.mode == Mode::Long64 { next } else { next & 0xffff_ffff }
}

fn checked(p: &mut Processor, insn: &Instruction) -> Step {
    if !offered(p.core.features, insn) {
        return Err(p.fault(Exception::UD));
    }
    execute_offered(p, insn)
}

/// Whether an instruction exists on a processor with these extensions.
pub(crate) fn offered(features: Features, insn: &Instruction) -> bool {
    !insn.is_invalid() && (features.offer(insn) || is_older_in_disguise(insn) || is_hypercall(insn))
}

/// Hypercalls are for guests, which mostly see neither SVM nor VMX.
fn is_hypercall(insn: &Instruction) -> bool {
    matches!(insn.mnemonic(), M::Vmcall | M::Vmmcall)
}

/// Executes an instruction that is known to exist, with neither TF set nor an interrupt shadow.
pub(crate) fn execute_offered(p: &mut Processor, insn: &Instruction) -> Step {
    p.core.insn_len = insn.len() as u8;
    let next = next_rip(&p.core, insn);
    if let Some(result) = transfer(p, insn, next) {
        return result;
    }
    integer(p, insn)?;
    p.core.rip = next;
    Ok(())
}

/// Encodings that mean an older instruction where their extension is hidden.
fn is_older_in_disguise(insn: &Instruction) -> bool {
    matches!(insn.mnemonic(), M::Tzcnt | M::Lzcnt | M::Wbnoinvd)
}

/// Evaluates the condition of Jcc, SETcc and CMOVcc.
fn condition(flags: &Flags, insn: &Instruction) -> bool {
    let (cf, zf, sf, of) = (flags.cf(), flags.zf(), flags.sf(), flags.of());
    match insn.condition_code() {
        ConditionCode::o => of,
        ConditionCode::no => !of,
        ConditionCode::b => cf,
        ConditionCode::ae => !cf,
        ConditionCode::e => zf,
        ConditionCode::ne => !zf,
        ConditionCode::be => cf || zf,
        ConditionCode::a => !cf && !zf,
        ConditionCode::s => sf,
        ConditionCode::ns => !sf,
        ConditionCode::p => flags.pf(),
        ConditionCode::np => !flags.pf(),
        ConditionCode::l => sf != of,
        ConditionCode::ge => sf == of,
        ConditionCode::le => zf || sf != of,
        ConditionCode::g => !zf && sf == of,
        ConditionCode::None => false,
    }
}

/// Instructions that set RIP themselves; `None` if this is not one.
fn transfer(p: &mut Processor, insn: &Instruction, next: u64) -> Option<Step> {
    Some(match insn.mnemonic() {
        M::Jmp => flow::jmp(p, insn),
        M::Call => flow::call(p, insn, next),
        M::Ret => flow::ret(p, insn),
        M::Retf => flow::ret_far(p, insn),
        M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz => {
            flow::counted(p, insn, next)
        }
        M::Int | M::Int3 | M::Int1 | M::Into => flow::interrupt(p, insn, next),
        M::Iret | M::Iretd | M::Iretq => flow::iret(p, insn),
        M::Syscall => syscall::syscall(p, next),
        M::Sysret | M::Sysretq => syscall::sysret(p, insn),
        M::Sysenter => syscall::sysenter(p),
        M::Sysexit | M::Sysexitq => syscall::sysexit(p, insn),
        M::Hlt => system::hlt(p, next),
        M::Vmgexit => system::vmgexit(p, next),
        M::Tdcall => system::tdcall(p, next),
        _ if insn.is_jcc_short_or_near() => flow::jcc(p, insn, next),
        _ => return None,
    })
}

fn integer(p: &mut Processor, insn: &Instruction) -> Step {
    if insn.is_string_instruction() {
        return string::run(p, insn);
    }
    match insn.mnemonic() {
        M::Add | M::Adc | M::Sub | M::Sbb | M::And | M::Or | M::Xor => arith::two_operands(p, insn),
        M::Cmp | M::Test => arith::compare(p, insn),
        M::Inc | M::Dec | M::Neg | M::Not => arith::one_operand(p, insn),
        M::Cbw | M::Cwde | M::Cdqe | M::Cwd | M::Cdq | M::Cqo => arith::sign_extend(p, insn),
        M::Adcx | M::Adox => arith::add_one_flag(p, insn),
        M::Imul if insn.op_count() > 1 => muldiv::multiply_into(p, insn),
        M::Mul | M::Imul => muldiv::multiply(p, insn),
        M::Mulx => muldiv::mulx(p, insn),
        M::Div | M::Idiv => muldiv::divide(p, insn),
        M::Aaa | M::Aas | M::Aam | M::Aad | M::Daa | M::Das => muldiv::decimal(p, insn),
        M::Rorx | M::Sarx | M::Shlx | M::Shrx => muldiv::shift_without_flags(p, insn),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr => {
            shift::shift(p, insn)
        }
        M::Shld | M::Shrd => shift::double(p, insn),
        M::Bt | M::Bts | M::Btr | M::Btc => bits::test(p, insn),
        M::Bsf | M::Bsr | M::Tzcnt | M::Lzcnt => bits::scan(p, insn),
        M::Popcnt => bits::popcnt(p, insn),
        M::Bswap => bits::swap(p, insn),
        M::Movbe => bits::movbe(p, insn),
        M::Andn | M::Bextr | M::Blsi | M::Blsmsk | M::Blsr => bits::bmi1(p, insn),
        M::Bzhi | M::Pdep | M::Pext => bits::bmi2(p, insn),
        M::Crc32 => bits::crc32(p, insn),
        _ => moves(p, insn),
    }
}

fn moves(p: &mut Processor, insn: &Instruction) -> Step {
    match insn.mnemonic() {
        M::Mov if cr::is_special_mov(insn) => cr::mov(p, insn),
        M::Mov => data::mov(p, insn),
        M::Movzx | M::Movsx | M::Movsxd => data::extend(p, insn),
        M::Lea => data::lea(p, insn),
        M::Xchg => data::xchg(p, insn),
        M::Xadd => data::xadd(p, insn),
        M::Cmpxchg => data::cmpxchg(p, insn),
        M::Cmpxchg8b | M::Cmpxchg16b => data::cmpxchg_pair(p, insn),
        M::Xlatb => data::xlat(p, insn),
        M::Les | M::Lds | M::Lss | M::Lfs | M::Lgs => data::load_far_pointer(p, insn),
        M::Lahf | M::Sahf => data::flags_ah(p, insn),
        M::Clc | M::Stc | M::Cmc | M::Cld | M::Std | M::Salc => data::flag_bits(p, insn),
        M::Movnti => system::movnti(p, insn),
        M::Push => stack::push_operand(p, insn),
        M::Pop => stack::pop_operand(p, insn),
        M::Pusha | M::Pushad => stack::push_all(p, insn),
        M::Popa | M::Popad => stack::pop_all(p, insn),
        M::Pushf | M::Pushfd | M::Pushfq => stack::push_flags(p, insn),
        M::Popf | M::Popfd | M::Popfq => stack::pop_flags(p, insn),
        M::Enter => stack::enter(p, insn),
        M::Leave => stack::leave(p, insn),
        M::Bound => flow::bound(p, insn),
        M::In | M::Out => io::run(p, insn),
        _ if insn.condition_code() != ConditionCode::None => match insn.op_count() {
            1 => data::setcc(p, insn),
            2 => data::cmov(p, insn),
            _ => Err(p.unknown("instruction")),
        },
        _ => system_instruction(p, insn),
    }
}

fn system_instruction(p: &mut Processor, insn: &Instruction) -> Step {
    match insn.mnemonic() {
        M::Lgdt | M::Lidt => desc::load_table(p, insn),
        M::Sgdt | M::Sidt => desc::store_table(p, insn),
        M::Lldt | M::Ltr => desc::load_system(p, insn),
        M::Sldt | M::Str => desc::store_system(p, insn),
        M::Lar | M::Lsl => desc::inspect(p, insn),
        M::Verr | M::Verw => desc::verify(p, insn),
        M::Arpl => desc::adjust_rpl(p, insn),
        M::Clts => cr::clts(p),
        M::Lmsw => cr::lmsw(p, insn),
        M::Smsw => cr::smsw(p, insn),
        M::Xgetbv => cr::xgetbv(p),
        M::Xsetbv => cr::xsetbv(p),
        M::Clac | M::Stac => cr::access_check(p, insn),
        M::Rdmsr => msr::rdmsr(p),
        M::Wrmsr => msr::wrmsr(p),
        M::Swapgs => syscall::swapgs(p),
        M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => syscall::segment_base(p, insn),
        M::Cpuid => system::cpuid(p),
        M::Rdtsc | M::Rdtscp => system::rdtsc(p, insn),
        M::Rdpmc => system::rdpmc(p),
        M::Rdpid => system::rdpid(p, insn),
        M::Rdrand | M::Rdseed => system::random(p, insn),
        M::Pause => system::pause(p),
        M::Cli | M::Sti => system::interrupt_flag(p, insn),
        M::Invlpg => system::invlpg(p, insn),
        M::Invpcid => system::invpcid(p, insn),
        M::Wbinvd | M::Wbnoinvd | M::Invd => system::cache(p, insn),
        M::Clflush | M::Clflushopt | M::Clwb => system::cache_line(p, insn),
        M::Clzero => system::clzero(p, insn),
        M::Vmmcall if p.core.features.contains(Features::TDX) => Err(p.fault(Exception::UD)),
        M::Vmcall if p.core.features.contains(Features::SEV_ES) => Err(p.fault(Exception::UD)),
        M::Vmmcall if p.core.features.contains(Features::SYSENTER_LM) => {
            system::foreign_hypercall(p)
        }
        M::Vmcall if !p.core.features.contains(Features::SYSENTER_LM) => {
            system::foreign_hypercall(p)
        }
        M::Vmmcall | M::Vmcall => system::hypercall(p),
        M::Pvalidate => system::pvalidate(p, insn),
        M::Rmpadjust => system::rmpadjust(p),
        M::Nop | M::Reservednop | M::Endbr32 | M::Endbr64 | M::Rdsspd | M::Rdsspq => Ok(()),
        M::Lfence | M::Mfence | M::Sfence | M::Cldemote => Ok(()),
        M::Prefetch
        | M::Prefetchw
        | M::Prefetchwt1
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchnta
        | M::Prefetchit0
        | M::Prefetchit1 => Ok(()),
        M::Monitor | M::Mwait | M::Pconfig => system::declined(p, insn),
        M::Ud0 | M::Ud1 | M::Ud2 | M::Rsm => Err(p.fault(Exception::UD)),
        // SEAM mode is the module's; a guest of it has none.
        M::Seamcall | M::Seamops | M::Seamret => Err(p.fault(Exception::UD)),
        _ => elsewhere(p, insn),
    }
}

/// SIMD, x87 and state saving live in their own modules; the rest is not modelled.
fn elsewhere(p: &mut Processor, insn: &Instruction) -> Step {
    use CpuidFeature as C;
    let needs = insn.cpuid_features();
    let has = |wanted: &[C]| needs.iter().any(|feature| wanted.contains(feature));
    if has(&[C::CET_SS]) {
        // Shadow-stack instructions are undefined while CR4.CET is clear, and it cannot be set.
        return Err(p.fault(Exception::UD));
    }
    if has(&[C::AVX, C::AVX2, C::FMA, C::F16C]) && p.core.cr4 & cr4::OSXSAVE == 0 {
        return Err(p.fault(Exception::UD));
    }
    sse::execute(p, insn)
}
