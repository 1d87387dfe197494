"""Exports: `transformers` loads them without this package, and says the same as the model that was trained."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import SOURCE
from safetensors.torch import save_file

from pipeline.__main__ import main
from pipeline.common.files import digest, read_json, stable_json
from pipeline.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from pipeline.evaluation.job_settings import EvaluatedModel
from pipeline.evaluation.model import load_model
from pipeline.export.export import export
from pipeline.export.model_card import origin
from pipeline.model.huggingface import build_decoder
from pipeline.model.vlm import VLM, greedy
from pipeline.settings.load import load_settings
from pipeline.settings.types import Encoder, ModelSize
from pipeline.store import artifacts
from pipeline.store.ledger import Ledger
from pipeline.study.job import Job, lineage
from pipeline.study.study import Study

SIZES = {"vocabulary": 340, "layers": 2, "heads": 2, "width": 32, "sequence": 64}
OLMO = {"family": "olmo", "config": {"intermediate_size": 96, "tie_word_embeddings": True}}
LLAMA_3 = {
    **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 16,
}
NEOX = {
    "family": "gpt_neox",
    "config": {"intermediate_size": 96, "rotary_pct": 0.5, "rotary_emb_base": 777, "rope_scaling": LLAMA_3},
}
PATCHES = 16
RATES = {"first": 0.002, "last": 3e-05, "peak": 0.003, "floor": 3e-05, "warmup": 4, "steps": 100}
TOKENS = {"text": 6000, "image": 1600, "image_text": 700, "padding": 100, "labels": 6500, "positions": 8400}
LICENCES = {
    "sources": [{"name": "our corpus", "used_for": "text", "licence": "CC-BY-4.0"}],
    "features": [{"name": "our encoder", "used_for": "images", "licence": "Apache-2.0"}],
}
torch.set_num_threads(1)


class Workshop:
    """A folder of artifacts as a study's jobs would leave them, with random weights."""

    def __init__(self, root: Path, **model):
        self.root = root
        root.mkdir(exist_ok=True)
        for name in ("pipeline", "configs", "params.yaml"):
            (root / name).symlink_to(SOURCE / name)
        settings = load_settings(SOURCE)
        params = settings.params.model_dump() | {"experiments": {"timing": {"vary": {"branch_percent": [80.0]}}}}
        scale = settings.scale.model_copy(update={"model": ModelSize(**SIZES, **model)})
        settings = settings.model_copy(update={"params": type(settings.params)(**params), "scale": scale, "claims": {}})
        self.ledger = Ledger(Study(settings), root)
        self.study = self.ledger.study

    def put(self, job: Job, files: dict[str, str], measured: dict) -> Path:
        """Leave a job's artifact: files, what was measured, list, card."""
        folder = self.root / job.folder
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        (folder / "measured.json").write_text(stable_json(measured))
        artifacts.make_manifest(folder, self.ledger.digest(job))
        (folder / artifacts.CARD).write_text(stable_json(self.ledger.card(job)))
        return folder

    def train(self, job: Job) -> Path:
        """Leave a model and all that is behind it."""
        for earlier in lineage(job):
            if earlier.phase == "tokenizer":
                train_tokenizer(["a text of some words, and the red hat is left of it"] * 9, 300, self.root / "t.json")
                self.put(earlier, {"tokenizer.json": (self.root / "t.json").read_text()}, {"vocabulary": 300})
            elif earlier.phase in ("pretrain", "cooldown", "finetune"):
                model = self.model(earlier)
                folder = self.root / earlier.folder
                folder.mkdir(parents=True, exist_ok=True)
                save_file(
                    {name: t.contiguous() for name, t in model.state_dict().items()}, folder / "model.safetensors"
                )
                measured = {
                    "parameters": sum(p.numel() for p in model.parameters()),
                    **{"steps": 100, "tokens": TOKENS, "learning_rates": RATES},
                }
                self.put(earlier, {}, measured)
            else:
                counts = {"sequences": 10, "positions": 640} | (
                    {"pieces": 90} if "patches" in earlier.card_settings else {}
                )
                self.put(earlier, {}, counts | {"licences": LICENCES.get(earlier.phase, [])})
        return self.root / job.folder

    def model(self, job: Job) -> VLM:
        settings = job.card_settings
        torch.manual_seed(len(job.id))
        encoder = Encoder(**settings["encoder"]) if settings.get("encoder") else None
        network = torch.nn.Linear(2, 3) if settings.get("train_encoder") else None  # stands for a trained encoder
        model = VLM(build_decoder(ModelSize(**settings["model"])), encoder and encoder.width, network)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if tensor.dim() < 2:
                    tensor.add_(0.3 * torch.rand_like(tensor))
                elif settings["model"].get("family") and not name.startswith("projector"):
                    tensor.mul_(10)  # the library's init is so small that all logits are alike
        return model

    def finetuned(self, **changes) -> Job:
        return self.study.finetune(self.study.recipe.model_copy(update=changes))

    def evaluated(self, model: Job) -> Job:
        """Leave an evaluation of a model: every second answer is right."""
        job = self.study.evaluate(model, self.study.recipe)
        header = "task,condition,id,image,kind,split,answer,prediction,valid,score"
        vision = [
            f"{task},{condition},{n},i{n % 10},k,s,a,b,1,{n % 2 if condition == 'normal' else 0}"
            for task in job.card_settings["vision"]
            for condition in job.card_settings["conditions"]
            for n in range(40)
        ]
        text = [f"{task},{n},1,{n % 2},{n % 2}" for task in job.card_settings["text"] for n in range(40)]
        files = {
            "vision.csv": "\n".join([header, *vision]),
            "text.csv": "\n".join(["task,id,answer,prediction,score", *text]),
            "heldout.csv": "\n".join(["id,nats,bytes", *(f"{n},{70 + n % 3},50" for n in range(20))]),
            "captions.csv": "\n".join(
                ["id,image,reference,prediction,score", *(f"{n},i{n},a,b,0.5" for n in range(9))]
            ),
        }
        self.put(job, files, {})
        return job


# What a user does with an export, in a process that does not have this package.
USER = """
import json, sys
import numpy as np, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
for folder, images in json.loads(sys.argv[1]):
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=images is not None).eval()
    found = {"class": np.array(type(model).__name__), "ids": np.array(tokenizer("a text of red words").input_ids)}
    with torch.no_grad():
        ids = torch.arange(6, 26)[None]
        found["text"] = model(ids).logits.numpy()
        texts = [tokenizer.decode(row, skip_special_tokens=False) for row in ([9, 30, 31, 32, 33], [40, 41])]
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        length = batch["input_ids"].shape[1]
        found["padded"] = model.generate(**batch, max_new_tokens=8, eos_token_id=None)[:, length:].numpy()
        found["short"] = model.generate(**batch, max_length=length + 3, eos_token_id=None)[:, length:].numpy()
        states = model(ids, output_hidden_states=True).hidden_states
        found["states"] = torch.stack(states).numpy()
        found["tuple"] = model(ids, return_dict=False)[0].numpy()
        if images:
            features = torch.from_numpy(np.load(images))
            prompt = torch.full((2, features.shape[1] + 5), tokenizer.convert_tokens_to_ids("<|img_patch|>"))
            prompt[:, -5:] = torch.tensor([[9, 30, 31, 32, 33], [40, 41, 42, 43, 44]])
            found["image"] = model(prompt, image_features=features).logits.numpy()
            inputs = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}
            answer = model.generate(**inputs, image_features=features, max_new_tokens=8, eos_token_id=None)
            found["answer"] = answer[:, prompt.shape[1]:].numpy()
            asked = inputs | {"image_features": features, "max_new_tokens": 8, "eos_token_id": None}
            found["uncached"] = model.generate(**asked, use_cache=False)[:, prompt.shape[1]:].numpy()
            beams = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 8, "eos_token_id": None}
            found["beams"] = model.generate(**inputs, image_features=features, **beams).numpy()
            alone = [model.generate(prompt[n : n + 1], image_features=features[n : n + 1], **beams) for n in (0, 1)]
            found["beams_alone"] = torch.cat(alone).numpy()
            both = prompt.view(1, -1)  # a prompt of two images
            found["two_images"] = model.generate(both, image_features=features, **beams).numpy()
            found["two_images_once"] = model.generate(both, image_features=features, num_beams=2, max_new_tokens=8, eos_token_id=None).numpy()
            content = [{"type": "image"}, {"type": "text", "text": "a hat?"}]
            chat = [{"role": "user", "content": content}, {"role": "assistant", "content": "red"}]
            found["chat"] = np.array(tokenizer.apply_chat_template(chat, tokenize=False))
    if images is not None:
        rows = torch.randint(6, 290, (8, 12))
        labels = torch.where(torch.arange(12) > torch.arange(8)[:, None], rows, -100)  # a different number in each
        for name, size in (("whole", 8), ("parts", 2)):
            model.zero_grad()
            number = (labels[:, 1:] != -100).sum()
            losses = [
                model(a, labels=b, num_items_in_batch=number).loss for a, b in zip(rows.split(size), labels.split(size))
            ]
            sum(losses).backward()
            found[f"{name}_loss"] = sum(losses).detach().numpy()
            found[f"{name}_gradient"] = model.get_input_embeddings().weight.grad.numpy()
        image = tokenizer.convert_tokens_to_ids("<|img_patch|>")
        asked = {"without": {}, "segments": {"token_type_ids": ids}, "attentions": {"output_attentions": True}}
        asked |= {"positions": {"position_ids": ids}, "neither": {"input_ids": None}}
        if images:
            asked |= {"fewer": {"input_ids": prompt, "image_features": features[:1]}}
            asked |= {"narrow": {"input_ids": prompt, "image_features": features[..., 1:]}}
            shifted = torch.cat((torch.tensor([[image], [9]]), prompt[:, :-1]), dim=1)
            shifted[1, 1] = 9
            asked |= {"uneven": {"input_ids": shifted, "image_features": features}}
        for name, given in asked.items():
            first = torch.tensor([[image] * 16 + [9]]) if name == "without" else ids
            try:
                model(**({"input_ids": first} | given))
                found[f"refused_{name}"] = np.array("")
            except ValueError as error:
                found[f"refused_{name}"] = np.array(str(error))
        try:
            model.generate(torch.tensor([[image] * 16 + [9]]), max_new_tokens=2)
        except ValueError as error:
            found["refused_generate"] = np.array(str(error))
    np.savez(f"{folder}{sys.argv[2]}.npz", **found)
"""


def transform(root: Path, loads: list[tuple[Path, str | None]], python: str = sys.executable, suffix: str = "") -> None:
    """Run the user's script; what it found is beside each folder, `suffix` in its name."""
    asked = json.dumps([(str(folder), images) for folder, images in loads])
    environment = {**os.environ, "HF_HOME": str(root / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [python, "-I", "-c", USER, asked, suffix], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


class Export:
    """An export, the model that it is of, and what a user found in it."""

    def __init__(self, workshop: Workshop, job: Job, folder: Path):
        self.workshop, self.job, self.folder = workshop, job, folder
        encoder = job.card_settings.get("encoder")
        asked = EvaluatedModel.model_validate({"model": job.card_settings["model"], "encoder": encoder})
        self.model = load_model(asked, workshop.root / job.folder)
        self.width = encoder["width"] if encoder else None

    @property
    def images(self) -> str | None:
        """The file of the user's features; "" for a model with code of its own and no images, None without code."""
        if self.job.card_settings.get("encoder"):
            return str(self.folder.with_suffix(".npy"))
        return "" if list(self.folder.glob("*.py")) else None

    def found(self, suffix: str = "") -> dict:
        return dict(np.load(f"{self.folder}{suffix}.npz"))

    @property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.folder / "tokenizer.json")


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> dict[str, Export]:
    """OpenLM's decoder and the library's, fine-tuned on images and text alone."""
    root = tmp_path_factory.mktemp("exports")
    found = {}
    for name, model in (("openlm", {}), ("olmo", OLMO), ("gpt_neox", NEOX)):
        workshop = Workshop(root / f"{name}-study", **model)
        finetuned = workshop.finetuned()
        workshop.train(finetuned)
        workshop.evaluated(finetuned)
        text = next(job for job in lineage(finetuned) if job.phase == "pretrain")
        for kind, job in (("vlm", finetuned), ("text", text)):
            folder = export(workshop.root, job.id, root / f"{name}-{kind}")
            made = found[f"{name} {kind}"] = Export(workshop, job, folder)
            if kind == "vlm":
                features = np.random.default_rng(0).normal(size=(2, PATCHES, made.width))
                np.save(made.images, features.astype(np.float32))
    transform(root, [(made.folder, made.images) for made in found.values()])
    return found


ALL = [f"{name} {kind}" for name in ("openlm", "olmo", "gpt_neox") for kind in ("vlm", "text")]
VLMS = [name for name in ALL if name.endswith("vlm")]


@torch.no_grad()
def ours(made: Export, ids: torch.Tensor, features=None, slots=None) -> np.ndarray:
    decoder = made.model.decoder
    return decoder.logits(decoder(made.model.embed(ids, features, slots))).numpy()


def check(made: Export, suffix: str = "") -> None:
    """What a user found is what the trained model says, and what the library means by its switches."""
    found = made.found(suffix)
    text = ours(made, torch.arange(6, 26)[None])
    assert np.abs(found["text"] - text).max() < 1e-5 and text.std() > 0.1
    assert np.abs(found["tuple"] - text).max() < 1e-5
    alone = [greedy(made.model, torch.tensor([row]), -1, 8)[0] for row in ([9, 30, 31, 32, 33], [40, 41])]
    assert found["padded"].tolist() == alone
    assert found["short"].tolist() == [row[:3] for row in alone]
    assert found["ids"].tolist() == made.tokenizer.encode("a text of red words")
    states, decoder = torch.from_numpy(found["states"]), made.model.decoder
    assert len(states) == SIZES["layers"] + 1
    assert torch.equal(states[0], decoder.embedding(torch.arange(6, 26)[None]))
    head = decoder.embedding if getattr(decoder, "head", None) is None else decoder.head
    assert np.abs((states[-1] @ head.weight.T).detach().numpy() - text).max() < 1e-5
    if made.images is None:
        return
    assert found["whole_loss"] == pytest.approx(found["parts_loss"], rel=1e-5)
    assert np.abs(found["whole_gradient"] - found["parts_gradient"]).max() < 1e-5
    wanted = {
        "without": "16 image tokens in the prompts, and " + ("no image_features" if made.images else "a model without"),
        "segments": "token_type_ids: this model has no such input",
        "positions": "position_ids: this model has no such input",
        "attentions": "output_attentions: this model does not keep",
        "neither": "exactly one of input_ids and inputs_embeds",
    }
    wanted["generate"] = wanted["without"]
    if made.images:
        wanted["fewer"] = f"{2 * PATCHES} image tokens in the prompts, {PATCHES} patches in image_features"
        wanted["narrow"] = (
            f"image_features: found [2, {PATCHES}, {made.width - 1}], wanted [images, {PATCHES}, {made.width}]"
        )
        wanted["uneven"] = (
            f"[{PATCHES + 1}, {PATCHES - 1}] image tokens in the prompts, wanted {PATCHES} for each image"
        )
    for name, line in wanted.items():
        assert str(found[f"refused_{name}"]).startswith(line), name
    if made.images:
        check_images(made, found)


def check_images(made: Export, found: dict) -> None:
    features = torch.from_numpy(np.load(made.images))
    prompt = torch.full((2, PATCHES + 5), made.tokenizer.image)
    prompt[:, -5:] = torch.tensor([[9, 30, 31, 32, 33], [40, 41, 42, 43, 44]])
    slots = (torch.arange(2)[:, None] * prompt.shape[1] + torch.arange(PATCHES)).flatten()
    assert np.abs(found["image"] - ours(made, prompt, features, slots)).max() < 1e-5
    blind = ours(made, prompt)
    assert np.abs(found["image"][:, -1] - blind[:, -1]).max() > 1e-2
    answers = greedy(made.model, prompt, stop=-1, longest=8, features=features, slots=slots)
    assert found["answer"].tolist() == found["uncached"].tolist() == answers
    assert found["beams"].tolist() == found["beams_alone"].tolist()
    assert found["two_images"][0].tolist() == found["two_images_once"][0].tolist()
    assert str(found["chat"]) == "<|img_patch|>" * PATCHES + "a hat?<|/h|>red<|/a|>"


@pytest.mark.parametrize("name", ALL)
def test_a_user_gets_what_the_trained_model_says(exports, name):
    check(exports[name])


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> str:
    """A Python that has PyTorch and nothing of this project, where it can be had."""
    folder = tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install(str(folder / "bin/python"), "torch==2.13.0", "numpy", "jinja2")
    return str(folder / "bin/python")


def install(python: str, *packages: str) -> None:
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"packages cannot be had here: {done.stderr.strip().splitlines()[-1]}")


@pytest.mark.nightly
@pytest.mark.parametrize("version", ["==4.57.6", ">=5.3,<5.4", ">=5.24"])
def test_other_versions_of_the_library_say_the_same(exports, elsewhere, version, tmp_path):
    """The oldest that is promised, the one that moved the cache's argument, and the newest, which has renamed it."""
    install(elsewhere, "--upgrade", f"transformers{version}")
    transform(tmp_path, [(made.folder, made.images) for made in exports.values()], elsewhere, version)
    for made in exports.values():
        check(made, version)


def test_a_text_model_of_the_library_needs_no_code(exports):
    assert str(exports["gpt_neox text"].found()["class"]) == "GPTNeoXForCausalLM"
    assert str(exports["olmo text"].found()["class"]) == "OlmoForCausalLM"
    for name in ALL:
        code = list(exports[name].folder.glob("*.py"))
        assert bool(code) == (name not in ("gpt_neox text", "olmo text"))


def test_the_code_of_an_export_needs_torch_and_transformers_alone():
    lines = (SOURCE / "pipeline/export/modeling_when_images.py").read_text().splitlines()
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported == {"__future__", "torch", "transformers", "typing"}


@pytest.mark.parametrize("name", ALL)
def test_generation_stops_where_training_did(exports, name):
    made = exports[name]
    ends = read_json(made.folder / "generation_config.json")["eos_token_id"]
    tokenizer = made.tokenizer
    assert ends == ([tokenizer.end_assistant, tokenizer.end] if name in VLMS else [tokenizer.end])


def test_turns_have_their_form_or_are_refused(exports):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exports["openlm vlm"].folder)
    turns = [
        {"role": "user", "content": "a?"},
        {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
        {"role": "user", "content": "c?"},
    ]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "a?<|/h|>b<|/a|>c?<|/h|>"
    for turn, line in (
        ({"role": "system", "content": "be good"}, "turns are of user and assistant alone, not of system"),
        ({"role": "user", "content": [{"type": "video"}]}, "this model takes no video"),
    ):
        with pytest.raises(Exception, match=line):
            tokenizer.apply_chat_template([turn], tokenize=False)
    assert "chat_template" not in read_json(exports["openlm text"].folder / "tokenizer_config.json")


# --- the model card ----------------------------------------------------------------------------------------------------


def test_the_card_says_what_the_model_is_made_of(exports):
    made = exports["openlm vlm"]
    card = (made.folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["pipeline_tag"] == "image-text-to-text" and head["library_name"] == "transformers"
    measured = read_json(made.workshop.root / made.job.folder / "measured.json")
    assert f"{measured['parameters']:,} parameters" in card
    for phase in ("pretrain", "cooldown", "finetune"):
        (job,) = (job for job in lineage(made.job) if job.phase == phase)
        (row,) = (line for line in card.splitlines() if line.startswith(f"| {phase} `{job.id}`"))
        assert "| 6,000 | 1,600 | 700 | 100 | 6,500 | 0.002 | 0.003 | 3e-05 |" in row
    assert "| instructions | scenes | 90 | 10 | 640 |" in card and "| text | scenes | 0 | 10 | 640 |" in card
    assert "| our corpus | text | CC-BY-4.0 |" in card and "| our encoder | images | Apache-2.0 |" in card
    assert "trust_remote_code=True" in card and "frozen and not in this folder" in card
    assert "This folder has no encoder and no processor" in card and "(bicubic, Pillow)" in card


def test_the_card_has_scores_with_intervals(exports):
    card = (exports["openlm vlm"].folder / "README.md").read_text()
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in card.splitlines() if line.startswith("| ")}
    job = exports["openlm vlm"].workshop.study.evaluate(
        exports["openlm vlm"].job, exports["openlm vlm"].workshop.study.recipe
    )
    for task in job.card_settings["vision"] | job.card_settings["text"]:
        value, low, high = map(
            float,
            rows[task.replace("_", " ")].split(" | ")[1].replace("(", "").replace(" to", "").replace(")", "").split(),
        )
        assert value == 50 and low < 50 < high
    assert rows["bits per byte"].startswith("| bits per byte | 2.0") and "(" in rows["bits per byte"]
    assert "Split test" in card


def test_a_stream_of_corpora_names_them_with_their_revisions():
    corpora = {"dclm": {"revision": "1.0"}, "web": {"revision": "2"}}
    source = SimpleNamespace(id="text-1", settings={"source": "corpora", "part": "text", "corpora": corpora})
    shards = SimpleNamespace(card={"parents": {"source": {"id": "text-1"}}})
    assert origin(shards, [source]) == ["dclm 1.0", "web 2"]
    assert origin(shards, []) == ["text-1"]  # not here: its id must do


def test_a_model_without_evaluations_says_so(exports):
    assert "has not been evaluated here" in (exports["openlm text"].folder / "README.md").read_text()


def test_scores_of_another_model_of_the_same_name_are_not_its_own(tmp_path):
    workshop = Workshop(tmp_path / "study")
    job = workshop.finetuned()
    folder = workshop.train(job)
    workshop.evaluated(job)
    card = read_json(folder / artifacts.CARD)
    card["code"] = {"pipeline.training.train": "other"}
    (folder / artifacts.CARD).unlink()
    (folder / artifacts.FILES).unlink()
    artifacts.make_manifest(folder, digest(card))
    (folder / artifacts.CARD).write_text(stable_json(card))
    assert "has not been evaluated here" in (export(workshop.root, job.id, tmp_path / "out") / "README.md").read_text()


# --- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def workshop(tmp_path, monkeypatch) -> Workshop:
    monkeypatch.chdir(tmp_path)
    made = Workshop(tmp_path)
    made.train(made.finetuned())
    return made


def refusal(capsys, *arguments: str) -> str:
    assert main(["export", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_model_is_found_by_its_id_and_by_its_folder(workshop, capsys):
    job = workshop.finetuned()
    assert main(["export", job.id, "--to", "one"]) == 0
    assert main(["export", job.folder, "--to", "two"]) == 0
    assert capsys.readouterr().out.splitlines() == ["exported to one", "exported to two"]
    one, two = ({f.name: f.read_bytes() for f in Path(name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert one.keys() == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors", "modeling_when_images.py"),
        *("tokenizer.json", "tokenizer_config.json"),
    }


def test_a_label_names_the_model_and_not_another_that_begins_so(workshop, capsys):
    job = workshop.finetuned()
    cooldown = next(one for one in lineage(job) if one.phase == "cooldown")
    for number, (target, meant) in enumerate([(job.label, job), (cooldown.label, cooldown), ("blind-x", None)]):
        if meant:
            assert main(["export", target, "--to", str(number)]) == 0
            assert (Path(str(number)) / "README.md").read_text().count(f"# {meant.id}\n") == 1
    (workshop.root / f"artifacts/finetune/{job.label}-00000000").mkdir()
    assert refusal(capsys, job.label, "--to", "out") == f"{job.label}: which of {job.label}-00000000, {job.id}?"
    assert f"did you mean {cooldown.id}?" in refusal(capsys, cooldown.label[:-1] + "8", "--to", "out")


def test_who_may_read_the_folder_may_read_its_files(workshop, monkeypatch):
    """safetensors writes for the owner alone."""
    before = os.umask(0o027)
    try:
        out = export(workshop.root, workshop.finetuned().id, Path("out"))
    finally:
        os.umask(before)
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in out.iterdir()} == dict.fromkeys(
        [file.name for file in out.iterdir()], "0o640"
    )


def test_an_encoder_that_was_trained_along_cannot_be_left_out(workshop, capsys):
    job = workshop.finetuned(train_encoder=True)
    workshop.train(job)
    line = refusal(capsys, job.id, "--to", "out")
    assert line.startswith(
        f"{job.id}: its encoder was trained along (train_encoder: true), and an export has no encoder"
    )
    assert not Path("out").exists()


def test_what_is_no_trained_model_is_one_line(workshop, capsys):
    shards = next(job for job in lineage(workshop.finetuned()) if job.phase == "shards")
    line = refusal(capsys, shards.id, "--to", "out")
    assert line == f"{shards.id}: made by the phase shards, not a trained model (pretrain, cooldown, finetune)"
    assert not Path("out").exists()


def test_what_is_not_there_is_one_line(workshop, capsys):
    job = workshop.finetuned()
    for nothing in ("*", "", "../artifacts", "none"):
        assert "neither the id nor the folder of an artifact" in refusal(capsys, nothing, "--to", "out")
    line = refusal(capsys, job.id[:-1] + "x", "--to", "out")
    assert "neither the id nor the folder of an artifact that is here" in line and f"did you mean {job.id}?" in line


def test_a_damaged_model_is_one_line(workshop, capsys):
    job = workshop.finetuned()
    file = workshop.root / job.folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[::-1])
    assert refusal(capsys, job.id, "--to", "out").endswith("model.safetensors has other bytes than when it was made")
    file.unlink()
    assert "not whole" in refusal(capsys, job.id, "--to", "out")
    (workshop.root / job.card).write_text("{")
    assert "no card that can be read" in refusal(capsys, job.id, "--to", "out")


def test_a_model_whose_tokenizer_is_gone_is_one_line(workshop, capsys):
    job = workshop.finetuned()
    tokenizer = next(job for job in lineage(job) if job.phase == "tokenizer")
    (workshop.root / tokenizer.card).unlink()
    assert "its tokenizer is not here" in refusal(capsys, job.id, "--to", "out")


def test_a_folder_with_something_in_it_is_not_touched(workshop, capsys):
    Path("out").mkdir()
    assert main(["export", workshop.finetuned().id, "--to", "out"]) == 0  # an empty one is as good as none
    before = {f.name: f.stat().st_mtime_ns for f in Path("out").iterdir()}
    line = refusal(capsys, workshop.finetuned().id, "--to", "out")
    assert line == "out: already there and not an empty folder; nothing is overwritten"
    assert {f.name: f.stat().st_mtime_ns for f in Path("out").iterdir()} == before
    Path("file").write_text("x")
    assert "nothing is overwritten" in refusal(capsys, workshop.finetuned().id, "--to", "file")


def test_an_export_that_fails_leaves_nothing(workshop, monkeypatch):
    def fail(*_):
        raise ValueError("no")

    monkeypatch.setattr("pipeline.export.export.model_card", fail)
    with pytest.raises(ValueError, match="no"):
        export(workshop.root, workshop.finetuned().id, workshop.root / "out")
    assert not list(workshop.root.glob("*out*"))
