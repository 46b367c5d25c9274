"""Peak memory of one round's aggregation, measured in a process of its own.

``python benchmarks/memory_of_aggregation.py fedkim|flower SITES PARAMETERS`` prints JSON with the
peak resident size of the whole process in MB, that of the process before the first update, and the
seconds without those of making the updates. Updates are made when they are asked for, as a network
would deliver them. ``flower`` is stock
``flwr.serverapp.strategy.FedAvg``, whose ``aggregate_train`` gets the replies one by one as well.
"""

import json
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from fedkim_core.aggregation import Combine, combiner
from fedkim_core.config import compose
from fedkim_core.exchange import KnowledgeUpdate
from fedkim_core.outliers import outliers
from server_app.spool import Spool

MODULE, NAME = "encoder.image", "weight"


making = 0.0
"""Seconds that the updates themselves took."""


def values(site: int, parameters: int) -> torch.Tensor:
    global making
    began = time.perf_counter()
    made = torch.randn(parameters, generator=torch.Generator().manual_seed(site))
    making += time.perf_counter() - began
    return made


def fedkim(sites: int, parameters: int, combine: Combine) -> torch.Tensor:
    """As the server does it: spool, bound on the norms, combine."""
    sent = {MODULE: {NAME: torch.zeros(parameters)}}
    with tempfile.TemporaryDirectory() as folder, Spool(Path(folder) / "spool") as spool:
        for site in range(sites):
            arrays = {MODULE: {NAME: values(site, parameters)}}
            spool.add(KnowledgeUpdate(f"{site:04}", arrays, {MODULE: 10}, {MODULE: 1}, {}), sent)
        norms = {site: held.norms for site, held in spool.held.items()}
        assert not outliers(norms, 5.0, spool.sizes())
        ((_, stack),) = spool.stacks()
        return combine(stack)


def flower(sites: int, parameters: int) -> torch.Tensor:
    def replies() -> Iterator[Message]:
        for site in range(sites):
            record = ArrayRecord({NAME: values(site, parameters)})
            content = RecordDict({"a": record, "m": MetricRecord({"num-examples": 10})})
            yield Message(content, reply_to=Message(RecordDict(), site, MessageType.TRAIN))

    record, _ = FedAvg().aggregate_train(1, replies())
    assert record is not None
    result: torch.Tensor = record.to_torch_state_dict()[NAME]
    return result


def megabytes() -> float:
    """Peak resident size of this process."""
    if sys.platform == "linux":  # where ru_maxrss begins with that of the parent process
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(who: str, sites: int, parameters: int, strategy: str = "fedavg") -> None:
    logging.disable()
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    combine = combiner(compose([f"strategy={strategy}"]).strategy)
    before, began = megabytes(), time.perf_counter()
    ours = who == "fedkim"
    result = fedkim(sites, parameters, combine) if ours else flower(sites, parameters)
    seconds = time.perf_counter() - began - making
    assert result.isfinite().all()
    found = {"peak_mb": round(megabytes()), "before_mb": round(before), "seconds": seconds}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
