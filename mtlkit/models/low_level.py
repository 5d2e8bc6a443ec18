"""Low-level supervision: an auxiliary task's head reads a lower layer of the trunk than the main task's."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor, nn

from mtlkit.models.base import MultiTaskModel, of_last_module, outputs_of, run_layers, stage_ends
from mtlkit.tasks import Task


class LowLevel(MultiTaskModel):
    """Heads at chosen stages of the trunk: task t's output is head_t(f_k(…f_1(x))) at its stage k = k_t.

    The loss of task t trains its head and the stages 1 to k_t; the gradient of all stages above is zero, and so it
    is for the weightings that read gradients of the shared parameters, which are those of the whole trunk. The
    last shared layer (GradNorm's) is the last of those that every task trains: ``Weigher(..., last=model.last)``.

    Source: Søgaard, Goldberg, *Deep multi-task learning with low level tasks supervised at lower layers*, ACL
    2016: a bidirectional recurrent network whose outermost layer is the main task's.

    Args:
        trunk: layers in a row; a stage is a layer with weights and what follows it up to the next
            (:func:`mtlkit.models.base.stage_ends`).
        heads: task name to its head, the main task first; each takes the features at its stage.
        stages: task name to its stage, from 1.

    Attributes:
        stages: as given.

    Raises:
        ValueError: see :func:`stages_of`; a task without a stage.
    """

    trunk: nn.Sequential

    def __init__(self, trunk: nn.Sequential, heads: Mapping[str, nn.Module], stages: Mapping[str, int]) -> None:
        super().__init__(trunk, heads)
        self._ends = stage_ends(trunk)
        self.stages = _checked(tuple(heads), stages, len(self._ends))

    def forward(self, x: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Outputs of all tasks, or of those in ``names``; stages above them do not run."""
        chosen = self.chosen(names)
        found: dict[str, Tensor] = {}
        for stage, (start, end) in enumerate(itertools.pairwise([0, *self._ends]), start=1):
            if len(found) < len(chosen):
                x = run_layers(self.trunk, start, end, x)
                here = {name: head for name, head in chosen.items() if self.stages[name] == stage}
                found |= outputs_of(here, x) if here else {}
        return {name: found[name] for name in chosen}

    def trained(self) -> dict[str, tuple[str, ...]]:
        """Task to the names of the trunk's parameters that its loss trains."""
        names = [(name, int(name.split(".")[0])) for name, _ in self.trunk.named_parameters()]
        ends = {task: self._ends[stage - 1] for task, stage in self.stages.items()}
        return {task: tuple(f"trunk.{name}" for name, layer in names if layer < end) for task, end in ends.items()}

    @property
    def last(self) -> tuple[str, ...]:
        """Names of the parameters of the last layer that every task trains."""
        return of_last_module(min(self.trained().values(), key=len))


def stages_of(tasks: Sequence[Task], stages: Mapping[str, int] | None, n_stages: int) -> dict[str, int]:
    """Every task's stage: what ``stages`` says of it, the top where it says nothing.

    Raises:
        ValueError: an unknown task, a stage that does not exist, the main task below the top.
    """
    names = [task.name for task in tasks]
    for name in stages or {}:
        if name not in names:
            raise ValueError(f"stages names a task {name!r}, expected one of {', '.join(names)}")
    return _checked(names, dict.fromkeys(names, n_stages) | dict(stages or {}), n_stages)


def _checked(names: Sequence[str], stages: Mapping[str, int], n_stages: int) -> dict[str, int]:
    for name in names:
        if name not in stages:
            raise ValueError(f"stages lacks task {name!r}, expected one for each of {', '.join(names)}")
        if stages[name] not in range(1, n_stages + 1):
            raise ValueError(f"task {name!r} is at stage {stages[name]}, expected one of the trunk's, 1 to {n_stages}")
    if stages[names[0]] != n_stages:
        raise ValueError(
            f"the main task {names[0]!r} is at stage {stages[names[0]]}, expected the top, {n_stages}: leave it out"
        )
    return {name: stages[name] for name in names}
