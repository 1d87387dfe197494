"""Bad input and what one gets for it, as data.

    PYTHONPATH=. python tests/bad_input.py      # writes docs/bad-input.md from what happens

A case is a row of that page: what is fed, the command, and what must come of it (see `Case` in bench.py).
"""

import gzip
import io
import json
import math
import os
import pickle
import struct
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import official
import pytest
import torch
import zstandard
from bench import DATA, PARAMS, SAMPLES, SEQUENCE, Bench, Case, Outcome, openlm_tensors
from conftest import SCALE, SOURCE, Project
from official import picture, prose, uid
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file

PAGE = SOURCE / "docs/bad-input.md"
NAN, DEEP = math.nan, 100_000


# --- settings ---------------------------------------------------------------------------------------------------------


def set_to(file: str, key: str, value: object):
    return lambda root: Project(root).set(file, key, value)


def content(file: str, data: bytes | str):
    data = data.encode() if isinstance(data, str) else data
    return lambda root: (root / file).write_bytes(data)


def a_folder(file: str):
    def feed(root: Path) -> None:
        (root / file).unlink()
        (root / file).mkdir()

    return feed


ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
CODE = "preset: !!python/object/apply:os.mkdir [harmed]\n"
ENCODER, CLAIMS, FIGURES = "configs/encoder/efficientnet_lite0.yaml", "configs/claims.yaml", "configs/published.csv"
FIGURE = "output,setting,task,value,unit,cell,column,note\n"
SCENES = "configs/tasks/scenes.yaml"

SETTINGS = [
    ("a key that there is not", set_to(PARAMS, "recipe.image_fracton", 0.1), "params.yaml: recipe.image_fracton: found 0.1, allowed: no such key; did you mean 'image_fraction'?"),
    ("a text for a number", set_to(PARAMS, "recipe.seed", "seven"), "params.yaml: recipe.seed: found 'seven', allowed: integer"),
    ("a number out of range", set_to(PARAMS, "recipe.image_fraction", 10), "params.yaml: recipe.image_fraction: found 10, allowed: less than or equal to 1"),
    ("NaN", set_to(PARAMS, "recipe.branch_percent", NAN), "params.yaml: recipe.branch_percent: found nan, allowed: "),
    ("a missing key", lambda root: Project(root).remove(PARAMS, "recipe.seed"), "params.yaml: recipe.seed: missing; this key must be set"),
    ("a key twice", content(PARAMS, "preset: small\npreset: tiny\n"), "params.yaml: (file): found 'while constructing a mapping"),
    ("a tab as indentation", content(PARAMS, "recipe:\n\tseed: 1\n"), "params.yaml: (file): found 'while scanning for the next token"),
    ("invalid UTF-8", content(PARAMS, b"preset: \xff\xfe\n"), "params.yaml: (file): found \"'utf-8' codec can't decode byte 0xff"),
    ("a NUL byte", content(PARAMS, b"preset: small\0\n"), "params.yaml: (file): found 'unacceptable character #x0000"),
    ("an empty file", content(PARAMS, b""), "params.yaml: preset: missing; this key must be set"),
    ("lists in lists, 5,000 deep", content(PARAMS, "preset: " + "[" * 5000 + "]" * 5000), "params.yaml: (file): found 'nested too deeply', allowed: valid YAML"),
    ("ten lines of aliases that are 4 billion values", content(PARAMS, ALIASES), "params.yaml: (file): found '4,412,961,516 values, aliases (*NAME) written out: more than 100,000'"),
    ("an alias within itself", content(PARAMS, "preset: &a [*a]\n"), "params.yaml: (file): found 'inf values, aliases (*NAME) written out"),
    ("a value that refers to itself", content(PARAMS, "preset: ${data}\ndata: ${preset}\n"), "params.yaml: preset: found '${data}', allowed: a plain value"),
    ("a tag that would run code", content(PARAMS, CODE), "params.yaml: (file): found 'could not determine a constructor for the tag "),
    ("a whole number of 5,000 digits", content(PARAMS, f"text_seed: {'9' * 5000}\n"), "params.yaml: (file): found 'Exceeds the limit (4300 digits)"),
    ("a folder in the place of the file", a_folder(PARAMS), "params.yaml: (file): found 'Is a directory', allowed: a mapping"),
    ("a preset elsewhere", set_to(PARAMS, "preset", "../small"), "params.yaml: preset: found '../small', allowed: a file of configs/scale/: small"),
    ("a width that heads do not divide", set_to(SCALE, "model.width", 34), f"{SCALE}: model.width: found 34, allowed: a multiple of 2 x heads = 4"),
    ("fewer tokens than a batch", set_to(SCALE, "text.tokens", 511), f"{SCALE}: text.tokens: found 511, allowed: at least one batch of 8 x 64 = 512"),
    ("weights of an encoder that are nowhere", set_to(ENCODER, "weights", "./nowhere"), f"{ENCODER}: weights: found './nowhere', allowed: an installed package or an existing folder"),
    ("an unknown data source", set_to("configs/data/scenes.yaml", "source", "laion"), "configs/data/scenes.yaml: source: found 'laion', allowed: 'scenes'"),
    ("a prompt without its question", set_to(SCENES, "vision.boxes.prompt", "Where?"), f"{SCENES}: vision.boxes.prompt: found 'Where?', allowed: a text with {{question}}"),
    ("a claim of no kind", content(CLAIMS, "early:\n  says: x\n"), f"{CLAIMS}: early: found [], allowed: exactly one of contrast"),
    ("a published figure that is no number", content(FIGURES, FIGURE + "table1,a,b,many,percent,,,\n"), f"{FIGURES}: line 2.value: found 'many', allowed: a number"),
    ("a published figure of a million letters", content(FIGURES, FIGURE + "x" * 10**6), f"{FIGURES}: (file): found 'field larger than field limit (131072)', allowed: a readable CSV table"),
]  # fmt: skip

# --- text -------------------------------------------------------------------------------------------------------------

RAW = "global-shard_01_of_10/local-shard_1_of_10/shard_00000001_processed.jsonl.zst"


def raw(change: Callable[[bytes], bytes]):
    """Change a file of documents as it lies on disk."""

    def feed(root: Path) -> None:
        file = root / "corpora/dclm" / RAW
        file.write_bytes(change(file.read_bytes()))

    return feed


def lines(content: bytes):
    """Add lines to a file of documents."""
    return raw(lambda data: zstandard.compress(zstandard.decompress(data) + content))


def flipped(data: bytes) -> bytes:
    return data[:20] + bytes(255 - byte for byte in data[20:40]) + data[40:]


def named(where: str):
    """What a quarantined record of the file of documents is called."""
    return f"{RAW}: record {where}: "


AT = SAMPLES + 1  # the line that is added
TEXT = [
    ("a file that is cut off", raw(lambda data: data[:-40]), named("-") + "ends in the middle of a zstandard frame", "quarantined"),
    ("a file with other bytes in its middle", raw(flipped), named("-") + "is not readable zstandard", "quarantined"),
    ("a zstandard window of 2 GB", raw(lambda _: b"\x28\xb5\x2f\xfd\0\xa8\1\0\0"), named("-") + "was compressed with a window of more than 1,024 MB (zstd --long)", "quarantined"),
    ("a file of no bytes", raw(lambda _: b""), named("-") + "ends in the middle of a zstandard frame", "quarantined"),
    ("text that is not compressed, called .zst", raw(lambda _: b'{"text": "a"}\n'), named("-") + "is not readable zstandard", "quarantined"),
    ("a line of invalid UTF-8", lines(b'{"text": "\xff"}\n'), named(AT) + "is not JSON ('utf-8' codec can't decode byte 0xff", "quarantined"),
    ("a line of 100 MB", lines(b'{"text": "' + b"x" * 10**8 + b'"}\n'), named(AT) + "is longer than 67,108,864 bytes", "quarantined"),
    ("a line of 256 MB in 12 KB", raw(lambda data: data + zstandard.compress(b"x" * 2**28)), named(AT) + "is longer than 67,108,864 bytes", "quarantined"),
    ("half of a surrogate pair", lines(b'{"text": "a\\ud800"}\n'), named(AT) + "is not JSON (half of a surrogate pair, which is no character)", "quarantined"),
    ("a key twice", lines(b'{"text": "a", "text": "b"}\n'), named(AT) + "is not JSON (the key 'text' occurs twice in an object)", "quarantined"),
    ("lists in lists, 100,000 deep", lines(b'{"text": "a", "x": ' + b"[" * DEEP + b"]" * DEEP + b"}\n"), named(AT) + "is not JSON (nested too deeply)", "quarantined"),
    ("a number of 5,000 digits", lines(b'{"text": ' + b"9" * 5000 + b"}\n"), named(AT) + "is not JSON (Exceeds the limit (4300 digits)", "quarantined"),
    ("a number for a text", lines(b'{"text": 3}\n'), named(AT) + "'text' is of type int", "quarantined"),
    ("a list for a document", lines(b'["text"]\n'), named(AT) + "is not an object", "quarantined"),
    ("an empty text", lines(b'{"text": ""}\n'), named(AT) + "'text' is empty", "quarantined"),
    ("no text", lines(b'{"body": "a"}\n'), named(AT) + "has no 'text'", "quarantined"),
    ("more bad records than settings allow", lines(b"{}\n" * 90), "dclm: 90 of 114 records and 0 of ", 1),
    ("NaN in a field that nobody needs", lines(b'{"text": "a cat", "score": NaN}\n'), "the number is not used", "read"),
    ("a NUL in a text", lines(b'{"text": "a\\u0000cat"}\n'), "a character like any other", "read"),
    ("blank lines", lines(b"\n \n\r\n"), "they are no records", "read"),
]  # fmt: skip


def remove(name: str):
    def feed(root: Path) -> None:
        for file in sorted((root / "corpora" / name).rglob("*.jsonl.zst")):
            file.unlink()

    return feed


def few(root: Path) -> None:
    remove("heldout")(root)
    official.dclm_raw(root / "corpora/heldout", files=1, documents=3)


def named_in_bytes(root: Path) -> None:
    (root / "corpora/dclm" / os.fsdecode(b"\xff.jsonl")).write_bytes(b'{"text": "a"}\n')


def link_to_nothing(root: Path) -> None:
    (root / "corpora/dclm/a.jsonl").symlink_to("nowhere")


def choice(**changes):
    good = {"id": "9", "context": "c", "choices": [" x", " y"], "gold": 1}
    return lambda root: official.dump(root / "corpora/choices/copa.jsonl", good | changes)


SOURCES = [
    ("a folder of text without any", remove("dclm"), "sources text: ValueError: corpora/dclm: no .jsonl or .json (also with .gz, .zst, .zstd) file here"),
    ("fewer held-out documents than asked for", few, "sources text: ValueError: corpora/heldout: has 3 documents, 4 are held out"),
    ("a name that is not UTF-8", named_in_bytes, "sources text: ValueError: corpora/dclm: the name of \\udcff.jsonl is not UTF-8; rename the file"),
    ("a link to nothing", link_to_nothing, "sources text: ValueError: corpora/dclm/a.jsonl: is no file, or a link to nothing; take it away"),
    ("multiple choice: a right answer that there is not", choice(gold=2), "sources text: BadRecord: corpora/choices/copa.jsonl: record 1: 'gold' is 2 with 2 choices; allowed to be left out: 0 (left_out_at_most of the task in configs/tasks); mend or replace the file"),
    ("multiple choice: a text for the choices", choice(choices="xy"), "copa.jsonl: record 1: 'choices' is of type str"),
    ("multiple choice: a number of 400 digits", choice(gold=10**400), "copa.jsonl: record 1: 'gold' is 1000"),
]  # fmt: skip

# --- tokenized text ---------------------------------------------------------------------------------------------------

GOOD_IDS = [7] * (SEQUENCE + 1)


def token_tar(*members: object):
    """A tar of token lists: lists, or bytes that should be some."""

    def feed(root: Path) -> None:
        packed = [one if isinstance(one, bytes) else gzip.compress(json.dumps(one).encode()) for one in members]
        samples = [{"__key__": f"0-{n}", "json.gz": data} for n, data in enumerate(packed)]
        official.tar(root / "corpora/tokens/00000000.tar", samples)
        manifest(f'{{"shard": "00000000", "num_sequences": {len(members)}}}\n')(root)

    return feed


def manifest(content: str):
    return lambda root: (root / "corpora/tokens/manifest.jsonl").write_text(content)


def bomb() -> bytes:
    """100 MB in 100 KB."""
    packer = zlib.compressobj(wbits=31)
    return b"".join(packer.compress(b"7, " * (1 << 20)) for _ in range(33)) + packer.flush()


IDS = "00000000.tar: record 0-1: "
LINE = '{"shard": "00000000", "num_sequences": 4}\n'
TOKENS = [
    ("a list that is too short", token_tar(GOOD_IDS, [7] * SEQUENCE), IDS + f"has {SEQUENCE} tokens, not {SEQUENCE + 1}", "quarantined"),
    ("the id of the image token", token_tar(GOOD_IDS, [*GOOD_IDS[1:], 1]), IDS + "has the id 1, which is no token of text", "quarantined"),
    ("an id of 400 digits", token_tar(GOOD_IDS, [10**400, *GOOD_IDS[1:]]), IDS + "has the id 1000", "quarantined"),
    ("ids with a fraction", token_tar(GOOD_IDS, [*GOOD_IDS[1:], 7.5]), IDS + "is not a list of whole numbers", "quarantined"),
    ("an object for a list", token_tar(GOOD_IDS, {"tokens": GOOD_IDS}), IDS + "is not a list of whole numbers", "quarantined"),
    ("a list that is not compressed", token_tar(GOOD_IDS, json.dumps(GOOD_IDS).encode()), IDS + "is not gzipped JSON", "quarantined"),
    ("a list of 100 MB in 100 KB", lambda root: token_tar(GOOD_IDS, bomb())(root), IDS + "is not gzipped JSON (longer than 67,108,864 bytes)", "quarantined"),
    ("a manifest that promises more", manifest(LINE.replace("4", "7")), "00000000.tar: record -: holds 4 records, its sidecar says 7", "quarantined"),
]  # fmt: skip
MANIFESTS = [
    ("no manifest", lambda root: (root / "corpora/tokens/manifest.jsonl").unlink(), "corpora/tokens/manifest.jsonl: is not there"),
    ("a manifest with NaN", manifest(LINE.replace("4", "NaN")), "corpora/tokens/manifest.jsonl: line 1: no shard and num_sequences (num_sequences is nan)"),
    ("a manifest with an infinite number", manifest(LINE.replace("4", "1e999")), "corpora/tokens/manifest.jsonl: line 1: no shard and num_sequences (num_sequences is inf)"),
    ("a manifest with a tar twice", manifest(LINE * 2), "corpora/tokens/manifest.jsonl: line 2: 00000000.tar is named twice"),
    ("a manifest with a tar that is not there", manifest(LINE + LINE.replace("00000000", "00000009")), "corpora/tokens/manifest.jsonl: 00000009.tar is named but not there"),
]  # fmt: skip

# --- captions: tars and their images ----------------------------------------------------------------------------------

TAR, NUMBER = "corpora/cc12m/00000.tar", 5
KEY = f"{NUMBER:09d}"


def samples() -> list[dict]:
    return [official.img2dataset_sample(n, prose(n, 5), picture(n)) for n in range(SAMPLES)]


def sample(**changes):
    """One sample of the tar with other members (None: without); its image's hash fits unless a sidecar is given."""

    def feed(root: Path) -> None:
        made = samples()
        new = changes | ({"json": b"{}"} if "jpg" in changes and "json" not in changes else {})
        made[NUMBER] = {key: data for key, data in (made[NUMBER] | new).items() if data is not None}
        official.tar(root / TAR, made)

    return feed


def sidecar(**changes):
    return sample(json=json.dumps({"uid": uid(NUMBER)} | changes).encode())


def whole_tar(change: Callable[[bytes], bytes]):
    return lambda root: (root / TAR).write_bytes(change((root / TAR).read_bytes()))


def member(name: str, data: bytes = b"", **options: object):
    """One more member at the tar's end, of any kind (`type`, `linkname`)."""

    def feed(root: Path) -> None:
        with tarfile.open(root / TAR, "a") as tar:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in options.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
        (root / "corpora/cc12m/00000_stats.json").unlink()

    return feed


def sparse(root: Path) -> None:
    """A member of 1 TB of which nothing is in the tar (GNU's old form)."""
    header = bytearray(tarfile.TarInfo("0000000zz.jpg").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[483:495] = tarfile.itn(1 << 40, 12, tarfile.GNU_FORMAT)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = (root / TAR).read_bytes().rstrip(b"\0")
    data += bytes(-len(data) % 512)
    (root / TAR).write_bytes(data + bytes(header) + bytes(1024))
    (root / "corpora/cc12m/00000_stats.json").unlink()


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def frames(format: str) -> bytes:
    made = [Image.new("RGB", (24, 20), colour) for colour in ("red", "green", "blue")]
    return encoded(made[0], format, save_all=True, append_images=made[1:], duration=100)


def talkative_png() -> bytes:
    """A comment of 200 MB in 200 KB."""
    facts = PngImagePlugin.PngInfo()
    facts.add_text("comment", "x" * 200_000_000, zip=True)
    return encoded(Image.new("RGB", (8, 8)), "PNG", pnginfo=facts)


def damaged_header(data: bytes) -> bytes:
    """The checksum of a header in the middle."""
    place = next(p for p in range(len(data) // 2 // 512 * 512, len(data), 512) if data[p + 257 : p + 262] == b"ustar")
    return data[: place + 148] + b"????????" + data[place + 156 :]


SAMPLE = f"00000.tar: record {KEY}: "
BY_UID = f"00000.tar: record {uid(NUMBER)}: "
CMYK = encoded(Image.new("CMYK", (24, 20), (9, 90, 200, 30)), "JPEG")
TARS = [
    ("a path that leaves the folder", member("../../0000000zz.jpg", picture(1)), "00000.tar: record ../../0000000zz: path leaves its folder: ../../0000000zz", "quarantined"),
    ("an absolute path", member("/etc/passwd.jpg", picture(1)), "00000.tar: record /etc/passwd: path leaves its folder: /etc/passwd", "quarantined"),
    ("a link to a file of the machine", member("0000000zz.txt", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "00000.tar: record 0000000zz: its members are links or devices, which are not followed", "quarantined"),
    ("a hard link to another sample's image", member("0000000zz.jpg", type=tarfile.LNKTYPE, linkname="000000001.jpg"), "00000.tar: record 0000000zz: its members are links or devices, which are not followed", "quarantined"),
    ("a device", member("0000000zz.jpg", type=tarfile.CHRTYPE), "00000.tar: record 0000000zz: its members are links or devices, which are not followed", "quarantined"),
    ("two members of one name", member(f"{SAMPLES - 1:09d}.jpg", picture(1)), f"00000.tar: record {SAMPLES - 1:09d}: has two members .jpg", "quarantined"),
    ("a name that is not UTF-8", member(os.fsdecode(b"\xff.jpg"), picture(1)), "00000.tar: record \\udcff: is no path of a file: \\udcff", "quarantined"),
    ("a sparse member of 1 TB", sparse, "00000.tar: record 0000000zz: its .jpg has 1,099,511,627,776 bytes, more than 268,435,456", "quarantined"),
    ("a tar that is cut off", whole_tar(lambda data: data[: len(data) // 2]), SAMPLE + "is not a readable tar (", "quarantined"),
    ("a tar with a damaged header", whole_tar(damaged_header), SAMPLE + "is not a readable tar (", "quarantined"),
    ("a text called .tar", whole_tar(lambda _: b"no tar at all" * 100), "00000.tar: record -: is not a readable tar", 1),
    ("a tar of no bytes", whole_tar(lambda _: b""), "00000.tar: record -: is not a readable tar", 1),
    ("a folder in the tar", member("00000", type=tarfile.DIRTYPE), "it is no record", "read"),
    ("statistics of other samples", lambda root: (root / "corpora/cc12m/00000_stats.json").write_text('{"successes": 15}'), "00000.tar: record -: holds 12 records, its sidecar says 15", "quarantined"),
    ("statistics that are NaN", lambda root: (root / "corpora/cc12m/00000_stats.json").write_text('{"successes": NaN}'), "corpora/cc12m/00000.tar: its _stats.json has no number of successes (successes is nan)", 1),
    ("no image", sample(jpg=None), SAMPLE + "has no image", "quarantined"),
    ("two images", sample(png=picture(5)), SAMPLE + "has 2 images (.jpg, .png), one is read", "quarantined"),
    ("names with dots", sample(**{"jpg": None, "txt": None, "full.jpg": picture(5), "full.txt": b"a cat"}), SAMPLE + "has no image: its members' names have dots (.full.jpg, .full.txt, .json), and a sample's key ends at its first dot; name the members KEY.jpg", "quarantined"),
    ("macOS's own files", member("._000000001.jpg", b"x"), "passed over, and counted", "read"),
    ("no caption", sample(txt=None), SAMPLE + "has no .txt", "quarantined"),
    ("a caption of invalid UTF-8", sample(txt=b"\xff\xfe"), SAMPLE + "text cannot be decoded ('utf-8' codec can't decode byte 0xff", "quarantined"),
    ("a blank caption", sample(txt=b" \n"), SAMPLE + "caption is empty", "quarantined"),
    ("a sidecar that is cut off", sample(json=b'{"uid": '), SAMPLE + "text cannot be decoded (Expecting value", "quarantined"),
    ("a sidecar with a key twice", sample(json=b'{"uid": "a", "uid": "b"}'), SAMPLE + "text cannot be decoded (the key 'uid' occurs twice in an object)", "quarantined"),
    ("a sidecar that is a list", sample(json=b"[]"), SAMPLE + "its .json is not an object", "quarantined"),
    ("a name of two lines", sidecar(uid="a\nb"), SAMPLE + "'uid' is neither a number nor a text of one line: 'a\\nb'", "quarantined"),
    ("NaN for a name", sidecar(uid=NAN), SAMPLE + "'uid' is neither a number nor a text of one line: nan", "quarantined"),
    ("an image of other bytes than its hash", sidecar(sha256="0" * 64), SAMPLE + "image does not have the sha256 of its .json", "quarantined"),
    ("NaN in a field that nobody needs", sidecar(similarity=NAN), "the number is not used", "read"),
]  # fmt: skip
IMAGES = [
    ("no bytes", sample(jpg=b""), SAMPLE + "not a JPEG, PNG, WebP, GIF or BMP image", "quarantined"),
    ("an image that is cut off", sample(jpg=picture(5)[:-300]), SAMPLE + "image cannot be decoded (OSError)", "quarantined"),
    ("an error page called .jpg", sample(jpg=b"<html>404</html>"), SAMPLE + "not a JPEG, PNG, WebP, GIF or BMP image", "quarantined"),
    ("a TIFF called .jpg", sample(jpg=frames("TIFF")), SAMPLE + "not a JPEG, PNG, WebP, GIF or BMP image", "quarantined"),
    ("an EPS called .jpg", sample(jpg=encoded(Image.new("RGB", (24, 20)), "EPS")), SAMPLE + "not a JPEG, PNG, WebP, GIF or BMP image", "quarantined"),
    ("a GIF called .jpg", sample(jpg=frames("GIF")), "its first frame", "read"),
    ("400 million pixels in 2 MB", lambda root: sample(jpg=official.large_png(20_000))(root), SAMPLE + "image cannot be decoded (DecompressionBombError)", "quarantined"),
    ("100 million pixels", lambda root: sample(jpg=encoded(Image.new("L", (10_000, 10_000)), "PNG"))(root), SAMPLE + "image has 10000 x 10000 px, more than 89,478,485 in all", "quarantined"),
    ("a comment of 200 MB in 200 KB", lambda root: sample(jpg=talkative_png())(root), "its texts are not read", "read"),
    ("a PNG called .jpg", sample(jpg=picture(5, format="PNG")), "by its bytes, whatever its name", "read"),
    ("CMYK", sample(jpg=CMYK), "as RGB", "read"),
    ("1 x 1 pixel", sample(jpg=picture(5, size=(1, 1))), "like any size", "read"),
    ("a strip of 65,000 x 1 pixels", sample(jpg=encoded(Image.new("RGB", (65_000, 1)), "JPEG")), "like any size", "read"),
    ("an animation", sample(jpg=frames("WEBP")), "its first frame", "read"),
]  # fmt: skip


def synthetic(**changes):
    """One sample of DataCompDR with other members."""

    def feed(root: Path) -> None:
        plain = {"syn.json": b'{"syn_text": ["a cat"]}'}
        made = [{"__key__": uid(n), **plain, "json": json.dumps({"uid": uid(n)}).encode()} for n in range(SAMPLES)]
        made[NUMBER] = {key: data for key, data in (made[NUMBER] | changes).items() if data is not None}
        official.tar(root / "corpora/dr/00000000.tar", made)

    return feed


def cut_synthetic(root: Path) -> None:
    file = root / "corpora/dr/00000000.tar"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


OF_DR = f"00000000.tar: record {uid(NUMBER)}: "
JOINED = [
    ("no synthetic captions", synthetic(**{"syn.json": None}), OF_DR + "has no syn_text", "quarantined"),
    ("an empty list of captions", synthetic(**{"syn.json": b'{"syn_text": []}'}), OF_DR + "has no syn_text", "quarantined"),
    ("numbers for captions", synthetic(**{"syn.json": b'{"syn_text": [1, 2]}'}), OF_DR + "the caption of its syn_text that is chosen is no text", "quarantined"),
    ("half of a surrogate pair in a caption", synthetic(**{"syn.json": b'{"syn_text": ["\\udc00"]}'}), OF_DR + "text cannot be decoded (half of a surrogate pair", "quarantined"),
    ("an object for a name", synthetic(json=b'{"uid": {"a": 1}}'), OF_DR + "'uid' is neither a number nor a text of one line: {'a': 1}", "quarantined"),
    ("a tar of captions that is cut off", cut_synthetic, "00000000.tar: record ",  "quarantined"),
    ("an image of other bytes than the captions were made for", lambda root: official.tar(root / TAR, [one | {"jpg": picture(99)} if n == NUMBER else one for n, one in enumerate(samples())]), SAMPLE + "image does not have the sha256 of its .json", "quarantined"),
]  # fmt: skip

# --- instructions -----------------------------------------------------------------------------------------------------

LLAVA = "corpora/llava/llava_v1_5_mix665k.json"
OF_LLAVA = f"llava_v1_5_mix665k.json: record {NUMBER:012d}: "


def records(change: Callable[[dict], object]):
    """Change one record of the list."""

    def feed(root: Path) -> None:
        made = json.loads((root / LLAVA).read_text())
        change(made[NUMBER])
        (root / LLAVA).write_text(json.dumps(made))

    return feed


def image(name: object):
    return records(lambda record: record.update(image=name))


def list_of(change: Callable[[str], str]):
    return lambda root: (root / LLAVA).write_text(change((root / LLAVA).read_text()))


def half_an_image(root: Path) -> None:
    path = root / "corpora/llava" / json.loads((root / LLAVA).read_text())[NUMBER]["image"]
    path.write_bytes(path.read_bytes()[:-200])


INSTRUCTIONS = [
    ("an image that is not there", image("coco/none.jpg"), OF_LLAVA + "no image coco/none.jpg", "quarantined"),
    ("an image outside the folder", image("../../secret.jpg"), OF_LLAVA + "path leaves its folder: ../../secret.jpg", "quarantined"),
    ("an image at an address", image("x::http://example.org/y.jpg"), OF_LLAVA + "is no path of a file: x::http://example.org/y.jpg", "quarantined"),
    ("a NUL in the image's name", image("coco/\0.jpg"), OF_LLAVA + "is no path of a file: coco/\\x00.jpg", "quarantined"),
    ("an image name of 3,000 letters", image("x" * 3000), OF_LLAVA + "no image xxx", "quarantined"),
    ("a folder for an image", image("coco"), OF_LLAVA + "no image coco", "quarantined"),
    ("an empty image name", image(""), OF_LLAVA + "'image' is empty", "quarantined"),
    ("a number for an image", image(7), OF_LLAVA + "'image' is of type int", "quarantined"),
    ("an image under another key", records(lambda r: r.update(image_path=r.pop("image"))), OF_LLAVA + "has no 'image' but 'image_path', which is not read; allowed: the name of one file, as 'image'", "quarantined"),
    ("a marker without an image", records(lambda r: r.pop("image")), OF_LLAVA + "has <image> at an end of what human says and no 'image'; its other keys: none", "quarantined"),
    ("two markers of one image", records(lambda r: r["conversations"][0].update(value="<image>\n<image>\nWhich?")), OF_LLAVA + "has 1 image and 2 <image> in what human says, allowed: 1", "quarantined"),
    ("an image that is cut off", half_an_image, OF_LLAVA + "image cannot be decoded (OSError)", "quarantined"),
    ("an odd number of messages", records(lambda r: r["conversations"].pop()), OF_LLAVA + "has 5 messages, not pairs of human and gpt", "quarantined"),
    ("an answer before the question", records(lambda r: r["conversations"].reverse()), OF_LLAVA + "message 0 is not from human", "quarantined"),
    ("no messages", records(lambda r: r.pop("conversations")), OF_LLAVA + "has no 'conversations'", "quarantined"),
    ("a list for a text", records(lambda r: r["conversations"][0].update(value=[])), OF_LLAVA + "'value' is of type list", "quarantined"),
    ("a list that is cut off", list_of(lambda text: text[:-300]), "llava_v1_5_mix665k.json: record 11: is not JSON", 1),
    ("an object for the list", list_of(lambda text: '{"data": ' + text + "}"), "llava_v1_5_mix665k.json: record 1: is not JSON (Expecting value", 1),
    ("something after the list", list_of(lambda text: text + "[]"), "llava_v1_5_mix665k.json: record 12: is not JSON", 1),
    ("a key twice", list_of(lambda text: text.replace('"id"', '"id": "a",\n "id"', 1)), "llava_v1_5_mix665k.json: record 0: is not JSON (the key 'id' occurs twice in an object)", 1),
    ("half of a surrogate pair", list_of(lambda text: text.replace('"value": "', '"value": "\\ud800', 1)), "llava_v1_5_mix665k.json: record 0: is not JSON (half of a surrogate pair", 1),
    ("lists in lists, 100,000 deep", list_of(lambda text: "[" * DEEP + "]" * DEEP), "llava_v1_5_mix665k.json: record 0: is not JSON (nested too deeply)", 1),
    ("invalid UTF-8", lambda root: (root / LLAVA).write_bytes(b'[{"id": "\xff"}]'), "llava_v1_5_mix665k.json: record 0: is not JSON ('utf-8' codec can't decode byte 0xff", 1),
]  # fmt: skip

# --- vision benchmarks ------------------------------------------------------------------------------------------------


def questions(file: str, change: Callable[[object], object]):
    """Change a benchmark's file, which is JSON."""

    def feed(root: Path) -> None:
        value = json.loads((root / "corpora" / file).read_text())
        change(value)
        (root / "corpora" / file).write_text(json.dumps(value))

    return feed


def replaced(file: str, old: str, new: str):
    """Put a text in the place of another one, in a file."""

    def feed(root: Path) -> None:
        text = (root / "corpora" / file).read_text()
        assert old in text
        (root / "corpora" / file).write_text(text.replace(old, new, 1))

    return feed


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def refs(data: bytes):
    return lambda root: (root / "corpora/refcoco/refs(unc).p").write_bytes(data)


def half(pattern: str):
    def feed(root: Path) -> None:
        path = next(iter(sorted((root / "corpora").glob(pattern))))
        path.write_bytes(path.read_bytes()[:-200])

    return feed


ANSWERS, ASKED = "vqav2/v2_mscoco_val2014_annotations.json", "vqav2/v2_OpenEnded_mscoco_val2014_questions.json"
GQA, VIZWIZ, TEXTVQA = "gqa/testdev_balanced_questions.json", "vizwiz/val.json", "textvqa/TextVQA_0.5.1_val.json"
INSTANCES, OCID, POPE = "refcoco/instances.json", "ocid_ref/val_expressions.json", "pope/coco_pope_random.json"
MENDED = "; mend or replace the file, then run the same command again"
QUESTIONS = [
    ("VQAv2: a question without answers", questions(ANSWERS, lambda v: v["annotations"].pop()), f"{ANSWERS}: record 73000: has no annotation"),
    ("VQAv2: two annotations of a question", questions(ANSWERS, lambda v: v["annotations"].append(v["annotations"][0])), f"{ANSWERS}: record annotation 2: question_id 42000 occurs twice"),
    ("VQAv2: a question twice", questions(ASKED, lambda v: v["questions"].append(v["questions"][0])), "vqav2: record 42000: id occurs twice"),
    ("VQAv2: a question's id of 400 digits", questions(ASKED, lambda v: v["questions"][0].update(question_id=10**400)), f"{ASKED}: record 0: 'question_id' is a number of more than 64 bits"),
    ("VQAv2: an image that is cut off", half("vqav2/val2014/*42.jpg"), "vqav2/val2014/COCO_val2014_000000000042.jpg: record 42000: image cannot be decoded (OSError)"),
    ("VQAv2: a file that is cut off", lambda root: (root / "corpora" / ASKED).write_text('{"questions": ['), f"{ASKED}: record -: is not JSON (Expecting value"),
    ("GQA: a question twice", replaced(GQA, "{", '{"201307251": {}, '), f"{GQA}: record -: is not JSON (the key '201307251' occurs twice in an object)"),
    ("GQA: an image id that is a path", replaced(GQA, '"n161313"', '"../n161313"'), f"{GQA}: record 201307251: path leaves its folder: ../n161313.jpg"),
    ("GQA: a number for the answer", replaced(GQA, '"no"', "0"), f"{GQA}: record 201307251: 'answer' is of type int"),
    ("VizWiz: neither answerable nor not", questions(VIZWIZ, lambda v: v[1].update(answerable=NAN)), f"{VIZWIZ}: record VizWiz_val_00000001.jpg: answerable is neither 0 nor 1: nan"),
    ("VizWiz: no answers", questions(VIZWIZ, lambda v: v[1].update(answers=[])), f"{VIZWIZ}: record VizWiz_val_00000001.jpg: has no answers"),
    ("VizWiz: a page of HTML for an image", lambda root: (root / "corpora/vizwiz/val/VizWiz_val_00000001.jpg").write_bytes(b"<html>"), f"{VIZWIZ}: record VizWiz_val_00000001.jpg: not a JPEG, PNG, WebP, GIF or BMP image: "),
    ("TextVQA: answers that are no texts", questions(TEXTVQA, lambda v: v["data"][0].update(answers=[1])), f"{TEXTVQA}: record 34602: answers are not a list of texts"),
    ("TextVQA: lists in lists, 100,000 deep", lambda root: (root / "corpora" / TEXTVQA).write_text("[" * DEEP), f"{TEXTVQA}: record -: is not JSON (nested too deeply)"),
    ("RefCOCO: a pickle that would run code", refs(pickle.dumps([Harm()])), "refs(unc).p: record -: is not a pickle of plain data (it asks for posix.mkdir; only plain data is read)"),
    ("RefCOCO: a pickle that is cut off", refs(pickle.dumps([{"ref_id": 0}] * 9)[:-20]), "refs(unc).p: record -: is not a pickle of plain data"),
    ("RefCOCO: a pickle of 10 bytes that asks for 32 GB", refs(b"\x80\x02]r\xff\xff\xff\x7f."), "corpora/refcoco: record -: has no questions of refcoco"),
    ("RefCOCO: a box with NaN", questions(INSTANCES, lambda v: v["annotations"][0].update(bbox=[NAN, 5, 12, 10])), f"{INSTANCES}: record 0: box is not four numbers: [nan, 5, nan, 15]"),
    ("RefCOCO: a box outside its image", questions(INSTANCES, lambda v: v["annotations"][0].update(bbox=[2, 5, 120, 10])), f"{INSTANCES}: record 0: box is empty or outside the 24 x 20 image"),
    ("RefCOCO: an image without width", questions(INSTANCES, lambda v: v["images"][0].update(width=0)), f"{INSTANCES}: record 0: is of an image of 0 x 20 px"),
    ("OCID-Ref: a box of lists in lists", questions(OCID, lambda v: v["17"].update(bbox="[" * 5000)), f"{OCID}: record 17: bbox is not a list: '[[["),
    ("OCID-Ref: a box of 400 digits", questions(OCID, lambda v: v["17"].update(bbox=[0, 0, 10**400, 1])), f"{OCID}: record 17: box is not four numbers: [0, 0, 1000"),
    ("OCID-Ref: a take that there is not", questions(OCID, lambda v: v["17"].update(take_id=21)), f"{OCID}: record 17: take_id is not in 0..20: 21"),
    ("POPE: a label of another kind", replaced(POPE, '"label": "yes"', '"label": "maybe"'), f"{POPE}: record 1: label is neither yes nor no: 'maybe'"),
    ("POPE: a line that is no JSON", lambda root: (root / "corpora" / POPE).write_text("{\n"), f"{POPE}: record 1: is not JSON (Expecting property name"),
    ("POPE: a question about no image", replaced(POPE, "COCO_val2014_000000310196.jpg", "none.jpg"), f"{POPE}: record 1: no image "),
]  # fmt: skip
COCO = "coco/evaluation/test/captioning/captions.json"
CAPTIONS = [
    ("COCO captions: a caption of an image that is not listed", questions(COCO, lambda v: v["images"].pop()), f"{COCO}: record 770338: is of an image that is not listed: 522418"),
    ("COCO captions: an image without a caption", questions(COCO, lambda v: v["annotations"].pop(1)), f"{COCO}: record 522418: has no caption"),
    ("COCO captions: an image twice", questions(COCO, lambda v: v["images"].append(v["images"][0])), f"{COCO}: record images 2: id 391895 occurs twice"),
    ("COCO captions: a list for a caption", questions(COCO, lambda v: v["annotations"][0].update(caption=["a cat"])), f"{COCO}: record 770337: 'caption' is of type list"),
    ("COCO captions: NaN for an image", questions(COCO, lambda v: v["annotations"][0].update(image_id=NAN)), f"{COCO}: record 770337: 'image_id' is of type float"),
    ("COCO captions: an image outside the folder", questions(COCO, lambda v: v["images"][0].update(file_name="../../x.jpg")), f"{COCO}: record 391895: path leaves its folder: ../../x.jpg"),
    ("COCO captions: a file that is cut off", lambda root: os.truncate(root / "corpora" / COCO, 100), f"{COCO}: record -: is not JSON ("),
]  # fmt: skip
LINE_SEPARATOR = replaced(POPE, "in the image?", "in the image?\u2028Look well.")

# --- text benchmarks --------------------------------------------------------------------------------------------------


def item(name: str, split: str, change: Callable[[dict], object]):
    def feed(root: Path) -> None:
        file = root / f"source/evaluation/text/{name}/{split}.json"
        made = json.loads(file.read_text())
        change(made[1])
        file.write_text(json.dumps(made))

    return feed


def benchmark_file(name: str, split: str, data: bytes):
    return lambda root: (root / f"source/evaluation/text/{name}/{split}.json").write_bytes(data)


BENCHMARKS = [
    ("PIQA: a number for an answer", item("piqa", "validation", lambda r: r.update(sol1=3)), "piqa/validation.json: record 2: is no record of piqa (TypeError: "),
    ("PIQA: a label with a fraction", item("piqa", "validation", lambda r: r.update(label=0.7)), "piqa/validation.json: record 2: is no record of piqa (ValueError: 0.7 is no whole number)"),
    ("HellaSwag: a text for the endings", item("hellaswag", "validation", lambda r: r.update(endings="abcd")), "hellaswag/validation.json: record 2: is no record of hellaswag (TypeError: endings is no list of texts)"),
    ("MathQA: no right answer", item("mathqa", "test", lambda r: r.update(correct="")), "mathqa/test.json: record 2: is no record of mathqa (ValueError: "),
    ("ARC: null for the question", item("arc_easy", "test", lambda r: r.update(question=None)), "arc_easy/test.json: record 2: is no record of arc_easy (TypeError: question is of type NoneType)"),
    ("ARC: an answer that there is not", item("arc_easy", "test", lambda r: r.update(answerKey="E")), "arc_easy/test.json: record 2: is no record of arc_easy (ValueError: 'E' is not in list)"),
    ("SAT: a text for the number of the answer", item("agieval_sat_en", "test", lambda r: r.update(gold=["x"])), "agieval_sat_en/test.json: record 2: is no record of agieval_sat_en (ValueError: invalid literal for int()"),
    ("COPA: neither cause nor effect", item("copa", "validation", lambda r: r.update(question="reason")), "copa/validation.json: record 2: is no record of copa (KeyError: 'reason')"),
    ("BoolQ: a line that is cut off", benchmark_file("boolq", "validation", b'{"passage": "a"}\n{"passage": '), "boolq/validation.json: record 1: is no record of boolq (KeyError: 'question')"),
    ("PubMedQA: invalid UTF-8", benchmark_file("pubmedqa", "test", b"\xff"), "pubmedqa/test.json: record 1: is not JSON ('utf-8' codec can't decode byte 0xff"),
    ("conceptual combinations: lists in lists", benchmark_file("bigbench_conceptual_combinations", "default", b"[" * DEEP), "default.json: record 0: is not JSON (nested too deeply)"),
    ("PIQA: two answers that are the same", item("piqa", "validation", lambda r: r.update(sol1=r["sol2"])), "and the right one, choice 1, are the same tokens"),
    ("no file of the split", lambda root: (root / "source/evaluation/text/boolq/validation.json").unlink(), "boolq: record -: files validation* of one of the kinds .jsonl or .json or .parquet (also with .gz, .zst, .zstd) wanted; found nothing"),
    ("held-out text that is cut off", lambda root: (root / "source/text/heldout-00000.jsonl.zst").write_bytes(zstandard.compress(b"x" * 99)[:-3]), "source/text/heldout-00000.jsonl.zst: record -: ends in the middle of a zstandard frame"),
]  # fmt: skip
STATE = "checkpoint/model.safetensors"


def own_state(change: Callable[[dict], object]):
    def feed(root: Path) -> None:
        tensors = load_file(root / STATE)
        change(tensors)
        save_file(tensors, root / STATE)

    return feed


STATES = [
    ("a state that is cut off", lambda root: os.truncate(root / STATE, 1000), f"{STATE}: is not a whole safetensors file ("),
    ("a state whose header is larger than the file", lambda root: (root / STATE).write_bytes(struct.pack("<Q", 1 << 40) + b"{}"), f"{STATE}: is not a whole safetensors file ("),
    ("a state of another model", own_state(lambda t: t.update({"decoder.norm.weight": torch.ones(31)})), f"{STATE} is of another model: decoder.norm.weight does not fit"),
]  # fmt: skip

# --- published checkpoints --------------------------------------------------------------------------------------------

WEIGHTS = "weights/step100/model.safetensors"


def tensors(change: Callable[[dict], object]):
    def feed(root: Path) -> None:
        made = load_file(root / WEIGHTS)
        change(made)
        save_file(made, root / WEIGHTS)

    return feed


def config(**changes):
    def feed(root: Path) -> None:
        file = root / "weights/step100/config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return feed


def index(content: str):
    return lambda root: (root / "weights/step100/model.safetensors.index.json").write_text(content)


def as_pickle(root: Path) -> None:
    torch.save({"a": torch.ones(1), "b": Harm()}, root / WEIGHTS)


def rename_weights(root: Path) -> None:
    (root / WEIGHTS).rename(root / "weights/step100/pytorch_model.bin")


def json_config(content: bytes):
    return lambda root: (root / "weights/step100/config.json").write_bytes(content)


NORM, OF_CONFIG = "gpt_neox.final_layer_norm.bias", "weights/step100/config.json: "
HUGGING_FACE = [
    ("another shape", tensors(lambda t: t.update({NORM: torch.ones(31)})), f"weights/step100: {NORM} has the shape (31,), wanted (32,)"),
    ("a missing tensor", tensors(lambda t: t.pop(NORM)), f"weights/step100: lacks the tensor {NORM} of shape (32,)"),
    ("a tensor too many", tensors(lambda t: t.update({"lora.weight": torch.ones(2)})), "weights/step100: has the tensor lora.weight, which this architecture does not have"),
    ("more rows than the vocabulary", tensors(lambda t: t.update({"embed_out.weight": torch.ones(400, 32)})), "weights/step100: embed_out.weight has 400 rows, more than model.vocabulary = 320"),
    ("NaN among the weights", tensors(lambda t: t[NORM][3:5].fill_(NAN)), f"weights/step100: {NORM} has 2 numbers that are NaN or infinite"),
    ("whole numbers for weights", tensors(lambda t: t.update({NORM: torch.ones(32, dtype=torch.int8)})), f"weights/step100: {NORM} is of torch.int8, wanted numbers with a fraction"),
    ("a pickle called .safetensors", as_pickle, f"{WEIGHTS}: a pickle, which is not read"),
    ("no torch file called pytorch_model.bin", rename_weights, "weights/step100/pytorch_model.bin: not a torch file of tensors and plain values alone ("),
    ("a key that nobody knows", config(rope_layers=[1]), OF_CONFIG + "rope_layers: found [1], and nothing here knows this key of gpt_neox; if it does not change what the model computes, take it out of the file"),
    ("a scaling that is not known", config(rope_scaling={"type": "yarn", "factor": 2.0}), OF_CONFIG + "rope_scaling: found 'yarn' in gpt_neox, known are linear, llama3 in llama and gpt_neox"),
    ("a file that is cut off", lambda root: os.truncate(root / WEIGHTS, 5000), f"{WEIGHTS}: not a whole safetensors file ("),
    ("a header larger than the file", lambda root: (root / WEIGHTS).write_bytes(struct.pack("<Q", 1 << 40) + b"{}"), f"{WEIGHTS}: not a whole safetensors file ("),
    ("an index that points elsewhere", index('{"weight_map": {"a": "../model.safetensors"}}'), "model.safetensors.index.json: weight_map: found the file '../model.safetensors', wanted names of files beside it"),
    ("an index of no names", index('{"weight_map": [1]}'), "model.safetensors.index.json: weight_map: wanted names of tensors with their files"),
    ("another architecture", config(model_type="mamba"), OF_CONFIG + "model_type: found 'mamba', wanted 'gpt_neox' (known are gpt_neox, olmo, llama)"),
    ("more layers than the study's", config(num_hidden_layers=3), OF_CONFIG + "num_hidden_layers: found 3, wanted 2 (the study's model.layers)"),
    ("a text for the number of rows", config(vocab_size="many"), OF_CONFIG + "vocab_size: found 'many', wanted 320"),
    ("a config of lists in lists", json_config(b'{"model_type": ' + b"[" * DEEP), OF_CONFIG + "cannot be read as JSON (nested too deeply)"),
    ("a config with a key twice", json_config(b'{"model_type": "gpt_neox", "model_type": "olmo"}'), OF_CONFIG + "cannot be read as JSON (the key 'model_type' occurs twice in an object)"),
    ("other bytes than the study names", lambda root: named_hash(root), f"{WEIGHTS}: sha256: found SHA256, wanted SHA256"),
]  # fmt: skip


def named_hash(root: Path) -> None:
    project = Project(root)
    project.set("configs/checkpoints/theirs.yaml", "checkpoints.0.sha256", {"model.safetensors": "0" * 64})
    for job in (root / ".study/jobs/pretrain").iterdir():
        job.unlink()
    project.ledger().write_jobs()


EPOCH, MOMENTS = "weights/epoch_1.pt", "weights/optimizer_1.pt"


def torch_file(file: str, value: object):
    return lambda root: torch.save(value, root / file)


def state_dict(**changes):
    def feed(root: Path) -> None:
        torch.save(
            {"state_dict": openlm_tensors() | {name.replace("__", "."): t for name, t in changes.items()}}, root / EPOCH
        )

    return feed


REFUSED = f"{EPOCH}: not a torch file of tensors and plain values alone ("
OPENLM = [
    ("a torch file that would run code", torch_file(EPOCH, {"state_dict": {}, "name": Harm()}), REFUSED),
    ("a torch file that is cut off", lambda root: os.truncate(root / EPOCH, 5000), REFUSED + "it is none, or cut off"),
    ("a text called .pt", lambda root: (root / EPOCH).write_text("weights"), REFUSED),
    ("no bytes", lambda root: (root / EPOCH).write_bytes(b""), REFUSED),
    ("a list in a torch file", torch_file(EPOCH, [1, 2]), f"{EPOCH}: found a list, wanted a dictionary"),
    ("a text for a tensor", state_dict(norm__weight="ones"), f"{EPOCH}: norm.weight is of str, wanted numbers with a fraction"),
    ("numbers for names", torch_file(EPOCH, {0: torch.ones(1)}), f"{EPOCH}: lacks the tensor tok_embeddings.weight"),
    ("no moments in the optimizer's file", torch_file(MOMENTS, {"optimizer": {"state": {}}}), f"{MOMENTS}: found no optimizer.state, wanted Adam's moments by parameter"),
    ("moments of another model", torch_file(MOMENTS, {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}), f"{MOMENTS}: tok_embeddings.weight has the shape "),
    ("moments that are texts", torch_file(MOMENTS, {"optimizer": {"state": {0: "many"}}}), f"{MOMENTS}: lacks the tensor tok_embeddings.weight"),
]  # fmt: skip
GONE = [
    ("a checkpoint that is not there", lambda root: (root / EPOCH).unlink(), f"{SCALE}: text.from: last: found '{EPOCH}', allowed: an existing folder or file"),
    ("a tokenizer that is not there", lambda root: (root / "weights/tokenizer.json").unlink(), "configs/checkpoints/theirs.yaml: tokenizer: found 'tokenizer.json', allowed: gpt_neox or a tokenizer.json"),
]  # fmt: skip


def other_tokenizer(change: Callable[[dict], object]):
    """A tokenizer of other contents, and the job that was planned with it."""

    def feed(root: Path) -> None:
        file = root / "weights/tokenizer.json"
        made = json.loads(file.read_text())
        change(made)
        file.write_text(json.dumps(made))
        for job in (root / ".study/jobs/tokenizer").iterdir():
            job.unlink()
        Project(root).ledger().write_jobs()

    return feed


OF_TOKENIZER = "weights/tokenizer.json: "
TOKENIZERS = [
    ("a tokenizer without a vocabulary", other_tokenizer(lambda t: t.pop("model")), OF_TOKENIZER + "not a tokenizer this package can use ('model')"),
    ("a tokenizer with an id that is too high", other_tokenizer(lambda t: t["model"]["vocab"].update(zebra=70_000)), OF_TOKENIZER + "has 70001 ids, the model's vocabulary has room for 320"),
    ("a tokenizer that is no JSON", lambda root: (root / "weights/tokenizer.json").write_text("{"), OF_TOKENIZER + "not a tokenizer this package can use (Expecting property name"),
]  # fmt: skip

# --- the command line and what it reads -------------------------------------------------------------------------------


def of_model(root: Path, name: str) -> Path:
    return next(iter(sorted((root / "artifacts/finetune").iterdir()))) / name


def card(data: str):
    return lambda root: of_model(root, "card.json").write_text(data)


def edited(name: str, change: Callable[[dict], object]):
    def feed(root: Path) -> None:
        made = json.loads(of_model(root, name).read_text())
        change(made)
        of_model(root, name).write_text(json.dumps(made))

    return feed


def files(change: Callable[[dict], object]):
    return edited("files.json", change)


def job_file(content: bytes):
    return lambda root: (root / "job.json").write_bytes(content)


def nothing(root: Path) -> None:
    """The command itself is what is bad."""


KNOWN = "is not in the study of params.yaml; it has "
COMMANDS = [
    ("a folder that is no project", nothing, "params.yaml: (file): found 'no such file', allowed: a params.yaml in the working folder", 2, ("empty", "plan")),
    ("an unknown target of plan", nothing, f"table99 {KNOWN}", 2, ("project", "plan", "table99")),
    ("an unknown target of why", nothing, f"results/table99.csv {KNOWN}", 2, ("project", "why", "results/table99.csv")),
    ("an unknown stage", nothing, "nostage: no stage of dvc.yaml, which has ", 2, ("project", "set-aside", "nostage")),
    ("an unknown phase", nothing, "finetun: no phase of the study, which has ", 2, ("project", "accept", "finetun", "--sample", "1")),
    ("an unknown command", nothing, "argument command: invalid choice: 'trian'", 2, ("project", "trian")),
    ("a budget that is no number", nothing, "argument --budget: invalid device_hours value: 'many'", 2, ("project", "plan", "--budget", "many")),
    ("a budget that allows everything, NaN", nothing, "argument --budget: invalid device_hours value: 'nan'", 2, ("project", "plan", "--budget", "nan")),
    ("an unknown key in a preview", nothing, "command line: recipe.sed: found 8, allowed: no such key; did you mean 'seed'?", 2, ("project", "plan", "recipe.sed=8")),
    ("a preview without a value", nothing, "command line: (override): found 'recipe.seed', allowed: KEY=VALUE", 2, ("project", "plan", "study", "recipe.seed")),
    ("a preview's key twice", nothing, "command line: recipe.seed: found '9', allowed: each key once", 2, ("project", "plan", "recipe.seed=8", "recipe.seed=9")),
    ("a preview's value that refers to another", nothing, "command line: recipe.seed: found '${text_seed}', allowed: a plain value", 2, ("project", "plan", "recipe.seed=${text_seed}")),
    ("an unknown model", nothing, "nothing: neither the id nor the folder of an artifact that is here", 2, ("project", "export", "nothing", "--to", "out")),
    ("what several models' ids begin with", nothing, "b80: which of b80-i10-s7", 2, ("project", "export", "b80", "--to", "out")),
    ("an artifact that is no model", nothing, "configs: neither the id nor the folder of an artifact that is here", 2, ("project", "export", "configs", "--to", "out")),
    ("a job file that is not there", nothing, "job.json: not a job file ([Errno 2] No such file or directory", 2, ("empty", "run", "job.json")),
    ("a job file of no bytes", job_file(b""), "job.json: not a job file (Expecting value", 2, ("empty", "run", "job.json")),
    ("a job file of lists in lists", job_file(b"[" * DEEP), "job.json: not a job file (nested too deeply)", 2, ("empty", "run", "job.json")),
    ("a job file without a card", job_file(b'{"inputs": {}}'), "job.json: not a job file (no card)", 2, ("empty", "run", "job.json")),
    ("a job of an unknown phase", job_file(b'{"card": {"phase": "trian", "id": "x", "settings": {}}, "inputs": {}, "continues": null, "context": {}, "position": null, "folder": "x", "published": null}'), "job.json: not a job file (unknown phase 'trian')", 2, ("empty", "run", "job.json")),
    ("data that is not there, before anything runs", lambda root: (root / "corpora/dclm").rename(root / "corpora/elsewhere"), f"{DATA}: source.text.dclm.path: found 'corpora/dclm', allowed: an existing folder or file", 2, ("real", "snakemake")),
]  # fmt: skip
ARTIFACTS = [
    ("a card that is cut off", card("{"), "stale: it was here and has been deleted"),
    ("a card of lists in lists", card("[" * DEEP), "stale: it was here and has been deleted"),
    ("a card of another study", edited("card.json", lambda card: card.update(settings={})), "stale: "),
    ("a list of files that is no JSON", files(lambda f: f.clear()), "files.json is damaged"),
    ("a list of files of another card", files(lambda f: f.update(card="0" * 16)), "files.json is of another card"),
    ("a list that names a file elsewhere", files(lambda f: f["files"].update({"../../x": {"bytes": 1, "sha256": "0"}})), "files.json is damaged"),
    ("a file of other bytes", lambda root: of_model(root, "rows.csv").write_text("spoilt"), "rows.csv has other bytes than when it was made"),
]  # fmt: skip
EXPORTED = [
    ("a damaged card", card("{"), "has no card that can be read"),
    ("a card of lists in lists", card("[" * DEEP), "has no card that can be read"),
    ("a list of files that is no JSON", lambda root: of_model(root, "files.json").write_text("{"), "not whole (Expecting property name"),
    ("no weights", nothing, "not whole ('model.safetensors')"),
]  # fmt: skip


def rows(part: str, cases: list[tuple], *command: str, ends: int | str | None = None) -> list[Case]:
    """Cases of one part: (what is fed, how, what it says[, how it ends[, the command]])."""
    made = []
    for fed, feed, says, *rest in cases:
        how = rest[0] if rest else ends
        made.append(Case(part, fed, feed, says, how, rest[1] if len(rest) > 1 else command))
    return made


CASES = [
    *rows("Settings", SETTINGS, "project", "plan", ends=2),
    *rows("Text: DCLM's jsonl.zst", TEXT, "real", "sources text", "shards text"),
    *rows("Text: the folders that it is in", SOURCES, "real", "sources text", ends=1),
    *rows("Text: DCLM's tokenized tars", TOKENS, "real", "sources text", "shards text"),
    *rows("Text: DCLM's tokenized tars", MANIFESTS, "real", "sources text", ends=1),
    *rows("Captions: tars of img2dataset", TARS, "real", "sources captions-full", "shards captions-full"),
    *rows("Captions: images", IMAGES, "real", "sources captions-full", "shards captions-full"),
    *rows("Captions: DataCompDR", JOINED, "real", "sources captions-dr", "shards captions-dr"),
    *rows("Instructions: LLaVA's JSON", INSTRUCTIONS, "real", "sources instructions", "shards instructions"),
    *rows("Vision benchmarks", QUESTIONS, "real", "sources evaluation", ends=1),
    Case("Vision benchmarks", "POPE: a line separator in a question", LINE_SEPARATOR, "a character like any other", "read", ("real", "sources evaluation")),
    *rows("Vision benchmarks", CAPTIONS, "captioning", "evaluate model", ends=1),
    *rows("Text benchmarks", BENCHMARKS, "evaluate", "evaluate model", ends=1),
    *rows("Checkpoints of the study", STATES, "evaluate", "evaluate model", ends=1),
    *rows("Checkpoints of others: Hugging Face's layout", HUGGING_FACE, "huggingface", "pretrain text-100", ends=1),
    *rows("Checkpoints of others: OpenLM's layout", OPENLM, "openlm", "pretrain text-100", ends=1),
    *rows("Checkpoints of others: what must be there", GONE, "openlm", "snakemake", ends=2),
    *rows("Tokenizers of others", TOKENIZERS, "huggingface", "tokenizer given", ends=1),
    *rows("The command line", COMMANDS),
    *rows("Artifacts: whether one is current", ARTIFACTS, "project", "why", "FINETUNED", ends=0),
    *rows("Artifacts: a model to export", EXPORTED, "project", "export", "FINETUNED", "--to", "out", ends=2),
]  # fmt: skip


# --- the page ---------------------------------------------------------------------------------------------------------

HEAD = """# Bad input

What happens with bad input. Each row has an input, the last line on the screen (without the machine's folders and the hashes
in names), and how the command ends. `PYTHONPATH=. python tests/bad_input.py` writes this page from what happens in the tests
([`tests/bad_input.py`](../tests/bad_input.py)), and a test compares it.
{counts}.

- *exit 0*: the command was asked what is wrong, and says it.
- *exit 1*: a job has failed. It leaves no artifact and nothing half-written, and the same command goes on when the input is
  mended. Tracebacks are in the job's log, never on the screen.
- *exit 2*: a command has refused the input before anything runs.
- *quarantined*: a record of a corpus is left out, counted, and listed with its reason in
  `artifacts/shards/*/quarantine.jsonl`. If there are more of them than `bad_records`, the job stops.
- *read*: the input looks bad, but is not, and is read.
"""


def cell(text: str) -> str:
    """A text as a cell of a table has it; long ones are shortened."""
    text = text if len(text) <= 330 else f"{text[:300]}..."
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}".replace("|", "\\|")


def ending(ends: int | str) -> str:
    return ends if isinstance(ends, str) else f"exit {ends}"


def row(case: Case, outcome: Outcome) -> str:
    got = case.says if case.ends == "read" else cell(outcome.line)
    return f"| {case.fed} | {got} | {ending(case.ends)} |"


def page(rows: list[tuple[Case, str]]) -> str:
    """docs/bad-input.md, of the row of each case."""
    numbers = Counter(ending(case.ends) for case, _ in rows)
    counts = f"{len(rows)} cases: " + ", ".join(f"{count} {kind}" for kind, count in sorted(numbers.items()))
    parts = [HEAD.format(counts=counts)]
    for part in dict.fromkeys(case.part for case, _ in rows):
        table = ["| what is fed | what one gets | |", "|---|---|---|"]
        table += [line for case, line in rows if case.part == part]
        parts += [f"## {part}", "\n".join(table)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def write_page() -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        bench = Bench(Path(folder), patch)
        text = page([(case, row(case, bench.outcome(case))) for case in CASES])
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE}: {len(CASES)} cases")


if __name__ == "__main__":
    write_page()
