//! The quoting service, judged by somebody else's verifier of quotes and by hostile clients.
#![allow(clippy::unwrap_used, missing_docs)]

mod protocol;
mod quote;
mod report;
mod server;
