"""Training on more than one machine: stacks are tasks of Dask, whose workers send back what they have trained.

`team` stands in for `workers.here`. Each worker trains on a device of its own; one whose code, torch or data are not
those of this machine refuses. Nothing of Dask is imported before it is asked for.
"""

import hashlib
import queue
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from pydantic import PositiveInt

from fmnist.config import RunConfig, Strict, UserError, read_yaml, sizes_text, validate
from fmnist.engine import workers
from fmnist.engine.train import Result

PATIENCE = 30  # seconds for a scheduler to answer, and for its first worker to come
SHARE = 0.7  # of a worker's memory; at 0.8 Dask hands it no more stacks


class JobsSpec(Strict):
    """The YAML file of a job system that dask-jobqueue knows, as it calls it; Local is for trials on one machine."""

    system: Literal["HTCondor", "LSF", "Local", "Moab", "OAR", "PBS", "SGE", "SLURM"]
    jobs: PositiveInt
    options: dict[str, Any] = {}  # of its cluster, as of dask_jobqueue.SLURMCluster: cores, memory, processes, queue, …
    wait_minutes: PositiveInt = 60  # for the first job to begin


@cache  # jobs queue before they train: those of a file stay for what is trained next
def submit(file: str) -> tuple[Any, int, int]:
    """Hand the jobs of a file to their queue: dask-jobqueue's cluster, its slots, seconds to wait for the first."""
    spec = validate(JobsSpec, read_yaml(Path(file)), file)
    interrupt = signal.getsignal(signal.SIGINT)
    kind = getattr(import_module(f"dask_jobqueue.{spec.system.lower()}"), f"{spec.system}Cluster")
    signal.signal(signal.SIGINT, interrupt)  # which that import sets to end the process without a word
    command = kind.job_cls.submit_command or "sh"
    if shutil.which(command.split()[0]) is None:
        raise UserError(f"{file}: system: {command} is not on this machine; {spec.system} is asked where it is")
    try:
        cluster = kind(**spec.options)
    except Exception as error:  # dask-jobqueue raises whatever comes
        raise UserError(f"{file}: options: {str(error).splitlines()[0]}") from None
    cluster.scale(jobs=spec.jobs)
    return cluster, spec.jobs * spec.options.get("cores", 1), 60 * spec.wait_minutes


def connect(where: str) -> tuple[Any, int, int]:
    """Dask's client of the scheduler at an address, or of a file's jobs; else as `submit`."""
    if not all(map(find_spec, ("distributed", "dask_jobqueue"))):
        raise UserError("cluster: Dask is not installed; pip install 'fmnist[cluster]'")
    from distributed import Client

    if "://" not in where and not where.endswith((".yaml", ".yml")):
        raise UserError(f"cluster: {where}: neither a scheduler's address, as tcp://host:8786, nor a YAML file of jobs")
    scheduler, *about = (where, 0, PATIENCE) if "://" in where else submit(where)
    try:
        return Client(scheduler, timeout=PATIENCE, set_as_default=False), *about
    except (OSError, ValueError) as error:  # ValueError: no such protocol
        said = f"no scheduler answers there ({str(error).splitlines()[0]})"
        raise UserError(f"cluster: {where}: {said}; `dask scheduler` starts one and says its address") from None


@contextmanager
def team(
    where: str, configs: Sequence[RunConfig], device: str, memory: int | None, names: dict[str, str] | None = None
) -> Iterator[workers.Team]:
    """The workers of a scheduler's address or a YAML file's jobs, as `workers.here`; `memory` bounds each of them.
    Dask's dashboard shows the runs' `names`, by id.
    """
    ours = fingerprint(tuple(dict.fromkeys(config.dataset for config in configs)))
    client, coming, patience = connect(where)
    with client:  # what is in training ends with it
        try:
            client.wait_for_workers(1, patience)
        except TimeoutError:
            said = f"no worker came in {patience} seconds; `dask worker ADDRESS` starts one"
            raise UserError(f"cluster: {where}: {said}") from None
        slots = []
        for address, offered in client.run(offer, ours, device, memory, on_error="return").items():
            if isinstance(offered, Exception):
                raise UserError(f"cluster: worker {address}: {offered}")
            slots += offered
        slots += slots[:1] * (coming - len(slots))  # of jobs that are still queued
        topic, reports = f"fmnist-{uuid.uuid4().hex}", queue.SimpleQueue()
        client.subscribe_topic(topic, lambda event: reports.put(event[1]))
        task = partial(wait_for, client, where, names or {}, partial(train_there, ours, device, topic))
        stop = SimpleNamespace(set=client.close)  # which frees the workers, and the threads that wait for them
        yield slots, (ThreadPoolExecutor(len(configs), "stack"), task, reports, stop)


def wait_for(client: Any, where: str, names: dict[str, str], task: Callable, stack: list[RunConfig]) -> list[Result]:
    """In a thread: train a stack as a task of Dask, under a name that its dashboard can show."""
    from distributed import KilledWorker

    try:
        return client.submit(task, stack, key=f"{title(stack, names)}-{uuid.uuid4().hex}", pure=False).result()
    except KilledWorker as error:
        raise UserError(f"training: cluster: {where}: {error} Try a smaller --memory") from None
    except (CancelledError, OSError):
        said = "its scheduler was lost or has started anew; what was finished is kept, the same command goes on"
        raise UserError(f"training: cluster: {where}: {said} from there") from None


def title(stack: list[RunConfig], names: dict[str, str]) -> str:
    """As "stack of 16: optimizer: Adam, lr 0.1 … SGD, lr 1, seed 0": the first and the last trial, by layers where they
    have no names. Dask cuts a name at its first hyphen, and at its first comma if it begins with no letter.
    """
    named = [names.get(config.run_id, sizes_text(config.hidden_sizes)) for config in stack]
    seeds = {config.seed for config in stack}
    trials = " … ".join(dict.fromkeys([min(named), max(named)]))
    return f"stack of {len(stack)}: {trials}{f', seed {min(seeds)}' if len(seeds) == 1 else ''}".replace("-", "–")


@cache
def fingerprint(datasets: tuple[str, ...]) -> dict[str, str]:
    """What a run's numbers rest on: this package's code, torch, and each data set."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    code = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    found = {"fmnist": f"{version('fmnist')}, code {code[:12]}", "torch": torch.__version__.split("+")[0]}
    return found | {name: f"data {workers.load('cpu', name).checksum[:12]}" for name in datasets}


def check(ours: dict[str, str]) -> None:
    """UserError where this machine would give other numbers than the one that asks."""
    theirs = fingerprint(tuple(ours)[2:])
    if other := [f"{name}: {theirs[name]}, not {ours[name]}" for name in ours if theirs[name] != ours[name]]:
        raise UserError(f"{'; '.join(other)}, which is what asks; give it the same")


def offer(ours: dict[str, str], device: str, memory: int | None, dask_worker: Any) -> workers.Slots:
    """What a worker brings: a slot for each of its threads, on its device."""
    check(ours)
    on, limit = workers.resolve_device(device), dask_worker.memory_manager.memory_limit
    bounds = [memory, int(SHARE * limit) if limit and on.type == "cpu" else None]
    threads = dask_worker.state.nthreads
    return [(on, workers.budget(on, min(filter(None, bounds), default=None), threads))] * threads


def train_there(ours: dict[str, str], device: str, topic: str, stack: list[RunConfig]) -> list[Result] | None:
    """The task: train a stack as on one machine. It ends within an epoch where nobody waits for it any more."""
    from distributed import get_worker

    worker = get_worker()
    key, reports = worker.get_current_task(), SimpleNamespace(put=partial(worker.log_event, topic))
    unwanted = SimpleNamespace(is_set=lambda: getattr(worker.state.tasks.get(key), "state", "") != "executing")
    try:
        check(ours)  # it may have come after the others were asked
        on = workers.resolve_device(device)
        workers.keep_memory()  # Dask asks for the contrary
        with workers.settings(on, torch.get_num_threads()), suppress(KeyboardInterrupt):
            return workers.train_here(on, reports, unwanted, stack)
    except UserError as error:
        raise UserError(f"cluster: worker {worker.address}: {error}") from None
