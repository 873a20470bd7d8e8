//! How long an attestation report takes.

use abi::probes::ProbeId;

use super::{Guest, Outcome, Session, obstacle, refused};
use crate::{attest, td};

/// Each occupies the security processor for milliseconds, or a quoting service.
const MOST: u32 = 10;

const DATA: [u8; 64] = *b"a probe of cvmm's guest-init; this sentence is in its report....";

pub fn report(session: &mut Session) -> Outcome {
    if session.guest == Guest::Plain {
        return Err(obstacle("an unprotected guest has no reports"));
    }
    let samples = session.numbers(session.count.div_ceil(100).min(MOST))?;
    let mut bytes = 0;
    for sample in samples.iter_mut() {
        let begin = crate::machine::cycles();
        let evidence = attest::fetch(&DATA).map_err(refused("no report"))?;
        *sample = session.clock.since(begin);
        bytes = evidence.report.len();
    }
    session.report(ProbeId::ATTEST_REPORT, bytes as u64, 1, samples);
    Ok(())
}

pub fn tdreport(session: &mut Session) -> Outcome {
    if session.guest != Guest::Td {
        return Err(obstacle("only a TD has one"));
    }
    let samples = session.numbers(session.count.div_ceil(100).min(MOST))?;
    let mut bytes = 0;
    for sample in samples.iter_mut() {
        let begin = crate::machine::cycles();
        bytes = td::report(&DATA).map_err(refused("no /dev/tdx_guest"))?.len();
        *sample = session.clock.since(begin);
    }
    session.report(ProbeId::ATTEST_TDREPORT, bytes as u64, 1, samples);
    Ok(())
}
