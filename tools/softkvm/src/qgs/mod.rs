//! A quote generation service for tests: what Intel's QGS and its quoting enclave do on a TDX host, with test keys that
//! everybody knows.
//!
//! - [`platform`]: what the platform says it is, and its security versions.
//! - [`keys`], [`chain`]: the authorities, the platform's certificate (PCK), the enclave's attestation key.
//! - [`collateral`]: what a verifier needs besides the quote.
//! - [`quote`]: TDREPORT in, quote out.
//! - [`protocol`]: the service's messages. [`server`]: the socket. [`signals`]: its end.
//!
//! Not modelled: the enclaves themselves, PCK certificates fetched from a cache, attestation keys other than ECDSA with P-256,
//! quotes of versions other than 4, collateral over the socket (a QGS without a provider library refuses it as well).

pub mod chain;
pub mod collateral;
pub mod keys;
pub mod platform;
pub mod protocol;
pub mod quote;
pub mod server;
pub mod signals;

pub use chain::Chain;
pub use collateral::Collateral;
pub use keys::{KeyError, Keys};
pub use platform::PlatformId;
pub use quote::{QuoteError, Quoter};
pub use server::{Server, ServerError};
