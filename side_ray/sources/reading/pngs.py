"""Reads the header of a PNG and removes the chunks that the pixels do not depend on."""

import struct

SIGNATURE = b"\x89PNG\r\n\x1a\n"
NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def is_deep(data: bytes) -> bool:
    """Whether the channels of a PNG have 16 bits."""
    return data[:8] == SIGNATURE and data[24:25] == b"\x10"


def without_metadata(data: bytes) -> bytes:
    """The PNG without text, EXIF, colour profiles and animation. A truncated PNG stays truncated."""
    kept, at = [data[:8]], 8
    while at + 8 <= len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        end = at + 12 + size
        if data[at + 4 : at + 8] in NEEDED:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)
