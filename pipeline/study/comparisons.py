"""The design of a comparison: claims name cells, and the runs compared may differ only in what the claim declares.

What a run is made from is all in the cards of its lineage. Two runs are compared setting by setting; whatever differs
must belong to a factor that the claim lists under `may_differ`. Anything else (tokens, data order, rate, weights) is an
error that names the key: a confound is found before anything is trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from pipeline.settings.claims import Claim
from pipeline.settings.errors import ConfigError
from pipeline.settings.experiments import PRESET, keys_to_vary
from pipeline.settings.scale import Scale
from pipeline.training.job_settings import Cooldown
from pipeline.training.schedule import planned_cooldown

if TYPE_CHECKING:
    from pipeline.study.cells import Cell
    from pipeline.study.job import Job
    from pipeline.study.study import Study


FILE = "configs/claims.yaml"

# What may differ between two runs because of a factor, as patterns of keys: PHASE.setting, or PHASE alone where only
# one of the runs has that phase. A rate is a factor of its own: it comes with a branch point, but it is not the same.
FACTORS = {
    "branch_percent": (
        *("pretrain", "pretrain.stop", "pretrain.checkpoint*", "cooldown.branch_step", "shards/text"),
        "*.main_seed",  # at 0% there is no text run that the first weights come from
    ),
    "learning_rate": ("cooldown.first_rate", "cooldown.peak_rate", "cooldown.warmup_steps", "cooldown.rewarm"),
    "cooldown_rate_factor": ("cooldown.first_rate", "cooldown.peak_rate", "cooldown.rewarm"),
    "moments": ("cooldown.moments",),
    "cooldown": ("cooldown", "shards/captions", "sources/captions", "features/captions", "finetune.main_seed"),
    "image_fraction": ("cooldown.image_fraction",),
    "instruction_share": (
        "cooldown.instruction_share",
        *("shards/captions", "sources/captions", "features/captions"),
    ),
    "captions": ("shards/captions.captions", "sources/captions.corpora*"),
    "finetune_epochs": ("finetune.epochs",),
    "encoder": ("*.encoder*", "features/*", "shards/*.patches"),
    "train_encoder": ("*.train_encoder", "*.encoder.trained_rate", "features/*"),
    # A larger model may take fewer sequences a forward pass, which only rounds.
    "size": ("*.model.layers", "*.model.heads", "*.model.width", "*.hardware.microbatch"),
    "text_budget": ("pretrain.optimisation.tokens", "pretrain.stop", "cooldown.branch_step"),
    "text_seed": ("pretrain.seed", "*.main_seed"),
    "finetune_seed": ("finetune.seed",),
    "condition": ("condition",),  # of the image, under which questions are asked
    "blind": (
        *("finetune.blind", "features/*", "evaluate.conditions", "evaluate.captioning*", "evaluate.text*"),
        *("evaluate.evaluation.text_items", "evaluate.evaluation.heldout_documents"),
    ),
    "fine-tuning": (
        *("finetune", "shards/instructions", "sources/instructions", "features/instructions"),
        *("evaluate.*", "sources/evaluation"),
    ),
}
# A key of the preset is a factor too: where the jobs have what stands in each of its sections.
PRESET_KEYS = {
    "text": ("pretrain.optimisation.{}",),
    "cooldown": ("cooldown.optimisation.{}",),
    "finetune": ("finetune.optimisation.{}",),
    "model": ("*.model.{}", "tokenizer.{}", "shards/*.{}"),
    "larger": ("*.model.{}",),
    "data": ("sources/*.{}",),
    "hardware": ("*.hardware.{}",),
}
# A branch leaves at a percent of the text run's steps: keys that change their number change the step of a branch.
STEP_KEYS = (f"{PRESET}text.tokens", f"{PRESET}text.batch", f"{PRESET}model.sequence")
STEPS = ("pretrain.stop", "pretrain.optimisation.tokens", "cooldown.branch_step")
# Without any image there is no encoder, no caption and no instruction in a cooldown, and no caption to ask for.
NO_IMAGES = (
    *("cooldown.encoder*", "cooldown.train_encoder", "cooldown.instruction_share", "shards/captions", "features/*"),
    *("evaluate.encoder*", "evaluate.train_encoder", "evaluate.captioning*", "evaluate.split", "sources/evaluation"),
    *("shards/instructions", "sources/instructions", "sources/captions"),
)
# Settings that a cooldown's schedule is made from. `facts` has the rates that follow from them instead.
RATES = ("cooldown.main.", "cooldown.optimisation.peak_lr", "cooldown.optimisation.warmup_steps")


def factors_of(scale: Scale) -> dict[str, tuple[str, ...]]:
    """All factors, those of a preset's keys included."""
    found = dict(FACTORS)
    for key in keys_to_vary(scale):
        if key.startswith(PRESET):
            _, section, name = key.split(".")
            patterns = tuple(pattern.format(name) for pattern in PRESET_KEYS[section])
            found[key] = patterns + (STEPS if key in STEP_KEYS else ())
    return found


def lint(study: Study, name: str, claim: Claim, arms: list[tuple[Cell, str]]) -> None:
    """Compare the arms' runs seed by seed. Arms that the study does not have are left out. Raises ConfigError."""
    known = factors_of(study.settings.scale)
    allowed = [pattern for factor in claim.may_differ for pattern in known[factor]]
    # Without images a cooldown lacks all that comes with them. A claim should not have to name each such key.
    if "image_fraction" in claim.may_differ and any(cell.recipe.image_fraction == 0 for cell, _ in arms):
        allowed += NO_IMAGES
    # At 0% there is no text run whose moments could be kept.
    if "branch_percent" in claim.may_differ and any(cell.recipe.branch_percent == 0 for cell, _ in arms):
        allowed += FACTORS["moments"]
    # Only seeds that all arms have are compared; arms of a smaller study may share none.
    seeds = [study.seeds_run.get(arm, set()) for arm, _ in arms]
    for seed in sorted(set.intersection(*seeds)):
        first, *others = (facts(study.all_runs[arm, seed]) | {"condition": condition} for arm, condition in arms)
        for other in others:
            for key, values in differences(first, other).items():
                if not any(fnmatch(key, pattern) for pattern in allowed):
                    factors = [factor for factor in known if any(fnmatch(key, p) for p in known[factor])]
                    remedy = f" (it belongs to the factor {' or '.join(factors)})" if factors else ""
                    raise ConfigError(
                        FILE,
                        f"{name}.may_differ",
                        claim.may_differ,
                        f"all that differs; but {key} is {brief(values[0])} in one run and {brief(values[1])} in another{remedy}",
                    )


def brief(value: object) -> str:
    """A value as an error shows it."""
    return f"{value:.3g}" if isinstance(value, float) else repr(value)


def facts(scores: Job) -> dict[str, object]:
    """All settings behind an evaluation: PHASE.setting -> value, PHASE -> "used", and the rates of its cooldown."""
    found: dict[str, object] = {}
    for job in jobs_behind(scores):
        part = getattr(job.settings, "part", None)  # of the data phases
        phase = f"{job.phase}/{part}" if part else job.phase
        found[phase] = "used"
        # The settings of a schedule say little by themselves: two branches of one text run share them and start at
        # other rates. The rates that follow are compared in their place.
        own = {f"{phase}.{key}": value for key, value in leaves(job.card_settings)}
        found |= {key: value for key, value in own.items() if not key.startswith(RATES)}
        if isinstance(job.settings, Cooldown):
            schedule = planned_cooldown(job.settings)
            found["cooldown.first_rate"], found["cooldown.peak_rate"] = schedule.rate(0), schedule.peak
            found["cooldown.warmup_steps"] = schedule.warmup
    return found


def differences(one: dict[str, object], other: dict[str, object]) -> dict[str, tuple]:
    """Keys whose values differ, with both values; of a phase that only one of the runs has, the phase alone."""
    only = {key for key in one.keys() ^ other.keys() if "." not in key}
    keys = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    inside = [key for key in keys if key in only or key.split(".")[0] not in only]
    return {key: (one.get(key, "not there"), other.get(key, "not there")) for key in inside}


def jobs_behind(job: Job) -> list[Job]:
    """A job and all that its files are made from, each once."""
    found: dict[tuple[str, str], Job] = {}
    waiting = [job]
    while waiting:
        job = waiting.pop()
        if job.key not in found:
            found[job.key] = job
            waiting += job.parents.values()
    return list(found.values())


def leaves(settings: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Settings below settings, with dotted keys."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
