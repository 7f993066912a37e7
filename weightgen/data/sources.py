"""Where images come from: glyphs, an image folder, Parquet files or the hub, all as `datasets.Dataset`."""

import glob
import logging
from pathlib import Path

from datasets import Dataset, load_dataset

from weightgen.data.feature_data import open_features
from weightgen.data.glyphs import render_glyphs
from weightgen.data.images import has_images, labelled_dataset, open_folder
from weightgen.data.parquet import is_parquet, of_split, parquet_files, read_parquet
from weightgen.errors import InputError, reason
from weightgen.files import is_litter, shown
from weightgen.specs import is_features

_FORMS = (
    "'glyphs', 'features:FILE.safetensors', a folder with one subfolder of images per class, a .parquet file or a "
    "folder or pattern of them "
    "(PATH[:split][#column=NAME]), or 'hub:owner/name[:split][#column=NAME]'"
)
_COLUMN = "#column="


def open_data(spec: str, *, seed: int = 0) -> Dataset:
    """Open labelled images.

    spec: one of
        `glyphs`: characters rendered here, nothing is downloaded (a folder of that name is `./glyphs`);
        `features:FILE.safetensors`: embeddings in place of images, see `feature_data.open_features`;
        an image folder: one subfolder of images per class, see `images.find_classes`. Every image is checked;
            `PATH:split` is its subfolder of that name;
        `PATH[:split][#column=NAME]`: a `.parquet` file, a folder of them, or a pattern like `data/train-*.parquet`: one
            row per image, read into memory. A folder's split is `train` unless given, see `parquet.of_split`;
        `hub:owner/name[:split][#column=NAME]`: anything `datasets.load_dataset` opens; split is `train` unless given.
    seed: of the glyphs; the other sources do not depend on it.

    In Parquet files and on the hub the columns are `image` or `img`, or the only one that holds images, and `label`,
    `fine_label` or `labels`, or the one given; labels without names (whole numbers, text, true and false) name their
    classes themselves.

    Returns the columns `image` (`datasets.Image`, never decoded by it), or `features`, and `label`
    (`datasets.ClassLabel`), rows sorted by class. Raises InputError when the data is missing or damaged.
    """
    if spec == "glyphs":
        return render_glyphs(seed=seed)
    if is_features(spec):
        return open_features(spec)
    if spec.startswith("hub:"):
        return _open_hub(spec)
    place, split, column = _parts(spec)
    path = Path(place).expanduser()
    files = _files(path, split) if place else []
    if files:
        return read_parquet(files, column, where=shown(path))
    if column:
        raise InputError(f"{shown(path)}: is not Parquet, so it has no column '{column}'; data is {_FORMS}")
    if split and (path / split).is_dir():
        return open_folder(path / split)
    if place and path.is_dir() and not split:
        return open_folder(path)
    what = "is not data that can be opened" if path.is_file() else "does not exist"
    raise InputError(f"{shown(Path(spec)) if spec else repr(spec)}: {what}; data is {_FORMS}")


def _parts(spec: str) -> tuple[str, str | None, str | None]:
    """Path, split and label column of a SPEC; an existing path is taken as it is."""
    place, separator, column = spec.rpartition(_COLUMN)
    if not separator or _is_there(spec):
        place, column = spec, ""
    path, _, split = place.rpartition(":")
    if path and split and not _is_there(place) and _is_there(path):
        return path, split, column or None
    return place, None, column or None


def _is_there(place: str) -> bool:
    return Path(place).expanduser().exists() or bool(_matches(Path(place)))


def _matches(pattern: Path) -> list[Path]:
    """Parquet files that a pattern like `data/train-*.parquet` means."""
    if not glob.has_magic(str(pattern)):
        return []
    return sorted(path for path in map(Path, glob.glob(str(pattern.expanduser()), recursive=True)) if is_parquet(path))


def _files(path: Path, split: str | None) -> list[Path]:
    """The Parquet files that a path means; none where it means something else."""
    if path.is_dir():
        files = parquet_files(path)
        folders = [entry for entry in path.glob("*/") if not is_litter(entry.name)] if files else []
        return of_split(files, split, where=shown(path)) if files and sum(map(has_images, folders)) < 2 else []
    files = [path] if is_parquet(path) else _matches(path)
    return of_split(files, split, where=shown(path)) if files and split else files


def _open_hub(spec: str) -> Dataset:
    place, _, column = spec.removeprefix("hub:").partition(_COLUMN)
    name, _, split = place.partition(":")
    if not name:
        raise InputError(f"{spec}: names no data set; write 'hub:owner/name' or 'hub:owner/name:split'")
    if Path(name).exists():  # `load_dataset` prefers it
        logging.getLogger(__name__).warning(f"warning: {spec} is read from {name} in this directory, not from the hub")
    try:
        dataset = load_dataset(name, split=split or "train")
    except Exception as error:  # network, hub and data set code each have exceptions of their own
        raise InputError(
            f"{spec}: cannot be loaded ({reason(error)}); check the name, the split and the network"
        ) from error
    return labelled_dataset(
        dataset, where=spec, column=column or None, remedy="add #column=NAME to the SPEC with one of"
    )
