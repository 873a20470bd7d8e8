//! Unmodified Debian kernels to user space: the whole matrix.

use cvmm_tests::{Cvmm, KERNELS, bzimage, in_parallel, vmlinux};

/// One cell of the matrix.
struct Cell {
    kernel: &'static str,
    elf: bool,
    technology: &'static str,
    cpus: u32,
    load: &'static str,
    memory: &'static str,
}

fn matrix() -> Vec<(String, Cell)> {
    let mut cells = Vec::new();
    for kernel in KERNELS {
        for elf in [false, true] {
            for technology in ["plain", "snp", "tdx"] {
                for cpus in [1, 2, 4] {
                    for load in ["hashed", "measured"] {
                        for memory in ["512M", "2G"] {
                            let name = format!(
                                "{kernel} {} {technology} {cpus} vCPUs {load} {memory}",
                                if elf { "vmlinux" } else { "bzImage" },
                            );
                            cells
                                .push((name, Cell { kernel, elf, technology, cpus, load, memory }));
                        }
                    }
                }
            }
        }
    }
    cells
}

/// The kernel's own words (Linux arch/x86/mm/mem_encrypt.c).
fn active(features: &str) -> String {
    format!("Memory Encryption Features active: {features}")
}

#[test]
fn debian_kernels_reach_user_space_and_power_off() {
    let only = std::env::var("CVMM_MATRIX").unwrap_or_default();
    let cells = matrix().into_iter().filter(|(name, _)| name.contains(&only)).collect();
    in_parallel(cells, |_, cell| {
        let image = if cell.elf { vmlinux(cell.kernel) } else { bzimage(cell.kernel) };
        let ended = Cvmm::new(["--emulate", "--timeout", "200", "--load", cell.load])
            .arg(format!("--{}", cell.technology))
            .args(["--memory", cell.memory, "--cpus", &cell.cpus.to_string()])
            .linux(&image, cell.kernel)
            .run();
        ended.expect_code(0).expect_console("cvmm-init: ready");
        let online = if cell.cpus == 1 { "0".to_owned() } else { format!("0-{}", cell.cpus - 1) };
        ended.expect_console(&format!("cpus online: {online}"));
        match cell.technology {
            "snp" => ended.expect_console(&active("AMD SEV SEV-ES SEV-SNP")),
            "tdx" => ended.expect_console(&active("Intel TDX")),
            // Only where they are on; kernels before 6.2 need that.
            _ => ended.expect_console("MTRR map: "),
        };
    });
}
