//! Digests of runs of "a" (computed with coreutils' sha256sum), portable and by instructions.

use crate::sha256::{Sha256, digest};

const VECTORS: &[(usize, &str)] = &[
    (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (1, "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"),
    (55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318"),
    (56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a"),
    (63, "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34"),
    (64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb"),
    (65, "635361c48bb9eab14198e76ea8ab7f1a41685d6ad62aa9146d301d4f17eb0ae0"),
    (119, "31eba51c313a5c08226adf18d4a359cfdfd8d2e816b13f4af952f7ea6584dcfb"),
    (120, "2f3d335432c70b580af0e8e1b3674a7c020d683aa5f73aaaedfdc55af904c21c"),
    (4096, "c93eee2d0db02f10acc7460d9576e122dcf8cd53c4bf8dfcae1b3e74ebcfff5a"),
    (1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
];

fn hex(bytes: [u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn variants() -> Vec<bool> {
    let has_sha = is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1");
    if has_sha { vec![false, true] } else { vec![false] }
}

#[test]
fn runs_of_one_letter() {
    for instructions in variants() {
        for (len, expected) in VECTORS {
            assert_eq!(hex(digest(&vec![b'a'; *len], instructions)), *expected, "{len} bytes");
        }
    }
}

#[test]
fn both_ways_agree_and_pieces_do_not_matter() {
    let bytes: Vec<u8> = (0..100_000u32).map(|i| ((i * 7) ^ (i >> 5)) as u8).collect();
    let whole = digest(&bytes, false);
    for instructions in variants() {
        let mut hash = Sha256::new(instructions);
        for piece in bytes.chunks(4096) {
            hash.update(piece);
        }
        assert_eq!(hash.finish(&bytes[bytes.len() - bytes.len() % 64..]), whole);
    }
}
