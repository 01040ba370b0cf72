"""Reads part of a stored session, knowing only what src/frames.rs says of the format: reader.py FILE FROM LENGTH

Decodes the frames that hold the part, with zstd, and no other; tells on standard error which."""

import struct
import subprocess
import sys
import zlib


def trailer(data, end):
    """What the commit trailer that ends here says: logical size, sealed end, length of the frame before."""
    if end < 32:
        return None
    magic, length, logical, sealed, frame, check = struct.unpack_from("<IIQQII", data, end - 32)
    sound = check == zlib.crc32(data[end - 32 : end - 4] + struct.pack("<Q", end - 32))
    return (logical, sealed, frame) if (magic, length, sound) == (0x184D2A5C, 24, True) else None


def sealed_frames(data, end):
    """Offsets and lengths, stored and decoded, of the frames that the seek table at the end of the sealed part names."""
    count, _, magic = struct.unpack_from("<IBI", data, end - 9)
    assert magic == 0x8F92EAB1, "a seek table"
    at, start = 0, 0
    for number in range(count):
        stored, decoded = struct.unpack_from("<II", data, end - 9 - 8 * (count - number))
        yield at, stored, start, decoded
        at, start = at + stored, start + decoded


def frames(data):
    found, end = [], len(data)
    while (told := trailer(data, end)) is not None:
        logical, sealed, length = told
        at = end - 32 - length
        before = trailer(data, at)
        start = before[0] if before else 0
        if before is None and 0 < at == sealed:
            start = sum(decoded for *_, decoded in sealed_frames(data, at))
        if length:
            found.insert(0, (at, length, start, logical - start))
        end = at
    return list(sealed_frames(data, end)) + found if end > 0 else found


path, first, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
data = open(path, "rb").read()
for at, stored, start, decoded in frames(data):
    if start < first + length and first < start + decoded:
        print(f"frame at {at}", file=sys.stderr)
        plain = subprocess.run(["zstd", "-dc"], input=data[at : at + stored], capture_output=True, check=True).stdout
        assert len(plain) == decoded, "a frame of the length that is told"
        sys.stdout.buffer.write(plain[max(first - start, 0) : first + length - start])
