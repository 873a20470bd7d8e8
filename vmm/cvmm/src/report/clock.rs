//! Which clock a figure is of. Every figure that is shown is asked for by clock, so that none mixes the two.

use super::schema::{Landmark, MarkFacts, Phase, RunReport, Segment};

/// A clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The platform profile's: virtual time.
    Modelled,
    /// This host's.
    Wall,
}

impl Clock {
    /// Both; what is shown first comes first.
    pub const ALL: [Clock; 2] = [Clock::Modelled, Clock::Wall];

    /// Its name, as the fields of a report have it.
    pub fn name(self) -> &'static str {
        match self {
            Clock::Modelled => "modelled",
            Clock::Wall => "wall",
        }
    }

    fn pick(self, wall: u64, modelled: Option<u64>) -> Option<u64> {
        match self {
            Clock::Modelled => modelled,
            Clock::Wall => Some(wall),
        }
    }

    /// How long a run took.
    pub fn total(self, report: &RunReport) -> Option<u64> {
        self.pick(report.total.wall_ns, report.total.modelled_ns)
    }

    /// How long a phase took.
    pub fn phase(self, phase: &Phase) -> Option<u64> {
        self.pick(phase.wall_ns, phase.modelled_ns)
    }

    /// From when to when a piece of the timeline lasted.
    pub fn segment(self, segment: &Segment) -> Option<(u64, u64)> {
        let begin = self.pick(segment.begin_wall_ns, segment.begin_modelled_ns)?;
        let end = self.pick(segment.end_wall_ns, segment.end_modelled_ns)?;
        Some((begin, end.max(begin)))
    }

    /// When a mark was seen.
    pub fn mark(self, mark: &MarkFacts) -> Option<u64> {
        self.pick(mark.wall_ns, mark.modelled_ns)
    }

    /// When a landmark was seen, and how long before it may have happened.
    pub fn landmark(self, landmark: &Landmark) -> Option<(u64, u64)> {
        let at = self.pick(landmark.wall_ns, landmark.modelled_ns)?;
        let uncertainty =
            self.pick(landmark.uncertainty_wall_ns, landmark.uncertainty_modelled_ns)?;
        Some((at, uncertainty))
    }

    /// Is it this run's?
    pub fn known(self, report: &RunReport) -> bool {
        self.total(report).is_some()
    }
}
