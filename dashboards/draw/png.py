"""Smaller PNGs: a screenshot with at most 256 colours, which flat graphics hardly show. Pure Python, a few seconds a picture."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Final

_HEAD: Final = b"\x89PNG\r\n\x1a\n"
_COLOURS: Final = 256
Colour = tuple[int, int, int]


def reduced(data: bytes) -> bytes:
    """The same picture with a palette; ValueError where it is not 8-bit RGB or RGBA without interlacing. Transparency is dropped."""
    chunks = list(_chunks(data))
    (width, high, depth, kind, _, _, interlaced) = struct.unpack(">IIBBBBB", chunks[0][1])
    if depth != 8 or kind not in (2, 6) or interlaced:
        raise ValueError("only 8-bit RGB and RGBA can be reduced")
    size = 3 if kind == 2 else 4
    raw = zlib.decompress(b"".join(body for name, body in chunks if name == b"IDAT"))
    rows = [_colours(row, size) for row in _unfiltered(raw, width * size, size)]
    counted: Counter[bytes] = Counter()
    for row in rows:
        counted.update(row)
    palette = _palette(counted)
    nearest = _nearest(counted, palette)
    packed = b"".join(b"\0" + bytes(map(nearest.__getitem__, row)) for row in rows)
    head = struct.pack(">IIBBBBB", width, high, 8, 3, 0, 0, 0)
    parts = ((b"IHDR", head), (b"PLTE", b"".join(palette)), (b"IDAT", zlib.compress(packed, 9)), (b"IEND", b""))
    return _HEAD + b"".join(_chunk(name, body) for name, body in parts)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not data.startswith(_HEAD):
        raise ValueError("not a PNG")
    at = len(_HEAD)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _unfiltered(raw: bytes, wide: int, size: int) -> Iterator[bytes]:
    """The rows of a picture, as they were before each was filtered (PNG, section 9)."""
    above = bytearray(wide)
    for at in range(0, len(raw), wide + 1):
        row, how = bytearray(raw[at + 1 : at + 1 + wide]), raw[at]
        if how == 1:
            for x in range(size, wide):
                row[x] = (row[x] + row[x - size]) & 255
        elif how == 2:
            row = bytearray([(own + up) & 255 for own, up in zip(row, above, strict=True)])
        elif how == 3:
            for x in range(wide):
                row[x] = (row[x] + ((row[x - size] if x >= size else 0) + above[x]) // 2) & 255
        elif how == 4:
            _paeth(row, above, size)
        yield bytes(row)
        above = row


def _paeth(row: bytearray, above: bytearray, size: int) -> None:
    for x in range(len(row)):
        left, corner = (row[x - size], above[x - size]) if x >= size else (0, 0)
        up = above[x]
        far_left, far_up, far_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
        guess = left if far_left <= far_up and far_left <= far_corner else up if far_up <= far_corner else corner
        row[x] = (row[x] + guess) & 255


def _colours(row: bytes, size: int) -> list[bytes]:
    return [row[x : x + 3] for x in range(0, len(row), size)]


def _palette(counted: Counter[bytes]) -> list[bytes]:
    """The most frequent colours, without those that lie close to one that is there already."""
    found: list[bytes] = []
    for near in (60, 24, 6, 0):
        for colour, _ in counted.most_common(6000):
            if len(found) == _COLOURS:
                return found
            if colour not in found and all(_apart(colour, other) > near for other in found):
                found.append(colour)
    return found


def _apart(one: bytes, other: bytes) -> int:
    return 2 * (one[0] - other[0]) ** 2 + 4 * (one[1] - other[1]) ** 2 + 3 * (one[2] - other[2]) ** 2


def _nearest(counted: Counter[bytes], palette: list[bytes]) -> dict[bytes, int]:
    """The place in the palette for each colour."""
    exact = {colour: number for number, colour in enumerate(palette)}
    return {
        colour: exact[colour] if colour in exact else min(range(len(palette)), key=lambda number: _apart(colour, palette[number]))
        for colour in counted
    }
