//! The options of `--tdx`.

use std::fmt;
use std::path::{Path, PathBuf};

use abi::tdx::TdAttributes;

use super::read_file;
use crate::digest::parse_hex;
use crate::error::Error;

/// Who signs quotes: the address of a quoting service that speaks the protocol of Intel's QGS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuoteService {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A socket between machines of one host.
    Vsock {
        /// Context identifier; 2 is the host, 1 this machine.
        cid: u32,
        /// Port.
        port: u32,
    },
}

impl fmt::Display for QuoteService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuoteService::Unix(path) => write!(f, "unix:{}", path.display()),
            QuoteService::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
        }
    }
}

/// What `--tdx` asks for.
#[derive(Clone, Debug)]
pub struct TdxConfig {
    /// What the TD is allowed.
    pub attributes: TdAttributes,
    /// 48 bytes that appear in reports: identifier of the configuration.
    pub mrconfigid: [u8; 48],
    /// Likewise: identifier of the owner.
    pub mrowner: [u8; 48],
    /// Likewise: identifier of the owner's configuration.
    pub mrownerconfig: [u8; 48],
    /// Who answers the guest's requests for quotes.
    pub quote: Option<QuoteService>,
}

impl TdxConfig {
    /// What Linux insists on, and nothing more.
    pub const DEFAULT_ATTRIBUTES: TdAttributes = TdAttributes::SEPT_VE_DISABLE;

    /// Does it let the host read the guest?
    pub fn debug(&self) -> bool {
        self.attributes.contains(TdAttributes::DEBUG)
    }

    /// Reads `attributes=…,mrconfigid=…,mrowner=…,mrownerconfig=…,quote=…`.
    ///
    /// # Errors
    /// An unknown or repeated key, a value of the wrong form, an unreadable file.
    pub fn parse(options: &str) -> Result<TdxConfig, Error> {
        let mut attributes = None;
        let mut ids: [Option<[u8; 48]>; 3] = [None; 3];
        let mut quote = None;
        for option in options.split(',').filter(|o| !o.is_empty()) {
            let (key, value) =
                option.split_once('=').ok_or_else(|| bad(option, "it has no value"))?;
            let repeated = match key {
                "attributes" => attributes.replace(parse_attributes(value)?).is_some(),
                "mrconfigid" => ids[0].replace(parse_id(key, value)?).is_some(),
                "mrowner" => ids[1].replace(parse_id(key, value)?).is_some(),
                "mrownerconfig" => ids[2].replace(parse_id(key, value)?).is_some(),
                "quote" => quote.replace(parse_service(value)?).is_some(),
                _ => return Err(bad(key, "there is no such option")),
            };
            if repeated {
                return Err(bad(key, "it is given twice"));
            }
        }
        let [mrconfigid, mrowner, mrownerconfig] = ids.map(|id| id.unwrap_or([0; 48]));
        Ok(TdxConfig {
            attributes: attributes.unwrap_or(Self::DEFAULT_ATTRIBUTES),
            mrconfigid,
            mrowner,
            mrownerconfig,
            quote,
        })
    }
}

fn bad(option: &str, problem: &str) -> Error {
    Error::Usage {
        flag: format!("--tdx={option}"),
        problem: problem.into(),
        cure: "write --tdx=attributes=0x10000000,mrconfigid=HEX,mrowner=HEX,mrownerconfig=HEX,quote=unix:PATH, each part \
               optional"
            .into(),
    }
}

fn parse_attributes(value: &str) -> Result<TdAttributes, Error> {
    let number = match value.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => value.parse(),
    };
    let attributes = number
        .map(TdAttributes)
        .map_err(|_| bad("attributes", "it is not a number; write it like 0x10000000"))?;
    let unknown = attributes.0 & !TdAttributes::NAMES.iter().fold(0, |all, (bit, _)| all | bit.0);
    if unknown != 0 {
        return Err(bad("attributes", &format!("the bits {unknown:#x} are not known")));
    }
    // Without it the guest would get #VE for memory that it has not accepted, and both the shim and Linux refuse.
    if !attributes.contains(TdAttributes::SEPT_VE_DISABLE) {
        return Err(bad(
            "attributes",
            "bit 28 (0x10000000, SEPT_VE_DISABLE) must be one for Linux",
        ));
    }
    Ok(attributes)
}

fn parse_id(key: &str, value: &str) -> Result<[u8; 48], Error> {
    let bytes = match value.strip_prefix('@') {
        Some(file) => read_file("identifier", Path::new(file))?,
        None => parse_hex(value).ok_or_else(|| bad(key, "it is not hexadecimal"))?,
    };
    bytes
        .try_into()
        .map_err(|_| bad(key, "it must be 48 bytes: 96 hexadecimal digits, or @FILE of 48 bytes"))
}

fn parse_service(value: &str) -> Result<QuoteService, Error> {
    // What a socket's address holds, with its NUL (struct sockaddr_un).
    const PATH_MAX: usize = 107;
    match value.split_once(':') {
        Some(("unix", path)) if !path.is_empty() && path.len() <= PATH_MAX => {
            Ok(QuoteService::Unix(path.into()))
        }
        Some(("unix", _)) => Err(bad("quote", "a socket's path has 1 to 107 bytes")),
        Some(("vsock", address)) => address
            .split_once(':')
            .and_then(|(cid, port)| {
                Some(QuoteService::Vsock { cid: cid.parse().ok()?, port: port.parse().ok()? })
            })
            .ok_or_else(|| bad("quote", "a vsock address is two numbers, vsock:CID:PORT")),
        _ => Err(bad("quote", "a quoting service is unix:PATH or vsock:CID:PORT")),
    }
}
