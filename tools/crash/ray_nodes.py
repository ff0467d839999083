"""A Ray cluster of one node with two CPUs: ``python -m tools.crash.ray_nodes`` prints its address.

A process of its own, as Ray takes the folder for all of its files from the environment. The cluster ends where stdin
ends: so it never outlives a campaign, whatever that ends by.
"""

import sys
import tempfile
from pathlib import Path

STORE_BYTES = 2**27
"""Of the object store: weights of the tiny backbone are some hundred kilobytes."""


def main() -> None:
    """Start the cluster, and end it where nobody needs it any more."""
    from ray.cluster_utils import Cluster

    (Path(tempfile.gettempdir()) / "ray").mkdir(exist_ok=True)  # where Ray notes the address, before it makes it
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": False, "object_store_memory": STORE_BYTES},
    )
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
