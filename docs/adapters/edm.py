"""NVlabs EDM: dpm.path=edm.py:load "dpm.files=[network-snapshot-010000.pkl]". Its snapshots are pickles of the network, which run
code when they are opened: open only your own, with EDM's repository on PYTHONPATH."""

import pickle
from pathlib import Path

import torch


def load(directory: Path) -> dict:
    with (directory / "network-snapshot-010000.pkl").open("rb") as file:
        network = pickle.load(file)["ema"].float()
    ends = torch.tensor([0.002, 80.0], dtype=torch.float64) ** (1 / 7)
    sigmas = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, 1000, dtype=torch.float64)) ** 7
    return {
        "network": network,  # D(x; sigma), the denoised image
        "predicts": "sample",
        "alphas": torch.ones(1000),
        "sigmas": sigmas,
        "tell": "sigma",
        "shape": (network.img_channels, network.img_resolution, network.img_resolution),
    }
