"""The written result: a linear classifier on a frozen backbone, fresh from a generator or read from its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import diffusers
import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

import weightgen
from weightgen.backbones.backbone import Backbone, FeatureBackbone
from weightgen.data.labelled import check_class_names, composed, positions
from weightgen.errors import InputError
from weightgen.heads.folder import HeadFields, read_head, write_head
from weightgen.heads.model_card import model_card
from weightgen.heads.prediction import (
    Asked,
    Images,
    Prediction,
    answered,
    check_asked,
    draw_probabilities,
    single_images,
)
from weightgen.heads.support_summary import SupportSummary
from weightgen.hub import local_folder, push_folder
from weightgen.records import LinearHeads, Progress

_FEWEST = 2
_OF_THE_CLASSES = ("leave_one_out", "threshold", "support_images")  # notes on the classes that a head was written with
_MOST_NAMED = 20


class Head:
    """A linear classifier on the features of a frozen backbone. Heads do not change: editing one gives another.

    What a pipeline returns is what `load_head` reads, and both can be extended by the pipeline that wrote them.

    Attributes:
        draws: one head or several draws of it on raw features of `backbone`, a batch of one, float32 on the CPU.
        mean: the single head that stands for the draws; `attach` puts it into the model.
        class_names: one per row.
        backbone: where the features come from.
        provenance: recipe hash, generator, scheduler, steps, seed, versions …, as text.
        parts: names of the tensors inside `backbone` that were generated too.
        support: what classes are added from; None where it was not kept.

    Example::

        head = load_head("heads/birds")
        head.predict("photos/")[0].class_name
        head.rename({"heron": "grey heron"}).remove(["wren"]).save_pretrained("heads/herons")
        generator.extend(head, "more_birds/").save_pretrained("heads/birds")
    """

    def __init__(
        self,
        *,
        draws: LinearHeads,
        class_names: Sequence[str],
        backbone: Backbone,
        provenance: Mapping[str, object] | None = None,
        parts: Sequence[str] = (),
        support: SupportSummary | None = None,
        mean: LinearHeads | None = None,
    ) -> None:
        """Args: as the attributes. `mean` is given where it was taken before: again, its last bits may differ.

        Raises InputError when draws, names, backbone and support do not fit each other.
        """
        check_class_names(class_names)
        _check_draws(draws, ways=len(class_names), feature_width=backbone.feature_width)
        if support is not None and support.statistics.means.shape != draws.weight.shape[2:]:
            ways, width = support.statistics.means.shape
            raise InputError(
                f"the support summary is of {ways} classes of {width} features, and the head has {len(class_names)} "
                f"classes of {backbone.feature_width}; delete statistics.safetensors to use the head without"
            )
        self.draws = LinearHeads(draws.weight.detach().float().cpu(), draws.bias.detach().float().cpu())
        self.mean = self.draws.mean() if mean is None else mean
        self.class_names = tuple(class_names)
        self.backbone = backbone
        self.provenance = _completed(provenance or {}, backbone)
        self.parts = tuple(parts)
        self.support = None if support is None else support.rounded()

    def __repr__(self) -> str:
        return f"Head({len(self.class_names)} classes, {self.backbone.architecture}, samples={self.samples})"

    @property
    def weight(self) -> Float[Tensor, "ways feature"]:
        """Of the mean head."""
        return self.mean.weight[0, 0]

    @property
    def bias(self) -> Float[Tensor, " ways"]:
        """Of the mean head."""
        return self.mean.bias[0, 0]

    @property
    def samples(self) -> int:
        """Draws that are kept."""
        return self.draws.weight.shape[1]

    @property
    def support_counts(self) -> dict[str, int] | None:
        """Support images of every class; None where the head does not keep them."""
        if self.support is None:
            return None
        return dict(zip(self.class_names, self.support.statistics.counts.long().tolist(), strict=True))

    @property
    def threshold(self) -> float | None:
        """Probability that 95 % of images of its classes reach, by heads written without them; None where unknown."""
        stored = self.provenance.get("threshold")
        try:
            return None if stored is None else float(stored)
        except ValueError as error:
            raise InputError(f"the head's threshold is {stored!r}, not a number; generate the head again") from error

    @property
    def summary(self) -> dict[str, Any]:
        """The head without its numbers, as JSON values.

        classes: name and support images (None where unknown), in the order of the logits. generator_hash: of the only
        generator that can add classes; None where none can.
        """
        counts = self.support_counts or {}
        return {
            "classes": [{"name": name, "images": counts.get(name)} for name in self.class_names],
            "backbone": self.backbone.architecture,
            "samples": self.samples,
            "parts": list(self.parts),
            "generator": self.provenance.get("generator"),
            "generator_hash": None if self.support is None else self.support.generator,
            "provenance": dict(sorted(self.provenance.items())),
        }

    def predict(self, images: Images, **asked: Unpack[Asked]) -> list[Prediction]:
        """Class, probability and uncertainty of every image; the arguments are those of `stream`.

        An image given as such, or as an array, has the pixels that its file would have: see `data.pictures.plain`.

        Raises InputError for files that are not images.
        """
        return list(self.stream(images, **asked))

    def stream(
        self,
        images: Images,
        *,
        threshold: float = 0.0,
        top_k: int | None = None,
        batch_size: int = 64,
        progress: Progress | None = None,
        failed: Callable[[InputError], None] | None = None,
    ) -> Iterator[Prediction]:
        """What `predict` returns, `batch_size` images at a time, in memory that does not grow with their number.

        Args:
            images: files, folders (the images in them), patterns such as "photos/*.jpg", images or arrays.
            threshold: least probability, from 0 to 1, of a class that is named; `Head.threshold` is the head's own.
            top_k: how many of the most probable classes `Prediction.probabilities` holds; all if None.
            batch_size: images in memory.
            progress: called with "predicting", images done and images in all.
            failed: called with the error of a file or folder that cannot be read, which is left out; None raises it.

        Raises:
            InputError: `threshold` or `top_k` out of range, or the head is for features.
        """
        check_asked(self.backbone, self.class_names, threshold=threshold, top_k=top_k)
        single = single_images(images, failed)
        for start in range(0, len(single), batch_size):
            batch = single[start : start + batch_size]
            chosen: dict[str, Any] = {"threshold": threshold, "top_k": top_k, "failed": failed}
            yield from answered(batch, self.draws, self.backbone, self.class_names, **chosen)
            if progress is not None:
                progress("predicting", start + len(batch), len(single))

    def probabilities(self, features: Float[Tensor, "images feature"]) -> Float[Tensor, "images ways"]:
        """Class probabilities of backbone features, under the mixture of all draws; on the CPU."""
        return draw_probabilities(self.draws, features).mean(0)

    def attach(self) -> nn.Module:
        """A timm model with the mean head in its slot, in evaluation mode; the backbone is copied."""
        return self.backbone.with_head(self.weight, self.bias)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write a folder that weightgen, timm and transformers load, whole or not at all; see `write_head`."""
        write_head(Path(folder), self)

    def push_to_hub(
        self, repo_id: str, *, private: bool = False, license: str | None = None, token: str | None = None
    ) -> str:
        """Upload the head's folder, with a card, to a hub repository; returns its address.

        Unless `support` is None the folder holds features of support images, as a saved one does.

        Raises InputError for a head on given features, which has no model, and as `hub.push_folder`.
        """
        if isinstance(self.backbone, FeatureBackbone):
            raise InputError(f"{repo_id}: a head on given features has no model to push; export it with --onnx")

        def card(name: str) -> str:
            return model_card(self, repository=name, license=license)

        card(repo_id)  # refuses the licence before anything is made
        return push_folder(self.save_pretrained, repo_id, card=card, private=private, token=token)

    def remove(self, names: Sequence[str]) -> Head:
        """The head without some classes: without their rows, biases, draws and support statistics.

        Those of the other classes are the old ones, bit for bit. The provenance says under "edited" what was removed.

        Args:
            names: of classes; one that merely looks like a class's name (NFC) stands for it.

        Raises:
            InputError: no such class, no class or one named twice, or fewer than two classes left.
        """
        removed = positions([names] if isinstance(names, str) else names, self.class_names)
        kept = [i for i in range(len(self.class_names)) if i not in removed]
        if len(kept) < _FEWEST:
            of = f"{len(kept)} of {len(self.class_names)} classes"
            raise InputError(f"{of} would stay; keep {_FEWEST} or more")
        return self._edited(
            f"removed {', '.join(repr(self.class_names[i]) for i in removed)}",
            draws=self.draws.of_ways(kept),
            mean=self.mean.of_ways(kept),
            class_names=[self.class_names[i] for i in kept],
            support=None if self.support is None else self.support.of_classes(kept),
        )

    def rename(self, names: Mapping[str, str]) -> Head:
        """The head with other names for some classes; nothing else changes but the note under "edited".

        Args:
            names: new names by old ones, all changed at once, so that two classes may swap theirs. New names are
                brought to NFC, as names of class folders are.

        Raises:
            InputError: no such class, no class or one named twice, an empty name, two classes whose names would look
                alike (NFC), or a name that changes nothing.
        """
        renamed, changes = list(self.class_names), []
        places = positions(list(names), self.class_names)
        for i, new in zip(places, map(composed, names.values()), strict=True):
            if not new.strip():
                raise InputError(f"class {renamed[i]!r} would have an empty name; give it another")
            if new == renamed[i]:
                raise InputError(f"class {renamed[i]!r} already has this name; leave it out")
            changes.append(f"{renamed[i]!r} to {new!r}")
            renamed[i] = new
        for i in places:
            if [composed(name) for name in renamed].count(renamed[i]) > 1:
                raise InputError(f"two classes would be called {renamed[i]!r}; give them different names")
        return self._edited(f"renamed {', '.join(changes)}", class_names=renamed)

    def check_extensible(self, *, backbone: str, generator: str) -> SupportSummary:
        """What classes can be added from, by the generator with these hashes.

        Raises InputError when the head keeps nothing, or was written by another generator or for another backbone.
        """
        if self.support is None:
            raise InputError(
                "a head in a file of its own, of given features, keeps nothing to add classes from; generate it again "
                "from the features of all classes"
                if isinstance(self.backbone, FeatureBackbone)
                else "the head has no statistics of its support images (statistics.safetensors); "
                "generate it again from all of them"
            )
        own = self.provenance["backbone_weights"]
        if own != backbone:
            raise InputError(
                f"the head is for a {self.backbone.architecture} with weights {own}, and the generator's have "
                f"{backbone}; name the generator and the backbone that it was written with (--generator, --backbone)"
            )
        if self.support.generator != generator:
            name, version = self.provenance.get("generator", "another generator"), self.provenance["weightgen_version"]
            raise InputError(
                f"the head was written by {name} ({self.support.generator}, weightgen {version}), and this one is "
                f"{generator}; name the one that wrote it, or generate the head again from all images"
            )
        return self.support

    def check_new_classes(self, names: Sequence[str]) -> None:
        """Raise InputError when the head has a class of one of these names, or of one that looks like it (NFC)."""
        present = {composed(name) for name in self.class_names}
        for name in names:
            if composed(name) in present:
                raise InputError(
                    f"the head has a class {name!r} already; rename its new folder, or take the old class out "
                    "(weightgen head remove)"
                )

    def extension_note(self, names: Sequence[str], *, how: str) -> dict[str, str]:
        """Provenance of this head with further classes: "extended", behind earlier ones, and the "edited" it has.

        how: in which way the rows of the new classes are written.
        """
        added = ", ".join(map(repr, names)) if len(names) <= _MOST_NAMED else f"{len(names)} classes"
        earlier = [self.provenance["extended"]] if "extended" in self.provenance else []
        edited = {"edited": self.provenance["edited"]} if "edited" in self.provenance else {}
        return {**edited, "extended": "; ".join([*earlier, f"added {added} ({how})"])}

    def with_classes(self, names: Sequence[str], new: LinearHeads, *, support: SupportSummary, how: str) -> Head:
        """The head with new rows behind its own, which stay as they are, bit for bit.

        Args:
            names: of the new classes.
            new: their rows; as many draws as the head has.
            support: of all classes.
            how: see `extension_note`.
        """
        rows = LinearHeads(new.weight.float().cpu(), new.bias.float().cpu())
        return self._changed(
            draws=self.draws.joined(rows),
            mean=self.mean.joined(rows.mean()),
            class_names=(*self.class_names, *names),
            provenance={**self.provenance, **self.extension_note(names, how=how)},
            support=support,
        )

    def with_provenance(self, **notes: str) -> Head:
        """The same head with further notes in its provenance."""
        return self._changed(provenance={**self.provenance, **notes})

    def _edited(self, note: str, **changes: Any) -> Head:
        """The head with some changes, and a note of them behind earlier ones."""
        before = self.provenance.get("edited")
        edited = f"{before}; {note}" if before else note
        return self._changed(provenance={**self.provenance, "edited": edited}, **changes)

    def _changed(self, **changes: Any) -> Head:
        fields = {name: getattr(self, name) for name in HeadFields.__annotations__} | changes
        if len(fields["class_names"]) != len(self.class_names):
            support, kept = fields["support"], fields["provenance"].items()
            images = {} if support is None else {"support_images": int(support.statistics.counts.sum())}
            fields["provenance"] = {**{key: value for key, value in kept if key not in _OF_THE_CLASSES}, **images}
        return Head(**fields)


def load_head(folder: Path | str, *, device: torch.device | str = "cpu") -> Head:
    """Read what `Head.save_pretrained` wrote, in a folder or in `hf-hub:OWNER/NAME`, with the backbone on `device`.

    Raises InputError for another kind of folder, missing or damaged files, NaN, and files that contradict each other.
    """
    fields = read_head(local_folder(folder))
    try:
        head = Head(**fields)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    head.backbone.to(device)
    return head


def _completed(provenance: Mapping[str, object], backbone: Backbone) -> dict[str, str]:
    """With the versions that a fresh head is written by, and its backbone.

    Raises InputError when it names other weights than the backbone's.
    """
    weights = backbone.weights_hash()
    if not provenance.get("backbone_weights", weights):
        raise InputError("the metadata do not say which backbone it is for (backbone_weights); generate the head again")
    if provenance.get("backbone_weights", weights) != weights:
        raise InputError(
            f"the backbone's weights (model.safetensors) are {weights}, and the head was written for "
            f"{provenance['backbone_weights']}; generate the head again"
        )
    versions = {f"{one.__name__}_version": one.__version__ for one in (weightgen, timm, diffusers, torch)}
    return {
        **({} if "weightgen_version" in provenance else versions),
        **{key: str(value) for key, value in provenance.items()},
        "backbone": backbone.architecture,
        "backbone_weights": weights,
    }


def _check_draws(draws: LinearHeads, *, ways: int, feature_width: int) -> None:
    """Raise InputError unless this is a batch of one finite head of these sizes."""
    samples = draws.weight.shape[1] if draws.weight.dim() > 1 else 0
    if not samples or draws.weight.shape != (1, samples, ways, feature_width) or draws.bias.shape != (1, samples, ways):
        raise InputError(
            f"head: weight {list(draws.weight.shape)} and bias {list(draws.bias.shape)} are not one head for"
            f" {ways} classes of {feature_width} features; give a batch of 1 for this backbone"
        )
    if not bool(torch.isfinite(draws.weight).all() and torch.isfinite(draws.bias).all()):
        raise InputError(
            "head: its weights hold NaN or infinite values; generate it again with another seed or scheduler"
        )
