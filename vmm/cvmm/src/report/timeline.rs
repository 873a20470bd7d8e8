//! Whose turn it was when: one line without gaps from exec to the end of the teardown, and the phases as its sums.
//!
//! Before the run it is cut where a call to the host ends: what cvmm does between two calls belongs to the second. In the
//! run it is cut where marks, text and exits of the guest say so.

use crate::phase::{PHASES, Phase as Id};
use crate::recorder::{Event, Op, Recorder, WallNs};
use crate::run::RunRecord;

use super::schema::{BesideFacts, Landmark, Phase, Segment, Total};

/// A piece of the timeline. Times are nanoseconds since exec, and since the VM was made.
#[derive(Clone, Copy, Debug)]
struct Piece {
    phase: Id,
    wall: (u64, u64),
    guest: Option<(u64, u64)>,
}

/// The timeline of a run.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    pieces: Vec<Piece>,
}

impl Timeline {
    pub fn of(recorder: &Recorder, run: &RunRecord) -> Timeline {
        let mut line = Timeline::default();
        let wall = |then| recorder.since_exec(then);
        line.go_on(Id::H0, wall(WallNs(0)), None);
        let launch = recorder.events().iter().filter(|e| e.op != Op::Teardown);
        for event in launch.filter(|e| e.end <= run.begin) {
            let guest = event.guest.map(|(_, end)| end.0);
            line.go_on(event.op.phase(), wall(event.end), guest);
        }
        let mut phase = Id::G0;
        for cut in &run.cuts {
            line.go_on(phase, wall(cut.wall), cut.guest.map(|g| g.0));
            phase = cut.phase;
        }
        line.go_on(phase, wall(run.end), run.guest_end.map(|g| g.0));
        line.go_on(Id::T0, wall(run.gone), None);
        line
    }

    /// The phase lasted to here. Neither clock runs backwards; where the guest's was not read, it has not moved: it
    /// does only in calls that are charged for, and those read it.
    fn go_on(&mut self, phase: Id, wall: u64, guest: Option<u64>) {
        let (wall_now, guest_now) =
            self.pieces.last().map_or((0, None), |p| (p.wall.1, p.guest.map(|g| g.1)));
        let wall = wall.max(wall_now);
        let guest_end = guest.max(guest_now);
        let guest = guest_end.map(|end| (guest_now.unwrap_or(0), end));
        match self.pieces.last_mut() {
            Some(last) if last.phase == phase && (last.guest.is_some() || guest.is_none()) => {
                last.wall.1 = wall;
                last.guest = last.guest.zip(guest).map(|(a, b)| (a.0, b.1));
            }
            _ => self.pieces.push(Piece { phase, wall: (wall_now, wall), guest }),
        }
    }

    pub fn total(&self, run: &RunRecord) -> Total {
        let (cpu_user_ns, cpu_system_ns) = crate::sys::clock::cpu_time();
        let last = self.pieces.last();
        // Statistics that are 0 are left out.
        let placeholder = run.stats.vm.get(crate::emulate::PLACEHOLDER_STATISTIC);
        let placeholder = placeholder.and_then(|values| values.first().copied()).unwrap_or(0);
        Total {
            wall_ns: last.map_or(0, |p| p.wall.1),
            modelled_ns: last.and_then(|p| p.guest).map(|g| g.1),
            placeholder_modelled_ns: crate::emulate::time_is_modelled().then_some(placeholder),
            cpu_user_ns,
            cpu_system_ns,
        }
    }

    pub fn segments(&self) -> Vec<Segment> {
        let segment = |piece: &Piece| Segment {
            phase: piece.phase.id().into(),
            begin_wall_ns: piece.wall.0,
            end_wall_ns: piece.wall.1,
            begin_modelled_ns: piece.guest.map(|g| g.0),
            end_modelled_ns: piece.guest.map(|g| g.1),
        };
        self.pieces.iter().map(segment).collect()
    }

    pub fn beside(recorder: &Recorder) -> Vec<BesideFacts> {
        let facts = |event: &Event| BesideFacts {
            name: event.tag.into(),
            phase: event.op.phase().id().into(),
            bytes: event.bytes,
            begin_wall_ns: recorder.since_exec(event.begin),
            end_wall_ns: recorder.since_exec(event.end),
        };
        recorder.beside().iter().map(facts).collect()
    }

    pub fn landmarks(recorder: &Recorder, run: &RunRecord) -> Vec<Landmark> {
        let landmark = |cut: &crate::run::Cut| Landmark {
            name: cut.name.into(),
            phase: cut.phase.id().into(),
            source: cut.source.name().into(),
            wall_ns: recorder.since_exec(cut.wall),
            modelled_ns: cut.guest.map(|g| g.0),
            uncertainty_wall_ns: cut.uncertain.wall.0,
            uncertainty_modelled_ns: cut.uncertain.guest.map(|g| g.0),
        };
        run.cuts.iter().map(landmark).collect()
    }

    pub fn phases(&self, recorder: &Recorder, run: &RunRecord) -> Vec<Phase> {
        let exits = exits(run);
        let kvm_exits = kvm_exits(run);
        let phase = |id: &Id| {
            let pieces = || self.pieces.iter().filter(|p| p.phase == *id);
            pieces().next()?;
            let events = || recorder.events().iter().filter(|e| e.op.phase() == *id);
            let guest = pieces().filter_map(|p| p.guest).map(|g| g.1 - g.0);
            let moved = run.ledger.counts(*id);
            Some(Phase {
                id: id.id().into(),
                name: id.name().into(),
                wall_ns: pieces().map(|p| p.wall.1 - p.wall.0).sum(),
                modelled_ns: pieces().any(|p| p.guest.is_some()).then(|| guest.sum()),
                operations: events().count() as u64,
                bytes: events().filter(|e| moves_bytes(e.op)).map(|e| e.bytes).sum(),
                exits: exits[*id as usize],
                kvm_exits: kvm_exits.map(|all| all[*id as usize]),
                to_private_pages: moved.to_private,
                to_shared_pages: moved.to_shared,
            })
        };
        Id::ALL.iter().filter_map(phase).collect()
    }
}

/// Slots and attributes name bytes that another operation has counted.
fn moves_bytes(op: Op) -> bool {
    matches!(op, Op::MapMemory | Op::CopyIn | Op::LaunchUpdate)
}

/// Exits to the monitor, by phase.
fn exits(run: &RunRecord) -> [u64; PHASES] {
    let mut all = [0; PHASES];
    for (phase, _, count) in run.vcpus.iter().flat_map(|v| v.exits.counts()) {
        all[phase as usize] += count.count;
    }
    all
}

/// All exits by KVM's count, by phase: what it had counted when the next one began.
fn kvm_exits(run: &RunRecord) -> Option<[u64; PHASES]> {
    let total = run.kvm_exits?;
    let mut all = [0; PHASES];
    let (mut phase, mut counted) = (Id::G0, 0);
    for cut in &run.cuts {
        let now = cut.kvm_exits.unwrap_or(counted).max(counted);
        all[phase as usize] += now - counted;
        (phase, counted) = (cut.phase, now);
    }
    all[phase as usize] += total.saturating_sub(counted);
    Some(all)
}
