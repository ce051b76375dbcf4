"""Units on a Ray cluster: actors keep the prior loaded, shards come back to the driver's store.

Without an address a cluster of this machine is started, and ended with the run. An actor that is
lost, with its node or without, is replaced and its unit computed again. Ray must find this package,
and a user's own modules, on every node.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ctrlgen.extras import require
from ctrlgen.rows.checks import check_sizes
from ctrlgen.runs.executors import ATTEMPTS, WorkerLost
from ctrlgen.runs.job import Work
from ctrlgen.runs.shards import Shard
from ctrlgen.runs.units import Units, Watch

__all__ = ["Ray"]

_STORE = 256 * 2**20
"""Bytes of memory that shards may take on their way in a cluster of our own."""


@dataclass(frozen=True)
class Ray:
    """Actors of a Ray cluster, one thread and one CPU each; needs the extra "ray".

    Attributes:
        address: of the cluster's head, e.g. "10.0.0.1:6379" or "auto"; None starts one here.
        workers: actors; None for one per CPU of the cluster.
        gpus: of each actor.
    """

    address: str | None = None
    workers: int | None = None
    gpus: float = 0.0

    part = ""

    def __post_init__(self) -> None:
        if self.workers is not None:
            check_sizes(workers=self.workers)

    def threads(self) -> int:
        return 1

    def select(self, units: Sequence[int]) -> list[int]:
        return list(units)

    def map(self, work: Work, units: Sequence[int], watch: Watch | None = None) -> Iterator[Shard]:
        ray: Any = require("ray", "ray")
        started = not ray.is_initialized()
        if started:
            paths = os.pathsep.join(path for path in sys.path if path)
            own = {
                "num_cpus": self.workers,
                "object_store_memory": _STORE,
                "include_dashboard": False,
                "runtime_env": {"env_vars": {"PYTHONPATH": paths}},
            }
            ray.init(
                address=self.address,
                log_to_driver=False,
                logging_level="warning",
                **({} if self.address else own),
            )
        try:
            yield from self._map(ray, work, units)
        finally:
            if started:
                ray.shutdown()

    def _map(self, ray: Any, work: Work, units: Sequence[int]) -> Iterator[Shard]:
        kind = ray.remote(num_cpus=1, num_gpus=self.gpus, max_restarts=0)(Actor)
        held = ray.put(work)
        count = self.workers or int(ray.cluster_resources().get("CPU", 1))
        idle = [kind.remote(held) for _ in range(min(count, len(units)))]
        left, losses, busy = list(reversed(units)), dict[int, int](), dict[Any, tuple[Any, int]]()
        while left or busy:
            while left and idle:
                actor, unit = idle.pop(), left.pop()
                busy[actor.compute.remote(unit)] = (actor, unit)
            for answer in ray.wait(list(busy), num_returns=1)[0]:
                actor, unit = busy.pop(answer)
                try:
                    shard = ray.get(answer)
                except ray.exceptions.RayTaskError as error:
                    raise getattr(error, "cause", None) or error from None
                except ray.exceptions.RayError as error:  # the actor, or what it made, is lost
                    losses[unit] = losses.get(unit, 0) + 1
                    if losses[unit] == ATTEMPTS:
                        raise WorkerLost(
                            f"workers: unit {unit} has ended {ATTEMPTS} of them; what was finished "
                            f"is kept ({' '.join(str(error).split())[-300:]})"
                        ) from error
                    left.append(unit)
                    idle.append(kind.remote(held))
                    continue
                idle.append(actor)
                yield shard


class Actor:
    """Computes units on its node."""

    def __init__(self, work: Work) -> None:
        self.work, self.units = work, None

    def compute(self, unit: int) -> Shard:
        """The shard of a unit."""
        self.units = self.units or Units(self.work)  # type: ignore[assignment]
        return replace(self.units(unit), error=None)  # type: ignore[misc]
