//! Participants of a queue, each in a thread, with a file of its own opening.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;

use super::*;

const KHZ: u32 = 1_000_000;

fn meeting(file: &Path, words: &str) -> Meeting {
    Meeting::parse(&format!("{};{words}", file.display()), false).unwrap().unwrap()
}

/// What each of several participants does: pauses of its own before commands, and what these cost. In the order in which they come.
fn ends(scripts: &[(usize, &[(u64, u64)])]) -> Vec<Vec<u64>> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("psp");
    let turn = Barrier::new(scripts.len());
    let mut ends = vec![Vec::new(); scripts.len()];
    thread::scope(|scope| {
        let running: Vec<_> = scripts
            .iter()
            .enumerate()
            .map(|(late, (index, script))| {
                let meeting = meeting(&file, &format!("of={};index={index}", scripts.len()));
                let turn = &turn;
                scope.spawn(move || {
                    turn.wait();
                    thread::sleep(Duration::from_millis(5 * late as u64));
                    let mut place = Place::take(&meeting, KHZ).unwrap();
                    let mut now = 0;
                    let end = |(pause, cost): &(u64, u64)| {
                        now = place.serve(now + pause, *cost).unwrap();
                        now
                    };
                    (*index, script.iter().map(end).collect::<Vec<_>>())
                })
            })
            .collect();
        for thread in running {
            let (index, times) = thread.join().unwrap();
            ends[index] = times;
        }
    });
    ends
}

#[test]
fn equal_participants_take_turns() {
    let script: &[(u64, u64)] = &[(0, 10), (0, 1), (0, 1), (0, 5)];
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let ends = ends(&order.map(|index| (index, script)));
        assert_eq!(ends[0], [10, 31, 34, 41]);
        assert_eq!(ends[1], [20, 32, 35, 46]);
        assert_eq!(ends[2], [30, 33, 36, 51]);
    }
}

#[test]
fn who_comes_earlier_is_served_earlier_however_late_it_is_started() {
    // The first comes at 100, the second at 90, the third at 95 and, after its own work, at 300.
    let scripts: [&[(u64, u64)]; 3] = [&[(100, 20)], &[(90, 8)], &[(95, 10), (192, 5)]];
    for order in [[0, 1, 2], [2, 0, 1], [1, 0, 2], [2, 1, 0]] {
        let ends = ends(&order.map(|index| (index, scripts[index])));
        assert_eq!(ends, [vec![128], vec![98], vec![108, 305]], "{order:?}");
    }
}

/// A queue as one list of events tells it, without processes, locks and waiting.
fn simulated(scripts: &[Vec<(u64, u64)>]) -> Vec<Vec<u64>> {
    let mut ends = vec![Vec::new(); scripts.len()];
    let mut next: BTreeSet<(u64, usize)> =
        scripts.iter().enumerate().filter_map(|(i, s)| Some((s.first()?.0, i))).collect();
    let mut free = 0;
    while let Some((arrival, index)) = next.pop_first() {
        let done: &mut Vec<u64> = &mut ends[index];
        let end = arrival.max(free) + scripts[index][done.len()].1;
        free = end;
        done.push(end);
        if let Some((pause, _)) = scripts[index].get(done.len()) {
            next.insert((end + pause, index));
        }
    }
    ends
}

#[test]
fn the_queue_agrees_with_a_simulation() {
    let mut seed = 7u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..20 {
        let mut script = |_| (0..random(6)).map(|_| (random(4) * 5, 1 + random(9))).collect();
        let scripts: Vec<Vec<(u64, u64)>> = (0..5).map(&mut script).collect();
        let order: Vec<_> = [3, 0, 4, 1, 2].map(|index| (index, &scripts[index][..])).into();
        assert_eq!(ends(&order), simulated(&scripts), "{scripts:?}");
    }
}

#[test]
fn who_leaves_or_dies_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("psp");
    let take = |index| Place::take(&meeting(&file, &format!("of=3;index={index}")), KHZ).unwrap();
    let (mut first, mut second, third) = (take(0), take(1), take(2));
    first.leave();
    // As when its process dies: the lock goes, the word stays.
    let mut dead = std::mem::ManuallyDrop::new(third);
    // SAFETY: nothing uses file and mapping of a place that is never dropped.
    unsafe {
        libc::munmap(dead.map.base().cast(), dead.map.size());
        libc::close(dead.file.as_raw_fd());
    }
    dead.gone = true;
    assert_eq!(second.serve(7, 5), Ok(12));
    assert_eq!(first.serve(100, 5), Ok(105), "it has the processor to itself");
}

#[test]
fn who_never_comes_is_waited_for_with_patience() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("psp");
    let mut place = Place::take(&meeting(&file, "of=2;patience=0"), KHZ).unwrap();
    assert_eq!(place.serve(0, 1), Ok(1), "of two who come together, it is the first");
    let since = Instant::now();
    assert_eq!(place.serve(2, 5), Err(Errno::ETIMEDOUT));
    assert!(since.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_file_serves_one_round_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("psp");
    let two = meeting(&file, "of=2;patience=0");
    for _ in 0..2 {
        let (mut first, second) =
            (Place::take(&two, KHZ).unwrap(), Place::take(&two, KHZ).unwrap());
        assert_eq!(Place::take(&two, KHZ).err(), Some(Errno::EBUSY), "both places are taken");
        let other = meeting(&file, "of=3");
        assert_eq!(Place::take(&other, KHZ).err(), Some(Errno::EINVAL), "not as many");
        assert_eq!(Place::take(&two, KHZ + 1).err(), Some(Errno::EINVAL), "another profile");
        drop(second);
        assert_eq!(first.serve(3, 4), Ok(7));
    }
    assert!(Place::take(&meeting(&file, "of=1"), KHZ).is_ok(), "nobody is there any more");
    std::fs::write(&file, "something of the user's").unwrap();
    assert_eq!(Place::take(&two, KHZ).err(), Some(Errno::EINVAL));
    assert_eq!(std::fs::read(&file).unwrap(), b"something of the user's");
}

#[test]
fn the_variable_is_read_strictly() {
    let parse = |text: &str| Meeting::parse(text, false);
    assert_eq!(parse("").unwrap(), None);
    let found = parse("/tmp/a b;of=3;index=2;patience=5").unwrap().unwrap();
    assert_eq!(found.file(), Path::new("/tmp/a b"));
    assert_eq!((found.of, found.index, found.patience), (3, Some(2), Duration::from_secs(5)));
    for (text, problem) in [
        ("/tmp/a", "of= says how many"),
        ("/tmp/a;of=0", "1 to 1024"),
        ("/tmp/a;of=1025", "1 to 1024"),
        (";of=2", "no file"),
        ("/tmp/a;of=2;index=2", "less than"),
        ("/tmp/a;of=x", "a number is missing"),
        ("/tmp/a;of=2;else=1", "neither of="),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.starts_with("SOFTKVM_PSP: ") && error.contains(problem), "{text}: {error}");
    }
    assert!(Meeting::parse("/tmp/a;of=2", true).unwrap_err().to_string().contains("modelled time"));
}
