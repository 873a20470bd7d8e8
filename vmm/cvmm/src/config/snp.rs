//! The options of `--snp`.

use std::path::{Path, PathBuf};

use abi::snp::SevFeatures;

use super::read_file;
use crate::digest::parse_hex;
use crate::error::Error;

/// The guest policy of the launch (SEV-SNP firmware ABI, 56860 rev 1.57, section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnpPolicy(pub u64);

impl SnpPolicy {
    /// Bit 16: the guest may run where SMT is on.
    pub const SMT: u64 = 1 << 16;
    /// Bit 17: reserved, must be one.
    pub const RESERVED_ONE: u64 = 1 << 17;
    /// Bit 18: a migration agent may be bound. KVM has none.
    pub const MIGRATE_MA: u64 = 1 << 18;
    /// Bit 19: the host may debug, that is read, the guest.
    pub const DEBUG: u64 = 1 << 19;
    /// The strictest policy that runs on hosts with SMT on.
    pub const DEFAULT: SnpPolicy = SnpPolicy(SnpPolicy::SMT | SnpPolicy::RESERVED_ONE);

    /// Does it let the host read the guest?
    pub fn debug(self) -> bool {
        self.0 & SnpPolicy::DEBUG != 0
    }
}

/// An ID block and what signs it, checked for size before the launch, because KVM cannot retry a failed LAUNCH_FINISH.
#[derive(Clone, Debug)]
pub struct IdBlock {
    /// The block (96 bytes).
    pub block: Box<[u8; 96]>,
    /// The authentication information (4096 bytes).
    pub auth: Box<[u8; 4096]>,
}

impl IdBlock {
    /// Does the authentication information carry an author key? AUTH_KEY_ALGO is non-zero if so.
    pub fn has_author_key(&self) -> bool {
        self.auth[4..8] != [0; 4]
    }
}

/// What `--snp` asks for.
#[derive(Clone, Debug)]
pub struct SnpConfig {
    /// The guest policy.
    pub policy: SnpPolicy,
    /// 32 bytes that appear in attestation reports.
    pub host_data: [u8; 32],
    /// The guest owner's signed expectation.
    pub id_block: Option<IdBlock>,
    /// The certificate table handed to guests that ask for an extended report.
    pub certs: Option<Vec<u8>>,
    /// What vCPUs that start in a firmware have in RDX: measured, and read by nobody.
    pub vcpu_signature: u32,
    /// Was it chosen?
    pub names_signature: bool,
    /// Does the processor keep the guest's time stamp counter from the host?
    pub secure_tsc: bool,
}

/// CPUID leaf 1, EAX, of QEMU's models EPYC to EPYC-v5: what its users' calculators are mostly asked for.
const VCPU_SIGNATURE: u32 = 0x0080_0f12;

impl SnpConfig {
    /// What the save area of each vCPU asks for beside SEV-SNP itself (SEV_FEATURES; it is measured).
    pub fn vmsa_features(&self) -> SevFeatures {
        if self.secure_tsc { SevFeatures::SECURE_TSC } else { SevFeatures(0) }
    }

    /// Reads `policy=…,host-data=…,id-block=…,id-auth=…,certs=…,vcpu-sig=…,secure-tsc`.
    ///
    /// # Errors
    /// An unknown or repeated key, a value of the wrong form, an unreadable file.
    pub fn parse(options: &str) -> Result<SnpConfig, Error> {
        let mut policy = None;
        let mut host_data = None;
        let mut block: Option<PathBuf> = None;
        let mut auth: Option<PathBuf> = None;
        let mut certs: Option<PathBuf> = None;
        let mut signature = None;
        let mut secure_tsc = None;
        for option in options.split(',').filter(|o| !o.is_empty()) {
            if option == "secure-tsc" {
                if secure_tsc.replace(()).is_some() {
                    return Err(bad(option, "it is given twice"));
                }
                continue;
            }
            let (key, value) =
                option.split_once('=').ok_or_else(|| bad(option, "it has no value"))?;
            let repeated = match key {
                "policy" => policy.replace(parse_policy(value)?).is_some(),
                "host-data" => host_data.replace(parse_host_data(value)?).is_some(),
                "id-block" => block.replace(value.into()).is_some(),
                "id-auth" => auth.replace(value.into()).is_some(),
                "certs" => certs.replace(value.into()).is_some(),
                "vcpu-sig" => signature.replace(parse_signature(value)?).is_some(),
                _ => return Err(bad(key, "there is no such option")),
            };
            if repeated {
                return Err(bad(key, "it is given twice"));
            }
        }
        let id_block = match (block, auth) {
            (Some(block), Some(auth)) => Some(IdBlock {
                block: read_exact("id-block", &block)?,
                auth: read_exact("id-auth", &auth)?,
            }),
            (None, None) => None,
            (Some(_), None) => return Err(bad("id-block", "it needs id-auth beside it")),
            (None, Some(_)) => return Err(bad("id-auth", "it needs id-block beside it")),
        };
        let certs = certs.map(|path| read_file("certificates", &path)).transpose()?;
        if certs.as_ref().is_some_and(|c| c.is_empty() || c.len() > 16 << 12) {
            return Err(bad("certs", "a certificate table has 1 byte to 64 KiB"));
        }
        Ok(SnpConfig {
            policy: policy.unwrap_or(SnpPolicy::DEFAULT),
            host_data: host_data.unwrap_or([0; 32]),
            id_block,
            certs,
            vcpu_signature: signature.unwrap_or(VCPU_SIGNATURE),
            names_signature: signature.is_some(),
            secure_tsc: secure_tsc.is_some(),
        })
    }
}

fn bad(option: &str, problem: &str) -> Error {
    Error::Usage {
        flag: format!("--snp={option}"),
        problem: problem.into(),
        cure: "write --snp=policy=0x30000,host-data=HEX,id-block=FILE,id-auth=FILE,certs=FILE,vcpu-sig=0x800f12,secure-tsc, each part optional".into(),
    }
}

fn parse_signature(value: &str) -> Result<u32, Error> {
    let number = match value.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => value.parse(),
    };
    number.map_err(|_| bad("vcpu-sig", "it is not a number of 32 bits; write it like 0x800f12"))
}

fn parse_policy(value: &str) -> Result<SnpPolicy, Error> {
    let number = match value.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => value.parse(),
    };
    let policy = number.map_err(|_| bad("policy", "it is not a number; write it like 0x30000"))?;
    if policy & SnpPolicy::RESERVED_ONE == 0 {
        return Err(bad("policy", "bit 17 (0x20000) must be one"));
    }
    if policy & SnpPolicy::MIGRATE_MA != 0 {
        return Err(bad("policy", "bit 18 (migration agent) is not supported by KVM"));
    }
    Ok(SnpPolicy(policy))
}

fn parse_host_data(value: &str) -> Result<[u8; 32], Error> {
    let bytes = match value.strip_prefix('@') {
        Some(file) => read_file("host data", Path::new(file))?,
        None => parse_hex(value).ok_or_else(|| bad("host-data", "it is not hexadecimal"))?,
    };
    bytes.try_into().map_err(|_| {
        bad("host-data", "it must be 32 bytes: 64 hexadecimal digits, or @FILE of 32 bytes")
    })
}

fn read_exact<const N: usize>(key: &str, path: &Path) -> Result<Box<[u8; N]>, Error> {
    let bytes = read_file("ID block", path)?;
    let len = bytes.len();
    bytes
        .into_boxed_slice()
        .try_into()
        .map_err(|_| bad(key, &format!("{} has {len} bytes, but must have {N}", path.display())))
}
