"""What is in a recording, without a line of acktrail's code: the bytes of its blocks (src/capture/recording.rs has the format)."""

import struct

import lz4.block

MAGIC, END = b"acktrail", ord("E")
BLOCK = struct.Struct("<BIIII")
CHECKSUM = 8


def blocks(path):
    """The blocks of a recording, unpacked."""
    data = path.read_bytes()
    if not data.startswith(MAGIC):
        raise ValueError(f"{path} is no recording")
    (header,) = struct.unpack_from("<I", data, len(MAGIC) + 2)
    at = len(MAGIC) + 6 + header + CHECKSUM
    while at < len(data):
        kind, packed, raw, _, _ = BLOCK.unpack_from(data, at)
        at += BLOCK.size
        bytes_ = data[at:at + packed]
        at += packed + CHECKSUM
        if kind != END:
            yield lz4.block.decompress(bytes_, uncompressed_size=raw) if kind == ord("L") else bytes_


def holds(path, *words):
    """Which of these words are in it."""
    found = set()
    for block in blocks(path):
        found |= {word for word in words if word in block}
    return sorted(found)
