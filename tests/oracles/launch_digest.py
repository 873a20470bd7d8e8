#!/usr/bin/env python3
"""Recomputes SEV-SNP launch digests with somebody else's code: the GCTX class of sev-snp-measure (PyPI).

  launch_digest.py check PAGES.jsonl [DIGEST]   fold a page list written by `cvmm ... --dump-pages`; compare if DIGEST is given
  launch_digest.py vectors > FILE.json          print the golden vectors kept in tools/softkvm/tests/data

Needs `pip install sev-snp-measure`. Each line of a page list is {"gpa": int, "type": int, "contents": hex, ...} in launch
order; types are those of the firmware ABI: 1 normal, 2 VMSA, 3 zero, 4 unmeasured, 5 secrets, 6 CPUID; null for a page that is not
launched but hashed by a launch page, which is checked as well.
"""

import hashlib
import json
import sys

from sevsnpmeasure.gctx import GCTX
from sevsnpmeasure.vmm_types import VMMType
from sevsnpmeasure.vmsa import VMSA


def fold(gctx, kind, gpa, contents):
    """Extends a digest by one page."""
    if kind == 1:
        gctx.update_normal_pages(gpa, contents)
    elif kind == 2:
        if gpa != GCTX.VMSA_GPA:
            sys.exit(f"VMSA at {gpa:#x}: KVM measures it at {GCTX.VMSA_GPA:#x}")
        gctx.update_vmsa_page(contents)
    elif kind == 3:
        gctx.update_zero_pages(gpa, 4096)
    elif kind == 4:
        gctx.update_unmeasured_pages(gpa, 4096)
    elif kind == 5:
        gctx.update_secrets_page(gpa)
    elif kind == 6:
        gctx.update_cpuid_page(gpa)
    else:
        sys.exit(f"unknown page type {kind}")


def check(path, expected):
    gctx = GCTX()
    pages = 0
    boot, hashed = None, hashlib.sha256()
    with open(path, encoding="ascii") as lines:
        for line in lines:
            page = json.loads(line)
            contents = bytes.fromhex(page["contents"])
            if len(contents) != 4096:
                sys.exit(f"page {pages}: {len(contents)} bytes of contents")
            if page["tag"] == "boot":
                boot = contents
            if page["type"] is None:
                hashed.update(contents)
                continue
            fold(gctx, page["type"], page["gpa"], contents)
            pages += 1
    # The boot page has the hash of the pages without type: seven bytes in each word from 0x340.
    if boot is not None:
        packed = b"".join(boot[at + 1 : at + 8] for at in range(0x340, 0x380, 8))
        if packed[:32] != hashed.digest():
            sys.exit("the boot page has another hash than the second stage")
    digest = gctx.ld().hex()
    print(digest)
    if expected is not None and expected.lower() != digest:
        sys.exit(f"differs from {expected} over {pages} pages")


def pattern(seed):
    """Contents of a golden vector's page; the Rust test has the same formula."""
    if seed is None:
        return bytes(4096)
    return bytes((seed + i * 131 + (i >> 8) * 17) & 0xFF for i in range(4096))


def golden():
    """Page lists: [type, gpa, seed or null]; a VMSA's seed is its vCPU's CPU signature."""
    lists = {
        "one normal": [[1, 0x1000, 7]],
        "one normal of zeros": [[1, 0x1000, None]],
        "one zero": [[3, 0x1000, None]],
        "one unmeasured": [[4, 0x1000, 7]],
        "one secrets": [[5, 0x1000, None]],
        "one CPUID": [[6, 0x1000, None]],
        "CPUID elsewhere": [[6, 0x2000, None]],
        "two normal": [[1, 0x1000, 1], [1, 0x2000, 2]],
        "two normal swapped": [[1, 0x2000, 2], [1, 0x1000, 1]],
        "high address": [[1, 0xFFFFF000, 3], [1, 0x1_0000_0000, 4], [3, 0xF_FFFF_F000, None]],
        "every type": [[k, 0x1000 * (k + 1), k] for k in (1, 3, 4, 5, 6)],
        "gap": [[1, 0x1000, 9], [1, 0x40_0000, 9], [1, 0x2000, 9]],
        "many": [[1 if i % 3 else 3, 0x10_0000 + i * 0x1000, i] for i in range(40)],
    }
    for cpus in (1, 2, 4, 64):
        lists[f"{cpus} processors at the reset vector"] = [[1, 0xFFFFF000, 5]] + [[2, GCTX.VMSA_GPA, 0xA00F11]] * cpus
    return lists


def vectors():
    out = []
    for name, pages in golden().items():
        gctx = GCTX()
        for kind, gpa, seed in pages:
            if kind == 2:
                contents = bytes(VMSA.build_save_area(VMSA.BSP_EIP, 1, seed, VMMType.QEMU))
            else:
                contents = pattern(seed)
            fold(gctx, kind, gpa, contents)
        out.append({"name": name, "pages": pages, "digest": gctx.ld().hex()})
    print("[")
    print(",\n".join(json.dumps(vector) for vector in out))
    print("]")


if __name__ == "__main__":
    if len(sys.argv) in (3, 4) and sys.argv[1] == "check":
        check(sys.argv[2], sys.argv[3] if len(sys.argv) == 4 else None)
    elif len(sys.argv) == 2 and sys.argv[1] == "vectors":
        vectors()
    else:
        sys.exit(__doc__)
