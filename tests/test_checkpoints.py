"""Published checkpoints: their logits and moments are those of their own libraries; a study that starts from them."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from conftest import SCALE, Project
from reference_decoder import LayerWeights, Weights
from reference_decoder import logits as reference_logits
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, pre_tokenizers, trainers

from pipeline.__main__ import main
from pipeline.commands.plan import Plan
from pipeline.common.files import file_hash, read_json
from pipeline.data.store import PACKED_COLUMNS, TEXT_COLUMNS, write_shards
from pipeline.data.tokenizer import load_tokenizer
from pipeline.evaluation.job_settings import EvaluatedModel
from pipeline.evaluation.model import load_model
from pipeline.execution.processes import StopRequest
from pipeline.execution.run import run_job
from pipeline.model.huggingface import build_decoder
from pipeline.model.vlm import VLM, greedy, label_loss
from pipeline.settings.errors import ConfigError
from pipeline.settings.places import find_tokenizer
from pipeline.settings.types import ModelSize
from pipeline.store.foreign_files import check_paths
from pipeline.training import train
from pipeline.training.checkpoints import read_openlm_moments, read_weights
from pipeline.training.schedule import planned_cooldown

ROWS, LAYERS, HEADS, WIDTH, SEQUENCE = 320, 2, 4, 32, 64
OPENLM = ModelSize(vocabulary=ROWS, layers=LAYERS, heads=HEADS, width=WIDTH, sequence=SEQUENCE)
LLAMA_3 = {
    **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 16,
}
# Architectures with their less usual options: those are what an adapter gets wrong.
FAMILIES = {
    "gpt_neox": ("gpt_neox", {"intermediate_size": 96, "rotary_pct": 0.5}),
    "gpt_neox_sequential": (
        "gpt_neox",
        {"intermediate_size": 96, "use_parallel_residual": False, "rope_scaling": {"type": "linear", "factor": 4.0}},
    ),
    "olmo": ("olmo", {"intermediate_size": 96, "tie_word_embeddings": True}),
    "olmo_clipped": ("olmo", {"intermediate_size": 96, "clip_qkv": 0.05}),
    "llama": (
        "llama",
        {"intermediate_size": 96, "num_key_value_heads": 2, "rope_theta": 500.0, "rope_scaling": LLAMA_3},
    ),
}
CLASSES = {
    "gpt_neox": transformers.GPTNeoXForCausalLM,
    "olmo": transformers.OlmoForCausalLM,
    "llama": transformers.LlamaForCausalLM,
}
torch.set_num_threads(1)


def size_of(name: str, vocabulary: int = ROWS) -> ModelSize:
    family, config = FAMILIES[name]
    return OPENLM.model_copy(update={"vocabulary": vocabulary, "family": family, "config": config})


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, ROWS, shape, generator=torch.Generator().manual_seed(seed))


def stir(model: torch.nn.Module) -> None:
    """Random gains and biases: those of a fresh model would hide a tensor that is not used."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))


def reference(name: str) -> transformers.PreTrainedModel:
    """A random model of transformers, made without any code of the package."""
    family, config = FAMILIES[name]
    sizes = {"vocab_size": ROWS, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    torch.manual_seed(3)
    cls = CLASSES[family]
    model = cls(cls.config_class(**sizes, **config, pad_token_id=None, initializer_range=0.2)).eval()
    stir(model)
    return model


def imported(name: str, folder: Path, vocabulary: int = ROWS):
    size = size_of(name, vocabulary)
    decoder = build_decoder(size).eval()
    decoder.load_state_dict(read_weights("huggingface", folder, decoder, size))
    return decoder


def run(decoder, ids: torch.Tensor, segments=None) -> torch.Tensor:
    return decoder.logits(decoder(decoder.embedding(ids), segments))


# --- Hugging Face's layout ---------------------------------------------------------------------------------------------


@pytest.fixture(params=FAMILIES)
def saved(request, tmp_path) -> tuple[str, Path, transformers.PreTrainedModel]:
    model = reference(request.param)
    model.save_pretrained(tmp_path / "checkpoint")
    return request.param, tmp_path / "checkpoint", model


@torch.no_grad()
def test_logits_equal_those_of_transformers(saved):
    name, folder, model = saved
    ids = tokens(2, 30)
    theirs = model(ids).logits
    assert (run(imported(name, folder), ids) - theirs).abs().max() < 1e-5
    assert theirs.std() > 0.3  # not a model that says the same of everything


@torch.no_grad()
def test_several_files_with_an_index_are_one_checkpoint(saved, tmp_path):
    name, folder, model = saved
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    one, several = (imported(name, where).state_dict() for where in (folder, tmp_path / "parts"))
    assert all(torch.equal(one[key], several[key]) for key in one)


@torch.no_grad()
def test_packed_pieces_have_the_logits_that_each_has_alone(saved):
    name, folder, _ = saved
    decoder, lengths = imported(name, folder), [5, 1, 9, 3]
    pieces = [tokens(1, n, seed=n) for n in lengths]
    segments = torch.cat([torch.full((1, n), number) for number, n in enumerate(lengths, 1)], dim=1)
    alone = torch.cat([run(decoder, piece) for piece in pieces], dim=1)
    packed, mixed = (run(decoder, torch.cat(pieces, dim=1), s) for s in (segments, None))
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(mixed, alone, atol=1e-3)


@torch.no_grad()
def test_a_cache_filled_in_blocks_gives_the_same_hidden_states(saved):
    name, folder, _ = saved
    decoder = imported(name, folder)
    x, cache = decoder.embedding(tokens(2, 12)), decoder.new_cache()
    parts = [decoder(part, cache=cache) for part in (x[:, :5], x[:, 5:6], x[:, 6:])]
    torch.testing.assert_close(torch.cat(parts, dim=1), decoder(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_greedy_answers_after_an_image_equal_those_computed_anew_for_every_token(saved):
    name, folder, _ = saved
    torch.manual_seed(5)
    model = VLM(imported(name, folder), features=6).eval()
    prompts, features, slots = tokens(3, 8), torch.randn(3, 2, 6), torch.tensor([0, 1, 8, 9, 16, 17])
    x = model.embed(prompts, features, slots)
    expected: list[list[int]] = [[] for _ in prompts]
    for _ in range(9):
        chosen = model.decoder.logits(model.decoder(x)[:, -1]).argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            expected[row].append(token)
        x = torch.cat([x, model.decoder.embedding(chosen[:, None])], dim=1)
    assert greedy(model, prompts, stop=-1, longest=9, features=features, slots=slots) == expected
    assert len({tuple(row) for row in expected}) > 1


def test_logits_at_labels_alone_and_their_gradients_equal_the_librarys_loss(saved):
    name, folder, model = saved
    ids, ours = tokens(2, 12), VLM(imported(name, folder))
    targets = torch.full_like(ids, -100)
    targets[:, 6:-1] = ids[:, 7:]
    loss = label_loss(ours({"tokens": ids, "targets": targets}), targets)
    loss.backward()
    labels = torch.where(torch.arange(12) > 6, ids, -100)
    theirs = model(ids, labels=labels).loss
    theirs.backward()
    torch.testing.assert_close(loss, theirs, atol=1e-5, rtol=1e-5)
    embedding = model.get_input_embeddings().weight.grad
    torch.testing.assert_close(ours.decoder.embedding.weight.grad, embedding, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_larger_vocabulary_gets_rows_that_change_no_other_logit(saved):
    name, folder, model = saved
    decoder, ids = imported(name, folder, vocabulary=ROWS + 5), tokens(1, 9)
    wider = run(decoder, ids)
    assert wider.shape[-1] == ROWS + 5
    torch.testing.assert_close(wider[..., :ROWS], model(ids).logits, atol=1e-5, rtol=1e-5)
    mean = model.get_input_embeddings().weight.mean(0)
    assert all(torch.allclose(row, mean, atol=1e-6) for row in decoder.embedding.weight[ROWS:])


def test_tables_of_older_versions_are_left_out(tmp_path):
    reference("gpt_neox").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for layer in range(LAYERS):
        prefix = f"gpt_neox.layers.{layer}.attention"
        tensors |= {f"{prefix}.bias": torch.ones(1, 1, 8, 8), f"{prefix}.masked_bias": torch.tensor(-1e9)}
        tensors[f"{prefix}.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, tmp_path / "model.safetensors")
    imported("gpt_neox", tmp_path)


def test_half_precision_is_read_as_it_is(tmp_path):
    model = reference("gpt_neox").half()
    model.save_pretrained(tmp_path)
    decoder = imported("gpt_neox", tmp_path)
    assert torch.equal(decoder.head.weight, model.embed_out.weight.float())


# --- OpenLM's layout ---------------------------------------------------------------------------------------------------


def random_weights(rng: np.random.Generator) -> Weights:
    """For the reference, in numbers that fp32 holds."""

    def draw(*shape: int) -> np.ndarray:
        values = rng.normal(0, WIDTH**-0.5, shape) if len(shape) == 2 else rng.uniform(0.5, 1.5, shape)
        return values.astype(np.float32).astype(np.float64)

    layers = [
        LayerWeights(
            *(draw(WIDTH), draw(3 * WIDTH, WIDTH), draw(WIDTH), draw(WIDTH), draw(WIDTH, WIDTH)),
            *(draw(WIDTH), draw(512, WIDTH), draw(WIDTH, 256)),
        )
        for _ in range(LAYERS)
    ]
    return Weights(draw(ROWS, WIDTH), layers, draw(WIDTH), draw(ROWS, WIDTH))


def openlm_tensors(weights: Weights) -> dict[str, torch.Tensor]:
    """Names and order of open_lm's Transformer.state_dict(), tables included."""
    tensors = {"tok_embeddings.weight": weights.embedding}
    for number, layer in enumerate(weights.layers):
        prefix = f"layers.{number}"
        tensors |= {
            f"{prefix}.attention.in_proj.weight": layer.in_projection,
            f"{prefix}.attention.out_proj.weight": layer.out_projection,
            f"{prefix}.attention.pos_embed.inv_freq": 10000.0 ** (-np.arange(0, 8, 2) / 8),
            f"{prefix}.attention.q_norm.weight": layer.query_gain,
            f"{prefix}.attention.k_norm.weight": layer.key_gain,
            f"{prefix}.feed_forward.w12.weight": layer.gate_and_up,
            f"{prefix}.feed_forward.w3.weight": layer.down,
            f"{prefix}.attention_norm.weight": layer.attention_gain,
            f"{prefix}.ffn_norm.weight": layer.feed_forward_gain,
        }
    tensors |= {"norm.weight": weights.final_gain, "output.weight": weights.head}
    return {name: torch.from_numpy(value).float() for name, value in tensors.items()}


DCLM_CONFIG = {
    "model_type": "openlm",
    "params": None,
    "params_args_dict": {
        **{"dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "vocab_size": ROWS, "seq_len": 2048},
        **{"model_norm": "gain_only_lp_layer_norm", "qk_norm": True, "norm_eps": 1e-5, "ffn_type": "swiglu_torch"},
        **{"positional_embedding_type": "rotary", "post_embed_norm": False, "weight_tying": False},
        **{
            "attn_name": "auto",
            "attn_activation": None,
            "moe_freq": 0,
            "moe_num_experts": None,
            "lr": 0.01,
            "fsdp": True,
        },
    },
}


def epoch(tensors: dict[str, torch.Tensor], prefix: str = "") -> dict:
    """What open_lm saves as epoch_N.pt."""
    state = {prefix + name: tensor for name, tensor in tensors.items()}
    return {"epoch": 7, "name": "run", "state_dict": state, "evaluation_metrics": [], "step": 6, "samples_seen": 99}


def write_openlm(folder: Path, form: str, tensors: dict[str, torch.Tensor]) -> Path:
    """A checkpoint in one of the forms in which there are some; returns its path."""
    folder.mkdir(exist_ok=True)
    if form == "wrapped":
        save_file({f"model.{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(DCLM_CONFIG))
        return folder
    file = folder / ("epoch_7.safetensors" if form == "safetensors" else "epoch_7.pt")
    if form == "safetensors":
        save_file(tensors, file)
    elif form == "bare":
        torch.save(tensors, file)
    else:
        torch.save(epoch(tensors, {"plain": "", "ddp": "module.", "compiled": "module._orig_mod."}[form]), file)
    return file


@pytest.mark.parametrize("form", ["plain", "ddp", "compiled", "bare", "safetensors", "wrapped"])
def test_openlm_logits_equal_the_reference(form, tmp_path):
    weights = random_weights(np.random.default_rng(0))
    path = write_openlm(tmp_path, form, openlm_tensors(weights))
    decoder = build_decoder(OPENLM)
    decoder.load_state_dict(read_weights("openlm", path, decoder, OPENLM))
    ids = tokens(2, 12)
    ours = run(decoder, ids).detach().double().numpy()
    for row in range(2):
        assert np.abs(ours[row] - reference_logits(weights, ids[row].tolist(), HEADS)).max() < 1e-5


@pytest.mark.parametrize("keyed", ["by number", "by name"])
def test_openlm_moments_are_given_to_their_parameters(keyed, tmp_path):
    tensors = openlm_tensors(random_weights(np.random.default_rng(0)))
    weights = write_openlm(tmp_path, "ddp", tensors)
    parameters = {name: torch.nn.Parameter(t) for name, t in tensors.items() if "inv_freq" not in name}
    adam = torch.optim.AdamW([{"params": [], "weight_decay": 0.0}, {"params": list(parameters.values())}])
    for number, parameter in enumerate(parameters.values()):
        parameter.grad = torch.full_like(parameter, 1.0 + number)
    adam.step()
    state = adam.state_dict()
    if keyed == "by name":
        state["state"] = {f"_orig_mod.{name}": adam.state[p] for name, p in parameters.items()}
    torch.save({"epoch": 7, "name": "run", "optimizer": state}, tmp_path / "optimizer_7.pt")
    wider = build_decoder(OPENLM.model_copy(update={"vocabulary": ROWS + 3}))
    moments = read_openlm_moments(weights, tmp_path / "optimizer_7.pt", wider)
    order = list(parameters)
    for ours, theirs in (
        ("embedding.weight", "tok_embeddings.weight"),
        ("layers.1.attention_norm.weight", "layers.1.attention_norm.weight"),
        ("layers.0.feed_forward.w12.weight", "layers.0.feed_forward.w12.weight"),
        ("head.weight", "output.weight"),
    ):
        expected = 0.1 * (1.0 + order.index(theirs))
        assert torch.allclose(moments[f"{ours}.exp_avg"][: len(tensors[theirs])], torch.tensor(expected)), ours
        assert moments[f"{ours}.step"].item() == 1
    assert moments["embedding.weight.exp_avg"].shape == (ROWS + 3, WIDTH)
    assert not moments["embedding.weight.exp_avg"][ROWS:].any()  # nobody has moved these rows yet
    assert len(moments) == 3 * len(parameters)


# --- what does not fit -------------------------------------------------------------------------------------------------


class Wiretap:
    """What a pickle may do when it is loaded."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def refusal(layout: str, path: Path, size: ModelSize) -> str:
    decoder = build_decoder(size)
    with pytest.raises(ValueError) as caught:
        read_weights(layout, path, decoder, size)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def edited(file: Path, change) -> None:
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def edit_tensors(file: Path, change) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


HF_FAULTS = {
    "missing tensor": (
        lambda f: edit_tensors(f / "model.safetensors", lambda t: t.pop("gpt_neox.layers.1.attention.dense.bias")),
        "lacks the tensor gpt_neox.layers.1.attention.dense.bias of shape (32,)",
    ),
    "extra tensor": (
        lambda f: edit_tensors(f / "model.safetensors", lambda t: t.update({"gpt_neox.lora.weight": torch.ones(2)})),
        "has the tensor gpt_neox.lora.weight, which this architecture does not have",
    ),
    "other shape": (
        lambda f: edit_tensors(
            f / "model.safetensors", lambda t: t.update({"gpt_neox.final_layer_norm.bias": torch.ones(31)})
        ),
        "gpt_neox.final_layer_norm.bias has the shape (31,), wanted (32,)",
    ),
    "vocabulary": (
        lambda f: edited(f / "config.json", lambda c: c.update(vocab_size=400)),
        "vocab_size: found 400, wanted 320 (the study's model.vocabulary)",
    ),
    "rows": (
        lambda f: edit_tensors(f / "model.safetensors", lambda t: t.update({"embed_out.weight": torch.ones(400, 32)})),
        "embed_out.weight has 400 rows, more than model.vocabulary = 320",
    ),
    "layers": (
        lambda f: edited(f / "config.json", lambda c: c.update(num_hidden_layers=3)),
        "num_hidden_layers: found 3, wanted 2 (the study's model.layers)",
    ),
    "how it computes": (
        lambda f: edited(f / "config.json", lambda c: c.update(rotary_pct=1.0, partial_rotary_factor=1.0)),
        "rotary_pct: found 1.0, wanted 0.5 (the study's config.rotary_pct)",
    ),
    "a default left out": (
        lambda f: edited(f / "config.json", lambda c: (c.pop("rotary_pct"), c.pop("partial_rotary_factor"))),
        "rotary_pct: found 0.25, wanted 0.5",
    ),
    "unknown architecture": (
        lambda f: edited(f / "config.json", lambda c: c.update(model_type="mamba")),
        "model_type: found 'mamba', wanted 'gpt_neox' (known are gpt_neox, olmo, llama)",
    ),
    "code of its own": (
        lambda f: edited(f / "config.json", lambda c: c.update(model_type="own", auto_map={"AutoModel": "own.Model"})),
        "model_type: found 'own'",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: cannot be read as JSON"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "config.json: cannot be read as JSON"),
    "a pickle called safetensors": (
        lambda f: torch.save({"a": torch.ones(1)}, f / "model.safetensors"),
        "model.safetensors: a pickle, which is not read",
    ),
    "half a file": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]),
        "model.safetensors: not a whole safetensors file",
    ),
    "no torch file": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "pytorch_model.bin: not a torch file of tensors and plain values alone",
    ),
    "a torch file with code": (
        lambda f: (
            (f / "model.safetensors").unlink(),
            torch.save({"gpt_neox.final_layer_norm.bias": Wiretap(f / "heard")}, f / "pytorch_model.bin"),
        ),
        "pytorch_model.bin: not a torch file of tensors and plain values alone",
    ),
    "nothing": (lambda f: (f / "model.safetensors").unlink(), "has no weights, wanted one of model.safetensors"),
    **{
        f"config of {key}": (
            lambda f, key=key, value=value: edited(f / "config.json", lambda c: c.update({key: value})),
            line,
        )
        for key, value, line in (
            ("rope_layers", [1], "rope_layers: found [1], and nothing here knows this key of gpt_neox"),
            ("quantization_config", {"bits": 4}, "quantization_config: found {'bits': 4}, and nothing here knows"),
            ("auto_map", {"AutoModel": "own.Model"}, "auto_map: found"),
            ("add_cross_attention", True, "add_cross_attention: found True, wanted False"),
            ("rope_theta", 500000.0, "rotary_emb_base: found both 500000.0 and 10000"),
            ("rope_parameters", {"rope_theta": 500000.0}, "rotary_emb_base: found both 10000 and 500000.0"),
            (
                "rope_parameters",
                {"rope_type": "yarn", "factor": 2.0},
                "rope_scaling: found 'yarn' in gpt_neox, known are linear, llama3",
            ),
            (
                "rope_parameters",
                {"rope_type": "linear", "factor": 2.0},
                "rope_scaling: found both None and {'rope_type': 'linear'",
            ),
            (
                "rope_scaling",
                {"type": "linear", "factor": 2.0},
                "rope_scaling: found {'rope_type': 'linear', 'factor': 2.0}, wanted None",
            ),
            ("rope_scaling", LLAMA_3 | {"sharpness": 1}, "'sharpness': 1}, wanted numbers for llama3: factor, high"),
            ("rope_scaling", "linear", "rope_scaling: found 'linear', wanted null or a mapping"),
        )
    },
    "an index that lies": (
        lambda f: (f / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"lost.weight": "model.safetensors"}})
        ),
        "model.safetensors: lacks the tensor lost.weight that model.safetensors.index.json says it has",
    ),
    "an index that points elsewhere": (
        lambda f: (f / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "../model.safetensors"}})
        ),
        "weight_map: found the file '../model.safetensors', wanted names of files beside it",
    ),
}


@pytest.mark.parametrize("fault", HF_FAULTS)
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(fault, tmp_path):
    reference("gpt_neox").save_pretrained(tmp_path)
    damage, line = HF_FAULTS[fault]
    damage(tmp_path)
    assert line in refusal("huggingface", tmp_path, size_of("gpt_neox"))
    assert not (tmp_path / "heard").exists()


# What version 5 of transformers writes of RoPE, and of the version's own.
def as_version_5(config: dict) -> None:
    base, share, _ = (config.pop(key, None) for key in ("rotary_emb_base", "rotary_pct", "partial_rotary_factor"))
    theta = config.pop("rope_theta", None)
    rope = {"rope_theta": base or theta} | ({"partial_rotary_factor": share} if share else {})
    config["rope_parameters"] = rope | (config.pop("rope_scaling", None) or {"rope_type": "default"})
    config["dtype"], config["transformers_version"] = config.pop("dtype", "float32"), "5.24.0"


@torch.no_grad()
def test_a_folder_that_transformers_5_has_saved_is_read(saved):
    name, folder, model = saved
    edited(folder / "config.json", as_version_5)
    assert "rope_theta" not in read_json(folder / "config.json")
    ids = tokens(1, 30)
    assert (run(imported(name, folder), ids) - model(ids).logits).abs().max() < 1e-5
    edited(folder / "config.json", lambda config: config["rope_parameters"].update(rope_theta=500000.0))
    own = "rotary_emb_base" if name.startswith("gpt_neox") else "rope_theta"
    assert f"{own}: found 500000.0, wanted " in refusal("huggingface", folder, size_of(name))


@torch.no_grad()
@pytest.mark.parametrize("form", ["one file", "legacy", "several"])
def test_weights_in_torchs_own_files_are_read(form, tmp_path):
    model = reference("llama")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    if form == "several":
        parts = [dict(list(tensors.items())[:5]), dict(list(tensors.items())[5:])]
        places = {name: f"pytorch_model-0000{n + 1}-of-00002.bin" for n in (0, 1) for name in parts[n]}
        for part in parts:
            torch.save(part, tmp_path / places[next(iter(part))])
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    else:
        torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=form == "one file")
    ids = tokens(1, 9)
    assert (run(imported("llama", tmp_path), ids) - model(ids).logits).abs().max() < 1e-5


def test_rope_scalings_that_are_not_known_are_refused():
    for family, scaling, line in (
        (
            "llama",
            {"rope_type": "dynamic", "factor": 2.0},
            "found 'dynamic' in llama, known are linear, llama3 in llama",
        ),
        ("llama", {"rope_type": "llama3", "factor": 8.0}, "wanted numbers for llama3: factor, high_freq_factor, low_"),
        ("olmo", {"type": "linear", "factor": 2.0}, "found 'linear' in olmo"),
    ):
        size = OPENLM.model_copy(update={"family": family, "config": {"rope_scaling": scaling}})
        with pytest.raises(ValueError, match=line):
            build_decoder(size)


def set_openlm(key: str, value):
    def change(folder: Path) -> None:
        edited(folder / "config.json", lambda config: config["params_args_dict"].update({key: value}))

    return change


def openlm_tensor(name: str, value: torch.Tensor | None):
    def change(folder: Path) -> None:
        edit_tensors(folder / "model.safetensors", lambda t: t.pop(name) if value is None else t.update({name: value}))

    return change


OPENLM_FAULTS = {
    "without QK norm": (
        openlm_tensor("model.layers.0.attention.q_norm.weight", None),
        "lacks the tensor layers.0.attention.q_norm.weight",
    ),
    "norms with biases": (openlm_tensor("model.norm.bias", torch.ones(WIDTH)), "has the tensor norm.bias"),
    "other heads": (set_openlm("n_heads", 8), "n_heads: found 8, wanted 4"),
    "other norm": (
        set_openlm("model_norm", "rms_norm"),
        "model_norm: found 'rms_norm', wanted 'gain_only_layer_norm' or",
    ),
    "other positions": (
        set_openlm("positional_embedding_type", "head_rotary"),
        "positional_embedding_type: found 'head_rotary'",
    ),
    "a key that nobody knows": (
        set_openlm("rotary_twist", 2),
        "rotary_twist: found 2, and nothing here knows this key of",
    ),
    "another turn": (set_openlm("rotary_old", True), "rotary_old: found True, wanted False"),
    "experts": (set_openlm("moe_freq", 2), "moe_freq: found 2, wanted 0"),
    "another activation": (set_openlm("attn_activation", "relu"), "attn_activation: found 'relu', wanted null"),
    "said twice": (
        lambda f: edited(f / "config.json", lambda c: c.update(n_heads=8)),  # whatever the arguments below it say
        "n_heads: found 8, wanted 4",
    ),
    "tied": (set_openlm("weight_tying", True), "weight_tying: found True, wanted False"),
    "another model": (
        lambda f: edited(f / "config.json", lambda c: c.update(model_type="llama")),
        "model_type: found 'llama', wanted 'openlm'",
    ),
    "too many rows": (
        openlm_tensor("model.output.weight", torch.ones(ROWS + 1, WIDTH)),
        "output.weight has 321 rows, more than model.vocabulary = 320",
    ),
}


@pytest.mark.parametrize("fault", OPENLM_FAULTS)
def test_an_openlm_checkpoint_that_does_not_fit_is_refused_in_one_line(fault, tmp_path):
    write_openlm(tmp_path, "wrapped", openlm_tensors(random_weights(np.random.default_rng(0))))
    damage, line = OPENLM_FAULTS[fault]
    damage(tmp_path)
    assert line in refusal("openlm", tmp_path, OPENLM)


def test_nothing_in_a_torch_file_is_run(tmp_path):
    file, heard = tmp_path / "epoch_7.pt", tmp_path / "heard"
    torch.save(epoch({"norm.weight": torch.ones(1)}) | {"name": Wiretap(heard)}, file)
    assert "not a torch file of tensors and plain values alone" in refusal("openlm", file, OPENLM)
    assert not heard.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04half", b"text"])
def test_a_broken_torch_file_is_refused(content, tmp_path):
    (tmp_path / "epoch_7.pt").write_bytes(content)
    assert "not a torch file" in refusal("openlm", tmp_path / "epoch_7.pt", OPENLM)


def test_a_checkpoint_that_is_not_there(tmp_path):
    assert "no such checkpoint" in refusal("huggingface", tmp_path / "none", size_of("olmo"))


def test_moments_of_another_model_are_refused(tmp_path):
    tensors = openlm_tensors(random_weights(np.random.default_rng(0)))
    weights = write_openlm(tmp_path, "plain", tensors)
    for state, line in (
        ({}, "found no optimizer.state"),
        ({"norm.weight": {"exp_avg": torch.ones(WIDTH)}}, "lacks the tensor tok_embeddings.weight"),
    ):
        torch.save({"optimizer": {"state": state}}, tmp_path / "optimizer_7.pt")
        with pytest.raises(ValueError, match=re.escape(line)):
            read_openlm_moments(weights, tmp_path / "optimizer_7.pt", build_decoder(OPENLM))


def test_a_key_that_a_family_does_not_have_is_refused():
    size = size_of("olmo").model_copy(update={"config": {"rotary_pct": 0.5}})
    with pytest.raises(ValueError, match=r"model.config.rotary_pct: no such key of olmo; keys here are .*clip_qkv"):
        build_decoder(size)


# --- a study from published checkpoints --------------------------------------------------------------------------------

NAME, CHECKPOINTS = "theirs", "configs/checkpoints/theirs.yaml"
STEP = 8 * SEQUENCE  # tokens of an update of theirs: 4 sequences of twice our length
SCHEDULE = {
    **{"tokens": 100 * STEP, "batch": 4, "peak_lr": 0.01, "floor_lr": 0.0001, "warmup_steps": 5},
    **{"weight_decay": 0.1, "decay_vectors": True, "clip_norm": 1.0, "z_loss": 0.0},
}


def write_tokenizer(file: Path) -> None:
    """A tokenizer of another model: byte-level, end-of-text called </s>, at id 2."""
    engine = Engine(models.BPE())
    engine.pre_tokenizer, engine.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator(["some words, and some more words"] * 9, trainer)
    file.write_text(engine.to_str())


@pytest.fixture
def published(project, monkeypatch) -> Project:
    """A project whose text run is a Pythia-like one, with states after 20, 79 and 100 of 100 updates."""
    monkeypatch.chdir(project.root)
    (project.root / "weights").mkdir()
    write_tokenizer(project.root / "weights/tokenizer.json")
    places = []
    for step in (20, 79, 100):
        torch.manual_seed(step)
        path = f"step{step}"
        reference("gpt_neox").save_pretrained(project.root / "weights" / path)
        places.append({"tokens": step * STEP, "revision": path, "path": path})
    family, config = FAMILIES["gpt_neox"]
    checkpoints = {
        **{"root": "weights", "layout": "huggingface", "family": family, "config": config, "licence": "theirs"},
        **{"tokenizer": "tokenizer.json", "end": "</s>", "sequence": 2 * SEQUENCE, "schedule": SCHEDULE},
        "checkpoints": places,
    }
    (project.root / "configs/checkpoints").mkdir(exist_ok=True)
    project.write(CHECKPOINTS, yaml.safe_dump(checkpoints))
    sizes = {"vocabulary": ROWS + 8, "layers": LAYERS, "heads": HEADS, "width": WIDTH, "sequence": SEQUENCE}
    for key, value in (("text", {"from": NAME}), ("larger", None), ("model", sizes)):
        project.set(SCALE, key, value)
    project.set("params.yaml", "recipe.moments", "fresh")
    project.set("params.yaml", "experiments.timing.vary.branch_percent", [0, 20, 80, 100])
    return project


def made(project: Project, phase: str) -> dict[str, Path]:
    """Runs a phase's jobs; their folders by what their labels begin with."""
    ledger = project.ledger()
    ledger.write_jobs()
    jobs = [job for job in ledger.jobs if job.phase == phase]
    assert [run_job(ledger.job_file(job), None) for job in jobs] == [0] * len(jobs)
    return {job.label: project.root / job.folder for job in jobs}


def jobs(project: Project, phase: str) -> dict:
    return {job.label: job for job in project.ledger().jobs if job.phase == phase}


def test_states_of_the_text_run_are_the_published_ones(published):
    states = jobs(published, "pretrain")
    assert states.keys() == {"text-20", "text-79", "text-100"}
    assert states["text-79"].card_settings["checkpoint"] == {
        **{"tokens": 79 * STEP, "revision": "step79", "sha256": {}, "layout": "huggingface", "moments": False}
    }
    assert all(list(job.parents) == ["tokenizer"] and not job.continues for job in states.values())


def test_a_cooldown_continues_the_rate_of_their_schedule_at_the_published_state(published):
    cooldowns = [job for job in jobs(published, "cooldown").values() if "branch" in job.parents]
    rates = {job.settings.branch_step: planned_cooldown(job.settings).rate(0) for job in cooldowns}
    for step in (20, 79):
        cosine = 0.5 * (1 + np.cos(np.pi * (step - 5) / 95))
        assert rates[step] == pytest.approx(0.0001 + cosine * (0.01 - 0.0001))
    assert sorted(rates) == [20, 79, 100]


def test_paths_are_context_and_revisions_are_not(published):
    before = {job.id for job in published.ledger().jobs}
    published.set(CHECKPOINTS, "root", str(published.root / "weights"))
    assert {job.id for job in published.ledger().jobs} == before
    published.set(CHECKPOINTS, "checkpoints.1.revision", "other")
    assert len(before - {job.id for job in published.ledger().jobs}) > 1


def test_an_import_leaves_a_state_that_evaluation_reads(published):
    folders = made(published, "pretrain")
    state = folders["text-79"]
    assert {"model.safetensors", "optimizer.safetensors", "state.json", "losses.csv"} <= {
        f.name for f in state.iterdir()
    }
    assert read_json(state / "state.json")["tokens"] == 79 * STEP
    measured = read_json(state / "measured.json")
    assert measured["steps"] == 79 and measured["tokens"]["text"] == 79 * STEP
    assert load_file(state / "optimizer.safetensors") == {}
    settings = jobs(published, "pretrain")["text-79"].card_settings
    model = load_model(EvaluatedModel.model_validate({"model": settings["model"]}), state)
    ids = tokens(1, 9)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(published.root / "weights/step79", local_files_only=True)
    with torch.no_grad():
        torch.testing.assert_close(run(model.decoder, ids)[..., :ROWS], theirs(ids).logits, atol=1e-5, rtol=1e-5)


def test_an_import_has_the_same_bytes_every_time(published):
    first = {
        name: {f.name: f.read_bytes() for f in folder.iterdir()} for name, folder in made(published, "pretrain").items()
    }
    again = {
        name: {f.name: f.read_bytes() for f in folder.iterdir()} for name, folder in made(published, "pretrain").items()
    }
    assert first == again


def test_other_bytes_than_the_study_names_are_refused(published, capsys):
    file = published.root / "weights/step79/model.safetensors"
    published.set(CHECKPOINTS, "checkpoints.1.sha256", {"model.safetensors": file_hash(file)})
    made(published, "pretrain")
    edit_tensors(file, lambda t: t["gpt_neox.final_layer_norm.bias"].add_(1))
    ledger = published.ledger()
    ledger.write_jobs()
    job = jobs(published, "pretrain")["text-79"]
    (published.root / job.card).unlink()
    (published.root / job.files).unlink()
    ledger = published.ledger()
    ledger.write_jobs()
    assert run_job(ledger.job_file(job), None) == 1
    assert "model.safetensors: sha256: found " in capsys.readouterr().err


def test_the_checkpoints_own_tokenizer_keeps_its_ids(published):
    (folder,) = made(published, "tokenizer").values()
    ours = load_tokenizer(folder / "tokenizer.json")
    theirs = Engine.from_file(str(published.root / "weights/tokenizer.json"))
    assert ours.encode("some words!") == theirs.encode("some words!", add_special_tokens=False).ids
    count = theirs.get_vocab_size()
    assert (ours.end, ours.image, ours.end_human) == (theirs.token_to_id("</s>"), count, count + 4)
    assert ours.decode([ours.end, *ours.encode("words"), ours.end_human]) == "words"
    assert ours.end not in ours.encode("<|endoftext|></s>") and ours.image not in ours.encode("<|img_patch|>")


def test_olmos_end_of_text_is_not_gpt_neoxs(published):
    published.set(CHECKPOINTS, "tokenizer", "gpt_neox")
    file = find_tokenizer(published.settings().checkpoints)
    assert load_tokenizer(file).end == 0
    kept = load_tokenizer(file, end="<|endoftext|>")
    assert (kept.end, kept.image, kept.end_human) == (50279, 50280, 50284)


@pytest.mark.parametrize(
    ("end", "line"), [("<|end|>", "it has no token '<|end|>'"), ("<unk>", "<|img_patch|> is in it already")]
)
def test_a_tokenizer_that_cannot_take_the_special_tokens(end, line, tmp_path):
    write_tokenizer(tmp_path / "tokenizer.json")
    if end == "<unk>":
        edited(tmp_path / "tokenizer.json", lambda form: form["model"]["vocab"].update({"<|img_patch|>": 299}))
    with pytest.raises(ValueError, match=re.escape(line)):
        load_tokenizer(tmp_path / "tokenizer.json", end=end)


# (file, key, value, what the line must begin with, what it must say)
REFUSALS = [
    ("params.yaml", "recipe.moments", "keep", "params.yaml: recipe.moments: found 'keep'", "fresh: the checkpoint step20 comes without moments"),
    ("params.yaml", "experiments.moments.vary.moments", ["keep", "fresh"], "params.yaml: experiments.moments.vary.moments: found 'keep'", "fresh"),
    ("params.yaml", "experiments.timing.vary.branch_percent", [50], "params.yaml: experiments.timing.vary.branch_percent: found 50.0", "a percent that there is a checkpoint of: 20, 79, 100"),
    ("params.yaml", "recipe.text_budget", 0.5, "params.yaml: recipe.text_budget: found 0.5", "1: theirs was trained once"),
    ("params.yaml", "experiments.size.vary", {"size": ["larger"], "image_fraction": [0.1]}, "params.yaml: experiments.size.vary.size.0: found 'larger'", "base"),
    ("params.yaml", "experiments.mine", {"says": "x", "vary": {"scale.text.peak_lr": [0.01]}}, "params.yaml: experiments.mine.vary.scale.text.peak_lr: found [0.01]", "nothing of the text run: theirs was trained once"),
    ("params.yaml", "experiments.mine", {"says": "x", "vary": {"text_seed": [125]}}, "params.yaml: experiments.mine.vary.text_seed.0: found 125", "124: theirs was trained once"),
    (SCALE, "repeats.text", 2, f"{SCALE}: repeats.text: found 2", "1: theirs was trained once"),
    (SCALE, "text.from", "thiers", f"{SCALE}: text.from: found 'thiers'", "did you mean 'theirs'?"),
    (SCALE, "text.tokens", 5, f"{SCALE}: text.tokens: found 5", "nothing beside `from`"),
    (SCALE, "larger", {"layers": 3, "heads": 2, "width": 48}, f"{SCALE}: larger: found 'a size'", "null: theirs has one size"),
    (SCALE, "model.sequence", 60, f"{SCALE}: model.sequence: found 60", "a divisor of the 512 tokens of a step"),
    (CHECKPOINTS, "layout", "openlm", f"{CHECKPOINTS}: family: found 'gpt_neox'", "a family for layout 'huggingface'"),
    (CHECKPOINTS, "family", "mamba", f"{CHECKPOINTS}: family: found 'mamba'", "'gpt_neox', 'olmo' or 'llama'"),
    (CHECKPOINTS, "checkpoints.0.optimizer", "a.pt", f"{CHECKPOINTS}: checkpoints.optimizer: found 'a.pt'", "this layout has no moments"),
    (CHECKPOINTS, "checkpoints.0.revision", "step79", f"{CHECKPOINTS}: checkpoints.revision: found 'step79'", "a different one"),
    (CHECKPOINTS, "checkpoints.0.tokens", 10**9, f"{CHECKPOINTS}: checkpoints.tokens: found 1000000000", "at most schedule.tokens"),
    (CHECKPOINTS, "checkpoints.0.sha256", {"model.safetensors": "1"}, f"{CHECKPOINTS}: checkpoints.0.sha256.model.safetensors: found '1'", "match"),
    (CHECKPOINTS, "tokenizer", "none.json", f"{CHECKPOINTS}: tokenizer: found 'none.json'", "gpt_neox or a tokenizer.json"),
    (CHECKPOINTS, "decay", "wsd", f"{CHECKPOINTS}: decay: found 'wsd'", "'cosine'"),
    (CHECKPOINTS, "config.rotary_pct", [0.5], f"{CHECKPOINTS}: config.rotary_pct", "found [0.5]"),
    (CHECKPOINTS, "schedule.peak", 1, f"{CHECKPOINTS}: schedule.peak: found 1", "did you mean 'peak_lr'?"),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: f"{case[1]}={case[2]}")
def test_settings_that_a_published_run_cannot_give_are_refused(published, case):
    file, key, value, begins, says = case
    published.set(file, key, value)
    with pytest.raises(ConfigError) as caught:
        published.study()
    line = str(caught.value)
    assert line.startswith(begins) and says in line and "\n" not in line


def test_a_checkpoint_that_is_not_on_disk_is_named_before_anything_runs(published):
    (published.root / "weights/step79").rename(published.root / "weights/elsewhere")
    with pytest.raises(ConfigError, match=r"text.from: step79: found 'weights/step79', allowed: an existing folder"):
        check_paths(published.ledger())


def test_a_checkpoint_that_does_not_fit_is_refused_by_the_plan(published, capsys):
    folder = published.root / "weights/step79"
    edited(folder / "config.json", lambda config: config.update(rotary_pct=1.0, partial_rotary_factor=1.0))
    assert main(["plan"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{SCALE}: text.from: step79: found 'weights/step79', allowed: a checkpoint that fits; ")
    assert line.endswith("config.json: rotary_pct: found 1.0, wanted 0.5 (the study's config.rotary_pct)")
    with pytest.raises(ConfigError, match="a checkpoint that fits"):
        check_paths(published.ledger())
    folder.rename(folder.with_name("elsewhere"))  # a study is planned where its weights are not, too
    assert main(["plan"]) == 0


def test_the_plan_counts_no_training_of_the_text_run(published):
    plan = Plan(published.ledger())
    costs = [plan.costs[job.key] for job in plan.jobs if job.phase == "pretrain"]
    assert len(costs) == 3 and all(cost.tokens == cost.seconds == 0 for cost in costs)
    assert all(cost.disk > 0 for cost in costs)


def test_moments_that_were_published_are_kept(project, monkeypatch):
    """An OpenLM run with its optimizer: what the state holds is what `moments: keep` continues."""
    monkeypatch.chdir(project.root)
    tensors = openlm_tensors(random_weights(np.random.default_rng(0)))
    write_openlm(project.root / "weights", "ddp", tensors)
    state = {
        name: {"step": torch.tensor(6.0), "exp_avg": t / 3, "exp_avg_sq": t.square()}
        for name, t in tensors.items()
        if "inv_freq" not in name
    }
    torch.save({"optimizer": {"state": state, "param_groups": []}}, project.root / "weights/optimizer_7.pt")
    checkpoints = {
        **{"root": "weights", "layout": "openlm", "tokenizer": "gpt_neox", "licence": "ours"},
        **{"sequence": SEQUENCE, "schedule": SCHEDULE | {"batch": 8}},
        "checkpoints": [
            {"tokens": 80 * STEP, "revision": "epoch_7", "path": "epoch_7.pt", "optimizer": "optimizer_7.pt"}
        ],
    }
    (project.root / "configs/checkpoints").mkdir(exist_ok=True)
    project.write(CHECKPOINTS, yaml.safe_dump(checkpoints))
    sizes = {"vocabulary": ROWS, "layers": LAYERS, "heads": HEADS, "width": WIDTH, "sequence": SEQUENCE}
    for key, value in (("text", {"from": NAME}), ("larger", None), ("model", sizes)):
        project.set(SCALE, key, value)
    project.set("params.yaml", "experiments.timing.vary.branch_percent", [0, 80])
    assert project.study().recipe.moments == "keep"
    folder = made(project, "pretrain")["text-80"]
    moments = load_file(folder / "optimizer.safetensors")
    torch.testing.assert_close(moments["decoder.head.weight.exp_avg"], tensors["output.weight"] / 3)
    torch.testing.assert_close(
        moments["decoder.layers.1.feed_forward.w12.weight.exp_avg_sq"],
        tensors["layers.1.feed_forward.w12.weight"].square(),
    )
    assert moments["decoder.embedding.weight.step"].item() == 6


# --- a branch ----------------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """A job as pipeline.execution.run would hand it to the trainer."""

    phase: str
    settings: dict
    inputs: dict[str, Path]
    resume: Path
    continues: None = None
    stop: StopRequest = field(default_factory=StopRequest)
    context: dict = field(
        default_factory=lambda: {"wandb": "disabled", "save_steps": 2, "checkpoint_activations": False}
    )

    @property
    def card(self) -> dict:
        return {"phase": self.phase, "id": "test", "settings": self.settings}

    @property
    def progress(self):
        return self

    def begin_at(self, done: int) -> None:
        pass

    def update(self, *_) -> None:
        pass


def test_a_branch_from_an_imported_state_trains_with_images_among_its_text(published, tmp_path):
    state = made(published, "pretrain")["text-79"]
    rng = np.random.default_rng(0)
    text = [{"tokens": rng.integers(3, ROWS, SEQUENCE + 1).astype(np.uint16)} for _ in range(40)]
    write_shards(tmp_path / "text", TEXT_COLUMNS, text)
    packed = {
        "loss": np.array([0] * 9 + [1] * (SEQUENCE - 8), np.uint8),
        "segments": np.array([1] * 30 + [2] * (SEQUENCE - 29), np.uint16),
        "images": [{"id": "a", "start": 0, "bytes": 3}],
        "pixels": b"abc",
    }
    captions = [packed | {"tokens": rng.integers(3, ROWS, SEQUENCE + 1).astype(np.uint16)} for _ in range(9)]
    write_shards(tmp_path / "captions", PACKED_COLUMNS, captions)
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features/features.npy", rng.normal(size=(1, 9, 6)).astype(np.float16))
    (tmp_path / "features/ids.json").write_text('["a"]')
    job = next(job for job in jobs(published, "cooldown").values() if job.settings.branch_step == 79)
    encoder = {"kind": "efficientnet_lite0", "weights": "none", "pixels": 32, "patches": 9, "width": 6, "cache": True}
    small = {"optimisation": job.card_settings["optimisation"] | {"tokens": 6 * 8 * SEQUENCE}, "image_fraction": 0.25}
    inputs = {"branch": state, **{name: tmp_path / name for name in ("text", "captions", "features")}}
    outs = []
    for number in range(2):
        out = tmp_path / f"out{number}"
        out.mkdir()
        measured = train.run(
            Job("cooldown", job.card_settings | small | {"encoder": encoder}, inputs, tmp_path / f"resume{number}"), out
        )
        outs.append({file.name: file.read_bytes() for file in out.iterdir()})
    assert outs[0] == outs[1]
    assert measured["learning_rates"]["first"] == planned_cooldown(job.settings).rate(0)
    before, after = load_file(state / "model.safetensors"), load_file(tmp_path / "out0/model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(before)
    assert set(after) - set(before) == {
        f"projector.{name}" for name in ("first.bias", "first.weight", "mean", "scale", "second.bias", "second.weight")
    }
    model = load_model(
        EvaluatedModel.model_validate({"model": job.card_settings["model"], "encoder": encoder}), tmp_path / "out0"
    )
    assert isinstance(model.decoder.network, transformers.GPTNeoXModel)
