"""Changes to files: damage by chance, and lies that keep a file's form.

Each takes the content of a file and a source of randomness, and returns other content.
"""

from __future__ import annotations

import io
import json
import pickletools
import random
import struct
import zipfile
import zlib
from typing import Any

LARGEST = 4_000_000  # bytes of a mutated file

INTEGERS = (0, 1, -1, 2, 7, 255, 256, 65535, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 10**30)
NUMBERS = (*INTEGERS, 0.0, -0.0, 0.5, 1e-320, 1e39, 1e308, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    *(
        "",
        " ",
        "0",
        "-1",
        "nan",
        "true",
        "None",
        "..",
        "/",
        "/dev/zero",
        "../../etc/passwd",
        "a\0b",
        "\ud800",
    ),
    *("x" * 5000, "ä" * 300, "%s%n{0}", "1e400", "1" * 5000, "float32", "[", "\n", "\u202e"),
)


def flip_bits(data: bytes, draw: random.Random) -> bytes:
    """One bit, or some."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 4, 30)) if out else 0):
        out[draw.randrange(len(out))] ^= 1 << draw.randrange(8)
    return bytes(out)


def set_bytes(data: bytes, draw: random.Random) -> bytes:
    """A few bytes in a row become 0, 255 or others."""
    out = bytearray(data)
    at, count = draw.randrange(len(out) + 1), draw.choice((1, 2, 4, 8, 64))
    fill = draw.choice((b"\x00" * count, b"\xff" * count, b"\x7f" * count, draw.randbytes(count)))
    out[at : at + count] = fill
    return bytes(out)


def cut(data: bytes, draw: random.Random) -> bytes:
    """The end, the start or something between is missing."""
    low, high = sorted((draw.randrange(len(data) + 1), draw.randrange(len(data) + 1)))
    return draw.choice((data[:low], data[low:], data[:low] + data[high:]))


def splice(data: bytes, draw: random.Random) -> bytes:
    """A piece of the file stands somewhere else, too."""
    low, high = sorted((draw.randrange(len(data) + 1), draw.randrange(len(data) + 1)))
    at = draw.randrange(len(data) + 1)
    return (data[:at] + data[low:high] + data[at:])[:LARGEST]


def set_integer(data: bytes, draw: random.Random) -> bytes:
    """A binary number somewhere becomes a small, a large or a negative one."""
    size, order = draw.choice((1, 2, 4, 8)), draw.choice(("little", "big"))
    if len(data) < size:
        return data
    at = draw.randrange(len(data) - size + 1)
    value = draw.choice(INTEGERS) % 2 ** (8 * size)
    return data[:at] + value.to_bytes(size, order) + data[at + size :]  # type: ignore[arg-type]


BYTES = (flip_bits, set_bytes, cut, splice, set_integer)


def numbers_in_text(data: bytes, draw: random.Random) -> bytes:
    """A number in a text becomes another one, or a word."""
    text = data.decode("utf-8", "surrogateescape")
    spans: list[tuple[int, int]] = []
    start = None
    for i, character in enumerate(f"{text} "):
        if character in "0123456789.-+e" and (start is not None or character not in "e"):
            start = i if start is None else start
        elif start is not None:
            spans.append((start, i))
            start = None
    if not spans:
        return data
    low, high = draw.choice(spans)
    other = draw.choice((str(draw.choice(NUMBERS)), draw.choice(TEXTS), str(draw.randrange(-100, 100))))
    return (text[:low] + other + text[high:]).encode("utf-8", "surrogatepass")


def lines_of_text(data: bytes, draw: random.Random) -> bytes:
    """A line is gone, doubled, repeated very often, or moved."""
    lines = data.split(b"\n")
    at = draw.randrange(len(lines))
    line = lines.pop(at)
    copies = draw.choice((0, 2, 3, min(100_000, LARGEST // (len(line) + 1))))
    to = draw.choice((at, draw.randrange(len(lines) + 1)))
    return b"\n".join([*lines[:to], *[line] * copies, *lines[to:]])


TEXT = (*BYTES, numbers_in_text, numbers_in_text, lines_of_text)


def _random_value(draw: random.Random, depth: int = 0) -> Any:
    kinds = ("number", "number", "text", "constant", "list", "dict", "deep")
    match draw.choice(kinds if depth < 2 else kinds[:4]):
        case "number":
            return draw.choice(NUMBERS)
        case "text":
            return draw.choice(TEXTS)
        case "constant":
            return draw.choice((None, True, False))
        case "list":
            return [_random_value(draw, depth + 1) for _ in range(draw.choice((0, 1, 3)))]
        case "dict":
            return {draw.choice(TEXTS): _random_value(draw, depth + 1) for _ in range(draw.choice((0, 1, 3)))}
    value: Any = []
    for _ in range(draw.choice((5, 300))):
        value = [value] if draw.random() < 0.5 else {"a": value}
    return value


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every place in nested lists and dicts: (container, key)."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            _places(value[key], found)
    return found


def change_value(value: Any, draw: random.Random) -> Any:
    """A JSON value of which one place is changed in type, value or number, moved, or gone."""
    places = _places(value, [])
    if not places or draw.random() < 0.02:
        return _random_value(draw)
    holder, key = draw.choice(places)
    match draw.randrange(7):
        case 0 | 1 | 2:
            holder[key] = _random_value(draw)
        case 3:
            del holder[key]
        case 4:
            other, place = draw.choice(places)
            holder[key] = json.loads(json.dumps(other[place])) if place in _keys(other) else None
        case 5 if isinstance(holder, dict):
            holder[draw.choice((*TEXTS, *_keys(draw.choice(places)[0])))] = holder.pop(key)
        case _:
            old = holder[key]
            if isinstance(old, int | float):
                holder[key] = draw.choice((old + 1, old - 1, -old, old * 2, old / 2, str(old), [old]))
            elif isinstance(old, list):
                holder[key] = draw.choice((old[1:], old + old, old * min(1000, 10**5 // (len(old) + 1))))
            else:
                holder[key] = draw.choice(([old], {"a": old}, None))
    return value


def _keys(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


def json_values(data: bytes, draw: random.Random) -> bytes:
    """The structure of a JSON file is changed; it stays JSON."""
    try:
        value = json.loads(data)
        return json.dumps(change_value(value, draw)).encode()[:LARGEST]
    except (ValueError, RecursionError):
        return flip_bits(data, draw)


def json_depth(data: bytes, draw: random.Random) -> bytes:
    """Very deep nesting at some place."""
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.choice((b"[", b'{"a":')) * draw.choice((10, 1500, 100_000)) + data[at:]


JSON = (*BYTES, numbers_in_text, json_values, json_values, json_values, json_values, json_depth)


def safetensors_header(data: bytes, draw: random.Random) -> bytes:
    """The header says something else; its length is right, mostly."""
    length = int.from_bytes(data[:8], "little")
    header = json_values(data[8 : 8 + length], draw)
    said = len(header) if draw.random() < 0.95 else draw.choice(INTEGERS) % 2**64
    return said.to_bytes(8, "little") + header + data[8 + length :]


SAFETENSORS = (*BYTES, safetensors_header, safetensors_header, safetensors_header)

OPCODES = tuple(opcode.code.encode("latin-1") for opcode in pickletools.opcodes)


def pickle_opcodes(data: bytes, draw: random.Random) -> bytes:
    """Opcodes of a pickle are gone, doubled, moved, replaced, or have other numbers."""
    try:
        places = [place for _, _, place in pickletools.genops(data) if place is not None]
    except Exception:  # of a pickle that is damaged already
        return flip_bits(data, draw)
    places.append(len(data))
    parts = [data[low:high] for low, high in zip(places, places[1:], strict=False)]
    for _ in range(draw.choice((1, 1, 2, 5)) if parts else 0):
        at = draw.randrange(len(parts))
        match draw.randrange(6):
            case 0:
                parts[at] = b""
            case 1:
                parts[at] += draw.choice(parts) * draw.choice((1, 1, 1, 1000))
            case 2:
                parts[at] = draw.choice(parts)
            case 3:
                parts[at] = draw.choice(OPCODES) + parts[at][1:]
            case 4:
                parts.insert(at, draw.choice(PICKLE_BOMBS))
            case _:
                parts[at] = _other_number(parts[at], draw)
    return b"".join(parts)[:LARGEST]


def _other_number(part: bytes, draw: random.Random) -> bytes:
    value = draw.choice(INTEGERS)
    if part[:1] in b"JKM":  # BININT, BININT1, BININT2
        return b"J" + struct.pack("<i", (value + 2**31) % 2**32 - 2**31)
    if part[:1] in b"qr":  # BINPUT, LONG_BINPUT
        return b"r" + struct.pack("<I", value % 2**32)
    if part[:1] in b"hj":
        return b"j" + struct.pack("<I", value % 2**32)
    if part[:1] == b"X" and len(part) > 5:  # BINUNICODE
        text = draw.choice(TEXTS).encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", draw.choice((len(text), value % 2**32))) + text
    return b"\x8a\x09" + (value % 2**64).to_bytes(9, "little")  # LONG1


PICKLE_BOMBS = (
    b"r\x00\x00\x00\x10",  # LONG_BINPUT of 2^28: a table of 4 GB in the library's unpickler
    b"(" * 10_000,
    b"]" * 10_000,
    b")" + b"\x85" * 10_000,  # tuples in tuples
    b"2\x86" * 50,  # (t, t) of (t, t) of ..: 2^50 to hash
    b"}q\x7fh\x7fh\x7fs",  # a dict that has itself as a key
    b"\x8b\xff\xff\xff\x7f",  # LONG4 of 2 GB
    b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",  # BINUNICODE8
    b"cos\nsystem\n",
    b"cbuiltins\neval\nX\x01\x00\x00\x001\x85R",
    b"}b",  # BUILD
    b"\x81",  # NEWOBJ
    b"Q",  # BINPERSID
    b"R",  # REDUCE
    b"0",
    b"1",
)


def torch_pickle(data: bytes, draw: random.Random) -> bytes:
    """The pickle inside a file that torch.save wrote is changed; the zip around it stays whole."""
    return _change_entry(data, draw, "/data.pkl", pickle_opcodes)


def _change_entry(data: bytes, draw: random.Random, ending: str, mutate) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    except Exception:  # of a zip that is damaged already
        return flip_bits(data, draw)
    names = [name for name in entries if name.endswith(ending)]
    if names:
        name = draw.choice(names)
        entries[name] = mutate(entries[name], draw)
    return stored_zip(entries)


def zip_entry(data: bytes, draw: random.Random) -> bytes:
    """Any entry of a zip is damaged; its checksum is right."""
    return _change_entry(data, draw, "", draw.choice(BYTES))


def zip_directory(data: bytes, draw: random.Random) -> bytes:
    """A number in the directory at the end of a zip is another one."""
    start = data.find(b"PK\x01\x02")
    if start < 0:
        return flip_bits(data, draw)
    return data[:start] + set_integer(data[start:], draw)


def stored_zip(entries: dict[str, bytes]) -> bytes:
    """A zip file without compression."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


TORCH = (*BYTES, torch_pickle, torch_pickle, torch_pickle, zip_entry, zip_directory)


def compressed(data: bytes, draw: random.Random) -> bytes:
    """A zlib stream: what is inside is changed."""
    try:
        return zlib.compress(draw.choice(BYTES)(zlib.decompress(data), draw))
    except zlib.error:
        return flip_bits(data, draw)


def npy_header(data: bytes, draw: random.Random) -> bytes:
    """The header of a .npy file says something else; its length is right."""
    if data[:6] != b"\x93NUMPY" or len(data) < 12:
        return flip_bits(data, draw)
    size = 2 if data[6] == 1 else 4
    start, length = 8 + size, int.from_bytes(data[8 : 8 + size], "little")
    header = numbers_in_text(data[start : start + length], draw)
    if draw.random() < 0.5:
        header = draw.choice(BYTES)(header, draw)
    return data[:8] + len(header).to_bytes(8, "little")[:size] + header + data[start + length :]


def npz_entry(data: bytes, draw: random.Random) -> bytes:
    """The header of an array in a .npz file says something else."""
    return _change_entry(data, draw, ".npy", npy_header)


NPY = (*BYTES, npy_header, npy_header)
NPZ = (*BYTES, zip_entry, zip_directory, npz_entry, npz_entry)
