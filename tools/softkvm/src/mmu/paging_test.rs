//! Translation and access by behaviour: page tables in a small RAM, results and faults.

use crate::cpu::bare::{Bare, Touch};
use crate::cpu::state::{cr0, cr4, efer};
use crate::cpu::{
    Access, Core, Exception, Mode, OwnerBit, Processor, Seg, Segment, Step, Stop, flags,
};

const ROOT: u64 = 0x1000;
const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const PS: u64 = 0x80;
const NX: u64 = 1 << 63;

fn long_mode() -> Core {
    let mut core = Core::at_reset();
    core.cr0 = cr0::PE | cr0::PG | cr0::WP;
    core.cr4 = cr4::PAE;
    core.efer = efer::LME | efer::LMA | efer::NXE;
    core.cr3 = ROOT;
    core.seg[Seg::Cs as usize] = Segment { selector: 8, attrib: 0x29b, limit: !0, base: 0 };
    core.update_mode();
    assert_eq!(core.mode, Mode::Long64);
    core
}

/// Four levels at 0x1000..0x5000 mapping linear 0 to the page table at 0x4000.
fn tables() -> Bare {
    let mut world = Bare::new(64);
    world.put64(0x1000, 0x2000 | P | RW | US);
    world.put64(0x2000, 0x3000 | P | RW | US);
    world.put64(0x3000, 0x4000 | P | RW | US);
    world
}

fn run<T>(world: &mut Bare, core: Core, f: impl FnOnce(&mut Processor) -> T) -> (T, Processor) {
    let mut p = Processor::new(core);
    let result = p.with_world(world, f);
    (result, p)
}

fn fault<T: std::fmt::Debug>(
    world: &mut Bare,
    core: Core,
    f: impl FnOnce(&mut Processor) -> Step<T>,
) -> Exception {
    let (result, p) = run(world, core, f);
    assert!(result.is_err(), "no fault but {result:?}");
    match p.core.stop {
        Some(Stop::Fault(e)) => e,
        other => panic!("not a fault: {other:?}"),
    }
}

#[test]
fn maps_and_marks_used() {
    let mut world = tables();
    world.put64(0x4000 + 5 * 8, 0x9000 | P | RW);
    world.put64(0x9008, 0x1122_3344_5566_7788);
    let (value, _) = run(&mut world, long_mode(), |p| p.load::<u64>(Seg::Ds, 0x5008));
    assert_eq!(value, Ok(0x1122_3344_5566_7788));
    assert_eq!(world.get64(0x1000) & 0x60, 0x20);
    assert_eq!(world.get64(0x4028) & 0x60, 0x20, "a read leaves the page clean");
    let (value, _) = run(&mut world, long_mode(), |p| {
        p.load::<u64>(Seg::Ds, 0x5008)?;
        p.store::<u16>(Seg::Ds, 0x5008, 0xabcd)?;
        p.load::<u64>(Seg::Ds, 0x5008)
    });
    assert_eq!(value, Ok(0x1122_3344_5566_abcd));
    assert_eq!(world.get64(0x4028) & 0x60, 0x60, "a write after a cached read makes it dirty");
}

#[test]
fn protection_faults() {
    let mut world = tables();
    world.put64(0x4000, 0x9000 | P | US); // read-only user
    world.put64(0x4008, 0x9000 | P | RW); // supervisor
    world.put64(0x4010, 0x9000 | P | RW | US | NX);
    world.put64(0x4018, 0x9000 | P | 1 << 52 | RW);
    let mut user = long_mode();
    user.cpl = 3;
    let pf = |code, la| Exception::pf(code, la);
    assert_eq!(fault(&mut world, long_mode(), |p| p.store(Seg::Ds, 4, 0u8)), pf(3, 4));
    assert_eq!(fault(&mut world, user.clone(), |p| p.store(Seg::Ds, 4, 0u8)), pf(7, 4));
    assert_eq!(fault(&mut world, user.clone(), |p| p.load::<u8>(Seg::Ds, 0x1004)), pf(5, 0x1004));
    assert_eq!(fault(&mut world, user.clone(), |p| p.load::<u8>(Seg::Ds, 0x5004)), pf(4, 0x5004));
    assert_eq!(
        fault(&mut world, user.clone(), |p| p.walk(0x2004, Access::Fetch, true)),
        pf(0x15, 0x2004)
    );
    let mut no_wp = long_mode();
    no_wp.cr0 &= !cr0::WP;
    assert!(run(&mut world, no_wp, |p| p.store(Seg::Ds, 4, 0u8)).0.is_ok());
    let mut no_nx = long_mode();
    no_nx.efer &= !efer::NXE;
    assert_eq!(fault(&mut world, no_nx, |p| p.load::<u8>(Seg::Ds, 0x2004)), pf(9, 0x2004));
    let (mut p48, ()) = (Processor::new(long_mode()), ());
    p48.phys_bits = 48;
    world.put64(0x4020, 0x9000 | P | 1 << 50);
    assert!(p48.with_world(&mut world, |p| p.load::<u8>(Seg::Ds, 0x4000)).is_err());
    assert_eq!(p48.core.stop, Some(Stop::Fault(pf(9, 0x4000))));
}

#[test]
fn smep_and_smap() {
    let mut world = tables();
    world.put64(0x4000, 0x9000 | P | RW | US);
    let mut core = long_mode();
    core.cr4 |= cr4::SMEP | cr4::SMAP;
    assert_eq!(fault(&mut world, core.clone(), |p| p.load::<u8>(Seg::Ds, 4)), Exception::pf(1, 4));
    assert_eq!(
        fault(&mut world, core.clone(), |p| p.walk(4, Access::Fetch, false)),
        Exception::pf(0x11, 4)
    );
    let (result, p) = run(&mut world, core, |p| {
        p.core.rflags |= flags::AC;
        p.load::<u8>(Seg::Ds, 4).expect("AC lifts SMAP");
        p.core.rflags &= !flags::AC;
        p.load::<u8>(Seg::Ds, 4)
    });
    assert!(result.is_err(), "and only while it is set");
    assert_eq!(p.core.stop, Some(Stop::Fault(Exception::pf(1, 4))));
}

#[test]
fn large_pages_and_reserved_bits() {
    let mut world = Bare::new(1024);
    world.put64(0x1000, 0x2000 | P | RW | US);
    world.put64(0x2000, 0x3000 | P | RW | US);
    world.put64(0x2008, P | RW | PS); // 1 GiB at 1 GiB
    world.put64(0x3008, 0x20_0000 | P | RW | PS); // 2 MiB at 2 MiB
    world.put64(0x3010, 0x2000 | P | RW | PS); // reserved address bits
    let (t, _) = run(&mut world, long_mode(), |p| p.walk(0x2f_fff0, Access::Read, false));
    let t = t.expect("maps");
    assert_eq!((t.gpa, t.page_size, t.user), (0x2f_fff0, 2 << 20, false));
    let (t, _) = run(&mut world, long_mode(), |p| p.walk(0x4012_3456, Access::Write, false));
    let t = t.expect("maps");
    assert_eq!((t.gpa, t.page_size, t.dirty), (0x12_3456, 1 << 30, true));
    assert_eq!(
        fault(&mut world, long_mode(), |p| p.load::<u8>(Seg::Ds, 0x40_0000)),
        Exception::pf(9, 0x40_0000)
    );
    world.put64(0x1008, 0x2000 | P | PS);
    assert_eq!(
        fault(&mut world, long_mode(), |p| p.load::<u8>(Seg::Ds, 1 << 39)),
        Exception::pf(9, 1 << 39)
    );
}

#[test]
fn five_levels_and_canonical_addresses() {
    let mut world = tables();
    world.put64(0x4000, 0x9000 | P | RW);
    world.put64(0x5000 + 8, 0x1000 | P | RW);
    let mut core = long_mode();
    core.cr4 |= cr4::LA57;
    core.cr3 = 0x5000;
    let (t, _) = run(&mut world, core.clone(), |p| p.walk(1 << 48 | 0x123, Access::Read, false));
    assert_eq!(t.expect("maps").gpa, 0x9123);
    assert_eq!(fault(&mut world, core, |p| p.load::<u8>(Seg::Ds, 1 << 57)), Exception::gp(0));
    let high = 1 << 47;
    assert_eq!(fault(&mut world, long_mode(), |p| p.load::<u8>(Seg::Ds, high)), Exception::gp(0));
    assert_eq!(fault(&mut world, long_mode(), |p| p.load::<u8>(Seg::Ss, high)), Exception::ss(0));
    assert_eq!(
        fault(&mut world, long_mode(), |p| p.load::<u8>(Seg::Ds, !0xfff)),
        Exception::pf(0, !0xfff)
    );
}

#[test]
fn c_bit_is_stripped_and_reported() {
    let mut world = tables();
    world.owner_bit = Some(OwnerBit::Private(51));
    let c = 1u64 << 51;
    for table in [0x1000, 0x2000, 0x3000] {
        let entry = world.get64(table);
        world.put64(table, entry | c);
    }
    world.put64(0x4000, 0x9000 | P | RW | c);
    world.put64(0x4008, 0xa000 | P | RW);
    world.log_pages = true;
    let mut core = long_mode();
    core.cr3 = ROOT | c;
    let (result, _) = run(&mut world, core, |p| {
        let private = p.walk(0x10, Access::Write, false)?.private;
        let shared = p.walk(0x1010, Access::Write, false)?.private;
        let fetched = p.walk(0x1010, Access::Fetch, false)?.private;
        Ok((private, shared, fetched))
    });
    assert_eq!(result, Ok::<_, crate::cpu::Trapped>((true, false, true)));
    assert!(world.asked.iter().all(|&(_, _, private)| private), "tables are always private");
    assert_eq!(world.get64(0x4000), 0x9063 | c, "A and D are set beside the C-bit");
}

#[test]
fn the_shared_bit_counts_for_tables_pages_and_code() {
    const SHARED: u64 = 1 << 47;
    let mut world = tables();
    world.owner_bit = Some(OwnerBit::Shared(47));
    world.put64(0x2000, 0x3000 | P | RW | US | SHARED);
    world.put64(0x4000, 0x9000 | P | RW);
    world.put64(0x4008, 0xa000 | P | RW | SHARED);
    world.put64(0x4010, 0xb000 | P | RW | 1 << 48);
    world.log_pages = true;
    let (result, p) = run(&mut world, long_mode(), |p| {
        let private = p.walk(0x10, Access::Write, false)?;
        let shared = p.walk(0x1010, Access::Write, false)?;
        let fetched = p.walk(0x1010, Access::Fetch, false)?.private;
        assert_eq!((private.gpa, shared.gpa), (0x9010, 0xa010));
        Ok((private.private, shared.private, fetched))
    });
    assert_eq!(result, Ok::<_, crate::cpu::Trapped>((true, false, false)));
    for &(gpa, _, private) in &world.asked {
        assert_eq!(private, gpa != 0x3000, "{gpa:#x}");
    }
    assert_eq!(world.get64(0x4008), 0xa063 | SHARED, "A and D are set beside the shared bit");
    assert_eq!(
        fault(&mut world, p.core, |p| p.load::<u8>(Seg::Ds, 0x2000)),
        Exception::pf(9, 0x2000),
        "address bits above the shared bit are reserved"
    );
    let mut core = long_mode();
    core.cr3 = ROOT | SHARED;
    world.asked.clear();
    let (result, _) = run(&mut world, core, |p| p.walk(0x10, Access::Read, false));
    assert!(result.is_ok());
    assert_eq!(world.asked.first(), Some(&(ROOT, Access::Walk, false)));
}

#[test]
fn legacy_and_pae_tables() {
    let mut world = Bare::new(64);
    world.put(0x1000, &(0x2000u32 | 7).to_le_bytes());
    world.put(0x1004, &(0x0000_0087u32).to_le_bytes());
    world.put(0x2004, &(0x9000u32 | 5).to_le_bytes());
    let mut core = Core::at_reset();
    core.cr0 = cr0::PE | cr0::PG | cr0::WP;
    core.cr3 = 0x1000;
    core.seg[Seg::Cs as usize].attrib = 0x49b;
    core.update_mode();
    core.seg[Seg::Ds as usize].limit = !0;
    let (t, _) = run(&mut world, core.clone(), |p| p.walk(0x1234, Access::Read, true));
    assert_eq!(t.expect("maps").gpa, 0x9234);
    assert_eq!(
        fault(&mut world, core.clone(), |p| p.store(Seg::Ds, 0x1234, 0u8)),
        Exception::pf(3, 0x1234)
    );
    assert!(run(&mut world, core.clone(), |p| p.walk(0x40_0000, Access::Read, true)).0.is_err());
    core.cr4 = cr4::PSE;
    let (t, _) = run(&mut world, core.clone(), |p| p.walk(0x40_3004, Access::Write, true));
    assert_eq!(t.expect("maps").gpa, 0x3004);
    core.cr4 = cr4::PAE;
    core.cr3 = 0x3020;
    world.put64(0x3020, 0x4000 | P);
    world.put64(0x3038, 0x4000 | P | RW); // RW is reserved in a PDPTE
    world.put64(0x4000, 0x5000 | P | RW);
    world.put64(0x5000, 0x6000 | P | RW);
    let (t, _) = run(&mut world, core.clone(), |p| p.walk(0x10, Access::Write, false));
    assert_eq!(t.expect("maps").gpa, 0x6010);
    assert_eq!(
        fault(&mut world, core, |p| p.walk(0xc000_0010, Access::Read, false)),
        Exception::pf(9, 0xc000_0010)
    );
}

#[test]
fn page_crossing_store_is_all_or_nothing() {
    let mut world = tables();
    world.put64(0x4000, 0x9000 | P | RW);
    world.put64(0x4010, 0xb000 | P | RW);
    world.put64(0x4018, 0x8000 | P | RW);
    let (result, p) = run(&mut world, long_mode(), |p| p.store(Seg::Ds, 0xffd, !0u64));
    assert!(result.is_err());
    assert_eq!(p.core.stop, Some(Stop::Fault(Exception::pf(2, 0x1000))));
    assert_eq!(world.get64(0x9ff8), 0);
    let (result, _) = run(&mut world, long_mode(), |p| {
        p.store(Seg::Ds, 0x2ffd, 0x0807_0605_0403_0201u64)?;
        p.load::<u64>(Seg::Ds, 0x2ffd)
    });
    assert_eq!(result, Ok(0x0807_0605_0403_0201));
    assert_eq!(world.get64(0xbff8) >> 40, 0x03_0201);
    assert_eq!(world.get64(0x8000), 0x08_0706_0504);
}

#[test]
fn flush_page_and_flush_tlb_forget() {
    let mut world = tables();
    world.put64(0x4000, 0x9000 | P | RW);
    world.put64(0x9000, 1);
    world.put64(0xa000, 2);
    let mut p = Processor::new(long_mode());
    let read =
        |p: &mut Processor, world: &mut Bare| p.with_world(world, |p| p.load::<u64>(Seg::Ds, 0));
    assert_eq!(read(&mut p, &mut world), Ok(1));
    world.put64(0x4000, 0xa000 | P | RW);
    assert_eq!(read(&mut p, &mut world), Ok(1), "stale until flushed");
    p.flush_page(0x123);
    assert_eq!(read(&mut p, &mut world), Ok(2));
    world.put64(0x4000, 0x9000 | P | RW);
    p.flush_tlb();
    assert_eq!(read(&mut p, &mut world), Ok(1));
}

#[test]
fn flush_page_forgets_all_of_a_large_page() {
    let mut world = tables();
    world.put64(0x3000, P | RW | PS);
    world.put64(0x9000, 1);
    let mut p = Processor::new(long_mode());
    let read = |p: &mut Processor, world: &mut Bare| {
        p.with_world(world, |p| p.load::<u64>(Seg::Ds, 0x9000))
    };
    assert_eq!(read(&mut p, &mut world), Ok(1));
    // The same linear page from now on through a table, elsewhere.
    world.put64(0x3000, 0x4000 | P | RW);
    world.put64(0x4000 + 9 * 8, 0xa000 | P | RW);
    world.put64(0xa000, 2);
    p.flush_page(0x1f_f000);
    assert_eq!(read(&mut p, &mut world), Ok(2), "any address of the page names it");
}

#[test]
fn device_memory_goes_to_the_world() {
    let mut world = tables();
    world.put64(0x4000, 0xfee0_0000 | P | RW);
    let (result, _) = run(&mut world, long_mode(), |p| {
        p.load::<u32>(Seg::Ds, 0x20)?;
        p.store(Seg::Ds, 0x30, 0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00u128)
    });
    assert!(result.is_ok());
    assert_eq!(
        world.touches,
        [
            Touch::MmioRead { gpa: 0xfee0_0020, len: 4 },
            Touch::MmioWrite { gpa: 0xfee0_0030, len: 8, value: 0x99aa_bbcc_ddee_ff00 },
            Touch::MmioWrite { gpa: 0xfee0_0038, len: 8, value: 0x1122_3344_5566_7788 },
        ]
    );
}

#[test]
fn segment_limits_and_rights() {
    let mut world = Bare::new(64);
    let real = Core::at_reset();
    assert_eq!(
        fault(&mut world, real.clone(), |p| p.load::<u16>(Seg::Ds, 0xffff)),
        Exception::gp(0)
    );
    assert_eq!(
        fault(&mut world, real.clone(), |p| p.load::<u16>(Seg::Ss, 0xffff)),
        Exception::ss(0)
    );
    assert!(
        run(&mut world, real, |p| p.store(Seg::Cs, 0x10, 1u8)).0.is_ok(),
        "real mode code is writable"
    );
    let mut core = Core::at_reset();
    core.cr0 |= cr0::PE;
    core.seg[Seg::Cs as usize] = Segment { selector: 8, attrib: 0x499, limit: !0, base: 0 };
    core.seg[Seg::Ds as usize] = Segment { selector: 16, attrib: 0x491, limit: 0xff, base: 0x100 };
    core.seg[Seg::Es as usize] = Segment { selector: 24, attrib: 0x497, limit: 0xff, base: 0 };
    core.seg[Seg::Fs as usize] = Segment::default();
    core.update_mode();
    let mut f = |s, o, write: bool| {
        let (r, p) = run(&mut world, core.clone(), |p| {
            if write { p.store(s, o, 0u32) } else { p.load::<u32>(s, o).map(|_| ()) }
        });
        r.err().map(|_| p.core.stop)
    };
    let gp = Some(Some(Stop::Fault(Exception::gp(0))));
    assert_eq!(f(Seg::Ds, 0xfc, false), None);
    assert_eq!(f(Seg::Ds, 0xfd, false), gp);
    assert_eq!(f(Seg::Ds, 0, true), gp, "read-only data");
    assert_eq!(f(Seg::Cs, 0, false), gp, "execute-only code");
    assert_eq!(f(Seg::Es, 0xff, false), gp, "expand-down");
    assert_eq!(f(Seg::Es, 0x100, true), None);
    assert_eq!(f(Seg::Fs, 0, false), gp, "null selector");
}

#[test]
fn alignment_check_at_user_level() {
    let mut world = tables();
    world.put64(0x4000, 0x9000 | P | RW | US);
    let mut core = long_mode();
    core.cpl = 3;
    core.cr0 |= cr0::AM;
    let (result, p) = run(&mut world, core, |p| {
        p.load::<u32>(Seg::Ds, 2).expect("AC is clear");
        p.core.rflags |= flags::AC;
        p.load::<u32>(Seg::Ds, 4).expect("aligned");
        p.load::<u32>(Seg::Ds, 2)
    });
    assert!(result.is_err());
    assert_eq!(p.core.stop, Some(Stop::Fault(Exception::ac())));
}

#[test]
fn fetch_stops_at_a_page_it_need_not_touch() {
    let mut world = tables();
    world.put64(0x4000, 0x9000 | P);
    world.put(0x9ffe, &[0x90, 0xc3]);
    let mut core = long_mode();
    core.rip = 0xffe;
    let (result, p) = run(&mut world, core, |p| {
        let mut bytes = [0; 15];
        let len = p.fetch(&mut bytes)?;
        assert_eq!(bytes[..len], [0x90, 0xc3]);
        p.fetch_more(&mut bytes, len)
    });
    assert!(result.is_err());
    assert_eq!(p.core.stop, Some(Stop::Fault(Exception::pf(0x10, 0x1000))));
}
