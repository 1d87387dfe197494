"""Data in the official formats, written by other hands: webdataset, zstandard, gzip, json, numpy, Pillow and pickle."""

import gzip
import hashlib
import io
import json
import pickle
import random
import struct
import zlib

import numpy as np
import webdataset
import zstandard
from PIL import Image

WORDS = ["the", "a", "cat", "dog", "house", "tree", "sees", "finds", "near", "under", "red", "blue", "and", "of", "in"]


def prose(seed: int, words: int = 60) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words)).capitalize() + "."


def picture(seed: int, size=(24, 20), format: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def large_png(side: int) -> bytes:
    """A black square of a thousandth of its bytes: the rows are packed one by one."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def uid(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


def tar(path, samples: list[dict]) -> None:
    """A tar as webdataset writes it; values are bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for sample in samples:
            writer.write(sample)


def dclm_raw(folder, files: int = 3, documents: int = 12) -> list[list[str]]:
    """DCLM-baseline: shards of jsonl.zst below two levels of folders. Returns each file's texts."""
    texts = [[prose(100 * f + d) for d in range(documents)] for f in range(files)]
    for number, mine in enumerate(texts):
        path = folder / f"global-shard_01_of_10/local-shard_{number}_of_10/shard_{number:08d}_processed.jsonl.zst"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (
            {"text": text, "url": "https://example.org", "metadata": {"WARC-Type": "conversion"}}
            | {"language_id_whole_page_fasttext": {"en": 0.9}}
            for text in mine
        )
        path.write_bytes(zstandard.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    return texts


def dclm_tokenized(folder, sequences: list[list[list[int]]]) -> None:
    """DCLM's tokenized tars (a gzipped JSON list a member) with their manifest."""
    for number, lists in enumerate(sequences):
        packed = [gzip.compress(json.dumps(ids).encode()) for ids in lists]
        tar(
            folder / f"{number:08d}.tar",
            [{"__key__": f"{number}-{n}", "json.gz": data} for n, data in enumerate(packed)],
        )
    lines = [{"shard": f"{n:08d}", "num_sequences": len(lists)} for n, lists in enumerate(sequences)]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def img2dataset_sample(number: int, text: str, image: bytes, **facts) -> dict:
    key = f"{number:09d}"
    sidecar = {"uid": uid(number), "caption": text, "url": "https://example.org/x.jpg", "key": key}
    sidecar |= {"status": "success", "error_message": None, "width": 24, "height": 20, "original_width": 24}
    sidecar |= {"original_height": 20, "exif": "{}", "sha256": sha256(image)} | facts
    return {"__key__": key, "jpg": image, "txt": text.encode(), "json": json.dumps(sidecar).encode()}


def img2dataset(folder, files: int = 3, samples: int = 20, stats: bool = True) -> None:
    """An img2dataset download: tars of jpg, txt and json, and the statistics beside them."""
    for f in range(files):
        numbers = range(f * samples, (f + 1) * samples)
        tar(folder / f"{f:05d}.tar", [img2dataset_sample(n, prose(n, 5 + n % 7), picture(n)) for n in numbers])
        if stats:
            (folder / f"{f:05d}_stats.json").write_text(json.dumps({"count": samples + 4, "successes": samples}))


def datacompdr(folder, numbers, files: int = 2) -> None:
    """DataCompDR's tars: synthetic captions and embeddings, no images."""
    numbers = list(numbers)
    for f in range(files):
        samples = []
        for n in numbers[f::files]:
            embeddings = io.BytesIO()
            np.savez(embeddings, image_emb=np.zeros((2, 8), np.float16), text_emb=np.zeros((6, 8), np.float16))
            sample = {
                "__key__": uid(n),
                "url.txt": b"https://example.org/x.jpg",
                "syn.json": json.dumps({"syn_text": [f"synthetic {n} caption {k}" for k in range(5)]}).encode(),
                "paug.json": json.dumps({"param_aug": "[]"}).encode(),
                "npz": embeddings.getvalue(),
                "json": json.dumps({"uid": uid(n), "sha256": sha256(picture(n))}).encode(),
            }
            samples.append(sample)
        tar(folder / f"{f:08d}.tar", samples)


def llava(folder, records: int = 30) -> list[dict]:
    """LLaVA's JSON with its image folders; every fifth record is a chat without an image."""
    roots = ("coco/train2017", "gqa/images", "ocr_vqa/images", "textvqa/train_images", "vg/VG_100K", "vg/VG_100K_2")
    made = []
    for n in range(records):
        record = {"id": f"{n:012d}", "conversations": []}
        if n % 5 != 4:
            record["image"] = f"{roots[n % 6]}/{n:012d}.jpg"
            (folder / roots[n % 6]).mkdir(parents=True, exist_ok=True)
            (folder / record["image"]).write_bytes(picture(n))
        for turn in range(1 + n % 3):
            marker = "<image>\n" if turn == 0 and "image" in record else ""
            record["conversations"] += [
                {"from": "human", "value": marker + prose(7 * n + turn, 4)},
                {"from": "gpt", "value": prose(9 * n + turn, 3)},
            ]
        made.append(record)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "llava_v1_5_mix665k.json").write_text(json.dumps(made, indent=1))
    return made


# --- benchmarks: their own files and names ----------------------------------------------------------------------------

TEN = [{"answer": "yes" if n else "", "answer_confidence": "maybe", "answer_id": n + 1} for n in range(10)]


def images(folder, names, size=(24, 20)) -> None:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(seed, size))


def dump(path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def vqav2(folder) -> None:
    images(folder / "val2014", [f"COCO_val2014_{n:012d}.jpg" for n in (42, 73)])
    header = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "val2014"}
    questions = [
        {"image_id": 42, "question": "Is it red?", "question_id": 42000},
        {"image_id": 73, "question": "How many?", "question_id": 73000},
    ]
    annotations = [
        {"question_type": "is it", "multiple_choice_answer": "yes", "answers": TEN, "image_id": q["image_id"]}
        | {"answer_type": "yes/no", "question_id": q["question_id"]}
        for q in questions
    ]
    dump(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {**header, "questions": questions})
    dump(folder / "v2_mscoco_val2014_annotations.json", {**header, "annotations": annotations})


def gqa(folder) -> None:
    images(folder / "images", ["n161313.jpg"])
    question = {"question": "Is it overcast?", "imageId": "n161313", "answer": "no", "isBalanced": True}
    question |= {"types": {"structural": "verify", "semantic": "global", "detailed": "weatherVerify"}}
    dump(folder / "testdev_balanced_questions.json", {"201307251": question | {"fullAnswer": "No, it is clear."}})


def vizwiz(folder) -> None:
    names = [f"VizWiz_val_{n:08d}.jpg" for n in range(2)]
    images(folder / "val", names)
    plain = [{"answer": "soup", "answer_confidence": "yes"}] * 10
    dump(
        folder / "val.json",
        [
            {"image": names[0], "question": "What is this?", "answers": plain, "answer_type": "other", "answerable": 1},
            {"image": names[1], "question": "Ok. What?", "answers": plain, "answer_type": "other", "answerable": 0},
        ],
    )


def textvqa(folder) -> None:
    images(folder / "train_images", ["003a8ae2ef43b901.jpg"])
    record = {"question": "What brand is it?", "image_id": "003a8ae2ef43b901", "image_classes": ["Mobile phone"]}
    record |= {"flickr_original_url": "x", "image_width": 24, "image_height": 20, "answers": ["nokia"] * 9 + [""]}
    record |= {"question_id": 34602, "set_name": "val", "question_tokens": ["what"]}
    dump(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "dataset_version": "0.5.1", "data": [record]})


def refcoco(folder, protocol: int = 2) -> list[dict]:
    name = "COCO_train2014_000000581857.jpg"
    images(folder / "train2014", [name])
    instances = {
        "images": [{"id": 581857, "file_name": name, "width": 24, "height": 20}],
        "annotations": [{"id": 1719310, "image_id": 581857, "category_id": 1, "bbox": [2.4, 5.0, 12.0, 10.0]}],
        "categories": [{"id": 1, "name": "person", "supercategory": "person"}],
    }
    dump(folder / "instances.json", instances)
    sentences = [
        {"tokens": ["man"], "raw": "man!", "sent_id": 0, "sent": "man"},
        {"tokens": ["on", "the", "left"], "raw": "on the left", "sent_id": 1, "sent": "on the left"},
    ]
    ref = {"sent_ids": [0, 1], "file_name": "COCO_train2014_000000581857_16.jpg", "ann_id": 1719310, "ref_id": 0}
    ref |= {"image_id": 581857, "category_id": 1, "split": "val", "sentences": sentences}
    refs = [ref, ref | {"ref_id": 1, "split": "train"}]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol))
    return refs


def ocid(folder) -> None:
    scene = "ARID20/table/top/seq04/rgb/result_2018-08-21.png"
    images(folder / "OCID-dataset", [scene], size=(64, 48))
    record = {"take_id": 12, "scene_path": scene, "bbox": "[8, 12, 24, 36]", "class": "soda_can"}
    dump(folder / "val_expressions.json", {"17": record | {"sentence": "The can.", "tokens": ["The"], "scene_id": 3}})


def pope(folder) -> None:
    name = "COCO_val2014_000000310196.jpg"
    images(folder / "val2014", [name])
    for kind in ("random", "popular", "adversarial"):
        lines = [
            {"question_id": n + 1, "image": name, "text": f"Is there a {thing} in the image?", "label": label}
            for n, (thing, label) in enumerate((("snowboard", "yes"), ("dining table", "no")))
        ]
        (folder / f"coco_pope_{kind}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


def coco_captions(folder, root=None) -> None:
    """COCO's captions: images, and in a list of their own what five people, or two, said of each."""
    names = {number: f"COCO_val2014_{number:012d}.jpg" for number in (391895, 522418)}
    images(root or folder / "val2014", names.values())
    listed = [
        {"license": 3, "file_name": name, "height": 20, "width": 24, "id": number} for number, name in names.items()
    ]
    said = [(391895, "A man on a moped."), (522418, "A woman cuts a cake."), (391895, "Man rides a motor bike.")]
    annotations = [{"image_id": number, "id": 770337 + n, "caption": text} for n, (number, text) in enumerate(said)]
    dump(folder / "captions_val2014.json", {"info": {}, "images": listed, "licenses": [], "annotations": annotations})


BENCHMARKS = {
    "vqav2": vqav2,
    "gqa": gqa,
    "vizwiz": vizwiz,
    "textvqa": textvqa,
    "refcoco": refcoco,
    "ocid_ref": ocid,
    "pope": pope,
}
