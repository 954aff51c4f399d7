"""`zs2 compare` and `zs2 study` leave what they say they leave, and go on where they stopped."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.commands.compare import MINI_PROMPTS, Options, compare, plan
from flows.commands.study import study
from flows.errors import UsageError
from manifests.read import ManifestError
from manifests.row import RowError
from manifests.scores import SCORE_NAMES
from tasks.compare import read_scores
from tasks.methods import METHODS, CompareError, methods_named
from tests import tiny_models
from tests.flows.running import ZS2, environment, wait_until, zs2
from zs2.models import ModelError

SMALL = ("height=16", "width=16", "num_inference_steps=2")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of true architecture and random weights."""
    return tiny_models.clip(tmp_path_factory.mktemp("scorers") / "tiny-clip")


@pytest.fixture(scope="module")
def options(tiny_model: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Options:
    """Three prompts of three frames."""
    return Options(
        model=str(tiny_model),
        source=None,
        texts=("a b", "c", "d e f"),
        limit=None,
        seeds=1,
        num_frames=3,
        pairs=SMALL,
        scorer=str(clip),
        out=tmp_path_factory.mktemp("out") / "comparison",
        quiet=True,
    )


@pytest.fixture(scope="module")
def compared(options: Options) -> dict[str, Any]:
    return compare(options, [])


def files(out: Path) -> dict[str, int]:
    found = (path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in found}


def test_a_comparison_leaves_clips_scores_tables_and_a_page(
    options: Options, compared: dict[str, Any]
):
    """A video for each prompt and method, every score of each by the named scorer, table.json as
    returned, table.md, a page that names every clip, and the manifest of all but Text2Video-Zero."""
    out = options.out
    rows = read_scores(out)
    assert {(row["method"], row["prompt"]) for row in rows} == {
        (method, prompt) for method in METHODS for prompt in options.texts
    }
    assert all((out / row["file_name"]).is_file() for row in rows)
    assert all(isinstance(row[name], float) for row in rows for name in SCORE_NAMES)
    assert all(row["scorer"].startswith("tiny-clip@") for row in rows)
    assert json.loads((out / "table.json").read_text("utf-8")) == compared
    assert [record["method"] for record in compared["methods"]] == list(METHODS)
    page = (out / "index.html").read_text("utf-8")
    assert all(row["file_name"] in page for row in rows)
    text = (out / "table.md").read_text("utf-8")
    assert "prompts 3, seeds each 1, frames 3, steps 2" in text and "λ 0.01, μ 0.98" in text
    assert pq.read_table(out / "manifest.parquet").num_rows == 3 * (len(METHODS) - 1)
    assert not [name for name in files(out) if "/.tmp-" in f"/{name}"]


def test_consistency_stands_beside_the_dynamic_degree(compared: dict[str, Any], options: Options):
    """In table.json's order, table.md and the page's table alike."""
    names = list(compared["methods"][0]["scores"])
    assert names[names.index("frame_consistency") + 1] == "dynamic_degree"
    for head in (options.out / "table.md").read_text("utf-8").splitlines():
        if head.startswith("| method"):
            cells = [cell.split("<br>")[0].strip(" ↑") for cell in head.split("|")]
            assert cells[cells.index("frame consistency") + 1] == "dynamic degree"


def test_matched_progressive_noise_is_said_to_be_zs2(compared: dict[str, Any]):
    """Its clips have ZS²'s own scores, so that no test is made of them."""
    found = next(r for r in compared["methods"] if r["method"] == "progressive-matched")
    assert all(score["minus_zs2"]["same_clips"] for score in found["scores"].values())
    assert all(score["minus_zs2"]["p_holm"] is None for score in found["scores"].values())


def test_the_same_command_again_makes_the_same_of_what_is_there(
    options: Options, compared: dict[str, Any]
):
    """No clip is rendered or scored again, and the tables are the same; more prompts are added to
    what is there."""
    before = files(options.out)
    assert compare(options, []) == compared
    after = files(options.out)
    videos = [name for name in before if name.startswith("videos/")]
    assert {name: after[name] for name in videos} == {name: before[name] for name in videos}
    more = compare(replace(options, texts=(*options.texts, "g")), [])
    assert more["settings"]["prompts"] == 4
    assert {name: files(options.out)[name] for name in videos} == {n: before[n] for n in videos}
    compare(options, [])


def test_prompts_come_from_files_as_a_manifest_is_built(
    options: Options, compared: dict[str, Any], tmp_path: Path
):
    """Lines, CSV and JSON lines with columns of their own, and manifests; the ids are the files'."""
    here = replace(options, texts=(), out=tmp_path / "out")
    methods = methods_named(["ddim"])

    def rows(name: str, text: str) -> list[Any]:
        (tmp_path / name).write_text(text)
        return [c.job.row for c in plan(replace(here, source=str(tmp_path / name)), methods)]

    assert [r.prompt for r in rows("p.txt", "# x\na\n\nb c\n")] == [("a",)] * 2 + [("b c",)] * 2
    csv = rows("p.csv", "id,prompt,seed\none,a,7\n")
    assert [(r.id, r.seed) for r in csv] == [("one.ddim", 7), ("one.zs2", 7)]
    board = rows("p.jsonl", '{"prompt": ["a", "b"], "num_frames": 4, "segment_frames": 2}\n')
    assert board[0].prompt == ("a", "b") and board[0].num_frames == 4
    manifest = replace(here, source=str(options.out / "manifest.parquet"), limit=2)
    with pytest.raises(CompareError, match="noise: expected none"):
        plan(manifest, methods)


def test_bad_rows_are_told_together(options: Options, tmp_path: Path):
    """Every bad row of a manifest of prompts with its number, id and column; a manifest without rows
    says that it has none."""
    table = pa.table({"id": ["a", "b", "c"], "prompt": ["a", "b", "c"], "num_frames": [0, 1, -1]})
    pq.write_table(table, tmp_path / "p.parquet")
    here = replace(options, texts=(), source=str(tmp_path / "p.parquet"), out=tmp_path / "out")
    with pytest.raises(ManifestError, match=r"(?s)num_frames.*found 0.*num_frames.*found -1"):
        plan(here, methods_named([]))
    pq.write_table(table.slice(0, 0), tmp_path / "p.parquet")
    with pytest.raises(ManifestError, match="has no rows"):
        plan(here, methods_named([]))


def test_without_prompts_the_bundled_model_has_its_own(options: Options):
    """64 captions of its world, by default for zs2-mini alone."""
    here = replace(options, model="zs2-mini", texts=(), pairs=())
    assert len(plan(here, methods_named([]))) == 64
    assert MINI_PROMPTS.is_file()
    with pytest.raises(UsageError, match=r"expected prompts for .*--prompts FILE or -p TEXT"):
        plan(replace(here, model=options.model), methods_named([]))


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"seeds": 0}, UsageError, "--seeds: expected at least 1, found 0"),
        ({"limit": 0}, UsageError, "--limit"),
        ({"num_frames": -1}, UsageError, "--num-frames"),
        ({"dtype": "int8"}, UsageError, "--dtype"),
        ({"safety_checker": "maybe"}, UsageError, "--safety-checker"),
        ({"out": Path("s3://a/b")}, UsageError, "expected a local path"),
        ({"source": "p.txt"}, UsageError, "found both"),
        ({"source": "no.txt", "texts": ()}, ManifestError, "does not exist"),
        ({"model": "no-such-model"}, RowError, "no-such-model"),
        ({"scorer": "no-such-clip"}, ModelError, "no-such-clip"),
        ({"pairs": ("codec=png",)}, CompareError, "codec: expected h264, gif, webp"),
        ({"pairs": ("steps=2",)}, RowError, "did you mean"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_rendered(
    options: Options, tmp_path: Path, changes: dict[str, Any], error: type[Exception], said: str
):
    """Wrong words, prompts, models and scorers each have their sentence, and no clip is made."""
    out = tmp_path / "out"
    with pytest.raises(error, match=said):
        compare(replace(options, **{"out": out, **changes}), [])
    assert not (out / "videos").exists()


def test_a_runs_folder_is_not_overwritten(options: Options, tmp_path: Path):
    """A folder with a run.json has a page and scores of its own."""
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="is the folder of a run"):
        compare(replace(options, out=tmp_path), [])
    assert files(tmp_path).keys() == {"run.json"}


def test_a_study_leaves_a_sheet_curves_and_a_page(options: Options, tmp_path: Path):
    """A grid of four points and the noise models over nine frames: pictures, tables with every point
    and model, one score a frame; again, it renders nothing."""
    here = replace(options, texts=("a b", "c"), out=tmp_path)
    call: dict[str, Any] = {"kl_targets": [0.0, 0.1], "momentums": [0.5, 1.0], "long_frames": 9}
    found = study(here, ["grid", "long"], **call)
    points = [(p["kl_target"], p["momentum"]) for p in found["grid"]["points"]]
    assert points == [(0.0, 0.5), (0.0, 1.0), (0.1, 0.5), (0.1, 1.0)]
    # the same noise, the same prompt: a still clip, to the rounding of its video
    assert found["grid"]["points"][1]["dynamic_degree"]["mean"] == pytest.approx(0, abs=0.05)
    noises = {record["method"]: record for record in found["long"]["noises"]}
    assert {len(record["by_frame"]) for record in noises.values()} == {9}
    assert noises["dependency"]["by_frame"] == noises["progressive-matched"]["by_frame"]
    assert noises["dependency"]["by_frame"] != noises["progressive"]["by_frame"]
    assert {pq.read_table(tmp_path / "long" / "manifest.parquet")["momentum"][0].as_py()} == {0.95}
    for name in ("grid.png", "grid.svg", "long.svg", "index.html", "study.md", "study.json"):
        assert (tmp_path / name).stat().st_size > 500, name
    videos = {name: at for name, at in files(tmp_path).items() if name.endswith(".mp4")}
    assert len(videos) == 2 * (4 + 6)
    assert study(here, ["grid", "long"], **call) == found
    assert videos.items() <= files(tmp_path).items()
    for changes in ({"num_frames": 1}, {"num_frames": None, "pairs": ("num_frames=1",)}):
        with pytest.raises(UsageError, match="--num-frames: expected at least 2, found 1"):
            study(replace(here, **changes), ["grid"], **call)
    with pytest.raises(UsageError, match="--parts: expected some of grid, long, found 'wide'"):
        study(here, ["wide"], **call)


def test_the_command_line_says_the_table(options: Options, compared: dict[str, Any]):
    """`zs2 compare` in a process of its own prints table.md, with --json table.json alone, and exits
    0; a wrong method exits 2 with one line."""
    words: list[object] = ["compare", options.model, "--scorer", options.scorer, "-o", options.out]
    words += [word for text in options.texts for word in ("-p", text)]
    words += [word for pair in SMALL for word in ("--set", pair)]
    words += ["--num-frames", 3]
    answer = zs2(*words, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out) == compared
    bad = zs2(*words, "--methods", "dim")
    assert (bad.code, bad.out) == (2, "")
    assert bad.err.startswith("zs2: --methods: expected some of ddim")
    assert "Traceback" not in bad.err


@pytest.mark.slow
def test_ctrl_c_leaves_whole_clips_and_the_next_call_goes_on(options: Options, tmp_path: Path):
    """Interrupted after its second clip, the command leaves whole files only; again, it renders the
    others and keeps those."""
    words = [*ZS2, "compare", options.model, "--scorer", options.scorer, "-o", str(tmp_path)]
    words += ["-p", "a", "-p", "b", "--num-frames", "3", "--methods", "ddim,mixed", "--set"]
    words += ["num_inference_steps=150"]
    videos = tmp_path / "videos"
    command = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
    assert wait_until(lambda: len([*videos.glob("*/[!.]*.mp4")]) >= 2, 240)
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=120)
    assert command.returncode == 130, said
    assert "Traceback" not in said
    before = {name: at for name, at in files(tmp_path).items() if name.endswith(".mp4")}
    assert 2 <= len([name for name in before if "/." not in name]) < 6
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert {n: at for n, at in before.items() if "/." not in n}.items() <= files(tmp_path).items()
    assert len([*videos.glob("*/*.mp4")]) == 6
