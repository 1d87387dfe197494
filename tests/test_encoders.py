"""The paper's encoders: vision transformers against timm and transformers, their weights files; frames and boxes."""

import hashlib
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import yaml
from conftest import SCALE
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load, save_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch.utils.flop_counter import FlopCounterMode
from typed import vision_task

from pipeline.commands.plan import Plan
from pipeline.common.squares import Square, move_box, move_boxes
from pipeline.data.scenes import to_shards
from pipeline.data.tokenizer import load_tokenizer, train_tokenizer
from pipeline.engines.workflow import Workflow
from pipeline.evaluation import evaluation
from pipeline.evaluation.metrics import iou
from pipeline.model.sizes import DecoderShape, training_flops
from pipeline.model.vision import build_encoder, decode_image, make_transformer
from pipeline.model.vlm import VLM, Projector, label_loss
from pipeline.settings.errors import ConfigError
from pipeline.settings.load import check_weights, load_settings
from pipeline.settings.types import Encoder
from pipeline.settings.vision_transformers import VITS, ViT, find_fault
from pipeline.study.study import Study

torch.set_num_threads(1)

CONFIGS = Path(__file__).parent.parent / "configs" / "encoder"
SIGLIP, DINO = "vit_so400m_patch14_siglip_384", "vit_large_patch14_reg4_dinov2"
CUT = {"embed_dim": 32, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0}  # timm's names of what is cut down
SIDE, PATCHES = 56, 16


@pytest.fixture
def small(monkeypatch):
    """Both networks cut down to three blocks of width 32; DINOv2's release is for 70 px, not for the tests' 56."""
    for kind, pixels in ((SIGLIP, SIDE), (DINO, 70)):
        vit = VITS[kind]
        cut = ViT(
            *(32, 3, 4, 2.0, pixels, vit.mean, vit.deviation, vit.class_token, vit.registers, vit.layer_scale),
        )
        monkeypatch.setitem(VITS, kind, cut)


def released(kind: str, pixels: int) -> torch.nn.Module:
    """timm's whole cut-down network with random weights: biases, gains and layer scales too, so that all of it shows."""
    torch.manual_seed(1)
    network = timm.create_model(kind, img_size=pixels, num_classes=0, **CUT).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    return network


def settings_of(kind: str, file: Path | str, **changes) -> dict:
    sizes = {"pixels": SIDE, "patches": PATCHES, "width": 32}
    return {"kind": kind, "weights": str(file), **sizes, "cache": False, **changes}


@pytest.fixture
def files(small, tmp_path) -> dict[str, Path]:
    """Weights files of both networks, as their releases are: safetensors in timm's layout, with all that is in them."""
    found = {}
    for kind in (SIGLIP, DINO):
        found[kind] = tmp_path / f"{kind}.safetensors"
        save_file(released(kind, VITS[kind].pixels).state_dict(), found[kind])
    return found


def random_pixels(images: int, side: int = SIDE) -> torch.Tensor:
    return torch.randint(0, 256, (images, 3, side, side), generator=torch.Generator().manual_seed(3)).to(torch.uint8)


def normalised(pixels: torch.Tensor, kind: str) -> torch.Tensor:
    """With the statistics of timm's own description of the network."""
    about = timm.get_pretrained_cfg(kind)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (about.mean, about.std))
    return (pixels / 255 - mean) / deviation


# Features


@pytest.mark.parametrize("kind", [SIGLIP, DINO])
def test_features_are_those_that_prismatic_takes_out_of_timm(kind, files):
    """Second-to-last block, no final norm, no class token, no registers; the position embedding resampled by timm."""
    pixels, reference = random_pixels(2), released(kind, SIDE)
    weights = checkpoint_filter_fn(load(files[kind].read_bytes()), reference)
    reference.load_state_dict(weights)
    with torch.no_grad():
        (expected,) = reference.get_intermediate_layers(normalised(pixels, kind), n={len(reference.blocks) - 2})
    features = build_encoder(Encoder(**settings_of(kind, files[kind])))(pixels)
    assert features.shape == (2, PATCHES, 32) and features.dtype == torch.float32
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


def test_siglips_features_are_transformers_second_to_last_hidden_states(files):
    from transformers import SiglipVisionConfig, SiglipVisionModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    about = SiglipVisionConfig(**sizes, image_size=SIDE, patch_size=14, hidden_act="gelu")
    reference = SiglipVisionModel(about).eval()
    weights = load(files[SIGLIP].read_bytes())
    theirs = {"embeddings.position_embedding.weight": weights["pos_embed"][0]}
    for end in ("weight", "bias"):
        theirs[f"embeddings.patch_embedding.{end}"] = weights[f"patch_embed.proj.{end}"]
        for n in range(3):
            ours, block = f"blocks.{n}.", f"encoder.layers.{n}."
            parts = weights[f"{ours}attn.qkv.{end}"].chunk(3)
            theirs |= {f"{block}self_attn.{name}_proj.{end}": part for name, part in zip("qkv", parts)}
            theirs[f"{block}self_attn.out_proj.{end}"] = weights[f"{ours}attn.proj.{end}"]
            for number in (1, 2):
                theirs[f"{block}layer_norm{number}.{end}"] = weights[f"{ours}norm{number}.{end}"]
                theirs[f"{block}mlp.fc{number}.{end}"] = weights[f"{ours}mlp.fc{number}.{end}"]
    left = reference.vision_model.load_state_dict(theirs, strict=False)
    assert not left.unexpected_keys and {name.split(".")[0] for name in left.missing_keys} == {"post_layernorm", "head"}
    pixels = random_pixels(2)
    with torch.no_grad():
        states = reference(normalised(pixels, SIGLIP), output_hidden_states=True).hidden_states
    features = build_encoder(Encoder(**settings_of(SIGLIP, files[SIGLIP])))(pixels)
    torch.testing.assert_close(features, states[-2], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(features, states[-1], atol=0.1)


def test_encoders_side_by_side_normalise_pixels_each_in_its_own_way(files):
    parts = [settings_of(kind, files[kind]) for kind in (SIGLIP, DINO)]
    sizes = {"pixels": SIDE, "patches": PATCHES, "width": 64, "cache": False}
    both, pixels = Encoder(kind="concatenated", parts=parts, **sizes), random_pixels(2)
    alone = [build_encoder(Encoder(**part))(pixels) for part in parts]
    assert torch.equal(build_encoder(both)(pixels), torch.cat(alone, dim=2))


def test_bfloat16_features_are_close_and_come_in_fp32(files):
    encoder, pixels = build_encoder(Encoder(**settings_of(SIGLIP, files[SIGLIP]))), random_pixels(2)
    exact = encoder(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(pixels)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.03


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_frozen_encoder_runs_in_bfloat16_on_a_gpu_and_a_trained_one_does_not(files):
    settings, pixels = Encoder(**settings_of(SIGLIP, files[SIGLIP])), random_pixels(2).cuda()
    trained = build_encoder(settings, trained=True).cuda()(pixels)
    frozen = build_encoder(settings).cuda()(pixels)
    assert frozen.dtype == torch.float32 and not frozen.requires_grad and trained.requires_grad
    assert 0 < (frozen - trained).norm() / trained.norm() < 0.03


def test_a_trained_transformer_uses_every_weight_that_it_has(files):
    settings = Encoder(**settings_of(SIGLIP, files[SIGLIP]))
    encoder = build_encoder(settings, trained=True).train()
    model = VLM(DecoderShape(vocabulary=50, layers=1, heads=2, width=16), settings.width, encoder)
    batch = {"tokens": torch.zeros(1, 20, dtype=torch.long), "targets": torch.ones(1, 20, dtype=torch.long)}
    batch |= {"pixels": random_pixels(1), "slots": torch.arange(PATCHES)}
    logits = model(batch)
    frozen = model({**batch, "features": build_encoder(settings)(batch["pixels"])} | {"pixels": batch["pixels"]})
    torch.testing.assert_close(logits, frozen)
    label_loss(logits, batch["targets"]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    assert encoder.network.patch_embed.proj.weight.grad.any()
    saved = {name for name in model.state_dict() if name.startswith("encoder.")}
    assert saved == {f"encoder.network.{name}" for name in VITS[SIGLIP].tensors()}


# Sizes


@pytest.mark.parametrize("kind", [SIGLIP, DINO])
def test_the_tensors_are_those_of_timms_network_up_to_the_second_to_last_block(kind):
    with torch.device("meta"):
        whole = timm.create_model(kind, num_classes=0)
    last = f"blocks.{len(whole.blocks) - 1}."
    needed = {
        name: tuple(tensor.shape)
        for name, tensor in whole.state_dict().items()
        if not name.startswith((last, "norm.", "fc_norm.", "attn_pool."))
    }
    assert VITS[kind].tensors() == needed


def test_every_transformer_can_be_named():
    for kind, vit in VITS.items():
        patches = (384 // vit.patch) ** 2
        Encoder(kind=kind, weights="any.safetensors", pixels=384, patches=patches, width=vit.width, cache=False)


@pytest.mark.parametrize("name", ["siglip", "siglip_dino"])
def test_the_papers_encoders_make_what_their_files_say(name):
    encoder = Encoder(**yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")))
    assert encoder.patches == 729 and not encoder.calibrate and encoder.fit == "resize" and encoder.projector == 2
    widths = 0
    with FlopCounterMode(display=False) as counter:
        for part in encoder.parts or [encoder]:
            network = make_transformer(VITS[part.kind], encoder.pixels)
            image = torch.empty(1, 3, encoder.pixels, encoder.pixels, device="meta")
            features = network.forward_features(image)[:, network.num_prefix_tokens :]
            assert features.shape == (1, 729, part.width)
            widths += features.shape[2]
    assert widths == encoder.width
    assert encoder.tflops_an_image == pytest.approx(counter.get_total_flops() / 1e12, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patches": 729}, "16, as 56 pixels give"),
        ({"width": 1024}, "1152, as 56 pixels give"),
        ({"weights": None}, "a value for kind"),
        ({"sha256": "abc"}, "should match pattern"),
        ({"fit": "crop"}, "'resize' or 'letterbox'"),
        ({"projector": 4}, "2 or 3"),
    ],
)
def test_a_transformer_that_does_not_fit_is_refused(changes, message):
    settings = {"kind": SIGLIP, "weights": "a.safetensors", "pixels": 56, "patches": 16, "width": 1152, "cache": False}
    with pytest.raises(ValidationError, match=message) as caught:
        Encoder(**settings | changes)
    assert caught.value.errors()[0]["loc"] == tuple(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patches": 15}, "the square of a divisor of the 64 pixels"),
        ({"patches": 9}, "the square of a divisor of the 64 pixels"),
        ({"width": 3072}, "3076, as 64 pixels give"),
        ({"sha256": "0" * 64}, "nothing for kind 'patch'"),
    ],
)
def test_bare_patches_that_do_not_fit_are_refused(changes, message):
    settings = {"kind": "patch", "pixels": 64, "patches": 4, "width": 3076, "cache": False}
    with pytest.raises(ValidationError, match=message):
        Encoder(**settings | changes)


def test_the_parts_see_the_same_squares():
    part = {"kind": "patch", "pixels": 64, "patches": 4, "width": 3076, "cache": False}
    whole = {"kind": "concatenated", "pixels": 64, "patches": 4, "width": 6152, "cache": False}
    with pytest.raises(ValidationError, match="what fits the parts' letterbox, letterbox"):
        Encoder(**whole, parts=[part | {"fit": "letterbox"}] * 2)
    assert Encoder(**whole, parts=[part | {"fit": "letterbox"}] * 2, fit="letterbox").square.fit == "letterbox"


def test_later_keys_stay_out_of_identities_until_they_are_used():
    plain = {"kind": "patch", "pixels": 64, "patches": 4, "width": 3076, "cache": False}
    dumped = Encoder(**plain).model_dump()
    assert not {"fit", "projector", "calibrate", "sha256"} & set(dumped)
    used = {"fit": "letterbox", "projector": 3, "calibrate": False}
    assert used.items() <= Encoder(**plain, **used).model_dump().items()


# Weights files


def broken(file: Path, how: str) -> str:
    """Break a file in one of several ways; returns what must be said of it."""
    weights = load(file.read_bytes())
    if how == "missing":
        file.unlink()
        return "no such file"
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
        return "is not a whole safetensors file"
    if how == "a pickle":
        torch.save(weights, file)
        return "is not a whole safetensors file"
    if how == "another layout":
        save_file({f"vision_model.{name}": weight for name, weight in weights.items()}, file)
        return r"has no tensor patch_embed.proj.weight of shape \[32, 3, 14, 14\]"
    if how == "a tensor missing":
        del weights["blocks.1.mlp.fc2.bias"]
        save_file(weights, file)
        return r"has no tensor blocks.1.mlp.fc2.bias of shape \[32\]"
    weights["blocks.0.attn.qkv.weight"] = torch.zeros(96, 16)
    save_file(weights, file)
    return r"tensor blocks.0.attn.qkv.weight is of shape \[96, 16\], not \[96, 32\]"


@pytest.mark.parametrize(
    "how", ["missing", "truncated", "a pickle", "another layout", "a tensor missing", "another shape"]
)
def test_a_bad_weights_file_is_one_line_and_never_random_weights(how, files):
    file = files[SIGLIP]
    assert find_fault(file, VITS[SIGLIP]) is None
    expected, encoder = broken(file, how), Encoder(**settings_of(SIGLIP, file))
    with pytest.raises(ValueError, match=expected) as caught:
        build_encoder(encoder)
    assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=expected) as caught:
        check_weights({"mine": encoder})
    assert caught.value.key == "weights" and caught.value.file == "configs/encoder/mine.yaml"
    assert "\n" not in str(caught.value)


def test_the_last_block_may_be_missing(files):
    weights = load(files[SIGLIP].read_bytes())
    save_file({name: weight for name, weight in weights.items() if not name.startswith("blocks.2.")}, files[SIGLIP])
    assert find_fault(files[SIGLIP], VITS[SIGLIP]) is None


def test_weights_of_another_hash_are_refused(files):
    found = hashlib.sha256(files[SIGLIP].read_bytes()).hexdigest()
    build_encoder(Encoder(**settings_of(SIGLIP, files[SIGLIP], sha256=found)))
    other = "0" * 64
    with pytest.raises(ValueError, match=f"{files[SIGLIP]}: has the SHA-256 {found}, not {other}"):
        build_encoder(Encoder(**settings_of(SIGLIP, files[SIGLIP], sha256=other)))


def test_a_half_precision_file_is_read_as_fp32(files):
    exact = build_encoder(Encoder(**settings_of(SIGLIP, files[SIGLIP])))
    save_file({name: weight.bfloat16() for name, weight in load(files[SIGLIP].read_bytes()).items()}, files[SIGLIP])
    rounded = build_encoder(Encoder(**settings_of(SIGLIP, files[SIGLIP])))
    for mine, other in zip(rounded.parameters(), exact.parameters()):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, other.bfloat16().float())


def test_an_encoder_keeps_its_weights_when_the_file_changes(files):
    encoder, pixels = build_encoder(Encoder(**settings_of(SIGLIP, files[SIGLIP]))), random_pixels(1)
    before = encoder(pixels)
    with open(files[SIGLIP], "r+b") as file:
        file.seek(10_000)
        file.write(bytes(50_000))
    assert torch.equal(encoder(pixels), before)


@pytest.fixture
def with_siglip(project):
    """A project whose recipe has SigLIP, with room for its patches and without its weights."""
    project.set("params.yaml", "recipe.encoder", "siglip")
    project.set(SCALE, "model.sequence", 1024)
    project.set(SCALE, "text.tokens", 1024 * 8 * 100)
    project.set(SCALE, "cooldown.tokens", 1024 * 8 * 20)
    return project


def test_costs_can_be_asked_before_there_are_weights(with_siglip):
    with_siglip.set(SCALE, "expected.tflops", 1.0)
    with_siglip.set(SCALE, "expected.mfu", 0.5)
    ledger = with_siglip.ledger()
    plan = Plan(ledger)
    tuned = next(job for job in plan.jobs if job.phase == "finetune" and not job.card_settings["blind"])
    blind = next(job for job in plan.jobs if job.phase == "finetune" and job.card_settings["blind"])
    images = plan.seen(tuned)["image"] / 729
    assert images > 0
    projector = training_flops(DecoderShape(512, 2, 2, 32), 1152, {"positions": 0, "labels": 0, "image": 729}, 1024)
    assert plan.cost(tuned).flops - plan.cost(blind).flops == pytest.approx(images * (0.64e12 + projector))


def test_no_job_starts_without_weights(with_siglip, capsys):
    study = Workflow(with_siglip.root, {}, main=False)
    with pytest.raises(SystemExit) as stopped:
        study.start(here=False)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    file = "weights/vit_so400m_patch14_siglip_384.safetensors"
    assert line.startswith(
        f"configs/encoder/siglip.yaml: weights: found '{file}', allowed: a safetensors file of {SIGLIP}"
    )
    assert "no such file" in line
    with_siglip.make()
    Workflow(with_siglip.root, {}, main=False).start(here=False)  # nothing is left that would need them


# Frames


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def blank(width: int, height: int) -> bytes:
    return encoded(Image.new("RGB", (width, height), (10, 200, 30)))


SHARES = st.floats(0, 1)
SIZES = st.tuples(st.integers(1, 900), st.integers(1, 900))


@st.composite
def boxes(draw) -> tuple[float, float, float, float]:
    (x1, x2), (y1, y2) = (sorted((draw(SHARES), draw(SHARES))) for _ in range(2))
    return x1, y1, x2, y2


@pytest.mark.parametrize(
    ("size", "box", "padded"),
    [
        ((400, 200), (0.0, 0.0, 1.0, 1.0), (0.0, 0.25, 1.0, 0.75)),
        ((400, 200), (0.5, 0.5, 0.75, 1.0), (0.5, 0.5, 0.75, 0.75)),
        ((200, 400), (0.0, 0.0, 1.0, 1.0), (0.25, 0.0, 0.75, 1.0)),
        ((200, 400), (0.5, 0.25, 1.0, 0.5), (0.5, 0.25, 0.75, 0.5)),
        ((8, 5), (0.0, 0.0, 1.0, 1.0), (0.0, 1 / 8, 1.0, 6 / 8)),  # an odd difference: the row more is below
    ],
)
def test_boxes_of_wide_and_tall_images_move_exactly(size, box, padded):
    assert move_box(box, size, "resize", "letterbox") == padded
    assert move_box(padded, size, "letterbox", "resize") == box


@given(boxes(), st.integers(1, 900))
def test_a_square_images_boxes_stay(box, side):
    assert move_box(box, (side, side), "resize", "letterbox") == box
    assert move_box(box, (side, side), "letterbox", "resize") == box


@given(boxes(), boxes(), SIZES)
def test_moving_there_and_back_changes_nothing_nor_does_it_change_overlaps(first, second, size):
    there = [move_box(box, size, "resize", "letterbox") for box in (first, second)]
    assert all(-1e-12 <= share <= 1 + 1e-12 for box in there for share in box)
    back = move_box(there[0], size, "letterbox", "resize")
    assert back == pytest.approx(first, abs=1e-9)
    wide = [box for box in (first, second) if (box[2] - box[0]) * (box[3] - box[1]) > 1e-6]
    if len(wide) == 2:
        assert iou(*there) == pytest.approx(iou(first, second), abs=1e-6)


@pytest.mark.parametrize("size", [(60, 30), (30, 60), (28, 14), (60, 60)])
@pytest.mark.parametrize("fit", ["resize", "letterbox"])
def test_a_box_moves_as_the_pixels_do(size, fit):
    """A white rectangle on black is in the square where its moved box says."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[height // 2 : height, width // 2 : width] = 255
    square = Square(max(size), fit, padding=(0, 0, 0))
    seen = decode_image(encoded(Image.fromarray(pixels)), square)[0] > 127
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    expected = move_box((0.5, 0.5, 1.0, 1.0), size, "resize", fit)
    assert [int(place) / max(size) for place in found] == pytest.approx(expected, abs=0.6 / max(size))


def test_a_letterbox_is_padded_evenly_with_the_mean_colour():
    seen = decode_image(blank(60, 30), Square(60, "letterbox", (127, 126, 125)))
    assert seen.shape == (3, 60, 60) and seen.dtype == torch.uint8
    assert torch.equal(seen[:, :15], torch.tensor([127, 126, 125]).to(torch.uint8).view(3, 1, 1).expand(3, 15, 60))
    assert torch.equal(seen[:, :15], seen[:, 45:])
    assert torch.equal(seen[:, 15:45], torch.tensor([10, 200, 30]).to(torch.uint8).view(3, 1, 1).expand(3, 30, 60))


def test_padding_is_what_an_encoder_sees_as_its_mean():
    assert Encoder(**settings_of(SIGLIP, "a", width=1152)).square.padding == (127, 127, 127)
    assert Encoder(**settings_of(DINO, "a", width=1024)).square.padding == (123, 116, 103)
    both = {"parts": [settings_of(SIGLIP, "a", width=1152), settings_of(DINO, "a", width=1024)]}
    sizes = {"pixels": SIDE, "patches": PATCHES, "width": 2176, "cache": False}
    assert Encoder(kind="concatenated", **both, **sizes).square.padding == (127, 127, 127)


def test_by_default_an_image_is_stretched_as_ever():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 60, 3), dtype=np.uint8))
    expected = torch.from_numpy(np.array(noise.resize((32, 32), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    assert torch.equal(decode_image(encoded(noise), Square(32)), expected)


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("Where is it? [0.00, 0.00, 1.00, 1.00]", "Where is it? [0.00, 0.25, 1.00, 0.75]"),
        ("[0.5,0.5,0.75,1] and [ .0, 0, 1, 1. ]", "[0.50, 0.50, 0.75, 0.75] and [0.00, 0.25, 1.00, 0.75]"),
        ("[1, 2, 3, 4]", "[1, 2, 3, 4]"),  # not shares
        ("[0.9, 0.1, 0.2, 0.3]", "[0.9, 0.1, 0.2, 0.3]"),  # corners out of order
        ("[0.1, 0.2, 0.3] [-0.1, 0.2, 0.3, 0.4]", "[0.1, 0.2, 0.3] [-0.1, 0.2, 0.3, 0.4]"),
        ("no box at all", "no box at all"),
    ],
)
def test_boxes_in_texts_move_and_other_lists_stay(text, moved, tmp_path):
    wide, square = blank(40, 20), blank(20, 20)
    assert move_boxes(text, wide, "resize", "letterbox") == moved
    assert move_boxes(text, wide, "resize", "resize") == move_boxes(text, square, "resize", "letterbox") == text
    (tmp_path / "wide.png").write_bytes(wide)
    assert move_boxes(text, tmp_path / "wide.png", "resize", "letterbox") == moved


def test_what_lies_in_the_padding_is_cut_off():
    assert move_boxes("[0.00, 0.10, 1.00, 0.75]", blank(40, 20), "letterbox", "resize") == "[0.00, 0.00, 1.00, 1.00]"
    assert move_boxes("[0, 0.1, 1, 0.2]", blank(40, 20), "letterbox", "resize", 6).count("0.000000") == 3


# Training texts and evaluation in the frame that the model sees


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["Where is the wide thing? [0.00, 0.25, 1.00, 0.75]"] * 20, 300, folder / "tokenizer.json")
    return folder


@pytest.mark.parametrize(
    ("settings", "answer"),
    [({}, "[0.00, 0.00, 0.50, 1.00]"), ({"boxes": ["resize", "letterbox"]}, "[0.00, 0.25, 0.50, 0.75]")],
)
def test_instructions_are_sharded_in_the_frame_that_the_model_sees(settings, answer, tokenizer, tmp_path):
    from streaming import LocalDataset

    folder = tmp_path / "instructions"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "wide.png").write_bytes(blank(40, 20))
    turns = [("human", "<image>\nWhere is it?"), ("gpt", "[0.00, 0.00, 0.50, 1.00]")]
    record = {"id": "1", "image": "wide.png", "conversations": [{"from": who, "value": text} for who, text in turns]}
    (folder / "conversations.json").write_text(json.dumps([record]))
    job = SimpleNamespace(
        settings={"part": "instructions", "sequence": 128, "patches": 4, **settings},
        inputs={"source": tmp_path, "tokenizer": tokenizer},
    )
    (tmp_path / "out").mkdir()
    to_shards.run(job, tmp_path / "out")
    (sample,) = LocalDataset(local=str(tmp_path / "out"))
    labels = [int(token) for token, label in zip(sample["tokens"], sample["loss"]) if label]
    assert load_tokenizer(tokenizer / "tokenizer.json").decode(labels[:-1]) == answer


def test_the_study_says_in_which_frame_texts_are_and_must_be(project):
    def frames() -> object:
        study = Study(load_settings(project.root))
        (shard,) = [job for job in study.jobs.values() if job.phase == "shards" and job.label == "instructions"]
        assert all("boxes" not in job.card_settings for job in study.jobs.values() if job.label.startswith("captions"))
        return shard.card_settings.get("boxes")

    encoder = f"configs/encoder/{project.read('params.yaml')['recipe']['encoder']}.yaml"
    data = f"configs/data/{project.read('params.yaml')['data']}.yaml"
    assert frames() is None
    project.set(encoder, "fit", "letterbox")
    assert frames() == ["resize", "letterbox"]
    project.set(data, "boxes", "letterbox")  # LLaVA's
    assert frames() is None
    project.remove(encoder, "fit")
    assert frames() == ["letterbox", "resize"]


def referring(folder: Path, size: tuple[int, int], bbox: list[float]) -> None:
    """A RefCOCO folder with one expression about one image, `bbox` in px: x, y, width, height."""
    (folder / "images").mkdir(parents=True)
    (folder / "boxes").mkdir()
    Image.new("RGB", size).save(folder / "images" / "1.jpg")
    image = {"id": 1, "file_name": "1.jpg", "width": size[0], "height": size[1]}
    instances = {"images": [image], "annotations": [{"id": 1, "image_id": 1, "bbox": bbox}]}
    sentence = {"sent_id": 1, "sent": "wide thing", "raw": "wide thing", "tokens": ["wide", "thing"]}
    refs = [{"ref_id": 1, "ann_id": 1, "image_id": 1, "split": "val", "sentences": [sentence]}]
    (folder / "boxes" / "instances.json").write_text(json.dumps(instances))
    (folder / "boxes" / "refs.json").write_text(json.dumps(refs))


@pytest.mark.parametrize(
    ("fit", "said", "score"),
    [
        ("letterbox", "[0.00, 0.25, 0.50, 0.75]", 1.0),  # the left half, as the model sees it
        ("letterbox", "[0.00, 0.00, 0.50, 1.00]", 1.0),  # and the padding above and below
        ("letterbox", "[0.00, 0.00, 0.50, 0.25]", 0.0),  # of the padding alone
        ("resize", "[0.00, 0.00, 0.50, 1.00]", 1.0),
        ("resize", "[0.00, 0.25, 0.50, 0.75]", 0.0),
    ],
)
def test_answers_are_scored_in_shares_of_the_image(fit, said, score, tokenizer, tmp_path, monkeypatch):
    referring(tmp_path / "evaluation" / "test", (400, 200), [0, 0, 200, 200])
    asked = []

    def reply(model, tokenizer, stop, longest, prompt):
        asked.extend(tokenizer.decode(row.tolist()) for row in prompt.tokens)
        return [said] * len(prompt.tokens)

    monkeypatch.setattr(evaluation, "generate", reply)
    task = {"format": "refcoco", "scorer": "box", "threshold": 0.6, "longest": 24}
    task["prompt"] = "In [0.00, 0.00, 1.00, 1.00], where is the {question}?"
    encoder = {"kind": "patch", "pixels": 64, "patches": 4, "width": 3076, "cache": False, "fit": fit}
    one = evaluation.Evaluation.__new__(evaluation.Evaluation)  # without a model, which `reply` stands for
    one.settings = SimpleNamespace(
        vision={"boxes": vision_task(**task)}, conditions=["removed"], split="test", encoder=Encoder(**encoder)
    )
    one.inputs, one.answers = {"questions": tmp_path}, SimpleNamespace(get=lambda key, make: make())
    one.context = {}
    one.model = one.viewer = one.room = None
    one.progress, one.batch = SimpleNamespace(update=lambda *_: None), 4
    one.tokenizer = load_tokenizer(tokenizer / "tokenizer.json")
    (row,) = one.vision(weighted=False)
    row = dict(zip(evaluation.VISION_COLUMNS, row))
    whole = "[0.00, 0.25, 1.00, 0.75]" if fit == "letterbox" else "[0.00, 0.00, 1.00, 1.00]"
    assert f"In {whole}, where is the wide thing?" in asked[0]
    assert (row["answer"], float(row["score"])) == ("[0.00, 0.00, 0.50, 1.00]", score)


# Projector


def test_three_layers_are_prismatics_fused_mlp():
    torch.manual_seed(0)
    projector, features = Projector(6, 8, layers=3), torch.randn(2, 3, 6)
    layers = [projector.first, projector.second, projector.third]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(6, 24), (24, 8), (8, 8)]
    x = features.double()
    for number, layer in enumerate(layers):
        x = x @ layer.weight.double().T + layer.bias.double()
        if number < 2:
            x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    torch.testing.assert_close(projector(features).double(), x, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("layers", [2, 3])
def test_sizes_count_the_projectors_layers(layers):
    shape = DecoderShape(vocabulary=50, layers=2, heads=2, width=16)
    model = VLM(shape, 6, layers=layers)
    assert sum(p.numel() for p in model.parameters()) == shape.parameters(6, layers)
    matrices = sum(layer.weight.numel() for layer in model.projector.children())
    counts = {"positions": 0, "labels": 0, "image": 5}
    assert training_flops(shape, 6, counts, 8, layers) == 3 * 2 * 5 * matrices


def test_the_3_layer_projector_of_the_paper_has_its_size():
    """SigLIP before the 1.4B decoder: 1152 -> 4608 -> 2048 -> 2048, with biases."""
    shape = DecoderShape(vocabulary=50432, layers=24, heads=16, width=2048)
    fused = 1152 * 4608 + 4608 + 4608 * 2048 + 2048 + 2048 * 2048 + 2048
    assert shape.parameters(1152, 3) - shape.parameters() == fused
    assert shape.parameters(1152) - shape.parameters() == 1152 * 2048 + 2048 + 2048 * 2048 + 2048
