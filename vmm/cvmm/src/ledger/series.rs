//! Bytes by state over time, for a chart: at most so many points, however long and busy the run.

use super::{STATES, Stamp};
use crate::recorder::{GuestNs, WallNs};

/// From here to the next point, memory is in these states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// On the host's clock.
    pub wall: WallNs,
    /// On the guest's clock.
    pub guest: Option<GuestNs>,
    /// In the order of [`super::PageState::ALL`].
    pub bytes: [u64; STATES],
}

/// Most points.
pub const POINTS_MAX: usize = 512;

/// The points. Each is exact at its time; where there were too many, what came between two points at least
/// [`Series::grain`] apart shows only in the later one.
#[derive(Debug)]
pub struct Series {
    points: Vec<Point>,
    grain: u64,
    /// The guest's clock is read: points are told apart by it, so that equal runs leave equal series.
    by_guest: bool,
}

impl Series {
    pub(super) fn new(begin: Stamp, bytes: [u64; STATES]) -> Series {
        let mut points = Vec::with_capacity(POINTS_MAX + 1);
        points.push(Point { wall: begin.wall, guest: begin.guest, bytes });
        Series { points, grain: 1, by_guest: begin.guest.is_some() }
    }

    /// The states from now on. Time does not run backwards.
    pub(super) fn push(&mut self, at: Stamp, bytes: [u64; STATES]) {
        self.points.push(Point { wall: at.wall, guest: at.guest, bytes });
        self.by_guest |= at.guest.is_some();
        self.thin(self.points.len().saturating_sub(2));
        while self.points.len() > POINTS_MAX {
            self.grain *= 2;
            self.thin(0);
        }
    }

    /// Keeps, from this point on, the last of every grain; and the first point of all.
    fn thin(&mut self, from: usize) {
        let mut kept = from.max(1);
        for next in kept + 1..self.points.len() {
            let point = self.points[next];
            if self.clock(&point) / self.grain != self.clock(&self.points[kept]) / self.grain {
                kept += 1;
            }
            self.points[kept] = point;
        }
        self.points.truncate(kept + 1);
    }

    fn clock(&self, point: &Point) -> u64 {
        match self.by_guest {
            // Where it is not known yet, it has not begun.
            true => point.guest.map_or(0, |guest| guest.0),
            false => point.wall.0,
        }
    }

    /// The points, in time order.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The shortest time that two points are told apart by.
    pub fn grain(&self) -> WallNs {
        WallNs(self.grain)
    }
}
