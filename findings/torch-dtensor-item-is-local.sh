#!/bin/sh
# A guess: a number that is read from a DTensor, by item(), float(), bool() or an `if`, is that of the whole tensor, as
# the tensor's shape and the reduction over it are. In torch 2.13.0 sum, mean, norm, max, any, all and count_nonzero of a
# tensor that is sharded over devices give a DTensor that still waits to be reduced over them (placement Partial), and
# reading it as a Python number reads this device's own part: neither a reduction nor a warning comes in between.
# Each device so sees another norm, and `if gradient.isnan().any()` is true on one and false on the other, which then
# go different ways, and may wait for one another. full_tensor() reduces first: full_tensor().item() is the whole's.
#
# Output seen with torch 2.13.0 (CPU, gloo, two processes), the version that is installed below, for the tensor
# [[-5, 2, 0], [1, 0, nan]] of which each device has one row (columns with NaN left out of sum, mean, norm, max):
#
#   figure      read on device 0, 1     whole
#   isnan any   False, True             True
#   isfinite all True, False            False
#   sum         -3.0, 1.0               -2.0
#   mean        -1.5, 0.5               -0.5
#   norm        5.3852, 1.0             5.4772
#   max         2.0, 1.0                2.0
#   count       2, 2                    4
#
# Exits with 1 where this is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.3.5"
cat >"$folder/read.py" <<'PYTHON'
import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

READ = {
    "isnan any": lambda x: x.isnan().any(),
    "isfinite all": lambda x: x.isfinite().all(),
    "sum": lambda x: x[:, :2].sum(),
    "mean": lambda x: x[:, :2].mean(),
    "norm": lambda x: x[:, :2].norm(),
    "max": lambda x: x[:, :2].max(),
    "count": lambda x: x.count_nonzero(),
}
SEEN = {
    "isnan any": [False, True],
    "isfinite all": [True, False],
    "sum": [-3.0, 1.0],
    "mean": [-1.5, 0.5],
    "norm": [29**0.5, 1.0],
    "max": [2.0, 1.0],
    "count": [2, 2],
}


def work(rank, meeting, said):
    store = dist.FileStore(meeting, 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    whole = torch.tensor([[-5.0, 2.0, 0.0], [1.0, 0.0, float("nan")]])
    shared = distribute_tensor(whole, init_device_mesh("cpu", (2,)), [Shard(0)])
    said.put((rank, {name: read(shared).item() for name, read in READ.items()}))
    said.put((rank, {"reduced": READ["count"](shared).full_tensor().item()}))
    dist.barrier()


if __name__ == "__main__":
    queue = mp.get_context("spawn").SimpleQueue()
    running = mp.spawn(work, (os.path.join(sys.argv[1], "meeting"), queue), nprocs=2, join=False)
    told = [queue.get() for _ in range(4)]
    by_rank = [{k: v for rank, found in told if rank == mine for k, v in found.items()} for mine in (0, 1)]
    changed = []
    for name, expected in SEEN.items():
        found = [one[name] for one in by_rank]
        print(name, *found)
        if any(abs(one - other) > 1e-4 for one, other in zip(found, expected)):
            changed.append(name)
    if [one["reduced"] for one in by_rank] != [4, 4]:
        changed.append("full_tensor")
    sys.exit(f"changed: {', '.join(changed)}" if changed else 0)
PYTHON
"$folder/venv/bin/python" "$folder/read.py" "$folder" 2>"$folder/heard" || { tail -3 "$folder/heard"; exit 1; }
