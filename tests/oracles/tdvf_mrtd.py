#!/usr/bin/env python3
"""Computes MRTD of a TD that starts in a firmware image, from the image alone.

  tdvf_mrtd.py IMAGE

Written from the "Intel TDX Virtual Firmware Design Guide" (344991) for what the image says of itself, and from the "Intel
TDX Module 1.5 ABI Specification" (348551) for what TDH.MEM.PAGE.ADD and TDH.MR.EXTEND hash, in the order in which Linux adds
pages: section by section, page by page, each added and, if its section says so, extended before the next.
"""

import hashlib
import struct
import sys
import uuid

FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
TDX_METADATA = uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
MR_EXTEND = 1
PAGE_AUG = 2


def entries(image):
    """The table of GUIDs in front of the last 32 bytes, from its end."""
    end = len(image) - 32
    length, guid = struct.unpack("<H16s", image[end - 18 : end])
    if uuid.UUID(bytes_le=guid) != FOOTER:
        sys.exit("no table of GUIDs")
    start, at = end - length, end - 18
    while at > start:
        size, guid = struct.unpack("<H16s", image[at - 18 : at])
        yield uuid.UUID(bytes_le=guid), image[at - size : at - 18]
        at -= size


def sections(image):
    (distance,) = struct.unpack("<I", dict(entries(image))[TDX_METADATA][:4])
    at = len(image) - distance
    signature, _, version, count = struct.unpack("<4sIII", image[at : at + 16])
    if (signature, version) != (b"TDVF", 1):
        sys.exit("no TDVF metadata")
    for number in range(count):
        yield struct.unpack_from("<IIQQII", image, at + 16 + 32 * number)


def mrtd(image):
    sha = hashlib.sha384()
    for offset, raw, gpa, length, _, attributes in sections(image):
        if attributes & PAGE_AUG:
            continue
        contents = image[offset : offset + raw].ljust(length, b"\0")
        for page in range(0, length, 4096):
            sha.update(b"MEM.PAGE.ADD".ljust(16, b"\0") + struct.pack("<Q", gpa + page) + bytes(104))
            for chunk in range(page, page + 4096, 256) if attributes & MR_EXTEND else ():
                sha.update(b"MR.EXTEND".ljust(16, b"\0") + struct.pack("<Q", gpa + chunk) + bytes(104))
                sha.update(contents[chunk : chunk + 256])
    return sha.hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], "rb") as file:
        print(mrtd(file.read()))
