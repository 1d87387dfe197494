"""What a job asks of a cluster's scheduler: threads, memory, minutes, nodes and GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.settings.scale import Hardware
from pipeline.study.job import Job
from pipeline.study.phases import PHASES
from pipeline.training.job_settings import Training


@dataclass(frozen=True)
class Share:
    """The part of a cluster that a job takes. `threads` are those on each node, `gpus` those on all nodes together."""

    threads: int
    memory_mb: int  # on each node
    minutes: int
    nodes: int = 1
    gpus: int = 0


def share(job: Job, readers: int) -> Share:
    """What a job takes. `readers`: processes of a phase that reads a source with several."""
    assert job.hardware, "jobs of a study say what they run on"
    hardware, about = job.hardware, PHASES[job.phase]
    minutes = getattr(hardware.minutes_of, job.phase, None) or hardware.minutes
    if about.uses in ("core", "readers"):
        cores = readers if about.uses == "readers" else 1
        return Share(cores, about.memory_mb * cores, minutes)
    nodes, processes = 1, 1  # of a state that others have trained: it is only converted
    if about.uses == "evaluation":
        processes = evaluation_processes(hardware)
    elif isinstance(job.settings, Training):
        nodes, processes = hardware.nodes, hardware.devices
    needs_gpus = hardware.device == "gpu" and (about.uses == "evaluation" or isinstance(job.settings, Training))
    gpus = nodes * min(processes, hardware.devices) if needs_gpus else 0
    return Share(hardware.threads * processes, hardware.memory_mb, minutes, nodes, gpus)


def evaluation_processes(hardware: Hardware) -> int:
    """Processes that share an evaluation, which runs on one node: those that the preset says, else one for each GPU."""
    return hardware.evaluation_processes or (hardware.devices if hardware.device == "gpu" else 1)
