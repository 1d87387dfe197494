"""What a target will cost, before anything runs: jobs, tokens, FLOPs, device-hours, memory, disk, the longest chain.

Device-hours of training are FLOPs over the rate that `benchmarks/results/throughput.json` has for the preset, and where
it has none over the preset's `expected.tflops` x `expected.mfu`. A device is one GPU, or on CPU the threads of one job.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from pipeline.commands.costs import (
    ANSWER_TOKENS,
    CHOICES,
    IMAGE_BYTES,
    QUESTIONS,
    STATE_BYTES,
    TEXT_WITH_IMAGE,
    THROUGHPUT,
    TRAINING,
    Cost,
    projector,
    total,
)
from pipeline.commands.fit import Trained, hardware_of
from pipeline.common.files import one_line, read_json
from pipeline.data.job_settings import ShardSettings
from pipeline.evaluation.job_settings import Evaluate, EvaluatedModel
from pipeline.model.sizes import DecoderShape, training_flops
from pipeline.settings.types import Encoder, ModelSize
from pipeline.store.ledger import Ledger
from pipeline.store.staleness import find, is_root, reason
from pipeline.study.job import Job, lineage
from pipeline.study.phases import PHASES, STAGES
from pipeline.training.job_settings import Cooldown, Finetune, Imported, Pretrain, Training, WithImages

MOST_IDS = 6  # of a phase's new jobs in a preview; a study has hundreds


class OverBudget(ValueError):
    """A plan that takes more device-hours than allowed."""


class Plan:
    """The jobs behind a target, which of them are to do, and their costs.

    `target` is "study", a stage, a table, a file of results/, an artifact's folder or its id. Raises ValueError for
    anything else. For a preview `words` are the KEY=VALUE that the ledger's study has in place of params.yaml's, and
    `today` is the ledger of params.yaml itself.
    """

    def __init__(self, ledger: Ledger, target: str = "study", words: Sequence[str] = (), today: Ledger | None = None):
        self.ledger, self.study, self.target, self.words, self.today = ledger, ledger.study, target, words, today
        self.scale = self.study.settings.scale
        self.wanted = self.find(target)
        self.jobs = lineage(*self.wanted)
        self.costs = {job.key: self.cost(job) for job in self.jobs}

    def find(self, target: str) -> list[Job]:
        """The jobs that a target names."""
        if target == "study":
            return list(self.study.tables.values())
        if target in self.study.tables:
            return [self.study.tables[target]]
        if (stage := target.removeprefix("all_")) in STAGES:
            return self.ledger.stage_jobs(stage)
        return [find(self.ledger, target)]

    @cached_property
    def to_do(self) -> list[Job]:
        """The jobs that will run, parents first: stale, and needed by the target or by another that will run."""
        needed: set[tuple[str, str]] = set()
        # Nothing that is made from a damaged artifact asks for it (see `Ledger.broken`), so these are asked for by
        # name.
        waiting = [*self.wanted, *self.ledger.broken]
        while waiting:
            job = waiting.pop()
            if job.key not in needed and not self.ledger.is_current(job):
                needed.add(job.key)
                waiting += self.ledger.inputs(job)
        return [job for job in self.jobs if job.key in needed]

    @cached_property
    def new(self) -> list[Job]:
        """In a preview: the jobs that the study of params.yaml does not have, done or not.

        By cards, not by ids: a job of the same id is another one if its settings or its parents are others.
        """
        known = {self.today.digest(job) for job in self.today.jobs} if self.today else set()
        return [job for job in self.jobs if self.today and self.ledger.digest(job) not in known]

    def spent(self, jobs: Iterable[Job]) -> Cost:
        """The cost of some jobs together."""
        return total(self.costs[job.key] for job in jobs)

    # --- one job ---

    def cost(self, job: Job) -> Cost:
        """What a job takes, done or not."""
        if job.phase in TRAINING:
            return self.training(job)
        if job.phase == "evaluate":
            return self.evaluation(job)
        made = {"shards": self.shard_bytes, "features": self.feature_bytes}.get(job.phase)
        return Cost(seconds=self.measured(job.phase).get("seconds", 0.0), disk=made(job) if made else 0)

    def training(self, job: Job) -> Cost:
        """What a training job takes: forward and backward pass, and the encoder if it runs along."""
        counts, asked, encoder = self.seen(job), job.settings, encoder_of(job)
        # The backward pass takes twice the operations of the forward pass.
        flops = self.model_flops(job, counts) * 3.0
        if isinstance(asked, WithImages) and encoder and (images := counts["image"] / encoder.patches):
            # Cached features cost nothing here: the phase `features` has computed them.
            on_the_fly = asked.train_encoder or not encoder.cache
            flops += images * self.encoder_flops(encoder) * (3 if asked.train_encoder else on_the_fly)
        seconds = self.seconds(job.phase, flops)
        return Cost(counts["positions"], flops, seconds, disk=STATE_BYTES * self.parameters(job))

    def encoder_flops(self, encoder: Encoder) -> float:
        """Operations of an encoder's forward pass of one image, as its file says."""
        names, asked = self.study.settings.encoders, encoder.model_dump(exclude_unset=True)
        found = next(name for name in names if asked.items() <= self.study.encoder_settings(name).items())
        return names[found].tflops_an_image * 1e12

    def seen(self, job: Job) -> dict[str, float]:
        """Positions, labels and image positions that a training job sees."""
        asked, earlier = job.settings, job.continues.settings if job.continues else None
        if isinstance(asked, Imported):  # others have trained it
            return {"positions": 0, "labels": 0, "image": 0}
        assert isinstance(asked, Training)
        step = asked.optimisation.batch * asked.model.sequence
        if isinstance(asked, Pretrain):
            # A text run is a chain of jobs, one to each branch point; each pays for its own stretch.
            positions = (asked.stop - (earlier.stop if isinstance(earlier, Pretrain) else 0)) * step
            return {"positions": positions, "labels": positions, "image": 0}
        if isinstance(asked, Cooldown):
            positions = asked.optimisation.tokens // step * step
            images, share = asked.image_fraction, asked.instruction_share
            shares = {"text": 1 - images, "captions": images * (1 - share), "instructions": images * share}
        else:
            assert isinstance(asked, Finetune)
            # Packing decides how many sequences a pass has, so it is only known once the shards are made.
            a_pass = self.pass_sequences(job.parents["instructions"])
            positions = -(-a_pass * asked.epochs // asked.optimisation.batch) * step
            shares = {"instructions": 1.0}
        labels = image = 0.0
        for stream, part in shares.items():
            density = self.density(job.parents.get(stream), stream)
            labels += part * positions * density["labels"]
            image += part * positions * density["image"]
        blind = isinstance(asked, Finetune) and asked.blind
        return {"positions": positions, "labels": labels, "image": 0 if blind else image}

    def density(self, shards: Job | None, stream: str) -> dict[str, float]:
        """Shares of a stream's positions that are labels and image tokens: as its shards say, or as is usual."""
        if stream == "text" or shards is None:
            return {"labels": 1.0, "image": 0.0}
        if made := self.made(shards):
            positions = made["positions"]
            return {"labels": made["labels"] / positions, "image": made["image_positions"] / positions}
        patches = shard_settings(shards).patches
        image = patches / (patches + TEXT_WITH_IMAGE[stream])
        return {"labels": 1 - image, "image": image}

    def pass_sequences(self, shards: Job) -> int:
        """Sequences of one pass over the instructions: counted if they are there, else as the preset expects."""
        if made := self.made(shards):
            return made["sequences"]
        return max(self.scale.expected.pass_tokens // shard_settings(shards).sequence, 1)

    def model_flops(self, job: Job, counts: dict[str, float]) -> float:
        """Forward operations of the decoder and projector; see `training_flops` of pipeline/model/sizes.py."""
        size, (features, layers) = size_of(job), projector(encoder_of(job))
        return training_flops(DecoderShape.of(size), features, counts, size.sequence, layers) / 3

    def evaluation(self, job: Job) -> Cost:
        """Every question is read once under every condition, and every choice of a text task; answers are short."""
        asked = job.settings
        assert isinstance(asked, Evaluate)
        patches = asked.encoder.patches if asked.encoder else 0
        questions = self.questions(asked) * max(len(asked.conditions), 1)
        items = self.scale.evaluation.text_items * len(asked.text) * CHOICES
        positions = questions * (patches + ANSWER_TOKENS) + items * ANSWER_TOKENS
        positions += self.scale.evaluation.heldout_documents * asked.model.sequence * bool(asked.text)
        labels = (questions + items) * ANSWER_TOKENS
        flops = self.model_flops(job, {"positions": positions, "labels": labels, "image": questions * patches})
        known = self.measured("evaluate").get("seconds")
        return Cost(int(positions), flops, self.seconds("evaluate", flops) if known is None else known)

    def questions(self, settings: Evaluate) -> int:
        """Questions of all vision tasks under one condition: one an image of the scenes, or as many as a task asks."""
        asked = [task.items for task in settings.vision.values()]
        if self.scale.data is None:
            return sum(items or QUESTIONS for items in asked)
        images = self.scale.data.test_images
        return sum(min(items or images, images) for items in asked)

    def made(self, shards: Job) -> dict | None:
        """What shards hold, if they are there as today's study wants them."""
        return read_json(self.ledger.root / shards.folder / "measured.json") if self.ledger.is_current(shards) else None

    def parameters(self, job: Job) -> int:
        """Parameters of a training job's model, a trained encoder not counted."""
        return DecoderShape.of(size_of(job)).parameters(*projector(encoder_of(job)))

    def shard_bytes(self, job: Job) -> int:
        """Bytes of a stream's shards, as they are or as long as the study can use of them."""
        if (self.ledger.root / job.folder / "index.json").exists():
            shards = read_json(self.ledger.root / job.folder / "index.json")["shards"]
            return sum(shard["raw_data"]["bytes"] for shard in shards)
        asked = shard_settings(job)
        if asked.part == "text":
            return 2 * round(max(recipe.text_budget for recipe in self.study.recipes) * self.scale.text.tokens)
        if asked.part == "captions":
            most = max((r.image_fraction for r in self.study.recipes), default=0) * self.scale.cooldown.tokens
            return round(most * (2 + self.density(job, "captions")["image"] / asked.patches * IMAGE_BYTES))
        image = self.density(job, "instructions")["image"] / asked.patches
        return round(self.scale.expected.pass_tokens * (2 + image * IMAGE_BYTES))

    def feature_bytes(self, job: Job) -> int:
        """Bytes of the cached features, as far as they are here."""
        file = self.ledger.root / job.folder / "features.npy"
        return file.stat().st_size if file.exists() else 0

    # --- rates ---

    @cached_property
    def benchmark(self) -> dict:
        """What a benchmark has measured of this preset: {phase: {"tokens_per_second": or "seconds": a job}}."""
        file = self.ledger.root / THROUGHPUT
        return read_json(file)["presets"].get(self.study.settings.params.preset, {}) if file.exists() else {}

    def measured(self, phase: str) -> dict:
        """What the benchmark has measured of a phase; empty if nothing."""
        return self.benchmark.get(phase, {})

    def seconds(self, phase: str, flops: float) -> float:
        """Seconds of one device: FLOPs over the measured rate, or the one that the preset expects."""
        expected = self.scale.expected
        return flops / self.measured(phase).get("flops_per_second", expected.tflops * 1e12 * expected.mfu)

    # --- the whole ---

    @cached_property
    def longest_chain(self) -> tuple[float, list[Job]]:
        """Seconds of the longest chain of jobs to do, each training job on all of its devices, and the chain."""
        best: dict[tuple[str, str], tuple[float, list[Job]]] = {}
        for job in self.to_do:
            before = max((best[j.key] for j in self.ledger.inputs(job) if j.key in best), key=first, default=(0.0, []))
            best[job.key] = (before[0] + self.costs[job.key].seconds / devices(job), [*before[1], job])
        return max(best.values(), key=first, default=(0.0, []))

    @cached_property
    def alone(self) -> float:
        """Device-seconds if every model were trained from nothing by itself."""
        models = {scores.parents["checkpoint"].key: scores for scores in self.jobs if scores.phase == "evaluate"}
        ends = [scores for scores in models.values() if scores.parents["checkpoint"].phase == "finetune"]
        return sum(self.spent(j for j in lineage(scores) if j.phase in TRAINING).seconds for scores in ends)

    @property
    def shared(self) -> float:
        """Device-seconds of all training, every ancestor once."""
        return self.spent(job for job in self.jobs if job.phase in TRAINING).seconds

    @cached_property
    def trained(self) -> list[Trained]:
        """What the training jobs hold on a device, the largest first."""
        jobs = [job for job in self.jobs if isinstance(job.settings, Training)]
        found = [Trained(job, size_of(job), self.parameters(job), hardware_of(job), self.section(job)) for job in jobs]
        return sorted(found, key=lambda trained: trained.bytes, reverse=True)

    def section(self, job: Job) -> str:
        """Where the preset has the hardware of a training job."""
        size, larger = size_of(job), self.scale.larger
        of_larger = larger and (size.layers, size.heads, size.width) == (larger.layers, larger.heads, larger.width)
        return "larger.hardware" if of_larger else "hardware"

    def check(self, budget: float | None) -> None:
        """Raises TooLarge if a job to do fits no device, and OverBudget if all of them take more device-hours than `budget`."""
        to_do = {job.key for job in self.to_do}
        for trained in self.trained:
            if trained.job.key in to_do:
                trained.check()
        hours = self.spent(self.to_do).seconds / 3600
        if budget is not None and hours > budget:
            raise OverBudget(
                f"{self.target}: {hours:,.1f} device-hours to do, {budget:,.1f} allowed; nothing was started"
            )

    def __str__(self) -> str:
        return "\n".join([*self.preview(), *self.table(), "", *self.remarks()])

    def preview(self) -> list[str]:
        """What is previewed, and the ids of its new jobs by phase."""
        if not self.words:
            return []
        lines = [f"preview: params.yaml with {one_line(' '.join(self.words))}; no file is changed"]
        lines.append(f"{len(self.new)} of its jobs are not in the study of params.yaml{':' if self.new else ''}")
        for phase in dict.fromkeys(job.phase for job in self.new):
            ids = [job.id for job in self.new if job.phase == phase]
            more = f" and {len(ids) - MOST_IDS} more" if len(ids) > MOST_IDS else ""
            lines.append(f"  {phase}: {', '.join(ids[:MOST_IDS])}{more}")
        return [*lines, ""]

    def table(self) -> list[str]:
        """A line a phase: jobs, those to do, and what these cost."""
        columns = ("phase", "jobs", "to do", "tokens", "FLOPs", "device-hours")
        rows = [columns]
        for phase in PHASES:
            jobs = [job for job in self.jobs if job.phase == phase]
            todo = [job for job in self.to_do if job.phase == phase]
            if jobs:
                rows.append((phase, str(len(jobs)), str(len(todo)), *shown(self.spent(todo))))
        rows.append(("all", str(len(self.jobs)), str(len(self.to_do)), *shown(self.spent(self.to_do))))
        widths = [max(len(row[n]) for row in rows) for n in range(len(columns))]
        return [
            "  ".join(cell.ljust(w) if n == 0 else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths)))
            for row in rows
        ]

    def remarks(self) -> list[str]:
        """What else there is to say: why, the longest chain, sharing, memory, disk, rates."""
        lines = [f"{self.target}: tokens, FLOPs and device-hours are of what is to do"]
        roots = [job for job in self.to_do if is_root(self.ledger, job)]
        reasons = list(dict.fromkeys(reason(self.ledger, job) for job in roots))
        if reasons:
            more = f" (and {len(reasons) - 1} more reasons)" if len(reasons) > 1 else ""
            lines.append(f"why            {roots[0].phase} {roots[0].id}: {reasons[0]}{more}")
        seconds, chain = self.longest_chain
        if chain:
            trained = " -> ".join(f"{job.phase} {job.id}" for job in chain if job.phase in TRAINING)
            most = max(map(devices, chain))
            where = f" with {most} devices a training job" if most > 1 else ""
            lines.append(f"longest chain  {hours(seconds)}{where}: {trained}")
        if self.alone:
            lines.append(
                f"sharing        training takes {hours(self.shared)}; every model from nothing by itself {hours(self.alone)}"
                f" ({self.alone / max(self.shared, 1e-9):.1f} times as much)"
            )
        lines += [f"memory         {most}" for most in self.trained[:1]]
        lines.append(
            f"disk           about {self.spent(self.jobs).disk / 1e9:,.1f} GB for training states, shards and features"
        )
        lines.append(f"rates          {self.rates()}")
        return lines

    def rates(self) -> str:
        """Where the rates come from."""
        if self.benchmark:
            return f"measured: {THROUGHPUT}"
        expected = self.scale.expected
        rate = f"{expected.tflops:g} TFLOP/s a device at {100 * expected.mfu:g}% MFU"
        return f"{rate}, as the preset expects; nothing was measured"


def size_of(job: Job) -> ModelSize:
    """The sizes of the model that a job trains or asks."""
    assert isinstance(job.settings, Training | Imported | EvaluatedModel)
    return job.settings.model


def encoder_of(job: Job) -> Encoder | None:
    """What its images are encoded by, if it sees any."""
    return job.settings.encoder if isinstance(job.settings, WithImages | EvaluatedModel) else None


def shard_settings(job: Job) -> ShardSettings:
    assert isinstance(job.settings, ShardSettings)
    return job.settings


def devices(job: Job) -> int:
    """Devices that share a job. Only training is spread over several: see `asked_for` in pipeline/execution/ranks.py."""
    return hardware_of(job).nodes * hardware_of(job).devices if isinstance(job.settings, Training) else 1


def first(pair: tuple[float, list[Job]]) -> float:
    return pair[0]


def hours(seconds: float) -> str:
    """Seconds as hours, or as minutes below one hour."""
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def shown(cost: Cost) -> tuple[str, str, str]:
    """Tokens, FLOPs and device-hours of a cost as cells."""
    return (
        f"{cost.tokens:.3g}" if cost.tokens else "",
        f"{cost.flops:.2e}" if cost.flops else "",
        f"{cost.seconds / 3600:,.2f}",
    )
