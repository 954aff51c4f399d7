"""Where an export goes: a folder, or the prefix of an object store; what lies there and how to load it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from manifests.files import write_aside
from manifests.object_store import ObjectStore, is_url
from manifests.run_file import read_json, write_json
from manifests.storage import RunFolder, make_folder
from tasks.export_choice import ExportError

VERSION = 1  # of what shards hold; raised when the same clips begin to give other bytes
INDEX = ".zs2-export.json"
README = "README.md"
_LOADED = {
    "webdataset": 'webdataset.WebDataset("{dest}/shard-{{000000..{last:06d}}}.tar", shardshuffle=False)',
    "parquet": 'datasets.load_dataset("{dest}")\n    pyarrow.parquet.read_table("{dest}/data")',
    "videofolder": 'datasets.load_dataset("videofolder", data_files="{dest}/shard-*/metadata.parquet")',
}
_NEEDED = {
    "webdataset": "`datasets.load_dataset` wants the same files in every sample: for it, export clips of one "
    "codec (`--where codec=h264`).",
    "parquet": "`datasets` decodes `video` with torchcodec, which you install beside it; "
    "`datasets.Video(decode=False)` gives its bytes.",
    "videofolder": "`datasets` decodes videos with torchcodec, which you install beside it.",
}


class Place:
    """Where the shards go: a folder, or the prefix of an object store."""

    def __init__(self, dest: str) -> None:
        self.dest = dest.rstrip("/") or dest
        self.store = ObjectStore(self.dest) if is_url(dest) else None
        self.root = Path(dest)

    def index(self, form: str) -> dict[str, dict[str, Any]]:
        """The shards that an earlier export has left here, by name.

        Raises:
            ExportError: something else stands here.
        """
        if self.store is not None:
            found = self.store.read(INDEX)
            content = None if found is None else json.loads(found[0])
            taken = content is None and next(iter(self.store.list()), None) is not None
        else:
            content = read_json(self.root / INDEX)
            taken = content is None and self.root.exists()
            if taken and self.root.is_dir():
                taken = any(self.root.iterdir())
        if taken:
            raise ExportError(
                f"{self.dest}: expected a new or empty folder, or an earlier export, found other "
                "files; give another --out"
            )
        if content is not None and content["format"] != form:
            raise ExportError(
                f"{self.dest}: expected no export, or one of {form}, found one of "
                f"{content['format']}; give another --out"
            )
        return {} if content is None else {each["name"]: each for each in content["shards"]}

    def begin(self, form: str, last: int) -> None:
        """Say what this folder is."""
        loaded = _LOADED[form].format(dest=self.dest, last=last)
        text = (
            "# Clips rendered by zs2\n\n"
            f"Shards of `{form}`; columns and files are those of `zs2 export`. To load them:\n\n"
            f"    {loaded}\n\n{_NEEDED[form]}\n"
        )
        if self.store is not None:
            self.store.write(README, text.encode())
            return
        with write_aside(self.root / README) as aside:
            aside.write_text(text, encoding="utf-8")

    def has(self, name: str, entry: Mapping[str, Any]) -> bool:
        """Whether a shard that was written before still lies here."""
        if self.store is None:
            path = self.root / name
            return path.is_dir() or (path.is_file() and path.stat().st_size == entry["bytes"])
        if Path(name).suffix:
            found = self.store.head(name)
            return found is not None and found.size == entry["bytes"]
        return self.store.head(f"{name}/metadata.parquet") is not None

    @contextmanager
    def shard(self, name: str) -> Generator[Path]:
        """Where to write a shard; it is where it belongs when this is left without error."""
        if self.store is None:
            make_folder((self.root / name).parent)
            yield self.root / name
            return
        with TemporaryDirectory(prefix="zs2-shard-") as folder:
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            yield path
            # a folder's metadata last: what has none is not there
            files = [file for file in path.rglob("*") if file.is_file()] or [path]
            for file in sorted(files, key=lambda p: (p.name == "metadata.parquet", p)):
                self.store.put(str(file.relative_to(folder)), file)

    def remove(self, names: Iterable[str]) -> None:
        """Remove shards that an earlier export had and this one has not."""
        for name in names:
            if self.store is not None:
                self.store.delete([self.store.name_of(found) for found in self.store.list(name)])
                self.store.delete([name])
            elif (self.root / name).is_dir():
                shutil.rmtree(self.root / name)
            else:
                (self.root / name).unlink(missing_ok=True)

    def write_index(self, form: str, entries: list[dict[str, Any]], complete: bool) -> None:
        """Say which shards are here."""
        content = {"zs2_export": VERSION, "format": form, "complete": complete, "shards": entries}
        if self.store is not None:
            self.store.write(INDEX, json.dumps(content, indent=1).encode())
        else:
            write_json(self.root / INDEX, content)


def check_apart(folder: RunFolder, place: Place) -> None:
    """Raise ExportError for a destination in the run folder, whose own files a run minds."""
    own, dest = folder.address, place.dest
    if place.store is None and folder.remote is None:
        own, dest = str(Path(own).resolve()), str(Path(dest).resolve())
    if f"{dest}/".startswith(f"{own.rstrip('/')}/"):
        raise ExportError(
            f"--out: expected a folder outside of the run folder {folder.name}, found {place.dest}"
        )
