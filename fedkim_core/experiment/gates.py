"""How well the gate of each cell tells tasks apart, over seeds."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from fedkim_core.experiment.results import Finished
from fedkim_core.experiment.summary import CellGate
from fedkim_core.experiment.tables import Table, spread
from fedkim_core.report.schema import Gate

NOTE = (
    "Bits: mutual information between task and expert, 0 where all tasks use the experts alike. "
    "Distance: the share of their experts' weight that two tasks do not have in common "
    "(total variation, 0 to 1), mean over pairs. Mean ± standard deviation over seeds."
)


def collect(runs: Sequence[Finished]) -> list[CellGate]:
    """Of every cell with a gate."""
    found: dict[str, CellGate] = {}
    for run in runs:
        cell, gate = run.cell, run.summary.gate
        if gate is None:
            continue
        own = found.setdefault(cell.name, CellGate(cell=cell.name))
        cards = run.config.cards()
        inputs = {task: frozenset(cards[task].modalities) - {"text"} for task in gate.tasks}
        own.bits[cell.seed] = gate.bits
        if gate.bits_trained is not None:
            own.bits_trained[cell.seed] = gate.bits_trained
        for same, distance in distances(gate, inputs).items():
            (own.same_input if same else own.other_input)[cell.seed] = distance
    return list(found.values())


def distances(gate: Gate, inputs: Mapping[str, frozenset[str]]) -> dict[bool, float]:
    """Mean distance between tasks of the same input (True) and of different ones (False).

    Absent where there is no such pair.
    """
    alpha = dict(zip(gate.tasks, np.array(gate.alpha), strict=True))
    pairs: dict[bool, list[float]] = {}
    for one, two in combinations(gate.tasks, 2):
        distance = float(np.abs(alpha[one] - alpha[two]).sum()) / 2
        pairs.setdefault(inputs[one] == inputs[two], []).append(distance)
    return {same: sum(own) / len(own) for same, own in pairs.items()}


def table(gates: Sequence[CellGate]) -> Table:
    header = ["", "bits, all tasks", "bits, trained tasks"]
    header += ["distance, same input", "distance, other input"]
    rows = [
        [g.cell, *map(_cell, (g.bits, g.bits_trained, g.same_input, g.other_input))] for g in gates
    ]
    return Table("What the gate tells apart", header, rows, NOTE)


def _cell(each: Mapping[int, float]) -> str:
    values = [max(value, 0.0) + 0.0 for value in each.values()]  # no "-0.00"
    if not values:
        return ""
    return f"{spread(values, 2)} ({min(values):.2f} to {max(values):.2f})"
