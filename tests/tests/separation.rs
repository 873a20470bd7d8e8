//! SNP and TDX stand side by side: no file of one names the other, and few files name both.

use std::path::{Path, PathBuf};

/// Every Rust file of the products, relative to the root, with its text without comments.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let mut files = Vec::new();
    for folder in ["vmm/abi/src", "vmm/cvmm/src", "firmware/src", "tools/softkvm/src"] {
        visit(&root.join(folder), &mut files);
    }
    assert!(files.len() > 150, "only {} files were found", files.len());
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let code: Vec<&str> = code.collect();
            (path.strip_prefix(root).expect("below the root").to_owned(), code.join("\n"))
        })
        .collect()
}

fn visit(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            visit(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

/// Whether a path belongs to one technology by the name of a file or folder.
fn belongs(path: &Path, names: &[&str]) -> bool {
    path.components().any(|part| {
        let part = part.as_os_str().to_string_lossy();
        let words = part.trim_end_matches(".rs").split(['_', '-', '.']).collect::<Vec<_>>();
        names.iter().any(|name| words.contains(name))
    })
}

const SNP: [&str; 5] = ["snp", "sev", "ghcb", "psp", "rmp"];
const TDX: [&str; 2] = ["tdx", "td"];

/// Paths by which a module of each technology is reached.
fn imports(code: &str, names: &[&str]) -> Vec<String> {
    code.lines()
        .filter(|line| {
            let words: Vec<&str> =
                line.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
            let path = line.contains("::");
            path && words.iter().any(|word| {
                names.iter().any(|name| {
                    word == name || word.strip_prefix("kvm_").is_some_and(|rest| rest == *name)
                })
            })
        })
        .map(|line| line.trim().to_owned())
        .collect()
}

#[test]
fn neither_technology_imports_the_other() {
    for (path, code) in sources() {
        let (snp, tdx) = (belongs(&path, &SNP), belongs(&path, &TDX));
        assert!(!(snp && tdx), "{} belongs to both", path.display());
        let foreign = match (snp, tdx) {
            (true, false) => imports(&code, &TDX),
            (false, true) => imports(&code, &["snp", "sev", "ghcb"]),
            _ => continue,
        };
        assert!(foreign.is_empty(), "{}: {foreign:#?}", path.display());
    }
}
