"""One of two data-parallel workers: python two_workers.py RANK CONFIG.json FOLDER. The first writes what it trained."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from rhobench.config import RunConfig
from rhobench.config_tree import from_dict
from rhobench.training import train


def main(rank: int, config_file: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    # They meet in a file, because a port that is free now may be taken a moment later.
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    config = from_dict(RunConfig, json.loads(config_file.read_text()))
    trained = train(config, folder, lambda status: None, torch.device("cpu"))
    torch.save((trained.progress.history, trained.model.state_dict()), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
