//! Halving: what is attributed adds up, is found with few kernels, and survives kernels that do not boot.

use std::collections::BTreeMap;

use super::{Change, Cost, Finding, each, halve};

fn changes(count: usize) -> Vec<Change> {
    (0..count)
        .map(|index| Change {
            name: format!("CONFIG_O{index:02}"),
            from: "y".to_owned(),
            to: Some("n".to_owned()),
        })
        .collect()
}

/// A machine on which options have these costs in microseconds, and no kernel with exactly a certain number of them boots.
struct Machine<'a> {
    costs: &'a [(usize, i64)],
    dead: &'a [usize],
    kernels: usize,
}

impl Machine<'_> {
    fn measure(&mut self, chosen: &[Change]) -> Option<Cost> {
        self.kernels += 1;
        if self.dead.contains(&chosen.len()) {
            return None;
        }
        let has = |option: usize| chosen.iter().any(|c| c.name == format!("CONFIG_O{option:02}"));
        let sum: i64 =
            self.costs.iter().filter(|(o, _)| has(*o)).map(|(_, cost)| cost * 1000).sum();
        Some(Cost {
            modelled_ns: (50_000_000 + sum).cast_unsigned(),
            exits: 100,
            image_bytes: 1000 + chosen.len() as u64,
        })
    }

    fn halved(&mut self, count: usize) -> Vec<Finding> {
        let all = changes(count);
        let ends = [0, count].map(|at| (at, self.measure(&all[..at]).expect("the ends boot")));
        let mut points = BTreeMap::from(ends);
        halve(&all, 200_000, &mut points, &mut |chosen| Ok(self.measure(chosen))).expect("measured")
    }
}

fn single(findings: &[Finding]) -> Vec<(&str, i64)> {
    let large = findings.iter().filter(|found| found.modelled_ns.abs() >= 200_000);
    large.map(|found| (found.options[0].as_str(), found.modelled_ns / 1000)).collect()
}

#[test]
fn the_options_that_cost_are_found_and_the_rest_adds_up() {
    let mut machine = Machine { costs: &[(5, 3000), (40, -1000), (63, 10)], dead: &[], kernels: 0 };
    let findings = machine.halved(64);
    assert_eq!(single(&findings), [("O05 y → n", 3000), ("O40 y → n", -1000)]);
    assert_eq!(findings.iter().map(|found| found.modelled_ns).sum::<i64>(), 2_010_000);
    assert_eq!(findings.iter().map(|found| found.options.len()).sum::<usize>(), 64);
    assert_eq!(findings.iter().map(|found| found.image_bytes).sum::<i64>(), 64);
    assert!(machine.kernels <= 2 + 2 * 6, "{} kernels", machine.kernels);
}

#[test]
fn a_kernel_that_does_not_boot_is_gone_around() {
    let mut machine = Machine { costs: &[(3, 1000)], dead: &[4], kernels: 0 };
    assert_eq!(single(&machine.halved(8)), [("O03 y → n", 1000)]);
    // Where no neighbour boots either, the range stays whole.
    let mut machine = Machine { costs: &[(3, 1000)], dead: &[1, 2, 3], kernels: 0 };
    let findings = machine.halved(4);
    assert_eq!((findings.len(), findings[0].options.len()), (1, 4));
}

#[test]
fn each_option_alone_is_set_against_the_first_kernel() {
    let mut machine = Machine { costs: &[(0, 500), (1, -20)], dead: &[], kernels: 0 };
    let from = machine.measure(&[]).expect("it boots");
    let mut measure = |chosen: &[Change]| {
        let dead = chosen[0].name == "CONFIG_O02";
        Ok(if dead { None } else { machine.measure(chosen) })
    };
    let (findings, failed) = each(&changes(3), from, &mut measure).expect("measured");
    let costs: Vec<_> = findings.iter().map(|found| found.modelled_ns / 1000).collect();
    assert_eq!((costs, failed), (vec![500, -20], vec!["O02 y → n".to_owned()]));
}
