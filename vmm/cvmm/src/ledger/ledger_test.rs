//! The ledger against a table with a row for every page, which does everything the slow way; and against the shim itself.

use ::shim::round::Round;
use abi::marks::MarkId;
use abi::shim::{
    CPUID_GPA, LARGE_PAGE, ParameterPage, SHIM_BASE, SHIM_CODE_GPA, Termination, WORK_BASE,
    WORK_END,
};
use clap::Parser;
use proptest::prelude::*;
use zerocopy::FromBytes;

use super::*;
use crate::cli::Cli;
use crate::config::{Config, CpuCount};
use crate::plan::layout::Layout;
use crate::plan::{HostCaps, Inputs, LaunchRegion};

fn plan(args: &[&str]) -> Plan {
    let cli = Cli::try_parse_from([&["cvmm", "--kernel", "k"], args].concat()).unwrap();
    let config = Config::parse(&cli.flags).unwrap().guest;
    let kernel = crate::plan::kernel::tests::bzimage(0x3000);
    let inputs = Inputs::new("k".into(), kernel.into(), [1; 9000].into(), "quiet").unwrap();
    Plan::build(&config, &inputs, CpuCount::ONE, &HostCaps::assumed()).unwrap()
}

fn at(wall: u64) -> Stamp {
    Stamp { wall: WallNs(wall), guest: Some(GuestNs(wall / 3)), phase: Phase::K0 }
}

fn launched(plan: &Plan) -> Ledger {
    Ledger::of_launch(plan, &[])
}

fn range(gpa: u64, len: u64) -> Range {
    Range { gpa, len }
}

fn mark(id: MarkId, number: u32) -> Mark {
    Mark::new(id, number)
}

#[test]
fn a_launch_leaves_what_the_plan_says() {
    for technology in ["--snp", "--tdx"] {
        for load in ["hashed", "measured"] {
            let plan = plan(&[technology, "--load", load, "--memory", "64M"]);
            let ledger = launched(&plan);
            for region in &plan.regions {
                let expected = match region.kind {
                    PageKind::Measured => PageState::Measured,
                    _ => PageState::Added,
                };
                for page in 0..region.bytes.len() as u64 / PAGE {
                    let state = ledger.state(region.gpa + page * PAGE);
                    assert_eq!(state, Some(expected), "{technology} {}", region.tag);
                }
            }
            let totals = ledger.totals();
            assert_eq!(totals.measured + totals.added, plan.page_count());
            let slots: u64 = plan.slots.iter().map(|slot| slot.len).sum();
            assert_eq!(ledger.memory_bytes(), slots);
            let private: u64 = plan.private.iter().map(|range| range.len).sum();
            let not_private = ledger.bytes()[PageState::Shared as usize];
            assert_eq!(not_private, slots - private);
            assert!(plan.staged.iter().all(|blob| ledger.is_shared(blob.gpa, PAGE)));
        }
    }
}

#[test]
fn nothing_of_a_plain_guest_is_private_and_its_marks_accept_nothing() {
    let plan = plan(&["--plain", "--memory", "64M"]);
    let mut ledger = launched(&plan);
    ledger.mark(mark(MarkId::SHIM_ENTRY, 0), at(1));
    ledger.mark(mark(MarkId::ACCEPT_END, 0), at(2));
    assert_eq!(ledger.bytes()[PageState::Shared as usize], 64 << 20);
    assert!(ledger.is_shared(0, 64 << 20));
    assert_eq!(ledger.totals(), Counts::default());
    assert_eq!(ledger.accepting(), None);
}

/// Accepts what the shim accepts: a machine that notes it.
#[derive(Default)]
struct Machine {
    small: Vec<u64>,
    large: Vec<u64>,
    asked: Vec<Range>,
    /// Large pages below this are held as small ones.
    small_below: u64,
    round: Round,
}

impl ::shim::Platform for Machine {
    fn protected(&self) -> bool {
        true
    }
    fn private_mask(&self) -> u64 {
        0
    }
    fn shared_mask(&self) -> u64 {
        0
    }
    fn validates_mapped(&self) -> bool {
        false
    }
    fn has_cc_blob(&self) -> bool {
        false
    }
    fn has_sha(&self) -> bool {
        false
    }
    fn bytes(&self, _: u64, _: u64) -> &[u8] {
        unreachable!("nothing is loaded")
    }
    fn bytes_mut(&mut self, _: u64, _: u64) -> &mut [u8] {
        unreachable!("nothing is loaded")
    }
    fn copy(&mut self, _: u64, _: u64, _: u64) {}
    fn clear(&mut self, _: u64, _: u64) {}
    fn flush(&mut self) {}
    fn set_private(&mut self, range: ::shim::range::Range) -> Result<(), Termination> {
        self.asked.push(Range { gpa: range.start, len: range.end - range.start });
        Ok(())
    }
    fn round(&self) -> &Round {
        &self.round
    }
    fn gate(&self) -> Option<&::shim::gate::Gate> {
        None
    }
    fn work(&mut self) -> Result<(), Termination> {
        let Machine { small, large, small_below, round, .. } = self;
        round.work(Termination::PVALIDATE, false, |address, is_large| {
            if is_large && address < *small_below {
                return ::shim::Validation::SizeMismatch;
            }
            if is_large { &mut *large } else { &mut *small }.push(address);
            ::shim::Validation::Done
        })
    }
    fn mark(&mut self, _: Mark) -> Result<(), Termination> {
        Ok(())
    }
}

#[test]
fn the_ledger_knows_page_by_page_what_the_shim_accepts() {
    let works_from = [("--snp", WORK_BASE), ("--tdx", abi::shim::tdx::WORK_BASE)];
    for (technology, work) in works_from {
        for (load, memory) in [("hashed", "64M"), ("measured", "64M"), ("hashed", "5G")] {
            let plan = plan(&[technology, "--load", load, "--memory", memory]);
            let mut parts = plan.regions.iter().chain(&plan.hashed);
            let parameters = parts.find(|r| r.tag == "parameters").unwrap();
            let parameters = ParameterPage::read_from_bytes(&parameters.bytes).unwrap();
            let mut machine = Machine { small_below: 40 << 20, ..Machine::default() };
            let mut ledger = launched(&plan);
            let mut acceptor = ::shim::accept::Acceptor::new(&machine, &parameters);

            ledger.mark(mark(MarkId::SHIM_ENTRY, 0), at(1));
            acceptor.accept_ram(&mut machine).unwrap();
            let counts = machine.round.take_counts();
            assert!(counts.mismatches > 0 && counts.large > 0);
            ledger.mark(mark(MarkId::ACCEPT_END, counts.small.div_ceil(512)), at(2));
            ledger.mark(mark(MarkId::ACCEPT_MISMATCHES, counts.mismatches), at(3));
            assert_eq!(ledger.accepting().unwrap().sizes, None, "half told");
            ledger.mark(mark(MarkId::ACCEPT_SMALL, counts.small), at(3));
            ledger.mark(mark(MarkId::ACCEPT_LARGE, counts.large), at(3));

            acceptor.accept_staging(&mut machine).unwrap();
            for range in std::mem::take(&mut machine.asked) {
                assert!(ledger.is_shared(range.gpa, range.len));
                ledger.convert(range, Visibility::Private, By::Guest, at(4));
                assert_eq!(ledger.state(range.gpa), Some(PageState::Converted));
            }
            let staged = machine.round.take_counts();
            ledger.mark(mark(MarkId::STAGING_RECLAIMED, staged.small), at(5));
            ledger.mark(mark(MarkId::STAGING_LARGE, staged.large), at(5));
            ledger.mark(mark(MarkId::STAGING_MISMATCHES, staged.mismatches), at(5));

            let mut own: Vec<u64> = (work..WORK_END).step_by(PAGE as usize).collect();
            if technology == "--snp" {
                own.extend((SHIM_CODE_GPA..CPUID_GPA).step_by(PAGE as usize));
            }
            let mut accepted = own.len() as u64;
            for page in own.iter().chain(&machine.small) {
                assert_eq!(ledger.state(*page), Some(PageState::Accepted), "{page:#x}");
            }
            accepted += machine.small.len() as u64;
            for page in &machine.large {
                assert!(ledger.pages.all(*page, LARGE_PAGE, |s| s == PageState::Accepted));
                accepted += LARGE_PAGE / PAGE;
            }
            // And nothing else.
            assert_eq!(ledger.bytes()[PageState::Accepted as usize] / PAGE, accepted);
            let sizes = AcceptedPages {
                small: own.len() as u64 + machine.small.len() as u64,
                large: machine.large.len() as u64,
                mismatches: u64::from(counts.mismatches + staged.mismatches),
            };
            let told = Accepting { pages: accepted, sizes: Some(sizes) };
            assert_eq!(ledger.accepting(), Some(told));
            assert_eq!(ledger.bytes()[PageState::Converted as usize], 0);
            let left = ledger.bytes()[PageState::Unaccepted as usize];
            // What the shim's image does not fill of its pages.
            assert!(left <= 2 * PAGE, "{technology} {load} {memory}: {left:#x}");
            assert!(ledger.pages.all(SHIM_BASE, PAGE, |s| s == PageState::Measured));
        }
    }
}

#[test]
fn marks_count_once_and_take_nothing_from_the_host() {
    let plan = plan(&["--snp", "--memory", "64M"]);
    let staging = plan.layout.staging;
    let mut ledger = launched(&plan);
    ledger.mark(mark(MarkId::STAGING_RECLAIMED, 0), at(1));
    assert!(ledger.is_shared(staging.gpa, staging.len));
    ledger.mark(mark(MarkId::ACCEPT_END, Mark::NUMBER_MAX), at(2));
    let accepted = ledger.totals().accepted;
    assert!(accepted > 0);
    ledger.mark(mark(MarkId::ACCEPT_SMALL, 1), at(2));
    assert_eq!(ledger.accepting(), Some(Accepting { pages: accepted, sizes: None }));
    ledger.convert(range(0, 64 << 20), Visibility::Shared, By::Guest, at(3));
    ledger.convert(range(0, 64 << 20), Visibility::Private, By::Guest, at(4));
    for id in [MarkId::ACCEPT_END, MarkId::STAGING_RECLAIMED, MarkId::ACCEPT_MISMATCHES] {
        ledger.mark(mark(id, 7), at(5));
    }
    assert_eq!(ledger.totals().accepted, accepted);
    assert_eq!(ledger.bytes()[PageState::Converted as usize], 64 << 20);
    // All but what was shared before: staging, and the hole of a PC.
    assert_eq!(ledger.flip_flop_bytes(), (64 << 20) - staging.len - 0x2_0000);
}

#[test]
fn a_guest_that_flips_single_pages_without_end_takes_no_memory_and_every_flip_is_counted() {
    let plan = plan(&["--tdx", "--memory", "64M"]);
    let mut ledger = launched(&plan);
    let begin = 32 << 20;
    let rounds = 40_000u64;
    for round in 0..rounds {
        // Every other page of a MiB, there and back.
        let page = range(begin + (round * 2 % 256) * PAGE, PAGE);
        let visibility =
            if round / 128 % 2 == 0 { Visibility::Shared } else { Visibility::Private };
        ledger.convert(page, visibility, By::Guest, at(2_000_000 * round));
    }
    let totals = ledger.totals();
    assert_eq!(totals.to_shared + totals.to_private, rounds);
    assert_eq!(totals.unchanged, 0);
    let log = ledger.log();
    let launch = log.entries().iter().filter(|e| e.by == By::Launch).count() as u64;
    let kept = log.entries().len() as u64 - launch;
    assert_eq!(kept + log.dropped(), rounds);
    assert_eq!(log.dropped_bytes(), log.dropped() * PAGE);
    assert!(log.dropped() > 0 && log.entries().len() <= 1024);
    assert!(ledger.series().points().len() <= series::POINTS_MAX);
    assert!(ledger.pages.pieces() < 512, "{}", ledger.pages.pieces());
    assert_eq!(ledger.flip_flop_bytes(), 128 * PAGE);
}

#[test]
fn neighbours_that_change_together_are_one_entry() {
    let plan = plan(&["--snp", "--memory", "64M"]);
    let mut ledger = launched(&plan);
    let before = ledger.log().entries().len();
    for page in 0..512 {
        let page = range((32 << 20) + page * PAGE, PAGE);
        ledger.convert(page, Visibility::Shared, By::Guest, at(10_000_000 + page.gpa / 64));
    }
    // Later, and elsewhere.
    ledger.convert(range(34 << 20, PAGE), Visibility::Shared, By::Guest, at(20_000_000));
    ledger.convert(range(36 << 20, PAGE), Visibility::Shared, By::Guest, at(20_000_001));
    let new = &ledger.log().entries()[before..];
    assert_eq!(new.len(), 3);
    assert_eq!((new[0].range, new[0].steps), (range(32 << 20, 2 << 20), 512));
    assert_eq!(new[0].first, at(10_000_000 + (32 << 20) / 64));
    assert!(new[0].last < new[1].last);
}

/// Every page by itself.
struct Table {
    pages: Vec<(u64, PageState, u64)>,
    history: Vec<(WallNs, [u64; STATES])>,
    counts: [Counts; PHASES],
}

impl Table {
    fn of(ledger: &Ledger, slots: &[Range]) -> Table {
        let pages = slots.iter().flat_map(|slot| (slot.gpa..slot.end()).step_by(PAGE as usize));
        let pages = pages.map(|gpa| (gpa, ledger.state(gpa).unwrap(), 0)).collect();
        let mut table = Table { pages, history: Vec::new(), counts: ledger.counts };
        table.history.push((ledger.last.wall, table.bytes()));
        table
    }

    fn bytes(&self) -> [u64; STATES] {
        let mut bytes = [0; STATES];
        self.pages.iter().for_each(|(_, state, _)| bytes[*state as usize] += PAGE);
        bytes
    }

    fn convert(&mut self, range: Range, private: bool, by: By, phase: Phase) {
        let counts = &mut self.counts[phase as usize];
        let mut moved = 0;
        for (gpa, state, moves) in &mut self.pages {
            if *gpa < range.gpa || *gpa >= range.end() {
                continue;
            }
            let was_private = !matches!(state, PageState::Shared | PageState::SharedBack);
            if was_private != private {
                *moves += 1;
                moved += 1;
                *state = if private { PageState::Converted } else { PageState::SharedBack };
            } else if *state == PageState::Unaccepted {
                *state = PageState::Converted;
            }
        }
        if private {
            counts.to_private += moved;
        } else {
            counts.to_shared += moved;
        }
        counts.touched += if by == By::Touch { moved } else { 0 };
        counts.unchanged += range.len / PAGE - moved;
    }

    fn accept(&mut self, ranges: &[Range], phase: Phase) {
        for (gpa, state, _) in &mut self.pages {
            let claimed = ranges.iter().any(|r| *gpa >= r.gpa && *gpa < r.end());
            if claimed && matches!(state, PageState::Unaccepted | PageState::Converted) {
                *state = PageState::Accepted;
                self.counts[phase as usize].accepted += 1;
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Convert { page: u64, pages: u64, private: bool, touch: bool },
    Mark(u32),
}

fn deed() -> impl Strategy<Value = Deed> {
    let convert =
        (0u64..420, prop_oneof![3 => 1u64..4, 1 => 1u64..200], any::<bool>(), any::<bool>());
    let convert = convert.prop_map(|(page, pages, private, touch)| Deed::Convert {
        page,
        pages,
        private,
        touch,
    });
    // Marks of the shim, at any time and again and again, and any others.
    let marks = prop_oneof![
        (1u32..10, 0u32..3).prop_map(|(id, number)| Deed::Mark(id << 24 | number)),
        any::<u32>().prop_map(Deed::Mark),
    ];
    prop_oneof![4 => convert, 1 => marks]
}

/// Somewhere in 400 pages from 0, or in the page below 4 GiB, or in none.
fn address(page: u64) -> u64 {
    if page < 410 { page * PAGE } else { 0xFFFF_F000 + (page - 415).min(4) * PAGE }
}

prop_compose! {
    /// A plan with a random map: all that the ledger asks of it is where memory, private ranges and launch pages are.
    fn any_plan()(
        tdx in any::<bool>(),
        pages in 200u64..400,
        staging in (170u64..200, 0u64..30),
        private in proptest::collection::vec((0u64..400, 1u64..100), 0..6),
        launch in proptest::collection::vec((0u64..60, 1u64..4, any::<bool>()), 0..6),
    ) -> Plan {
        let mut plan = plan(&[if tdx { "--tdx" } else { "--snp" }, "--memory", "64M"]);
        let ram = range(0, pages * PAGE);
        let extra = range(0xFFFF_F000, PAGE);
        plan.layout = Layout {
            ram: vec![ram],
            staging: range(staging.0 * PAGE, staging.1 * PAGE),
            ..plan.layout
        };
        plan.slots = vec![ram, extra];
        plan.private = private.iter().map(|(page, len)| range(page * PAGE, len * PAGE)).collect();
        plan.private.push(extra);
        plan.regions = launch
            .iter()
            .map(|(page, len, measured)| LaunchRegion {
                gpa: page * PAGE,
                kind: if *measured { PageKind::Measured } else { PageKind::Secrets },
                bytes: vec![0; (len * PAGE) as usize],
                tag: "any",
            })
            .collect();
        plan
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn every_page_is_in_one_state_whatever_a_guest_does_and_says(
        plan in any_plan(),
        deeds in proptest::collection::vec((deed(), 0u64..3_000_000, 0usize..PHASES), 0..120),
        asked in proptest::collection::vec((0u64..420, 1u64..50), 8),
    ) {
        let mut ledger = launched(&plan);
        let memory: u64 = plan.slots.iter().map(|slot| slot.len).sum();
        let mut table = Table::of(&ledger, &plan.slots);
        let after_launch = ledger.log().entries().len();
        let start = table.pages.clone();
        let mut steps = ShimAcceptance::of(&plan);
        let mut now = 0u64;
        for (deed, pause, phase) in deeds {
            let phase = Phase::ALL[phase];
            // Two vCPUs come in any order.
            let stamp = Stamp { phase, ..at((now + pause).saturating_sub(500_000)) };
            now += pause;
            match deed {
                Deed::Convert { page, pages, private, touch } => {
                    let visibility =
                        if private { Visibility::Private } else { Visibility::Shared };
                    let range = range(address(page), pages * PAGE);
                    let by = if touch { By::Touch } else { By::Guest };
                    ledger.convert(range, visibility, by, stamp);
                    table.convert(range, private, by, phase);
                }
                Deed::Mark(value) => {
                    ledger.mark(Mark(value), stamp);
                    let ranges = steps.take(Mark(value).id()).unwrap_or_default();
                    table.accept(&ranges, phase);
                }
            }
            prop_assert_eq!(*ledger.bytes(), table.bytes());
            prop_assert_eq!(ledger.memory_bytes(), memory);
            if table.history.last().is_some_and(|(_, bytes)| *bytes != table.bytes()) {
                table.history.push((ledger.last.wall, table.bytes()));
            }
        }
        // Page by page.
        for (gpa, state, _) in &table.pages {
            prop_assert_eq!(ledger.state(*gpa), Some(*state));
        }
        for (page, pages) in asked {
            let range = range(address(page), pages * PAGE);
            let inside = table.pages.iter().filter(|(gpa, ..)| *gpa >= range.gpa && *gpa < range.end());
            let mut inside = inside.map(|(_, state, _)| state.is_private());
            prop_assert_eq!(ledger.is_shared(range.gpa, range.len), !inside.any(|private| private));
        }
        let flipped = table.pages.iter().filter(|(.., moves)| *moves > 1).count() as u64;
        prop_assert_eq!(ledger.flip_flop_bytes(), flipped * PAGE);
        // Counts: by phase, and in all.
        let mut sum = Counts::default();
        for phase in Phase::ALL {
            prop_assert_eq!(ledger.counts(phase), table.counts[phase as usize]);
            sum += ledger.counts(phase);
        }
        prop_assert_eq!(ledger.totals(), sum);
        // The series: memory is in some state at every time, and it is the right one.
        let points = ledger.series().points();
        prop_assert!(points.windows(2).all(|two| two[0].wall < two[1].wall || two[0].wall == WallNs(0)));
        for point in points {
            prop_assert_eq!(point.bytes.iter().sum::<u64>(), memory);
            let then = table.history.iter().rev().find(|(wall, _)| *wall <= point.wall);
            if let Some((_, bytes)) = then.filter(|_| point.wall.0 > 0) {
                prop_assert_eq!(point.bytes, *bytes);
            }
        }
        prop_assert_eq!(points.last().map(|point| point.bytes), Some(*ledger.bytes()));
        // The log, played on what the launch left, ends where the table does.
        prop_assert_eq!(ledger.log().dropped(), 0);
        let mut played = start;
        for entry in &ledger.log().entries()[after_launch..] {
            prop_assert!(entry.first.wall <= entry.last && entry.steps > 0);
            for (gpa, state, _) in &mut played {
                if *gpa >= entry.range.gpa && *gpa < entry.range.end() {
                    prop_assert_eq!(*state, entry.from);
                    *state = entry.to;
                }
            }
        }
        for ((gpa, played, _), (_, state, _)) in played.iter().zip(&table.pages) {
            prop_assert_eq!(played, state, "{:#x}", gpa);
        }
    }

    #[test]
    fn a_series_is_short_and_each_of_its_points_is_right(
        pauses in proptest::collection::vec(0u64..5_000, 0..3_000),
    ) {
        let mut now = 0;
        let mut series = Series::new(at(0), [0; STATES]);
        let mut all = vec![(0, 0)];
        for (count, pause) in (1u64..).zip(pauses) {
            now += pause;
            series.push(at(now), [count; STATES]);
            all.push((now, count));
        }
        let points = series.points();
        prop_assert!(points.len() <= series::POINTS_MAX);
        prop_assert!(points.windows(2).all(|two| two[0].wall.0 < two[1].wall.0 || two[0].wall.0 == 0));
        prop_assert_eq!(points.last().unwrap().bytes[0], all.last().unwrap().1);
        for point in &points[1..] {
            let (_, count) = all.iter().rev().find(|(wall, _)| *wall == point.wall.0).unwrap();
            prop_assert_eq!(point.bytes[0], *count);
        }
        // No more is left out than the grain says.
        let spread = now / series.grain().0 + 2;
        prop_assert!(series.grain() == WallNs(1) || spread > series::POINTS_MAX as u64 / 2);
    }
}
