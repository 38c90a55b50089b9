"""Cuts the raw BTF section out of an uncompressed kernel image: btf-of-image.py IMAGE > BTF.

A BTF header (include/uapi/linux/btf.h) is the magic 0xeb9f, version 1, flags 0, header length 24, then offset and length
of the types and of the strings; in a kernel the strings follow the types. The largest such section is the kernel's own.
"""
import struct
import sys

image = open(sys.argv[1], "rb").read()
best = b""
at = image.find(b"\x9f\xeb\x01\x00")
while at >= 0:
    if at + 24 <= len(image):
        header, types, types_length, strings, strings_length = struct.unpack_from("<5I", image, at + 4)
        end = at + 24 + strings + strings_length
        if header == 24 and types == 0 and strings == types_length and end <= len(image) and end - at > len(best):
            best = image[at:end]
    at = image.find(b"\x9f\xeb\x01\x00", at + 1)
if not best:
    sys.exit(f"{sys.argv[1]}: no BTF (is the image compressed?)")
sys.stdout.buffer.write(best)
