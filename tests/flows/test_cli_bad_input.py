"""Bad input from outside: `zs2` as a user runs it, one table of everything that can be wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from flows.cli import _guarded, app
from flows.commands.run import _quick_look  # pyright: ignore[reportPrivateUsage]
from flows.errors import exit_code_of
from flows.settings import RenderSettings
from manifests.storage import RunFolder
from tasks.codecs import AssembleError
from tests import tiny_models
from tests.flows.running import ZS2, environment, write_rows, zs2

SECONDS = 60.0  # a refusal takes about 1 s, some seconds where torch is needed; this ends a hang
HEAVY = ("torch", "diffusers", "transformers", "ray", "prefect")

# Runs the command line in this process and says on stderr which heavy libraries it loaded.
WRAPPER = f"""
import sys
from flows.cli import main
try:
    main()
finally:
    print("LOADED", [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""

GOOD: dict[str, Any] = {"id": "a", "prompt": "a red star"}

Make = Callable[[Path], Path | str]


def rows(*changes: dict[str, Any]) -> Callable[[Path], Path]:
    """A manifest of good rows, each changed so."""
    return lambda folder: write_rows(
        folder / "m.parquet", [{**GOOD, "id": f"r{i}", **c} for i, c in enumerate(changes)]
    )


def content(data: bytes) -> Callable[[Path], Path]:
    """A file of these bytes under a manifest's name."""

    def make(folder: Path) -> Path:
        path = folder / "m.parquet"
        path.write_bytes(data)
        return path

    return make


def empty_folder(folder: Path) -> Path:
    (folder / "m").mkdir()
    return folder / "m"


def no_rows(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "m.parquet"
    pq.write_table(pa.table({"id": pa.array([], "string"), "prompt": pa.array([], "string")}), path)
    return path


def truncated(folder: Path) -> Path:
    path = rows({}, {})(folder)
    path.write_bytes(path.read_bytes()[:-20])
    return path


class Bad(NamedTuple):
    """A manifest, and what the message has to say: what is wrong, and what to do or what was
    expected."""

    make: Make
    says: tuple[str, ...]


MANIFESTS = {
    "missing": Bad(lambda folder: folder / "none.parquet", ("none.parquet does not exist", "give")),
    "empty folder": Bad(empty_folder, ("holds no *.parquet", "zs2 manifest build")),
    "no rows": Bad(no_rows, ("has no rows", "at least one")),
    "no bytes": Bad(content(b""), ("is an empty file", "zs2 manifest build")),
    "not Parquet": Bad(content(b"id,prompt\na,b\n"), ("is not Parquet", "zs2 manifest build")),
    "truncated": Bad(truncated, ("truncated or damaged", "write it again")),
    "object store": Bad(
        lambda folder: "s3://bucket/m.parquet",
        ("no credentials were found", "set AWS_ACCESS_KEY_ID"),
    ),
    "one slash": Bad(lambda folder: "s3:/bucket/m.parquet", ("s3:/bucket", "correct the URL")),
    "duplicate ids": Bad(rows({"id": "x"}, {"id": "x"}), ("row 1", "id", "x", "row 0")),
    "id leaves the folder": Bad(rows({"id": "../x"}), ("row 0", "id", "../x", "A-Za-z0-9")),
    "negative λ": Bad(rows({"kl_target": -0.1}), ("row 0", "kl_target", "-0.1", "≥ 0")),
    "λ list too short": Bad(
        rows({"num_frames": 4, "kl_target": [0.1, 0.2]}), ("row 0", "kl_target", "3", "2")
    ),
    "unknown model": Bad(rows({"model": "zs3"}), ("row 0", "zs3", "zs2-mini", "hub id")),
    "unknown scheduler": Bad(rows({"scheduler": "dimm"}), ("scheduler", "'dimm'", "`ddim`")),
    "unknown column": Bad(rows({"promt": "x"}), ("`promt`", "did you mean `prompt`?")),
    "height 37": Bad(rows({"height": 37}), ("row 0", "height", "37", "multiple of 8")),
    "num_frames 0": Bad(rows({"num_frames": 0}), ("row 0", "num_frames", "0", "≥ 1")),
    "no prompt": Bad(lambda f: write_rows(f / "m.parquet", [{"id": "a"}]), ("`prompt`", "missing")),
}


def with_clip(**columns: Any) -> Make:
    """A manifest in a folder of its own, with a clip beside it and another one outside."""

    def make(folder: Path) -> Path:
        (folder / "in").mkdir()
        for name in ("in/clip.mp4", "outer.mp4"):
            (folder / name).write_bytes(b"clip")
        return rows(columns)(folder / "in")

    return make


CONTROL = {"control": "canny", "controlnet": "/no/net", "control_video": "clip.mp4"}
MANIFESTS |= {
    "no such control clip": Bad(
        with_clip(**CONTROL | {"control_video": "gone.mp4"}),
        ("control_video", "gone.mp4", "a video or a folder of images", "nothing of that name"),
    ),
    "clip outside": Bad(
        with_clip(**CONTROL | {"control_video": "../outer.mp4"}),
        ("control_video", "a path inside", "outer.mp4", "--input-root"),
    ),
    "no such ControlNet": Bad(with_clip(**CONTROL), ("controlnet", "a usable", "/no/net")),
    "half a control": Bad(with_clip(control="canny"), ("controlnet", "control_video", "no value")),
    "a clip for a model that does not edit": Bad(
        with_clip(source_video="clip.mp4"), ("source_video", "no value", "InstructPix2Pix")
    ),
    "no such LoRA": Bad(with_clip(lora=["/no/lora:0.5"]), ("lora", "a usable LoRA", "/no/lora")),
    "too many frames": Bad(rows({"num_frames": 2**31}), ("num_frames", "from 1 to 2147483647")),
}


def assert_refused(answer: Any, *says: str) -> None:
    """Exit code 2, one message with all of `says`, nothing on standard output, no traceback."""
    assert answer.code == 2, answer
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert "Warning" not in answer.err
    for words in says:
        assert words in answer.err, answer.err
    lines = answer.err.splitlines()
    assert len(lines) == len(set(lines)), f"said twice:\n{answer.err}"
    assert answer.err.count("zs2: ") == 1, answer.err
    assert answer.seconds < SECONDS


@pytest.mark.parametrize("name", MANIFESTS)
def test_bad_manifest(name: str, tmp_path: Path) -> None:
    """`zs2 render` of a bad manifest exits 2 in about a second, with one message that says where
    and what is wrong and what to do; the run folder does not come into being."""
    manifest = MANIFESTS[name].make(tmp_path)
    out = tmp_path / "out"
    answer = zs2("render", manifest, "-o", out)
    assert_refused(answer, *MANIFESTS[name].says)
    assert not out.exists()


def test_all_bad_rows_in_one_report(tmp_path: Path) -> None:
    """Every bad row is named at once, also by `plan` and `manifest validate`; good rows are not."""
    manifest = rows({"height": 37}, {}, {"num_frames": 0, "fps": -1.0})(tmp_path)
    for command in (["render", manifest, "-o", tmp_path / "out"], ["plan", manifest]):
        assert_refused(zs2(*command), "row 0", "row 2", "height", "num_frames", "fps")
    answer = zs2("manifest", "validate", manifest)
    assert answer.code == 2
    assert all(words in answer.err for words in ("row 0", "row 2", "height", "num_frames"))
    assert "row 1" not in answer.err
    problems = json.loads(zs2("manifest", "validate", manifest, "--json").out)["problems"]
    assert [(p["row"], p["column"]) for p in problems] == [
        (0, "height"),
        (2, "num_frames"),
        (2, "fps"),
    ]


WORDS = {
    "bad --set": (["--set", "height"], ("--set", "column=value", "'height'")),
    "--set of no column": (["--set", "promt=x"], ("promt", "did you mean `prompt`?")),
    "--set of a bad value": (["--set", "height=37"], ("height", "37", "multiple of 8")),
    "bad --dtype": (["--dtype", "int3"], ("--dtype", "'float32'", "'int3'")),
    "bad --on-invalid": (["--on-invalid", "ignore"], ("--on-invalid", "'skip'", "'ignore'")),
    "bad --safety-checker": (["--safety-checker", "no"], ("--safety-checker", "on or off", "'no'")),
    "--samplers 0": (["--samplers", "0"], ("--samplers", "greater than or equal to 1", "0")),
    "--shard-rows 0": (["--shard-rows", "0"], ("--shard-rows", "greater than or equal to 1", "0")),
    "--allow-model": (["--allow-model", "a/b"], ("zs2-mini", "a/b", "--allow-model")),
}


@pytest.mark.parametrize("name", WORDS)
def test_bad_option(name: str, tmp_path: Path) -> None:
    """A bad option of `zs2 render` exits 2 with the option, what it takes and what it was given;
    the run folder does not come into being."""
    options, says = WORDS[name]
    out = tmp_path / "out"
    assert_refused(zs2("render", rows({})(tmp_path), "-o", out, *options), *says)
    assert not out.exists()


def test_out_that_cannot_be_written(tmp_path: Path) -> None:
    """A file in the folder's place, a place under a file and a place that takes no folders: exit
    code 2 with the remedy, and the file is as it was."""
    manifest = rows({})(tmp_path)
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for out in (taken, taken / "below", Path("/proc/zs2")):
        assert_refused(zs2("render", manifest, "-o", out), str(out), "folder")
    assert_refused(zs2("render", manifest, "-o", "s3://bucket/out"), "set AWS_ACCESS_KEY_ID")
    assert_refused(zs2("render", manifest, "-o", "s3:/bucket/out"), "s3:/bucket", "correct the URL")
    for command in (("sample", "a"), ("manifest", "build", manifest)):
        assert_refused(zs2(*command, "-o", "s3://bucket/x.mp4"), "--out", "expected a local path")
    assert taken.read_text() == "mine"


@pytest.fixture
def crippled(tiny_model: Path, tmp_path: Path) -> Callable[[Callable[[Path], object]], Path]:
    """A copy of the tiny model with something done to it."""

    def cripple(do: Callable[[Path], object]) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(tiny_model, folder)
        do(folder)
        return folder

    return cripple


def _no_weights(folder: Path) -> None:
    for path in (folder / "unet").glob("*.safetensors"):
        path.unlink()


def _pickle_only(folder: Path) -> None:
    for path in (folder / "unet").glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))


@pytest.mark.parametrize(
    ("do", "says"),
    [
        (_no_weights, ("no weights", "safe_serialization=True")),
        (_pickle_only, ("pickled weights", "safe_serialization=True")),
        (lambda f: (f / "model_index.json").unlink(), ("no model_index.json", "save_pretrained")),
        (lambda f: (f / "unet" / "config.json").write_text("{"), ("JSON", "copy or save")),
    ],
    ids=["no weights", "pickled weights only", "no index", "damaged configuration"],
)
def test_unusable_model_folder(
    do: Callable[[Path], object], says: tuple[str, ...], crippled: Any, tmp_path: Path
) -> None:
    """A model folder that cannot be loaded safely is refused before anything starts: exit code 2,
    the row and the folder named, with the remedy."""
    model = crippled(do)
    out = tmp_path / "out"
    manifest = rows({"model": str(model)})(tmp_path)
    assert_refused(zs2("render", manifest, "-o", out), "row 0", str(model), *says)
    assert not out.exists()
    assert_refused(zs2("sample", "a", "--model", model, "-o", out / "a.mp4"), str(model), *says)
    assert not out.exists()


@pytest.mark.parametrize(
    "command", ["retry", "status", "gallery", "eval", "prune", "export", "show"]
)
def test_folder_without_a_run(command: str, tmp_path: Path) -> None:
    """Every command that reads a run's folder says what it expected and what is there: another folder,
    nothing, a file, or a file of a run, with that run; exits 2 and leaves all as it is."""
    more = {"show": ["id"], "export": ["-o", tmp_path / "to", "--format", "parquet"]}.get(
        command, []
    )
    empty, run = tmp_path / "empty", tmp_path / "run"
    empty.mkdir(), run.mkdir()
    (run / "run.json").write_text("{}")
    (run / "index.html").touch()
    (tmp_path / "m.parquet").touch()
    expected = "expected the folder of a run"
    for given, found in (
        (empty, "no run.json"),
        (tmp_path / "none", "there is nothing"),
        (tmp_path / "m.parquet", "found a file"),
        (run / "index.html", f"did you mean {run}?"),
    ):
        assert_refused(zs2(command, given, *more), str(given), expected, found)
    assert list(empty.iterdir()) == [] and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_a_manifest_is_shown_by_a_row_at_least(limit: str, tmp_path: Path) -> None:
    """`manifest show --limit` of none exits 2 with the option; nothing is printed."""
    answer = zs2("manifest", "show", rows({})(tmp_path), "--limit", limit)
    assert_refused(answer, f"--limit: expected at least 1, found {limit}")


def test_retry_of_a_manifest_that_is_gone(tmp_path: Path) -> None:
    """The manifest that run.json names was removed: exit code 2 with its path."""
    (tmp_path / "run.json").write_text(
        json.dumps({"settings": {}, "manifest": str(tmp_path / "gone.parquet")})
    )
    assert_refused(zs2("retry", tmp_path), "gone.parquet does not exist")


SAMPLES = {
    "no prompt": (["-o", "a.mp4"], ("expected a prompt", "--from")),
    "unknown suffix": (
        ["a", "-o", "a.xyz"],
        ("ends in .gif, .mkv, .mp4 or .webp, or one without a suffix for a folder", "a.xyz"),
    ),
    "--from without --id": (["--from", "m.parquet", "-o", "a.mp4"], ("--from", "--id")),
    "--id of no row": (["--from", "m.parquet", "--id", "z", "-o", "a.mp4"], ("--id", "'z'")),
    "--id without --from": (["a", "-o", "a.mp4", "--id", "z"], ("--id", "--from", "'z'")),
    "a prompt without quotes": (
        ["a", "red", "star", "-o", "a.mp4", "--set", "num_frames=2"],
        ("prompt: expected 1 prompt, found 3", "set num_frames to 24; or put one prompt in quotes"),
    ),
    "two seeds": (
        ["a", "-o", "a.mp4", "--seed", "4", "--set", "seed=3"],
        ("--seed: expected one seed, found 4 and --set seed=3", "leave one"),
    ),
    "two models": (
        ["a", "-o", "a.mp4", "--model", "zs2-mini", "--set", "model=a/b"],
        ("--model: expected one model, found zs2-mini and --set model=a/b",),
    ),
    "a column set twice": (
        ["a", "-o", "a.mp4", "--set", "num_frames=4", "--set", "num_frames=6"],
        ("--set: expected one value of num_frames, found '4' and '6'", "leave one"),
    ),
    "the row's codec has another suffix": (
        ["--from", "m.parquet", "--id", "r0", "-o", "a.gif"],
        (".mp4", "h264", "a.gif"),
    ),
    "bad --dtype": (["a", "-o", "a.mp4", "--dtype", "int3"], ("--dtype", "float32", "'int3'")),
    "bad --set": (["a", "-o", "a.mp4", "--set", "height=37"], ("height", "37")),
    "a rate that no codec keeps": (
        ["a", "-o", "a.mp4", "--set", "fps=0.005"],
        ("fps", "at least 0.01", "0.005"),
    ),
    "bad --threads": (["a", "-o", "a.mp4", "--threads", "0"], ("--threads", "at least 1", "0")),
    "bad --seed": (["a", "-o", "a.mp4", "--seed", "-1"], ("seed", "-1")),
    "a place under a file": (["a", "-o", "m.parquet/a.mp4"], ("cannot be written", "choose")),
    "no such place": (["a", "-o", "/proc/zs2/a.mp4"], ("cannot be written", "choose")),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_bad_sample(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad words to `zs2 sample` exit 2 with one message before the model is loaded; no file comes
    into being."""
    rows({})(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments, says = SAMPLES[name]
    assert_refused(zs2("sample", *arguments), *says)
    assert [path.name for path in tmp_path.iterdir()] == ["m.parquet"]


def test_a_librarys_error_in_sample_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever breaks while a clip is loaded, sampled or assembled: exit code 1 and one line."""

    def break_down(*_: object) -> None:
        raise RuntimeError("expected 4 channels\nand more")

    monkeypatch.setattr("tasks.stages.render_alone", break_down)
    out = tmp_path / "a.mp4"
    monkeypatch.setattr(sys, "argv", ["zs2", "sample", "a", "-o", str(out)])
    assert _guarded(lambda: app(standalone_mode=True)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"zs2: {out}: cannot be rendered (RuntimeError: expected 4 channels);")


def test_sample_replaces_no_folder_of_the_users(tmp_path: Path) -> None:
    """A name without a suffix means a folder of png; one that holds anything else is left alone."""
    precious = tmp_path / "clips" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("mine")
    assert_refused(zs2("sample", "a", "-o", precious.parent), "is a folder", "give a name")
    assert_refused(zs2("sample", "a", "-o", tmp_path / "clips" / ".." / "clips"), "is a folder")
    assert precious.read_text() == "mine"


@pytest.mark.parametrize(
    "arguments", [["rendr"], ["render"], ["render", "m", "--nope"], ["manifest", "bild"]]
)
def test_bad_usage(arguments: list[str]) -> None:
    """Unknown commands and options, and missing arguments: exit code 2, one error that points to
    --help."""
    answer = zs2(*arguments)
    assert answer.code == 2
    assert answer.err.count("Error: ") == 1
    assert "--help" in answer.err
    assert "Traceback" not in answer.err


def test_validate_looks_at_local_models_and_says_what_it_did_not_ask(tmp_path: Path) -> None:
    """A model that is not there is a problem for `validate` as it is for `plan`; a hub's is named as
    not asked; past 50 problems the report says where all are."""
    manifest = rows({"model": "/no/model"}, {"lora": '["a/b"]'})(tmp_path)
    answer = zs2("manifest", "validate", manifest)
    assert answer.code == 2 and answer.out == ""
    assert "a usable model, found /no/model" in answer.err and "as a list" in answer.err
    manifest = rows({}, {"model": "owner/name"})(tmp_path)
    answer = zs2("manifest", "validate", manifest)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == ("2 rows, no problems; not asked of a hub: owner/name (`zs2 plan` asks)\n")
    manifest = rows({"height": 37}, {"model": "owner/name"})(tmp_path)
    answer = zs2("manifest", "validate", manifest)
    assert answer.code == 2 and "1 problem in 1 row" in answer.err
    last = answer.err.splitlines()[-1]
    assert last == "not asked of a hub: owner/name (`zs2 plan` asks)"
    assert "`zs2 plan` asks it" in " ".join(zs2("manifest", "validate", "--help").out.split())
    manifest = rows(*[{"height": 37}] * 60)(tmp_path)
    last = zs2("manifest", "validate", manifest).err.splitlines()[-1]
    assert last == "  … and 10 more (height: 10); `zs2 manifest validate --json` lists all"


LIGHT = {
    "help": ["--help"],
    "help of render": ["render", "--help"],
    "manifest columns": ["manifest", "columns"],
    "manifest validate": ["manifest", "validate", "m.parquet"],
    "manifest show": ["manifest", "show", "m.parquet"],
    "manifest head": ["manifest", "head", "m.parquet", "1", "-o", "head.parquet"],
    "manifest build": ["manifest", "build", "prompts.txt", "-o", "built.parquet", "--seed", "1"],
    "plan": ["plan", "m.parquet"],
    "models": ["models"],
    "a bad manifest": ["render", "none.parquet"],
    "a bad folder": ["status", "."],
    "an output that cannot be written": ["render", "m.parquet", "-o", "/proc/zs2"],
    "a bad sample": ["sample", "a", "-o", "/proc/zs2/a.mp4"],
}


@pytest.mark.parametrize("name", LIGHT)
def test_answers_without_heavy_libraries(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Help, the manifest commands, `plan` and every refusal load neither torch, diffusers, Ray nor
    Prefect, and answer in about a second (asserted with room for a busy machine)."""
    rows({}, {"num_frames": 24, "segment_frames": 8})(tmp_path)
    (tmp_path / "prompts.txt").write_text("a red star\na blue moon\n")
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", WRAPPER, *LIGHT[name]],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
    )
    assert done.stderr.splitlines()[-1] == "LOADED []"
    refused = name.startswith(("a bad", "an output"))
    assert done.returncode == (2 if refused else 0), done.stderr
    assert bool(done.stdout) != refused
    seconds = time.monotonic() - started
    print(f"zs2 {' '.join(LIGHT[name])}: {seconds:.2f} s")
    assert seconds < 30


def test_input_roots(tmp_path: Path) -> None:
    """`validate` and `plan` let rows read from a folder that --input-root names, and no further; a
    clip of `zs2 sample` lies where the user says, relative to the working folder, but the row of a
    manifest keeps to its folders."""
    manifest = with_clip(**CONTROL | {"control_video": "../outer.mp4"})(tmp_path)
    root = ["--input-root", tmp_path]
    for command in (["manifest", "validate"], ["plan"]):
        assert "outer.mp4" in zs2(*command, manifest).err
        answer = zs2(*command, manifest, *root)  # the clip is found, the ControlNet is not there
        assert answer.code == 2 and "/no/net" in answer.err and "outer.mp4" not in answer.err
    out = ["-o", tmp_path / "a.mp4"]
    answer = zs2("sample", "--from", manifest, "--id", "r0", *out)
    assert_refused(answer, "control_video", "--input-root")
    pairs = [word for pair in CONTROL.items() for word in ("--set", "=".join(pair))]
    answer = zs2("sample", "a", *pairs[:-1], f"control_video={tmp_path}/outer.mp4", *out)
    assert_refused(answer, "controlnet", "/no/net")
    assert_refused(zs2("sample", "a", "--set", "control=canny", *out), "control_video", "no value")


def test_an_input_root_that_is_not_there(tmp_path: Path) -> None:
    """Refused by every command that takes one."""
    manifest, gone = rows({})(tmp_path), ["--input-root", tmp_path / "gone"]
    out = ["-o", tmp_path / "a.mp4"]
    commands = (
        ["render"],
        ["plan"],
        ["manifest", "validate"],
        ["sample", *out, "--id=r0", "--from"],
    )
    for command in commands:
        assert_refused(zs2(*command, manifest, *gone), "gone: expected a folder", "does not exist")


def test_a_clip_or_prompt_that_cannot_be_used(tmp_path: Path) -> None:
    """What `zs2 sample` finds out only when it reads the clip or the prompt is told in one message,
    with the remedy, as everything else."""
    tiny_models.ip2p(tmp_path).save_pretrained(tmp_path / "ip2p")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    few = ["--set", "num_frames=2", "--set", "num_inference_steps=1", "-o", tmp_path / "a.mp4"]
    clip = ["--model", tmp_path / "ip2p", "--set", f"source_video={tmp_path}/broken.mp4"]
    assert_refused(zs2("sample", "a", *clip, *few), "broken.mp4", "expected a video")
    long = ["--set", "long_prompt=fail"]
    answer = zs2("sample", "a star " * 50, *long, *few)
    assert_refused(answer, "prompt: expected at most", "long_prompt")
    assert not (tmp_path / "a.mp4").exists()


def test_a_prompt_that_is_cut_is_told(tmp_path: Path) -> None:
    """On standard error whatever was asked for, and in the report; what fits is not mentioned."""
    few = ["--set", "num_frames=1", "--set", "num_inference_steps=1", "-o", tmp_path / "a.mp4"]
    note = "prompt truncated: 62 tokens, the model reads 32"
    answer = zs2("sample", "a red star " * 20, *few, "--json")
    assert json.loads(answer.out)["note"] == note and note in answer.err
    answer = zs2("sample", "a red star", *few, "--json")
    assert "note" not in json.loads(answer.out) and "truncated" not in answer.err


def test_output_that_nobody_reads(tmp_path: Path) -> None:
    """`zs2 … | head` is no failure, however much is left: exit code 0 and not a word."""
    for arguments in (["manifest", "columns"], ["manifest", "columns", "--json"], ["models"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run([*ZS2, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, "")


def test_version() -> None:
    """`zs2 --version` says which one is installed."""
    answer = zs2("--version")
    assert (answer.code, answer.out) == (0, f"zs2 {version('zs2')}\n")


def test_a_missing_encoder_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """By `render` on this machine, of the codecs of the rows that are left, and by `sample`: no folder,
    no Ray, nothing sampled. A cluster's nodes have an ffmpeg of their own."""
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text("#!/bin/sh\necho ' V....D gif  GIF'\n")
    ffmpeg.chmod(0o755)
    monkeypatch.setenv("ZS2_FFMPEG", str(ffmpeg))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    manifest = str(rows({"codec": "gif"}, {"codec": "webp"})(tmp_path))
    for words in (["render", manifest], ["sample", "a star"]):
        out = tmp_path / "out.webp"
        done = CliRunner().invoke(app, [*words, "-o", str(out)])
        assert isinstance(done.exception, AssembleError) and exit_code_of(done.exception) == 1
        assert "webp: expected an ffmpeg with the encoder libwebp" in str(done.exception)
        assert "it can write gif: choose one of these" in str(done.exception)
        assert not out.exists()
    settings = RenderSettings(ray_address="ray.example:6379")  # pyright: ignore[reportCallIssue]
    assert _quick_look(manifest, RunFolder(tmp_path / "other"), settings).batches == 2
