"""Whether a training job fits the memory of its devices, and if not, which keys of the preset would make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.commands.costs import memory
from pipeline.settings.scale import Hardware
from pipeline.settings.types import ModelSize
from pipeline.study.job import Job

MOST_NODES = 128  # more are not proposed


class TooLarge(ValueError):
    """A training job that needs more memory than its devices have."""


def hardware_of(job: Job) -> Hardware:
    """What a job runs on."""
    assert job.hardware, "jobs of a study say what they run on"
    return job.hardware


@dataclass(frozen=True)
class Trained:
    """What a training job holds on each of its devices, by the preset's keys."""

    job: Job
    size: ModelSize
    parameters: int
    hardware: Hardware
    section: str  # of the preset, where the keys of its hardware are

    @property
    def bytes(self) -> int:
        """Bytes on one device: weights, gradients and moments, a microbatch's activations, its logits."""
        return self.bytes_with()

    def bytes_with(self, **keys: Any) -> int:
        """The same with other values of some keys of `hardware`."""
        asked = self.hardware.model_copy(update=keys)
        shares = asked.nodes * asked.devices if asked.sharding == "fsdp" else 1
        return memory(self.size, asked.microbatch, self.parameters, shares, asked.checkpoint_activations)

    def fits(self, **keys: Any) -> bool:
        """Whether that is no more than a device has; True if the preset does not say what it has."""
        most = self.hardware.device_memory_gb
        return most is None or self.bytes_with(**keys) <= most * 1e9

    def check(self) -> None:
        """Raises TooLarge, which names the keys that would make the job fit."""
        if not self.fits():
            has = f"it has {self.hardware.device_memory_gb:g} GB (hardware.device_memory_gb)"
            raise TooLarge(f"{self.job.phase} {self.job.id}: {self}, and {has}; {self.remedy()}")

    def remedy(self) -> str:
        """Which keys would make the job fit: each that does so alone, else the fewest of them together."""
        ways = [keys for keys in self.single_keys() if self.fits(**keys)][:3]
        if not ways:
            ways = [keys for keys in self.more_and_more() if self.fits(**keys)][:1]
        if not ways:
            return f"nothing in {self.section} makes it fit: take devices with more memory, or a smaller model"
        return f"it would fit with {' or '.join(shown(self.section, keys) for keys in ways)}"

    def single_keys(self) -> Iterator[dict[str, Any]]:
        """Other values of one key, what costs least time first: fewer sequences a pass, then parts of the state."""
        now = self.hardware
        smaller = [2**power for power in range(now.microbatch.bit_length(), -1, -1) if 2**power < now.microbatch]
        fitting = [number for number in smaller if self.fits(microbatch=number)]
        yield from ({"microbatch": number} for number in fitting[:1])
        if now.sharding != "fsdp" and now.nodes * now.devices > 1:
            yield {"sharding": "fsdp"}
        if not now.checkpoint_activations:
            yield {"checkpoint_activations": True}

    def more_and_more(self) -> Iterator[dict[str, Any]]:
        """Several keys together: parts of the state, activations computed again, fewer sequences, more devices."""
        keys: dict[str, Any] = {}
        # Alone on its device a job has nobody to share the state with.
        keys["sharding"] = "fsdp"
        if self.hardware.nodes * self.hardware.devices == 1:
            keys["devices"] = 8
        yield dict(keys)
        keys["checkpoint_activations"] = True
        yield dict(keys)
        keys["microbatch"] = 1
        yield dict(keys)
        nodes = self.hardware.nodes
        while (nodes := nodes * 2) <= MOST_NODES:
            yield keys | {"nodes": nodes}

    def __str__(self) -> str:
        sequences = self.hardware.microbatch
        return f"about {self.bytes / 1e9:,.1f} GB on a device, with {sequences} sequences a forward pass"


def shown(section: str, keys: dict[str, Any]) -> str:
    """Keys of a preset with values, as a user writes them."""
    written = (f"{section}.{key}: {str(value).lower()}" for key, value in keys.items())
    return " and ".join(written)
