"""Training a backbone from scratch on the classes set aside for it."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import datasets
import torch
from diffusers.optimization import get_scheduler
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.preprocessing import ImageReader
from weightgen.checkpoint import CheckpointFolder, moments, set_step, with_prefix, without_prefix
from weightgen.errors import InputError
from weightgen.files import tensors_hash, text_hash
from weightgen.records import Progress
from weightgen.seeds import derive, generator

_IN_MEMORY_BYTES = 2 * 1024**3
_EVALUATION_BATCH = 512
_WEIGHT_DECAY = 0.01


class CosineHead(nn.Module):
    """Logits = scale · cosine of feature and class row, with a learnt scale.

    Gidaris and Komodakis, "Dynamic Few-Shot Visual Learning without Forgetting" (CVPR 2018).
    """

    def __init__(self, width: int, classes: int, *, scale: float = 10.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, width) * width**-0.5)
        self.log_scale = nn.Parameter(torch.tensor(scale).log())

    def forward(self, features: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch classes"]:
        """Scaled cosines between features and class weights."""
        cosine = functional.normalize(features, dim=-1) @ functional.normalize(self.weight, dim=-1).mT
        return self.log_scale.exp() * cosine  # (batch, classes)


_HEADS = {"cosine": CosineHead, "linear": nn.Linear}


def pretrain(
    backbone: Backbone,
    dataset: datasets.Dataset,
    *,
    seed: int,
    steps: int,
    batch: int = 128,
    learning_rate: float = 0.002,
    head: Literal["cosine", "linear"] = "cosine",
    keep_head: bool = False,
    label_smoothing: float = 0.1,
    augment: Literal["none", "crop", "crop_flip"] = "crop",
    held_out: float = 0.1,
    evaluate_every: int | None = None,
    checkpoint_dir: Path | None = None,
    progress: Progress | None = None,
) -> Iterator[dict[str, Any]]:
    """Train the trunk with a head, which is thrown away unless it is kept; yields one record per step.

    dataset: columns `image` and `label`; `held_out` of every class's images (one at least) choose the best
        weights, which the backbone holds, frozen, when the generator is exhausted.
    learning_rate: highest of a cosine schedule after a warm-up over a tenth of the steps.
    head: "cosine" or "linear". keep_head: make a linear head the backbone's classifier.
    augment: "none"; "crop" shifts by up to an eighth of the image, "crop_flip" also mirrors.
    evaluate_every: steps between evaluations and checkpoints; a tenth of all steps if not given.
    checkpoint_dir: resume from here, bit for bit, if an interrupted run with the same choices left a checkpoint.

    Records: {"stage": "pretraining", "step", "loss", "held_out_accuracy" (percent, when evaluated)}; steps count
    from 1. Raises InputError for a class with one image, a checkpoint of another run, and a loss that is not finite.
    """
    reader = ImageReader(dataset, backbone.preprocess)
    pool = _Pool(reader, progress)
    train_rows, held_out_rows = _split(reader, held_out, seed)
    device = next(backbone.parameters()).device
    evaluate_every = evaluate_every or max(1, steps // 10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "pretraining", "head"))
        layer: nn.Module = _HEADS[head](backbone.feature_width, len(reader.class_names))
    if keep_head and not isinstance(layer, nn.Linear):
        raise InputError(f"backbone.pretraining.keep_head: a {head} head is no layer of the network; set head: linear")
    layer.to(device)
    network = nn.ModuleDict({"trunk": backbone.trunk, "head": layer})
    choices: list[object] = [seed, steps, batch, learning_rate, _WEIGHT_DECAY, head, label_smoothing, augment, held_out]
    choices += ["head beside the trunk"]  # in the checkpoint; earlier versions kept the best trunk alone
    run = text_hash(json.dumps([*choices, evaluate_every, reader.class_names]), backbone.weights_hash(), pool.hash())
    backbone.trunk.requires_grad_(True)
    descent = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=_WEIGHT_DECAY)
    schedule = get_scheduler("cosine", descent, num_warmup_steps=steps // 10, num_training_steps=steps)
    state = PretrainingState(network, descent, schedule, run, None if checkpoint_dir is None else Path(checkpoint_dir))
    try:
        state.resume()
        for step in range(state.step + 1, steps + 1):
            random = generator(seed, "pretraining", step)
            rows = train_rows[torch.randint(len(train_rows), (batch,), generator=random)]
            pixels = augmented(pool.read(rows), augment, random)
            network.train()
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(derive(seed, "pretraining", step, "dropout"))
                logits = layer(backbone(backbone.preprocess.normalise(pixels.to(device))))
            target = reader.labels[rows].to(device)
            loss = functional.cross_entropy(logits, target, label_smoothing=label_smoothing)
            if not bool(torch.isfinite(loss)):
                raise InputError(f"backbone.pretraining: the loss is not finite at step {step}; lower learning_rate")
            descent.zero_grad()
            loss.backward()
            descent.step()
            schedule.step()
            record: dict[str, Any] = {"stage": "pretraining", "step": step, "loss": loss.item()}
            judged = step % evaluate_every == 0 or step == steps
            if judged:
                record["held_out_accuracy"] = _accuracy(backbone, layer, pool, held_out_rows, reader.labels)
            if progress is not None:
                progress("pretraining the backbone", step, steps)
            yield record  # before the checkpoint: a kill in between repeats the step instead of losing its record
            if judged:
                state.save(step, record["held_out_accuracy"])
        network.load_state_dict(state.best)
        if keep_head and isinstance(layer, nn.Linear):
            backbone.classifier = layer.requires_grad_(False)
    finally:
        backbone.trunk.requires_grad_(False)
        backbone.eval()


class _Pool:
    """Pixels of any rows: from memory when all fit, else decoded anew each time."""

    def __init__(self, reader: ImageReader, progress: Progress | None) -> None:
        self._reader = reader
        self._pixels = reader.read_all(progress) if reader.bytes <= _IN_MEMORY_BYTES else None

    def read(self, rows: Int[Tensor, " images"]) -> UInt8[Tensor, "images channels height width"]:
        return self._reader.read(rows.tolist()) if self._pixels is None else self._pixels[rows]

    def hash(self) -> str:
        """Changes with the data: with every pixel where all are in memory, else with the labels alone."""
        pixels = {} if self._pixels is None else {"pixels": self._pixels}
        return tensors_hash({"labels": self._reader.labels, **pixels})


def _split(reader: ImageReader, held_out: float, seed: int) -> tuple[Int[Tensor, " train"], Int[Tensor, " held_out"]]:
    """Rows to train on, and of every class a share to choose by."""
    train, kept = [], []
    for number, name in enumerate(reader.class_names):
        rows = (reader.labels == number).nonzero()[:, 0]
        if len(rows) < 2:
            raise InputError(f"backbone.pretraining: class '{name}' has {len(rows)} images; give it 2 at least")
        order = rows[torch.randperm(len(rows), generator=generator(seed, "pretraining", "held out", name))]
        share = min(len(rows) - 1, max(1, round(held_out * len(rows))))
        kept.append(order[:share])
        train.append(order[share:])
    return torch.cat(train), torch.cat(kept).sort().values


@torch.inference_mode()
def _accuracy(
    backbone: Backbone, layer: nn.Module, pool: _Pool, rows: Int[Tensor, " images"], labels: Int[Tensor, " all"]
) -> float:
    backbone.eval()
    device = next(backbone.parameters()).device
    right = 0
    for piece in rows.split(_EVALUATION_BATCH):
        images = backbone.preprocess.normalise(pool.read(piece).to(device))
        right += int((layer(backbone(images)).argmax(1).cpu() == labels[piece]).sum())
    return 100.0 * right / len(rows)


def augmented(
    pixels: UInt8[Tensor, "batch channels height width"], augment: str, random: torch.Generator
) -> UInt8[Tensor, "batch channels height width"]:
    """Images shifted, and mirrored, each by its own draw; the border repeats where a shift uncovers it."""
    if augment == "none":
        return pixels
    batch, _, height, width = pixels.shape
    rows = _shifted(batch, height, random)
    columns = _shifted(batch, width, random)
    if augment == "crop_flip":
        flip = torch.rand(batch, 1, generator=random) < 0.5
        columns = torch.where(flip, columns.flip(1), columns)
    which = torch.arange(batch)[:, None, None]
    picked = pixels[which, :, rows[:, :, None], columns[:, None, :]]  # (batch, height, width, channels)
    return picked.permute(0, 3, 1, 2)


def _shifted(batch: int, size: int, random: torch.Generator) -> Int[Tensor, "batch size"]:
    reach = -(-size // 8)
    shift = torch.randint(-reach, reach + 1, (batch, 1), generator=random)
    return (torch.arange(size) + shift).clamp(0, size - 1)


class PretrainingState:
    """All that a resumed run needs, in a checkpoint that is whole or absent."""

    def __init__(
        self, network: nn.ModuleDict, descent: torch.optim.Optimizer, schedule: Any, run: str, folder: Path | None
    ) -> None:
        self.step = 0
        self.best_accuracy = -1.0
        self.best: dict[str, Tensor] = {}
        self._network, self._descent, self._schedule = network, descent, schedule
        self._run = run
        self._checkpoints = None if folder is None else CheckpointFolder(folder)

    def save(self, step: int, accuracy: float) -> None:
        """Note the weights if they are the best, and write everything."""
        self.step = step
        if accuracy >= self.best_accuracy:
            self.best_accuracy = accuracy
            self.best = copy.deepcopy(self._network.state_dict())
        if self._checkpoints is None:
            return
        tensors = {**with_prefix("network", self._network.state_dict()), **with_prefix("best", self.best)}
        state = {"run": self._run, "best_accuracy": self.best_accuracy}
        self._checkpoints.save(step, {**tensors, **moments(self._descent)}, state)

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one, bit for bit. Raises InputError when another run wrote it."""
        newest = None if self._checkpoints is None else self._checkpoints.newest()
        if self._checkpoints is None or newest is None:
            return
        tensors, state = newest
        if state.get("run") != self._run:
            folder = self._checkpoints.folder
            raise InputError(f"{folder}: belongs to a run with other choices or data; remove it to start anew")
        self.step, self.best_accuracy = state["step"], state["best_accuracy"]
        self._network.load_state_dict(without_prefix("network", tensors))
        self.best = without_prefix("best", tensors)
        set_step(self._descent, self._schedule, tensors, self.step)
