//! `--unpack shim`: kernels that the shim unpacks boot as every kind of guest, a stream that lies ends it, and what cannot be
//! unpacked is said before anything starts.

use abi::shim::{TERMINATION_SET, Termination};
use cvmm_tests::elf::Elf;
use cvmm_tests::packed::{bzimage_of, payload};
use cvmm_tests::{Cvmm, bzimage, in_parallel, packed, vmlinux};

const TECHNOLOGIES: [&str; 3] = ["plain", "snp", "tdx"];
const USAGE: i32 = 2;
const CRASHED: i32 = 6;

fn guest(technology: &str) -> Cvmm {
    Cvmm::new(["--emulate", "--timeout", "300", "--unpack", "shim"])
        .arg(format!("--{technology}"))
        .reported()
}

#[test]
fn debians_kernel_packed_again_boots_as_every_kind_of_guest() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("bzImage");
    let kernel = std::fs::read(vmlinux("6.12")).expect("the kernel");
    std::fs::write(&file, packed::bzimage(&kernel)).expect("a temporary file");
    let mut cells = Vec::new();
    for technology in TECHNOLOGIES {
        let accepts =
            if technology == "plain" { &["eager"][..] } else { &["eager", "lazy,window=64M"] };
        for (accept, load) in accepts.iter().zip(["hashed", "measured"]) {
            cells.push((format!("{technology} {accept} {load}"), (technology, *accept, load)));
        }
    }
    in_parallel(cells, |_, (technology, accept, load)| {
        let run = guest(technology).args(["--accept", accept, "--load", load, "--memory", "512M"]);
        let ended = run.linux(&file, "6.12").run();
        ended.expect_code(0).expect_console("cvmm-init: ready");
        assert_eq!(ended.report()["guest"]["unpack"], "shim");
    });
}

#[test]
fn tiny_boots_as_it_was_built() {
    if std::env::var_os("CVMM_KERNEL_tiny").is_none() {
        println!("skipped: tiny has not been built (cargo xtask kernel tiny)");
        return;
    }
    let cells = TECHNOLOGIES.map(|technology| (technology.to_owned(), technology)).to_vec();
    in_parallel(cells, |_, technology| {
        let run = guest(technology).args(["--memory", "256M"]);
        let ended = run.linux(&bzimage("tiny"), "tiny").run();
        ended.expect_code(0).expect_console("cvmm-init: ready");
    });
}

#[test]
fn a_stream_that_lies_ends_the_guest() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let kernel = Elf::of_code(0x20_0000, &[0xfa, 0xf4, 0xeb, 0xfd].repeat(2000)).bytes();
    let sound = payload(&kernel);
    let end = sound.len();
    // It ends before there is as much as it promises. What makes the ELF file shorter, cvmm finds itself.
    let longer = ((kernel.len() + 4096) as u32).to_le_bytes();
    let file = dir.path().join("longer");
    let bytes = bzimage_of(&[&sound[..end - 4], &longer].concat());
    std::fs::write(&file, bytes).expect("a temporary file");
    for technology in TECHNOLOGIES {
        let ended = guest(technology).args(["--memory", "64M", "--kernel"]).arg(&file).run();
        ended.expect_code(CRASHED);
        ended.expect_words(&format!("({TERMINATION_SET:#x}:{:#x})", Termination::BAD_LZ4.0));
        ended.expect_words("the LZ4 payload is malformed");
    }
}

#[test]
fn what_the_shim_cannot_unpack_is_said_with_a_cure() {
    let refused = |kernel: &std::path::Path| {
        let ended = guest("snp").arg("--kernel").arg(kernel).run();
        ended.expect_complaint(USAGE);
        ended
    };
    refused(&bzimage("6.12"))
        .expect_words("the shim unpacks LZ4 only")
        .expect_words("CONFIG_KERNEL_LZ4=y");
    refused(&vmlinux("6.12")).expect_words("nothing for the shim to unpack");
}
