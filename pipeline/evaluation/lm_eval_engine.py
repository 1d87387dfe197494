"""The text benchmarks through EleutherAI's lm-eval, an optional dependency, from local files alone.

Tasks are lm-eval's own definitions with their data set replaced by files on disk. Its index of all tasks, its cache of
answers (which does not know one model from another) and its network access are not used.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.records import MultipleChoice
from pipeline.evaluation.benchmarks import BENCHMARKS, benchmark_files
from pipeline.evaluation.tasks import choose
from pipeline.settings.tasks import AskedTextTask

if TYPE_CHECKING:
    from pipeline.evaluation.evaluation import Evaluation


def benchmark_likelihoods(
    evaluation: Evaluation,
    name: str,
    task: AskedTextTask,
    folder: Path,
    items: list[MultipleChoice],
    numbers: Sequence[int],
) -> Iterator[tuple[MultipleChoice, list[float]]]:
    """The items with these numbers and their choices' log-likelihoods, asked by lm-eval; none while answers are missing.

    Raises ValueError without lm-eval, or if it does not ask what the items say or calls another answer right.
    """
    # The data sets library makes a cache of whatever it reads; here it goes with the job.
    scratch = Path(tempfile.mkdtemp(prefix="lm-eval-"))
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(scratch)}
    assert task.benchmark, "lm-eval asks benchmarks alone"
    files = benchmark_files(task.benchmark, folder, task.files)
    if files[0].name.startswith(own := BENCHMARKS[task.benchmark].own):
        raise ValueError(
            f"{name}: lm-eval does not read {own}, which is in the data set's own layout; leave `engine` out"
        )
    few = (
        list(numbers) if len(numbers) < len(items) else None
    )  # lm-eval looks each record up in the list of chosen ones
    try:
        samples = ask(evaluation, name, task.benchmark, files, few, scratch)
    except ImportError as error:
        raise ValueError(f"engine lm_eval: {error}; install it with uv sync --group lm-eval") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    by_number = {sample["doc_id"]: sample for sample in samples or ()}
    for number in numbers if by_number else ():
        item, sample = items[number], by_number[number]
        # The rows name our items: lm-eval must have asked exactly these.
        if [(item.context, choice) for choice in item.choices] != [tuple(pair) for pair in sample["arguments"]]:
            raise ValueError(f"{name}: lm-eval asks something else than {item.id}: {sample['arguments'][0]}")
        nats = [likelihood for likelihood, _ in sample["filtered_resps"]]
        if int(sample["acc"]) != (choose(item.choices, nats)[0] == item.gold):
            raise ValueError(f"{name}: lm-eval calls another answer to {item.id} right")
        yield item, nats


def ask(
    evaluation: Evaluation, name: str, benchmark: str, files: list[Path], numbers: list[int] | None, scratch: Path
) -> list[dict] | None:
    """lm-eval's samples of the records with these numbers (None: all records), or None while answers are missing."""
    import lm_eval
    import yaml
    from lm_eval.api.model import TemplateLM
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    definition = BENCHMARKS[benchmark]

    class Model(TemplateLM):
        """The evaluated model as lm-eval sees it: log-likelihoods of tokens, and no BOS."""

        complete = True
        # A context without text begins with this token, as there is no BOS.
        eot_token_id = evaluation.tokenizer.end

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
            return evaluation.tokenizer.encode(string)

        def _loglikelihood_tokens(self, requests: list, **_: object) -> list[tuple[float, bool]]:
            found = evaluation.log_likelihoods(("text", name), [(head, tail) for _, head, tail in requests])
            self.complete = found is not None
            # The second value says whether the continuation is the greedy one. None of these tasks uses it.
            return [(float(nats), False) for nats in (np.zeros(len(requests)) if found is None else found)]

        def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
            raise NotImplementedError("no benchmark here asks for the likelihood of a whole text")

        def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
            raise NotImplementedError("no benchmark here asks for text")

    task = {
        "include": str(Path(lm_eval.__file__).parent / "tasks" / definition.harness),
        "task": name,
        "dataset_path": "parquet" if files[0].suffix == ".parquet" else "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {definition.split: [str(file.resolve()) for file in files]},
            "cache_dir": str(scratch / "data"),
        },
        "training_split": None,
        "validation_split": None,
        "test_split": definition.split,
    }
    (scratch / "tasks").mkdir()
    (scratch / "tasks" / "task.yaml").write_text(yaml.safe_dump(task))
    # Without `include_defaults=False` the index of all tasks is read, which takes 29 s.
    tasks = TaskManager(include_path=str(scratch / "tasks"), include_defaults=False).load([name])
    model = Model()
    # `bootstrap_iters=0`: intervals are ours, from the rows. lm-eval's answer cache is off: it knows requests by their
    # text alone, and would give one model the answers of another.
    results = evaluate(model, tasks, samples=None if numbers is None else {name: numbers}, bootstrap_iters=0)
    return results["samples"][name] if model.complete else None
