"""A zoo on disk: shards that are whole or absent, and an index that is written last."""

import json
from collections.abc import Sequence
from pathlib import Path

from weightgen.errors import InputError
from weightgen.files import read_checkpoint, read_json, tensors_hash, write_json, write_tensors
from weightgen.zoo.members import Shard, Zoo

_FORMAT = 1
_AGAIN = "fit the zoo again; whole shards are kept"


class ZooFolder:
    """`shard-00000.safetensors`, … and `index.json`.

    Shards appear by one rename, so that a kill at any moment leaves whole ones only, and `missing` tells what is left
    to do. Each carries the key of its making (a hash of the recipe's part and the data) and a hash of its tensors, so
    that a shard of another recipe or with a flipped bit is recognised.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def shard_path(self, number: int) -> Path:
        """File of shard `number`."""
        return self.path / f"shard-{number:05d}.safetensors"

    def write_shard(self, number: int, shard: Shard, *, key: str) -> None:
        """Write a shard, over whatever was there; equal shards have equal bytes."""
        tensors = {"classes": shard.classes, "targets": shard.targets, "accuracy": shard.accuracy}
        about = {"key": key, "fold": shard.fold, "hash": tensors_hash(tensors)}
        # One entry of JSON: safetensors writes several in an order that changes from process to process.
        write_tensors(self.shard_path(number), tensors, {"shard": json.dumps(about)})

    def missing(self, total: int, *, key: str) -> list[int]:
        """Numbers below `total` without a whole shard of this key."""
        return [number for number in range(total) if not self._whole(number, key)]

    def finish(self, total: int, *, key: str, class_names: Sequence[str]) -> None:
        """Write the index, which makes the shards a zoo; their `classes` index `class_names`.

        Raises InputError where shards are missing.
        """
        if lacking := self.missing(total, key=key):
            raise InputError(f"{self.path}: {len(lacking)} of {total} shards are missing, first {lacking[0]}; {_AGAIN}")
        shards = [self._read_shard(self.shard_path(number), key) for number in range(total)]
        entries = [
            {
                "file": self.shard_path(number).name,
                "fold": shard.fold,
                "tasks": len(shard.classes),
                "ways": shard.ways,
                "bytes": self.shard_path(number).stat().st_size,
            }
            for number, shard in enumerate(shards)
        ]
        index = {"format": _FORMAT, "key": key, "class_names": list(class_names)}
        write_json(self.path / "index.json", {**index, "shards": entries})

    def read(self) -> Zoo:
        """The finished zoo. Raises InputError when the index or a shard is missing, damaged, or of another zoo."""
        path = self.path / "index.json"
        if not path.exists():
            wrong = "holds no finished zoo" if self.path.is_dir() else "is not a directory"
            raise InputError(f"{self.path}: {wrong}; fit one by weightgen zoo build, or give its run")
        index = read_json(path)
        if isinstance(index, dict) and index.get("format", _FORMAT) != _FORMAT:
            raise InputError(f"{path}: has format {index['format']}, this version reads {_FORMAT}; fit the zoo again")
        try:
            key, names = str(index["key"]), tuple(map(str, index["class_names"]))
            files = [str(entry["file"]) for entry in index["shards"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: is not the index of a zoo; {_AGAIN}") from error
        if not files:
            raise InputError(f"{path}: lists no shards; fit the zoo again")
        shards = tuple(self._read_shard(self.path / Path(file).name, key) for file in files)
        for file, shard in zip(files, shards, strict=True):
            if not 0 <= int(shard.classes.min()) <= int(shard.classes.max()) < len(names):
                raise InputError(f"{self.path / file}: names classes that {path.name} does not have; fit the zoo again")
        return Zoo(names, shards)

    def _whole(self, number: int, key: str) -> bool:
        try:
            self._read_shard(self.shard_path(number), key)
        except InputError:
            return False
        return True

    def _read_shard(self, path: Path, key: str) -> Shard:
        """Raises InputError when the shard is missing, damaged, or of another key."""
        if not path.exists():
            raise InputError(f"{path}: is missing; {_AGAIN}")
        tensors, metadata = read_checkpoint(path)
        try:
            about = json.loads(metadata["shard"])
            other, whole = about["key"] != key, about["hash"] == tensors_hash(tensors)
            shard = Shard(fold=int(about["fold"]), **tensors)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: is not a shard of a zoo; {_AGAIN}") from error
        if not whole:
            raise InputError(f"{path}: is damaged, its tensors are not those that were written; {_AGAIN}")
        if other:
            raise InputError(f"{path}: was fitted with another recipe or other data than the index says; {_AGAIN}")
        return shard
