"""MRTD of a TD that a monitor starts with an OVMF image: python3 mrtd.py FIRMWARE

Written from Intel's documents alone: "TDX Virtual Firmware Design Guide", the TDVF descriptor; "TDX Module Base Architecture
Specification", measurement of TDH.MEM.PAGE.ADD and TDH.MR.EXTEND; and the GUID table of edk2's OvmfPkg/ResetVector. Pages are
taken section by section as the descriptor lists them, each one added and, where its section says so, extended at once, which is
what KVM_TDX_INIT_MEM_REGION does (Linux arch/x86/kvm/vmx/tdx.c).
"""

import hashlib
import struct
import sys
import uuid

PAGE = 4096
CHUNK = 256
TABLE_FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
DESCRIPTOR_OFFSET = uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
# Attributes of a section.
MR_EXTEND = 1
PAGE_AUG = 2


def descriptor(image):
    """Where the descriptor lies: the GUID table grows downwards from 32 bytes below the end of the image."""
    top = len(image) - 32
    guid = image[top - 16 : top]
    if guid != TABLE_FOOTER:
        raise ValueError("the image has no GUID table")
    (length,) = struct.unpack_from("<H", image, top - 18)
    at, bottom = top - 18, top - length
    while at > bottom:
        (size,) = struct.unpack_from("<H", image, at - 18)
        if size < 18:
            raise ValueError("damaged GUID table")
        if image[at - 16 : at] == DESCRIPTOR_OFFSET:
            (back,) = struct.unpack_from("<I", image, at - size)
            return len(image) - back
        at -= size
    raise ValueError("the image has no TDVF descriptor")


def sections(image):
    """Data offset, data size, address, memory size and attributes of each section."""
    at = descriptor(image)
    signature, length, version, count = struct.unpack_from("<4sIII", image, at)
    if (signature, version, length) != (b"TDVF", 1, 16 + 32 * count):
        raise ValueError("damaged TDVF descriptor")
    for index in range(count):
        entry = struct.unpack_from("<IIQQII", image, at + 16 + 32 * index)
        offset, size, address, memory, _kind, attributes = entry
        yield offset, size, address, memory, attributes


def mrtd(image):
    digest = hashlib.sha384()
    for offset, size, address, memory, attributes in sections(image):
        if attributes & PAGE_AUG:
            continue
        data = image[offset : offset + size].ljust(memory, b"\0")
        for page in range(0, memory, PAGE):
            digest.update(struct.pack("<16sQ104x", b"MEM.PAGE.ADD", address + page))
            if not attributes & MR_EXTEND:
                continue
            for chunk in range(page, page + PAGE, CHUNK):
                digest.update(struct.pack("<16sQ104x", b"MR.EXTEND", address + chunk))
                digest.update(data[chunk : chunk + CHUNK])
    return digest.hexdigest()


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        print(mrtd(file.read()))
