"""RenderSettings: what a deployment's form shows and a run is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.run import settings_of
from flows.errors import UsageError
from flows.settings import RenderSettings, default_out


def test_every_setting_is_described() -> None:
    """Prefect shows the descriptions in the form of a deployment: none is missing."""
    fields = RenderSettings.model_json_schema()["properties"]
    assert all(field["description"].endswith(".") for field in fields.values())


def test_settings_survive_run_json() -> None:
    """What run.json keeps gives the same settings back, which `retry` relies on."""
    settings = RenderSettings(
        defaults={"kl_target": [0.1, 0.2], "codec": "gif"},
        allow_models=["zs2-mini"],
        trust_pickles=["owner/old"],
        input_roots=["/clips"],
        safety_checker=False,
        price_per_hour=2.5,
    )
    assert RenderSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    "values", [{"on_invalid": "ignore"}, {"samplers": 0}, {"row_deadline": 0}, {"nope": 1}]
)
def test_bad_settings_are_refused(values: dict[str, object]) -> None:
    """A wrong value and an unknown name are errors, never ignored."""
    with pytest.raises(ValidationError):
        RenderSettings.model_validate(values)


def test_every_bad_option_is_named_in_one_message() -> None:
    """Options are named as they are typed, each with what it takes and what was found."""
    with pytest.raises(UsageError) as caught:
        settings_of(defaults=["codec=gif"], samplers=0, dtype="int3")
    first, second = str(caught.value).splitlines()
    assert first.startswith("--dtype: expected ") and first.endswith("found 'int3'")
    assert second == "--samplers: expected a number greater than or equal to 1, found 0"


def test_rows_that_are_sampled_together_are_not_split() -> None:
    """To ask for both is refused, with what to do; each by itself, and the default, is taken."""
    with pytest.raises(UsageError) as caught:
        settings_of(defaults=None, split_clips="always", clips_per_call=4)
    message = str(caught.value)
    assert message.startswith("--split-clips: expected auto or never beside 4 clips a call, ")
    assert "leave clips_per_call at 1" in message and message.endswith(", found 'always'")
    for values in ({"clips_per_call": 4}, {"split_clips": "always"}):
        assert settings_of(defaults=None, **values).clips_per_call in (1, 4)
    assert settings_of(defaults=None, split_clips="never", clips_per_call=4).split_clips == "never"
    with pytest.raises(
        UsageError, match=r"^--clips-per-call: [^\n]*$"
    ):  # and not a word of splitting
        settings_of(defaults=None, split_clips="always", clips_per_call=0)


def test_a_dataset_is_rendered_as_a_manifest_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """`zs2 dataset` takes the options of where and how to compute that `zs2 render` takes, with the same
    defaults, and makes the same settings of them."""
    made: list[RenderSettings] = []

    def keep(*given: Any, **_: Any) -> int:
        made.extend(each for each in given if isinstance(each, RenderSettings))
        return 0

    for command in ("run", "dataset"):
        monkeypatch.setattr(f"flows.commands.{command}.run", keep)
    words = "--cluster-wait 5 --min-nodes 2 --min-gpus 3 --split-clips never --row-deadline 60"
    more = "--keep-latents --price-per-hour 2.5 --samplers 4 --threads 2 --gpus-per-sampler 0.5"
    for given in ([], [*words.split(), *more.split(), "--ray-address", "head:1"]):
        for command in (["render", "m.parquet"], ["dataset", "nightly"]):
            done = CliRunner().invoke(app, [*command, *given])
            assert done.exit_code == 0, done.output
        by_render, by_dataset = made[-2:]
        assert by_dataset == by_render
    assert made[0] == made[1] == RenderSettings()
    assert (made[3].cluster_wait, made[3].keep_latents, made[3].price_per_hour) == (5, True, 2.5)


def test_input_roots_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`zs2 retry` reads them in another working folder; the catalogue is made of the settings."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    settings = settings_of(
        defaults=None, input_roots=[Path("clips")], allow_models=["a/b"], trust_pickles=["c/d"]
    )
    assert settings.input_roots == [str(tmp_path / "clips")]
    catalogue = settings.catalogue()
    assert catalogue.inputs.roots == (tmp_path.resolve() / "clips",)
    assert (catalogue.allowed, catalogue.trusted) == ({"a/b"}, ("c/d",))


@pytest.mark.parametrize(
    ("manifest", "out"),
    [
        ("prompts.parquet", "renders/prompts"),
        ("/data/v1.2.parquet", "renders/v1.2"),
        ("shards/", "renders/shards"),
        ("shards/*.parquet", "renders/shards"),
        ("shards/part-*.parquet", "renders/shards"),
        ("shards/2024-*/part.parquet", "renders/shards"),
        ("v1.2", "renders/v1.2"),
        ("*", "renders/manifest"),
        (".", "renders/manifest"),
    ],
)
def test_default_out(manifest: str, out: str) -> None:
    """renders/<manifest name>: a file's stem, a folder's name, and for a glob its folder's; never a
    name with a wildcard."""
    assert default_out(manifest) == Path(out)


def test_ray_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """--ray-address, else RAY_ADDRESS, else this machine; an empty variable means this machine."""
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert RenderSettings().cluster().address == "10.0.0.1:6379"
    assert RenderSettings(ray_address="head:1").cluster().address == "head:1"
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert RenderSettings().cluster().address is None
