"""The peer's side of `vae_training.py`, for an environment of its own that has pythae.

    python pythae_worker.py turns job.json      epochs on command, CPU seconds back

Its default nets and its own trainer as its training pipeline sets it up; one thing is left out, the copy of the best
model after each epoch, which on a real set is one in hundreds of steps.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pythae.data.preprocessors import DataProcessor  # type: ignore[import-not-found]
from pythae.models import VAE, VAEConfig  # type: ignore[import-not-found]
from pythae.trainers import BaseTrainer, BaseTrainerConfig  # type: ignore[import-not-found]


def turns(job: Mapping[str, Any]) -> None:
    """Answer each line {"steps": n}, n = `epoch` of the job, with the CPU seconds of one epoch; an empty line ends."""
    torch.manual_seed(0)
    x = torch.rand(job["epoch"] * job["batch"], 1, 28, 28)
    processor = DataProcessor()
    data = processor.to_dataset(processor.process_data(x))
    model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=job["latent"]))
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder, per_device_train_batch_size=job["batch"], learning_rate=job["rate"], num_epochs=1,
            no_cuda=True,
        )  # fmt: skip
        trainer = BaseTrainer(model=model, train_dataset=data, training_config=config)
        trainer.prepare_training()
        told = {"training_config": config, "model_config": trainer.model_config}
        trainer.callback_handler.on_train_begin(**told)
        about = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "precision": "float32",
            "versions": {name: version(name) for name in ("pythae", "torch")},
        }
        print(json.dumps(about), flush=True)
        for epoch, line in enumerate(sys.stdin, start=1):
            if not line.strip():
                break
            if json.loads(line)["steps"] != job["epoch"]:
                raise ValueError(f"this trainer takes whole epochs of {job['epoch']} steps")
            loaders = {"train_loader": trainer.train_loader, "eval_loader": None}
            began = time.process_time()
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
                trainer.callback_handler.on_epoch_begin(training_config=config, epoch=epoch, **loaders)
                trainer.train_step(epoch)
            print(json.dumps({"seconds": time.process_time() - began}), flush=True)


def main() -> None:
    _, path = sys.argv[1:]
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    with contextlib.suppress(BrokenPipeError):
        turns(json.loads(Path(path).read_text()))


if __name__ == "__main__":
    main()
