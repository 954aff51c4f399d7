"""`zs2 show`: what rendered a clip, from its run's ledger, or from the clip itself."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flows.earlier_run import earlier_run
from flows.errors import UsageError
from manifests.columns import COLUMNS, QUALITY
from manifests.ledger import iter_results
from manifests.object_store import is_url
from manifests.result import ResultRow, to_record
from manifests.run_file import read_derived
from manifests.storage import SUFFIXES

# Weights of these names are pickles, or TorchScript: they load with --trust-pickle alone.
_PICKLED = (".pt", ".pth", ".torchscript", ".ckpt", ".bin")
_LORA_WEIGHT = re.compile(r":[-+.\deE]+$")
_FIRST = ("id", "status", "file_name", "prompt", "seed", "model", "model_revision", "digest")


def show(clip: str, row_id: str | None = None) -> dict[str, Any]:
    """What is known of a clip: its ledger row, with `params` as an object and `again`, the command
    that renders it again, with `again_in`, the folder to run it in where it names relative files;
    of a clip without a run, what its file says, likewise: such files count from where it was made.

    Args:
        clip: a clip's file or folder of frames; with `row_id`, a run folder or its URL.

    Raises:
        UsageError: there is no such clip, or nothing is known of it.
    """
    if row_id is not None:
        return _shown_row(clip, lambda row: row.id == row_id, {row_id}, f"a row with id {row_id}")
    path = Path(clip)
    if is_url(clip) or not path.exists():
        raise UsageError(
            f"{clip}: expected a clip's file, or a run folder and an id; found no such file"
        )
    root = next((p for p in path.absolute().parents if (p / "run.json").is_file()), None)
    if path.is_dir() and (path / "run.json").is_file():
        raise UsageError(f"{clip} is a run folder: say which clip, as in zs2 show {clip} ID")
    if root is None:
        return _told_by_itself(path)
    name = path.absolute().relative_to(root).as_posix()
    ids = {path.name, path.name.removesuffix(path.suffix)}
    try:
        return _shown_row(str(root), lambda row: row.file_name == name, ids, f"a row of {name}")
    except UsageError:  # of an earlier prompt, or not of the run
        return _told_by_itself(path)


def _shown_row(out: str, is_meant: Any, ids: set[str], what: str) -> dict[str, Any]:
    run_folder = earlier_run(out)
    with run_folder.view() as folder:
        found = [row for row in iter_results(folder.root, ids) if is_meant(row)]
        run = read_derived(folder.run_file) or {}
    if not found:
        raise UsageError(
            f"{out}: expected {what} in the ledger, found none; it has not ended yet, or the manifest "
            "has no such row"
        )
    record = _record(found[0], run)
    if found[0].file_name and not run_folder.exists(run_folder.root / found[0].file_name):
        record["file_name"] += " (is not there any more; the same render command makes it again)"
    return record


def _record(row: ResultRow, run: Mapping[str, Any]) -> dict[str, Any]:
    record = to_record(row)
    record["params"] = json.loads(row.params) if row.params else {}
    suffix = SUFFIXES.get(str(record["params"].get("codec")), ".mp4")
    if row.file_name:  # a folder of frames has none, whatever stands in its id
        suffix = Path(row.file_name).name.removeprefix(row.id)
    if run.get("manifest") and row.seed is not None:
        settings = run.get("settings", {})
        words = ["zs2", "sample", "--from", run["manifest"], "--id", row.id, "-o", row.id + suffix]
        for name, value in (settings.get("defaults") or {}).items():
            words += _set(name, value)
        for root in settings.get("input_roots") or ():
            words += ["--input-root", root]
        trusted = settings.get("trust_pickles") or ()
        words += _engine(record["params"], trusted)
        if settings.get("threads", 1) > 1:
            words += ["--threads", str(settings["threads"])]
        record["again"] = shlex.join(words)
        named = (*_models(record["params"]), *trusted)
        if run.get("working_folder") and any(
            _is_below(run["working_folder"], name) for name in named
        ):
            record["again_in"] = run["working_folder"]
    return record


def _set(name: str, value: Any) -> list[str]:
    return ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]


def _engine(params: Mapping[str, Any], trusted: Iterable[str]) -> list[str]:
    words = [word for name in trusted for word in ("--trust-pickle", name)]
    if params.get("dtype", "auto") != "auto":
        words += ["--dtype", str(params["dtype"])]
    if params.get("engine", "eager") != "eager":
        words += ["--engine", str(params["engine"])]
    if params.get("clips_per_call", 1) != 1:
        words += ["--clips-per-call", str(params["clips_per_call"])]
    return words + (["--safety-checker", "off"] if params.get("safety_checker") is False else [])


def _models(params: Mapping[str, Any]) -> list[str]:
    """The models and add-ons that a row names, as the command line names them."""
    names = [params.get(name) for name in ("model", "controlnet", "ip_adapter")]
    for name, scale in (("temporal_sr", "temporal_scale"), ("spatial_sr", "spatial_scale")):
        if params.get(scale, 1) > 1:
            names.append(str(params.get(name, "")).partition(":")[2])
    names.append(str(params.get("control", "")).partition(":")[2])
    names += [_LORA_WEIGHT.sub("", lora) for lora in params.get("lora") or ()]
    return [name for name in names if name]


def _is_below(folder: str, name: str) -> bool:
    """Whether a model is a file of the folder that the run was begun in, and no hub's."""
    is_file = Path(name).suffix in (".onnx", ".pt", ".torchscript", ".ckpt")
    return not Path(name).expanduser().is_absolute() and (is_file or Path(folder, name).exists())


def _told_by_itself(path: Path) -> dict[str, Any]:
    """What stands in the file; every codec's carries its row."""
    from tasks.labels import MOST_BYTES, read_labels

    try:
        words = read_labels(path)
        if len(words.get("comment", "").encode()) >= MOST_BYTES - 3:  # a cut character is left out
            raise UsageError(
                f"{path}: its parameters are longer than the {MOST_BYTES:,} bytes that a file has room "
                "for, and cut; ask its run folder: zs2 show OUT ID"
            )
        comment = json.loads(words.get("comment", ""))
    except UsageError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            f"{path}: expected a clip of a run folder, or one that zs2 wrote; found neither"
        ) from error
    if not isinstance(comment, dict) or "zs2" not in comment:
        raise UsageError(f"{path}: expected a clip that zs2 wrote, found another's")
    told = {
        "id": comment.pop("id", None),
        "prompt": comment.pop("prompt", words.get("title")),
        "seed": comment.pop("seed", None),
        "digest": comment.pop("zs2"),
        "params": comment,
    }
    again = _sample_command(path, told)
    return told | ({"again": again} if again else {})


def _sample_command(path: Path, told: Mapping[str, Any]) -> str | None:
    """`zs2 sample` with all that is not built in; None of a clip that does not tell its seed."""
    prompt, seed, params = told["prompt"], told["seed"], dict(told["params"])
    if seed is None or not prompt:
        return None
    suffix = SUFFIXES.get(str(params.get("codec")), "" if path.is_dir() else path.suffix)
    name = told["id"] or path.name.removesuffix(suffix)
    words = ["zs2", "sample", "-o", f"{name}{suffix}", "--seed", str(seed)]
    words += _engine(params, sorted(n for n in _models(params) if Path(n).suffix in _PICKLED))
    default = QUALITY.get(str(params.get("codec")), (0, 0, None))[2]
    if params.get("quality") == default:
        params.pop("quality", None)
    for name, value in params.items():
        if name in COLUMNS and value != COLUMNS[name].default:
            words += _set(name, value)
    return shlex.join([*words, "--", *([prompt] if isinstance(prompt, str) else prompt)])


def text(report: Mapping[str, Any]) -> str:
    """The report as lines for people: the clip first, then its parameters by name."""
    rest = [name for name in report if name not in (*_FIRST, "params", "again", "again_in")]
    pairs = [(name, report[name]) for name in (*_FIRST, *rest) if report.get(name) is not None]
    chosen = [each["seed"] for each in report["params"].get("candidates", ()) if each["chosen"]]
    pairs += [("seed of the best", seed) for seed in chosen]
    pairs += sorted((n, v) for n, v in report["params"].items() if n not in (*report, "candidates"))
    width = max(len(name) for name, _ in pairs)
    lines = [f"{name:<{width}}  {_words(value, width)}" for name, value in pairs]
    for each in report["params"].get("candidates", ()):
        scores = ", ".join(f"{n} {v:.4g}" for n, v in each.items() if n not in ("seed", "chosen"))
        lines.append(f"{'candidate':<{width}}  seed {each['seed']}: {scores}")
    if "again" in report:
        where = f", in {report['again_in']}" if "again_in" in report else ""
        lines += ["", f"again{where}: {report['again']}"]
    return "\n".join(lines)


def _words(value: Any, indent: int) -> str:
    told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return told.replace("\n", "\n" + " " * (indent + 2))
