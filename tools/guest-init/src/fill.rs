//! Touches memory until there is no more, as a program does that the kernel then ends.

use guest_init::options::meminfo;

use crate::read_file;
use crate::say;
use crate::sys::{self, Child, Errno, File, Mode};

/// How much is mapped at a time: so little that what is left over does not matter.
const STEP: usize = 4 << 20;
/// Makes the kernel choose the process that fills memory, and nobody else, when there is none left.
const CHOOSE_ME: &[u8] = b"1000";

/// Touches so much memory in a process of its own, and says what the kernel has not accepted before and after.
pub fn fill(mib: u32) {
    say_unaccepted("before");
    let [touched, _] = match sys::map_shared() {
        Ok(words) => words,
        Err(error) => return say!("fill: no memory to count in, {error}"),
    };
    match sys::fork() {
        Err(error) => say!("fill: no process, {error}"),
        Ok(Child::Here) => {
            let choose = File::open(c"/proc/self/oom_score_adj", Mode::Write)
                .and_then(|file| file.write_all(CHOOSE_ME));
            if let Err(error) = choose {
                say!("fill: /proc/self/oom_score_adj: {error}");
                sys::leave(1);
            }
            // The mapping may be refused before the kernel has run out of memory; that is an end as well.
            for _ in 0..mib.div_ceil((STEP >> 20) as u32) {
                let Ok(memory) = sys::map_fresh(STEP, sys::Pages::Small) else { break };
                for page in memory.chunks_mut(4096) {
                    page[0] = 1;
                    touched.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
                }
            }
            sys::leave(0)
        }
        Ok(Child::Away(process)) => {
            let outcome = sys::ended(process);
            let kib = u64::from(touched.load(core::sync::atomic::Ordering::Relaxed)) * 4;
            match outcome {
                Ok(status) => say!("fill: {kib} kB touched, {status}"),
                Err(error) => say!("fill: {error}"),
            }
            say_unaccepted("after");
        }
    }
}

fn say_unaccepted(when: &str) {
    let mut text = [0; 4096];
    let value = read_file(c"/proc/meminfo", &mut text)
        .map(|text| (meminfo(text, b"MemTotal").unwrap_or(0), meminfo(text, b"Unaccepted")));
    match value {
        Ok((total, Some(unaccepted))) => {
            say!("fill: {when}: {unaccepted} kB of {total} kB are not accepted");
        }
        Ok((_, None)) => say!("fill: {when}: this kernel accepts no memory itself"),
        Err(Errno(error)) => say!("fill: /proc/meminfo: errno {error}"),
    }
}
