"""The page on a written head: how good it is, what is confused, which support images are doubtful, what made it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from weightgen.data.feature_data import has_features
from weightgen.data.images import row_name
from weightgen.data.labelled import encoded
from weightgen.data.pictures import decoded
from weightgen.evaluation import page
from weightgen.evaluation.figures import accuracy_picture, reliability_picture
from weightgen.evaluation.report import confusion_table, reliability
from weightgen.evaluation.suggestion import Suggestion
from weightgen.evaluation.support_estimate import SupportEstimate
from weightgen.records import Features

_MOST_IMAGES = 240  # that a page shows, the doubtful ones first
_SAME = 0.9999  # cosine between features of images that are the same but for a few pixels
_ROWS_AT_ONCE = 1024


def write_generation_page(
    folder: Path,
    written: Mapping[str, Any],
    dataset: Dataset,
    *,
    features: Features | None,
    estimate: SupportEstimate | None,
    suggested: Sequence[Suggestion],
    provenance: Mapping[str, str],
) -> None:
    """Write `report.html` of a head.

    Args:
        written: what `write_head` returns.
        dataset: the support. features: of its images; None where there are too many, or the generator sees images.
        estimate: of the support; None where there is none.
        suggested: images to label next.
        provenance: of the head.
    """
    summary = {key: written[key] for key in ("support_images", "unlabelled_images", "backbone", "generator")}
    sentence = written.get("leave_one_out", {}).get("sentence", "an extended head is not estimated")
    parts = [page.section("How good it is", page.text(f"Leave-one-out: {sentence}."), page.facts(summary))]
    if estimate is not None:
        parts += _judged(estimate)
    if features is not None:
        entries = [
            (_image(dataset, row), _short(row_name(dataset, row)), said, doubtful)
            for row, said, doubtful in image_verdicts(features, estimate, lambda row: _short(row_name(dataset, row)))
        ]
        shown = f"{min(len(entries), _MOST_IMAGES)} of {len(entries)} support images, the doubtful ones first."
        parts.append(page.section("Support images", page.text(shown), page.small_images(entries[:_MOST_IMAGES])))
    if suggested:
        entries = [
            (
                _image(one.pool, one.row),
                _short(one.values["image"]),
                f"looks like {one.values['looks_like']} ({100 * one.values['probability']:.0f} %)",
                False,
            )
            for one in suggested
        ]
        parts.append(page.section("Label these next", page.small_images(entries)))
    parts.append(page.section("Where it comes from", page.facts(dict(sorted(provenance.items())))))
    page.write_page(folder, f"Head {written['head']}", [*parts, page.environment()])


def _judged(estimate: SupportEstimate) -> list[str]:
    """Accuracy of every class with its interval, probabilities against truth, and the confusion table."""
    each = estimate.per_class()
    accuracies = [one["accuracy"] for one in each]
    ends = [[abs(one["interval"][side] - one["accuracy"]) for one in each] for side in (0, 1)]
    figure = accuracy_picture([one["name"] for one in each], accuracies, ends)
    parts = [page.section("Classes", page.picture(figure, "Leave-one-out accuracy of every class, 95 % intervals"))]
    bins = reliability(estimate.predicted == estimate.labels, estimate.probabilities.amax(1))
    said = "Leave-one-out probabilities against how often they were right."
    figure = reliability_picture({"head": bins})
    parts.append(page.section("Reliability", page.text(said), page.picture(figure, f"Reliability diagram. {said}")))
    confusion = confusion_table(estimate.labels, estimate.predicted, estimate.class_names)
    return [*parts, page.section("Confusion", confusion)]


def image_verdicts(
    features: Features, estimate: SupportEstimate | None, name: Callable[[int], str]
) -> list[tuple[int, str, bool]]:
    """Row of every support image, what is said of it, and whether it is in doubt; those in doubt first.

    In doubt are images that look mislabelled, that are confused with another class, and that are there twice: the
    cosine of their features is 0.9999 or more.
    """
    places = {} if estimate is None else {row: i for i, row in enumerate(estimate.rows.tolist())}
    suspects = set() if estimate is None else {one["row"] for one in estimate.suspects(most=len(places))}
    twins = duplicates(features.values)
    verdicts: list[tuple[int, int, str]] = []
    for row, label in enumerate(features.labels.tolist()):
        own = features.class_names[label]
        rank, said = 3, f"{own}: not judged, the only image of its class"
        if estimate is not None and row in places:
            probability, taken = estimate.probabilities[places[row]].max(0)
            other, share = estimate.class_names[int(taken)], f"{100 * float(probability):.0f} %"
            rank, said = (3, f"{own} ({share})")
            if int(taken) != label:
                rank, said = 1, f"{own}, confused with {other} ({share})"
            if row in suspects:
                rank, said = 0, f"{own}, looks mislabelled: {other} ({share})"
        if row in twins:
            rank, said = min(rank, 2), f"{said}; duplicate of {name(twins[row])}"
        verdicts.append((rank, row, said))
    return [(row, said, rank < 3) for rank, row, said in sorted(verdicts)]


def duplicates(values: Float[Tensor, "images feature"]) -> dict[int, int]:
    """Rows whose features are those of an earlier row, which they are given with."""
    unit, earlier = normalize(values.double(), dim=1), dict[int, int]()
    for start in range(0, len(unit), _ROWS_AT_ONCE):
        rows = torch.arange(start, min(start + _ROWS_AT_ONCE, len(unit)))
        same = (unit[rows] @ unit.mT >= _SAME) & (rows[:, None] > torch.arange(len(unit)))
        again = same.any(1)
        first = same.int().argmax(1)  # not the closest: which of two like ones is closer is a matter of rounding
        earlier |= {int(row): int(twin) for row, twin in zip(rows[again], first[again], strict=True)}
    return earlier


def _short(name: str) -> str:
    """The file with its folder, which is the class."""
    return "/".join(Path(name).parts[-2:])


def _image(dataset: Dataset, row: int) -> Image.Image | None:
    """None of features."""
    if has_features(dataset):
        return None
    return decoded(encoded(dataset[row]["image"]), row_name(dataset, row))
