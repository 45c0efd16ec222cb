"""The scorer's own process: `python -m r1jax.reward.worker SPEC ...`, started by r1jax.reward.process.

It builds the scorer, says so, and then answers one micro-batch after another until the other side closes the
connection. Its standard output and error are a log file. It imports JAX only if the scorer does.
"""

import argparse
import json
import mmap
import os
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from r1jax.errors import R1JaxError, UsageError
from r1jax.reward.scorer import Scorer, identity, score_safely, scorer
from r1jax.reward.slots import map_blocks, read_blocks


def main(argv: Sequence[str] | None = None) -> None:
    """Serves until the connection closes or the parent is gone."""
    args = _parse(argv)
    threading.Thread(target=_leave_with_parent, args=(args.parent,), daemon=True).start()
    connection = Connection(args.connection)
    built = _build(args.spec, json.loads(args.options), connection)
    if built is None:
        return
    memory = map_blocks(args.slots, args.num_blocks, args.block_bytes, mmap.ACCESS_READ)
    while True:
        try:
            images = np.stack([read_blocks(memory, blocks, shape) for blocks, shape in connection.recv()])
            connection.send(score_safely(built, images))
        except (EOFError, OSError):  # the other side closed, or is gone
            return


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m r1jax.reward.worker", description=__doc__)
    parser.add_argument("spec", help="FILE.py:Class, package.module:Class or a registered name")
    parser.add_argument(
        "--connection", type=int, required=True, help="descriptor of the socket to the parent"
    )
    parser.add_argument("--slots", type=int, required=True, help="descriptor of the file of images")
    parser.add_argument("--num-blocks", type=int, required=True)
    parser.add_argument("--block-bytes", type=int, required=True)
    parser.add_argument(
        "--parent", type=int, required=True, help="process id; the worker leaves when it is gone"
    )
    parser.add_argument("--options", default="{}", help="keyword arguments of the scorer, JSON")
    return parser.parse_args(argv)


def _build(spec: str, options: dict[str, Any], connection: Connection) -> Scorer | None:
    try:
        built = scorer(spec, options)
    except R1JaxError as error:
        traceback.print_exc()
        connection.send(("failed", isinstance(error, UsageError), str(error)))
        return None
    connection.send(("ready", identity(built, options)))
    return built


def _leave_with_parent(parent: int, every_s: float = 0.5) -> None:
    """Ends this process when its parent is gone, even while the scorer hangs.

    The closed connection alone is not enough: another child of the parent may have inherited its other end.
    """
    while os.getppid() == parent:
        time.sleep(every_s)
    os._exit(1)


if __name__ == "__main__":
    main()
