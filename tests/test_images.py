"""Encoded images: every kind becomes RGB in the one way, boxes turn with them, and nothing else is started or unpacked."""

import io
import json
import struct
import subprocess
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from pipeline.common import images
from pipeline.common.images import BadImage, decode, undecodable
from pipeline.common.squares import Square, move_boxes, turn_box
from pipeline.data.formats.question_files import read_questions
from pipeline.data.packing import seen_turns
from pipeline.model.vision import decode_images

RAMP = np.arange(0, 1 << 16, 1 << 4, dtype=np.uint16).reshape(64, 64)
NOISE = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
PICTURE = Image.fromarray(NOISE)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(depth: int, colour: int, rows: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of big-endian samples [height, width, ...], or of bytes that each hold several of fewer bits."""
    rows = rows.reshape(len(rows), -1)
    width = rows.shape[1] * 8 // min(depth, 8) // {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    lines = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    made = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in made)
    return images.PNG + b"".join(packed)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2).astype(np.uint8)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.rint(colour * share + 255 * (1 - share))


def test_every_kind_of_image_becomes_rgb_in_one_way():
    alpha = np.tile(np.array([0, 255, 100, 0], np.uint8), (20, 6))
    clear = NOISE.copy()
    clear[0, :5] = (7, 8, 9)
    painted = np.where((clear == (7, 8, 9)).all(2)[..., None], 255, clear)
    few = PICTURE.quantize(8)
    palette = np.array(few.convert("RGB"))
    unseen = np.array(few) == 3
    deep = np.dstack([RAMP] * 3)
    keyed = RAMP >> 8
    cases = {
        "RGB": (encoded(PICTURE), NOISE),
        "BMP": (encoded(PICTURE, "BMP"), NOISE),
        "WebP": (encoded(PICTURE, "WEBP", lossless=True), NOISE),
        "grey": (encoded(Image.fromarray(NOISE[..., 0])), grey(NOISE[..., 0])),
        "black and white": (
            encoded(Image.fromarray(NOISE[..., 0]).convert("1", dither=0)),
            grey((NOISE[..., 0] > 127) * 255),
        ),
        "grey of 16 bits": (encoded(Image.fromarray(RAMP)), grey(RAMP >> 8)),
        "grey of 16 bits, one clear": (
            png(16, 0, RAMP, (b"tRNS", b"\x10\0")),
            grey(np.where(RAMP == 4096, 255, keyed)),
        ),
        "colours of 16 bits": (png(16, 2, deep), grey(RAMP >> 8)),
        "colours of 16 bits, one clear": (
            png(16, 2, deep, (b"tRNS", b"\x10\0" * 3)),
            grey(np.where(keyed == 16, 255, keyed)),
        ),
        "dark colours of 16 bits, one clear": (
            png(16, 2, deep, (b"tRNS", b"\0\xc8" * 3)),
            grey(np.where(keyed == 0, 255, keyed)),
        ),
        "grey of 1 bit, one clear": (png(1, 0, np.array([[0b1101]]), (b"tRNS", b"\0\0")), grey(np.full((1, 8), 255))),
        "grey of 2 bits, one clear": (
            png(2, 0, np.array([[0b00011011]]), (b"tRNS", b"\0\2")),
            grey(np.array([[0, 85, 255, 255]])),
        ),
        "grey of 4 bits, one clear": (
            png(4, 0, np.array([[0x01, 0x2F]]), (b"tRNS", b"\0\x12")),  # of more bits than there are, the lower count
            grey(np.array([[0, 17, 255, 255]])),
        ),
        "grey of 8 bits, one clear": (
            png(8, 0, np.array([[0, 1, 2]]), (b"tRNS", b"\0\2")),
            grey(np.array([[0, 1, 255]])),
        ),
        "RGBA": (encoded(Image.fromarray(np.dstack([NOISE, alpha]))), over_white(NOISE, alpha)),
        "RGBA in WebP": (
            encoded(Image.fromarray(np.dstack([NOISE, alpha])), "WEBP", lossless=True, exact=True),
            over_white(NOISE, alpha),
        ),
        "LA": (
            encoded(Image.merge("LA", (Image.fromarray(NOISE[..., 0]), Image.fromarray(alpha)))),
            over_white(grey(NOISE[..., 0]), alpha),
        ),
        "a clear colour": (encoded(Image.fromarray(clear), transparency=(7, 8, 9)), painted),
        "a palette": (encoded(few), palette),
        "a palette with a clear colour": (encoded(few, transparency=3), np.where(unseen[..., None], 255, palette)),
        "a GIF": (encoded(few, "GIF"), palette),
        "a GIF with a clear colour": (encoded(few, "GIF", transparency=3), np.where(unseen[..., None], 255, palette)),
    }
    for name, (data, wanted) in cases.items():
        assert np.abs(np.array(decode(data)).astype(int) - wanted).max() <= ("A" in name), name
    for mode in ("RGB", "L", "CMYK"):  # as ever
        data = encoded(PICTURE.convert(mode), "JPEG")
        assert decode(data).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_texts_and_profiles_of_any_size_are_passed_over():
    facts = PngImagePlugin.PngInfo()
    facts.add_itxt("XML:com.adobe.xmp", "x" * 3_000_000, zip=True)
    facts.add_text("comment", "y" * 100_000_000, zip=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(1_300_000)
    data = encoded(PICTURE, pnginfo=facts, icc_profile=profile)
    with pytest.raises(ValueError, match="too large"):
        Image.open(io.BytesIO(data))
    assert decode(data).tobytes() == NOISE.tobytes()


# --- orientation ------------------------------------------------------------------------------------------------------


def turned(orientation: int, image: Image.Image, format: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, format, exif=exif, **({"quality": 100, "subsampling": 0} if format == "JPEG" else {}))


def spot(box: tuple[float, ...], size: tuple[int, int]) -> Image.Image:
    """White with a black box (shares of it)."""
    image = Image.new("RGB", size, "white")
    image.paste("black", tuple(round(side * (size * 2)[n]) for n, side in enumerate(box)))
    return image


def found(image: Image.Image) -> tuple[float, ...]:
    rows, columns = np.nonzero(np.array(image.convert("L")) < 128)
    return (
        int(columns.min()) / image.width,
        int(rows.min()) / image.height,
        int(columns.max() + 1) / image.width,
        int(rows.max() + 1) / image.height,
    )


@pytest.mark.parametrize("size", [(80, 40), (80, 80)])
def test_images_are_upright_and_boxes_of_their_stored_pixels_turn_with_them(size, tmp_path):
    box = (0.1, 0.2, 0.3, 0.6)
    for orientation in range(1, 9):
        for format in ("JPEG", "PNG", "WEBP"):
            data = turned(orientation, spot(box, size), format)
            shown = decode(data)
            assert shown.size == (size if orientation < 5 else size[::-1]) and shown.mode == "RGB"
            assert found(shown) == pytest.approx(turn_box(box, orientation), abs=1e-9)
        # Pillow's own turning, which reads EXIF in its own way.
        from PIL import ImageOps

        with Image.open(io.BytesIO(data)) as image:
            assert ImageOps.exif_transpose(image).convert("RGB").tobytes() == shown.tobytes()
        # A text of instructions.
        ((_, told),) = seen_turns([("Where?", "At [0.1, 0.2, 0.3, 0.6]; [1, 2, 3, 4]")], data, "resize", "resize")
        there = found(shown)
        assert told == "At [" + ", ".join(f"{side:.2f}" for side in there) + "]; [1, 2, 3, 4]" or orientation == 1
        # Frames that differ: the letterbox is that of the upright image.
        padded = Square(64, "letterbox", (255, 255, 255)).of(shown)
        ((_, told),) = seen_turns([("", "[0.1, 0.2, 0.3, 0.6]")], data, "resize", "letterbox")
        assert json.loads(told) == pytest.approx(found(padded), abs=0.02)
        assert json.loads(move_boxes(str([*there]), data, "resize", "letterbox")) == pytest.approx(
            found(padded), abs=0.02
        )
        # A benchmark: its file says by the image's size which pixels the boxes are of.
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images/a.jpg").write_bytes(turned(orientation, spot(box, size), "JPEG"))
        upright = orientation >= 5 and size[0] != size[1]
        for sides, given in ((size, box), (shown.size, there if upright else box)):
            width, height = sides
            x1, y1, x2, y2 = given
            corners = [x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height]
            annotation = {"id": 1, "bbox": corners}
            listed = {"id": 1, "file_name": "a.jpg", "width": width, "height": height}
            (tmp_path / "i.json").write_text(json.dumps({"images": [listed], "annotations": [annotation]}))
            ref = {"ref_id": 1, "ann_id": 1, "image_id": 1, "split": "val", "sentences": [{"sent_id": 1, "sent": "x"}]}
            (tmp_path / "r.json").write_text(json.dumps([ref]))
            files = {"instances": "i.json", "refs": "r.json"}
            (question,) = read_questions("refcoco", tmp_path, images=tmp_path / "images", files=files)
            assert question.box == pytest.approx(there, abs=1e-9)
        (tmp_path / "o.json").write_text(
            json.dumps(
                {
                    "1": {
                        "scene_path": "a.jpg",
                        "bbox": [box[0] * size[0], box[1] * size[1], box[2] * size[0], box[3] * size[1]],
                        "take_id": 1,
                        "sentence": "x",
                    }
                }
            )
        )
        (question,) = read_questions("ocid", tmp_path, images=tmp_path / "images", files={"expressions": "o.json"})
        assert question.box == pytest.approx(there, abs=1e-9)


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"nonsense",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0",  # orientation 9
    ],
)
def test_exif_that_says_nothing_turns_nothing(exif):
    assert decode(encoded(PICTURE, exif=b"Exif\0\0" + exif)).tobytes() == NOISE.tobytes()


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_is_refused_starts_nothing_and_names_its_file(tmp_path, monkeypatch):
    def start(*_: object, **__: object) -> None:
        raise AssertionError("a program is started")

    monkeypatch.setattr(subprocess, "Popen", start)
    bomb = png(8, 0, np.zeros((10, 10), np.uint8)).replace(
        struct.pack(">II", 10, 10), struct.pack(">II", 10_000, 10_000)
    )
    cases = {
        "not a JPEG, PNG, WebP, GIF or BMP image": [
            encoded(PICTURE, "EPS"),
            encoded(PICTURE, "TIFF"),
            encoded(PICTURE, "PPM"),
            b"",
        ],
        "image cannot be decoded (OSError)": [encoded(PICTURE, "JPEG")[:-200], encoded(PICTURE)[:-200]],
        "image cannot be decoded (UnidentifiedImageError)": [
            b"\xff\xd8\xff%!PS-Adobe-3.0 EPSF-3.0",
            b"RIFF",
            images.PNG,
        ],
        "image has 10000 x 10000 px, more than 89,478,485 in all": [
            bomb[:29] + struct.pack(">I", zlib.crc32(bomb[12:29])) + bomb[33:]
        ],
    }
    for reason, files in cases.items():
        for data in files:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, of large images
                assert undecodable(data) == reason
                (tmp_path / "a.jpg").write_bytes(data)
                with pytest.raises(BadImage) as caught:  # as evaluation opens a benchmark's
                    decode_images([tmp_path / "a.jpg"], Square(8))
                assert str(caught.value) == f"{tmp_path / 'a.jpg'}: {reason}"
