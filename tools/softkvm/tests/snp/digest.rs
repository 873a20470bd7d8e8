//! Launch digests against sev-snp-measure (`tests/oracles/launch_digest.py vectors`).

use abi::snp::{PageType, SevFeatures};
use softkvm::cpu::Core;
use softkvm::cpu::state::RDX;
use softkvm::snp::{LaunchDigest, Page, vmsa};

#[derive(serde::Deserialize)]
struct Vector {
    name: String,
    pages: Vec<(u8, u64, Option<u32>)>,
    digest: String,
}

pub fn pattern(seed: u32) -> Page {
    std::array::from_fn(|i| (seed as usize + i * 131 + (i >> 8) * 17) as u8)
}

#[test]
fn equals_an_independent_calculator() {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../data/launch_digests.json")).unwrap();
    assert!(vectors.len() >= 17);
    for vector in vectors {
        let mut digest = LaunchDigest::default();
        for (kind, gpa, seed) in vector.pages {
            let page = match (kind, seed) {
                (2, Some(signature)) => {
                    let mut core = Core::at_reset();
                    core.gpr[RDX] = signature.into();
                    *vmsa::synthesise(&core, SevFeatures(0), true)
                }
                (_, Some(seed)) => pattern(seed),
                (_, None) => [0; 4096],
            };
            digest.extend(PageType(kind), gpa, &page);
        }
        assert_eq!(digest.to_string(), vector.digest, "{}", vector.name);
    }
}
