//! What clients ask a pool, and what they are told: one line of JSON each (docs/pool.md).

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest line.
pub const LINE_MAX: usize = 4096;
/// The longest that a client may want to wait for a guest.
pub const WAIT_MAX_MS: u32 = 600_000;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// A guest. Three or four descriptors come with it.
    Take {
        /// How long to wait for one, where none is ready.
        #[serde(default)]
        wait_ms: u32,
    },
    /// How the pool is.
    Status {},
}

/// Why a line is no request.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum RequestProblem {
    #[error("a request is one line of at most {LINE_MAX} bytes")]
    NoLine,
    #[error("this is no request: {0}")]
    Json(String),
    #[error("nobody waits longer than {WAIT_MAX_MS} ms")]
    Wait,
}

impl Request {
    /// Reads a line with its end, and nothing behind it.
    ///
    /// # Errors
    /// It is no request.
    pub fn parse(line: &[u8]) -> Result<Request, RequestProblem> {
        let Some((b'\n', text)) = line.split_last() else { return Err(RequestProblem::NoLine) };
        if line.len() > LINE_MAX || text.contains(&b'\n') {
            return Err(RequestProblem::NoLine);
        }
        let request = serde_json::from_slice(text)
            .map_err(|problem| RequestProblem::Json(problem.to_string()))?;
        match request {
            Request::Take { wait_ms } if wait_ms > WAIT_MAX_MS => Err(RequestProblem::Wait),
            request => Ok(request),
        }
    }
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The guest is running: it has the client's descriptors.
    Taken(HandOut),
    /// It has ended.
    Ended {
        /// With this exit code of cvmm's.
        code: i32,
    },
    /// How the pool is.
    Status(Status),
    /// Nothing came of it.
    Error(String),
}

impl Answer {
    /// As a line.
    pub fn line(&self) -> Vec<u8> {
        // Strings and numbers can always be written.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// A guest that was handed out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOut {
    /// The process that runs it.
    pub pid: u32,
    /// From when the pool had read the request to when the guest's monitor went on to enter it.
    pub hand_out_wall_ns: u64,
    /// How much of that was waiting for a guest to be ready.
    pub waited_wall_ns: u64,
    /// How long it had been ready.
    pub ready_wall_ns: u64,
    /// What it is, and what its launch took, which the client did not wait for.
    pub held: Held,
}

/// A guest that is launched, sealed, and not yet entered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its protection.
    pub technology: String,
    /// Its launch digest, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// From exec to here.
    pub launch_wall_ns: u64,
    /// Of that, calls that made the security processor or the TDX module work for the launch.
    pub measuring_wall_ns: u64,
    /// The same by softkvm's platform profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measuring_modelled_ns: Option<u64>,
}

/// How a pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Guests that are ready.
    pub ready: usize,
    /// How many should be.
    pub wanted: usize,
    /// Guests that are handed out and have not ended.
    pub out: usize,
    /// How many may be.
    pub out_max: usize,
    /// Guests handed out so far.
    pub handed_out: u64,
    /// Launches that failed.
    pub failed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_strictly() {
        let parse = |text: &str| Request::parse(text.as_bytes());
        assert_eq!(parse("{\"request\":\"take\"}\n"), Ok(Request::Take { wait_ms: 0 }));
        let waits = parse("{\"request\":\"take\",\"wait_ms\":250}\n");
        assert_eq!(waits, Ok(Request::Take { wait_ms: 250 }));
        assert_eq!(parse("{\"request\":\"status\"}\n"), Ok(Request::Status {}));
        for line in ["", "{\"request\":\"status\"}", "\n{}\n", &format!("{}\n", " ".repeat(4096))] {
            assert_eq!(parse(line), Err(RequestProblem::NoLine), "{line}");
        }
        for line in [
            "\n",
            "{}\n",
            "[]\n",
            "{\"request\":\"give\"}\n",
            "{\"request\":\"take\",\"wait\":1}\n",
            "{\"request\":\"take\",\"wait_ms\":-1}\n",
            "{\"request\":\"status\"} {}\n",
        ] {
            assert!(matches!(parse(line), Err(RequestProblem::Json(_))), "{line}");
        }
        assert_eq!(parse("{\"request\":\"take\",\"wait_ms\":600001}\n"), Err(RequestProblem::Wait));
    }

    #[test]
    fn answers_are_lines_that_can_be_read_again() {
        for answer in [
            Answer::Ended { code: 130 },
            Answer::Status(Status { ready: 2, ..Status::default() }),
            Answer::Error("none\nis ready".into()),
        ] {
            let line = answer.line();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(serde_json::from_slice::<Answer>(&line).expect("JSON"), answer);
        }
    }
}
