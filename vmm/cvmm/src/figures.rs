//! The figures of a report that runs are compared by: each with a name, its clock and its unit.
//!
//! A name says where the figure stands in the report (`phase/S1/modelled_ns`), and is what files of `cvmm bench` and specs use.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Whose clock a figure was read from. No two are ever compared with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// This host's: it varies from run to run.
    Measured,
    /// The profile's: equal in equal runs.
    Modelled,
    /// None: it is counted.
    Counted,
}

impl Clock {
    /// In tables.
    pub fn name(self) -> &'static str {
        match self {
            Clock::Measured => "measured",
            Clock::Modelled => "modelled",
            Clock::Counted => "counted",
        }
    }
}

/// A figure of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its name.
    pub id: String,
    /// What it is, for people.
    pub label: String,
    /// Its clock.
    pub clock: Clock,
    /// Its unit: `ns`, or what is counted.
    pub unit: String,
    /// Its value.
    pub value: f64,
}

/// All figures of a report, in the order in which it has them.
pub fn of(report: &Value) -> Vec<Figure> {
    let mut all = Figures(Vec::new());
    let total = &report["total"];
    all.times("total", "total", total);
    all.time("total/cpu_user_ns", "processor time, user", Clock::Measured, &total["cpu_user_ns"]);
    all.time(
        "total/cpu_system_ns",
        "processor time, system",
        Clock::Measured,
        &total["cpu_system_ns"],
    );
    let rests = &total["placeholder_modelled_ns"];
    all.time("total/placeholder_modelled_ns", "of it on placeholders", Clock::Modelled, rests);
    for phase in list(&report["phases"]) {
        let (id, name) = (text(&phase["id"]), text(&phase["name"]));
        all.times(&format!("phase/{id}"), &format!("{id} {name}"), phase);
    }
    let launch = &report["launch"];
    all.time(
        "launch/modelled_ns",
        "launch pages measured and sealed",
        Clock::Modelled,
        &launch["measuring_modelled_ns"],
    );
    let landmark =
        |name: &str| list(&report["landmarks"]).iter().find(|landmark| landmark["name"] == name);
    // Phases are told by the letter that their names begin with: of the host, of security, of the shim, of the kernel.
    let during = |letters: &[char], field: &str| {
        let phases = list(&report["phases"]).iter();
        let phases = phases.filter(|phase| text(&phase["id"]).starts_with(letters));
        phases.filter_map(|phase| phase[field].as_f64()).sum::<f64>()
    };
    if let Some(init) = landmark("init-entry") {
        all.times("boot", "from the start to /init", init);
        let exits = during(&['H', 'S', 'G', 'K'], "exits");
        all.put("boot/exits", "exits to /init", Clock::Counted, "exits", exits);
    }
    if list(&report["phases"]).iter().any(|phase| text(&phase["id"]).starts_with('S')) {
        let label = "protection set up, pages measured, sealed";
        let ns = during(&['S'], "modelled_ns");
        all.put("security/modelled_ns", label, Clock::Modelled, "ns", ns);
    }
    let before = |field: &str| during(&['H', 'S'], field);
    let label = "from the start to the first instruction";
    all.put("entry/wall_ns", label, Clock::Measured, "ns", before("wall_ns"));
    if report["total"]["modelled_ns"].is_number() {
        all.put("entry/modelled_ns", label, Clock::Modelled, "ns", before("modelled_ns"));
    }
    let pages = |field: &str| launch[field].as_f64();
    if let Some(pages) = pages("pages").zip(pages("vmsa_pages")).map(|(a, b)| a + b) {
        all.put("pages/launched", "launch pages", Clock::Counted, "pages", pages);
    }
    let changes = &report["page_state_changes"];
    for (id, label, field) in [
        ("pages/to_private", "pages made private", "to_private_pages"),
        ("pages/to_shared", "pages made shared", "to_shared_pages"),
    ] {
        all.count(id, label, "pages", &changes[field]);
    }
    for (state, bytes) in fields(&report["ledger"]["states_at_end"]) {
        all.count(&format!("ledger/{state}"), &format!("{state} at the end"), "bytes", bytes);
    }
    for (id, label, field) in [
        ("pages/accepted", "pages accepted", "accepted_pages"),
        ("pages/touched", "pages that changed owner by being touched", "touched_pages"),
    ] {
        all.count(id, label, "pages", &report["ledger"]["totals"][field]);
    }
    for half in ["shared", "private"] {
        for when in ["peak", "end"] {
            // What the host has given depends on the host.
            let bytes = report["ledger"]["memory"][half][format!("{when}_bytes")].as_f64();
            if let Some(bytes) = bytes {
                let (id, label) =
                    (format!("memory/{half}_{when}"), format!("host memory, {half}, {when}"));
                all.put(&id, &label, Clock::Measured, "bytes", bytes);
            }
        }
    }
    let exits = &report["exits"];
    all.count("exits/total", "exits", "exits", &exits["total"]);
    for reason in list(&exits["by_reason"]) {
        let name = text(&reason["reason"]);
        all.count(&format!("exits/{name}"), &format!("exits: {name}"), "exits", &reason["count"]);
    }
    all.time("exits/monitor_wall_ns", "in the monitor", Clock::Measured, &exits["monitor_wall_ns"]);
    all.kvm(&report["kvm_stats"]);
    for probe in list(&report["probes"]) {
        all.probe(probe);
    }
    all.0
}

struct Figures(Vec<Figure>);

impl Figures {
    fn put(&mut self, id: &str, label: &str, clock: Clock, unit: &str, value: f64) {
        let (id, label, unit) = (id.to_owned(), label.to_owned(), unit.to_owned());
        self.0.push(Figure { id, label, clock, unit, value });
    }

    fn time(&mut self, id: &str, label: &str, clock: Clock, value: &Value) {
        if let Some(ns) = value.as_f64() {
            self.put(id, label, clock, "ns", ns);
        }
    }

    fn count(&mut self, id: &str, label: &str, unit: &str, value: &Value) {
        if let Some(value) = value.as_f64() {
            self.put(id, label, Clock::Counted, unit, value);
        }
    }

    /// Both clocks of an object.
    fn times(&mut self, id: &str, label: &str, of: &Value) {
        self.time(&format!("{id}/wall_ns"), label, Clock::Measured, &of["wall_ns"]);
        self.time(&format!("{id}/modelled_ns"), label, Clock::Modelled, &of["modelled_ns"]);
    }

    /// KVM's own counts of halts, all vCPUs together, and what softkvm adds of its machine.
    fn kvm(&mut self, stats: &Value) {
        let single = |value: &Value| match value.as_array().map(Vec::as_slice) {
            Some([one]) => one.as_f64(),
            Some(_) => None,
            None => value.as_f64(),
        };
        let mut sums = std::collections::BTreeMap::new();
        for (name, value) in list(&stats["vcpus"]).iter().flat_map(fields) {
            if name.starts_with("halt_") {
                *sums.entry(name).or_insert(0.0) += single(value).unwrap_or(0.0);
            }
        }
        // Its time is the report's.
        let wanted = |name: &str| name.starts_with("softkvm_") && name != "softkvm_time_ns";
        let of_softkvm = fields(&stats["vm"]).filter(|(name, _)| wanted(name));
        sums.extend(of_softkvm.filter_map(|(name, value)| Some((name, single(value)?))));
        for (name, value) in sums {
            let modelled = name.starts_with("softkvm_") && name.ends_with("_ns");
            let (clock, unit) = match (modelled, name.ends_with("_ns")) {
                (true, _) => (Clock::Modelled, "ns"),
                // Halt polling is KVM's clock: softkvm's is modelled, but then the whole guest's time is.
                (_, true) => (Clock::Measured, "ns"),
                _ => (Clock::Counted, "events"),
            };
            self.put(&format!("kvm/{name}"), name, clock, unit, value);
        }
    }

    fn probe(&mut self, probe: &Value) {
        let mut name = text(&probe["name"]).to_owned();
        match &probe["parameter"] {
            Value::Null => {}
            Value::String(parameter) => name.push_str(&format!("[{parameter}]")),
            parameter => name.push_str(&format!("[{parameter}]")),
        }
        let clock = match text(&probe["clock"]) {
            "modelled" => Clock::Modelled,
            "measured" => Clock::Measured,
            _ => Clock::Counted,
        };
        if let Some(middle) = probe["p50"].as_f64() {
            self.put(
                &format!("probe/{name}"),
                &format!("probe {name}"),
                clock,
                text(&probe["unit"]),
                middle,
            );
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn fields(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}
