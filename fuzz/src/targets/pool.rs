//! What a client may send to a pool.

use cvmm::pool::request::{LINE_MAX, Request, WAIT_MAX_MS};

use super::Target;

/// Reads a line as a request.
pub const TARGET: Target = Target { name: "pool", seeds, max_len: LINE_MAX + 64, run };

fn seeds() -> Vec<Vec<u8>> {
    let lines = [
        "{\"request\":\"take\",\"wait_ms\":600000}\n",
        "{\"request\":\"take\"}\n",
        "{\"request\":\"status\"}\n",
        "{\"wait_ms\":1,\"request\":\"take\"}\n",
        "[[[[[[[[{\"request\":{}}]]]]]]]]\n",
    ];
    lines.map(|line| line.as_bytes().to_vec()).to_vec()
}

fn run(input: &[u8]) {
    let Ok(request) = Request::parse(input) else { return };
    assert!(input.len() <= LINE_MAX && input.ends_with(b"\n"));
    if let Request::Take { wait_ms } = request {
        assert!(wait_ms <= WAIT_MAX_MS);
    }
    // What was understood means the same when it is said again.
    let mut again = serde_json::to_vec(&request).expect("plain data");
    again.push(b'\n');
    assert_eq!(Request::parse(&again), Ok(request));
}
