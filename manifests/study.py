"""The paper's study as manifests: its λ and μ grid, and the prompts of its section 12."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.build import build_from, slug

# λ in even steps, as √α = 1 − λ/√e is linear in it, and the paper's 0.01
KL_TARGETS = (0.0, 0.01, 0.05, 0.1, 0.15, 0.2, 0.25)
# denser towards 1: what the 8th frame keeps of the first is μ⁷, here 0 .01 .13 .32 .48 .70 .87 1
MOMENTUMS = (0.0, 0.5, 0.75, 0.85, 0.9, 0.95, 0.98, 1.0)
MOMENTUM_OF_KL_TARGETS = 0.98
KL_TARGET_OF_MOMENTUMS = 0.1
SEED = 4  # one for the whole grid, so that neighbours differ in λ or μ alone

# the prompt of Fig. 4, the paper's own λ and μ; and one that the bundled model can draw
_GRID_PROMPTS = {
    "bear": ("A bear dancing on the concrete.", "4"),
    "star": ("a red star over the sea at night", None),
}


@dataclass(frozen=True)
class _Shown:
    """Prompts of one figure: as printed, but for the task before and the remark behind them.

    `checkpoint` is None where the paper names none; by section 6.1 it is Dreamlike Photoreal v1.0
    unless otherwise stated.
    """

    figure: str
    prompts: tuple[str, ...]
    task: str = "text-to-video"
    checkpoint: str | None = None
    momentum: float | None = None


_SHOWN = (
    _Shown(
        "6",
        (
            "An astronaut is riding a horse.",
            "A blue unicorn flying over a mystical land.",
            "Anime girl looking through a window of stars and space, sci-fi.",
            "Clownfish swimming through the coral reef.",
        ),
    ),
    _Shown(
        "2",
        (
            "A man is riding a bicycle in the sunshine.",
            "A cat is wearing sunglasses and working as a lifeguard at a pool.",
            "A cute cat running in a beautiful meadow.",
            "A group of squirrels rowing crew.",
            "A beautiful girl.",
        ),
    ),
    _Shown(
        "1",
        (
            "A bunch of colorful marbles spilling out of a red velvet bag.",
            "A steaming basket full of dumplings.",
        ),
        checkpoint="Dreamlike Photoreal v1.0",
    ),
    _Shown(
        "1",
        ("Balloon full of water exploding in extreme slow motion.",),
        checkpoint="Stable Diffusion v1.4",
    ),
    _Shown(
        "1",
        ("A beautiful girl.",),
        checkpoint="Dreamlike Photoreal v2.0",
    ),
    _Shown(
        "3",
        (
            "A cat is running on the grass.",
            "An astronaut is skiing down the hill.",
            "A horse galloping on a street.",
        ),
        checkpoint="Dreamlike Photoreal v2.0",
    ),
    _Shown(
        "13",
        (
            "A beagle in a detective’s outfit.",
            "A bumblebee sitting on a pink flower.",
            "A completely destroyed car.",
            "A red pickup truck driving across a stream.",
            "A steaming hot plate piled high with spaghetti and meatballs.",
            "An adorable piglet in a field.",
            "An extravagant mansion, aerial view.",
            "A horse galloping on a street.",
            "A video showcases the beauty of nature from mountains and waterfalls to forests and oceans.",
            "An aerial view shows a white sandy beach on the shore of a beautiful sea.",
            "There is a flying through an intense battle between pirate ships in a stormy ocean.",
            "Balloon full of water exploding in extreme slow motion.",
            "An astronaut is skiing down the hill.",
            "An astronaut is waving his hands on the moon.",
        ),
        checkpoint="Stable Diffusion v1.4",
    ),
    _Shown(
        "14",
        (
            "A bumblebee sitting on a pink flower.",
            "A cat with a mullet.",
            "A bunny, riding a broomstick.",
            "A chow chow puppy.",
            "A goose made out of gold.",
            "A red convertible car with the top down.",
            "A tiger dressed as a doctor.",
            "An unstable rock cairn in the middle of a stream.",
            "A Ficus planted in a pot.",
            "A turtle is swimming in the ocean.",
            "A waterfall flowing through a glacier at night.",
            "A blue tulip.",
            "A chihuahua lying in a pool ring.",
            "A majestic sailboat.",
        ),
        checkpoint="Stable Diffusion v1.5",
    ),
    _Shown(
        "15",
        (
            "A bear dancing on Times Square.",
            "A beautiful girl.",
            "A Bigfoot is walking in a snowstorm.",
            "A brightly colored mushroom growing on a log.",
            "A bumblebee sitting on a pink flower.",
            "A horse is galloping through Van Gogh’s ”Starry Night”.",
            "A lion reading the newspaper.",
            "A sheepdog running.",
            "A squirrel, wearing a leather jacket, riding a motorcycle, on a road made of ice.",
            "An unstable rock cairn in the middle of a stream.",
            "A teddy bear is walking down 5th Avenue, front view, beautiful sunset, close up.",
            "A majestic sailboat.",
            "There is a bird’s-eye view of a highway in Los Angeles.",
            "There is a time-lapse of the snow land with aurora in the sky.",
        ),
        checkpoint="Dreamlike Photoreal v1.0",
    ),
    _Shown(
        "16",
        (
            "A bumblebee sitting on a pink flower.",
            "A classic Packard car.",
            "A knight chopping wood.",
            "A lion reading the newspaper.",
            "A pirate collie dog, high resolution.",
            "A red convertible car with the top down.",
            "A red pickup truck driving across a stream.",
            "A robot tiger.",
            "A Yorkie dog eating a donut.",
            "An adorable piglet in a field.",
            "A cat riding a motorcycle.",
            "A koala bear is playing piano in the forest.",
            "A man is riding a bicycle in the sunshine.",
            "A toad catching a fly with its tongue.",
        ),
        checkpoint="Dreamlike Photoreal v2.0",
    ),
    _Shown(
        "17",
        (
            "A lion reading the newspaper.",
            "A small cherry tomato plant in a pot with a few red tomatoes growing on it.",
            "A teapot shaped like an elephant head where its snout acts as the spout.",
            "A ficus planted in a pot.",
            "A monkey-rabbit hybrid.",
            "A shiny golden waterfall is flowing through a glacier at night.",
            "A teddy bear is walking down 5 th Avenue, front view, beautiful sunset, close up.",
            "A video showcasing the beauty of nature, from mountains and waterfalls to forests and oceans.",
            "A blue lobster.",
            "A chihuahua lying in a pool ring.",
            "An animated painting shows fluffy white clouds moving in the sky.",
            "There is a time-lapse of a fantasy landscape.",
            "There is a time-lapse of the snow land with aurora in the sky.",
            "Yellow flowers are swaying in the wind.",
        ),
        checkpoint="Openjourney",
    ),
    _Shown(
        "11",
        (
            "A squirrel dancing in the forests.",
            "A bear dancing on the concrete.",
        ),
        task="pose guidance",
    ),
    _Shown(
        "11",
        (
            "A fox walking on the water surface.",
            "A handsome man Halloween style.",
        ),
        task="edge guidance",
    ),
    _Shown(
        "11",
        (
            "A beautiful girl.",
            "A handsome man.",
        ),
        task="DreamBooth",
    ),
    _Shown(
        "12",
        (
            "Oil painting of a deer, a high-quality, detailed, and professional photo.",
            "A dancing beautiful girl.",
        ),
        task="depth guidance",
    ),
    _Shown(
        "12",
        (
            "Make it Expressionism style.",
            "Make it autumn.",
        ),
        task="InstructPix2Pix",
    ),
    _Shown(
        "4",
        ("A bear dancing on the concrete.",),
        task="pose guidance",
    ),
    _Shown(
        "7-9",
        ("Melting ice cream dripping down the cone.",),
        checkpoint="Stable Diffusion v1.5",
        momentum=0.95,
    ),
)


def grid_records() -> list[dict[str, Any]]:
    """λ from 0 to 0.25 at μ = 0.98 and μ from 0 to 1 at λ = 0.1, for each prompt of the grid."""
    points = [(kl_target, MOMENTUM_OF_KL_TARGETS, "kl_target") for kl_target in KL_TARGETS]
    points += [
        (KL_TARGET_OF_MOMENTUMS, momentum, "momentum")
        for momentum in MOMENTUMS
        if momentum != MOMENTUM_OF_KL_TARGETS  # where the lines cross, λ's has the point
    ]
    return [
        {
            "id": f"grid-{name}-kl{kl_target:g}-mu{momentum:g}",
            "prompt": prompt,
            "kl_target": kl_target,
            "momentum": momentum,
            "meta_figure": figure,
            "meta_axis": axis,
        }
        for name, (prompt, figure) in _GRID_PROMPTS.items()
        for kl_target, momentum, axis in points
    ]


def prompt_records() -> list[dict[str, Any]]:
    """The 98 prompts of section 12 in its order, each with its figure, its task there, and the
    checkpoint that the paper used where it names one."""
    return [
        {
            "id": f"fig{shown.figure}-{slug(prompt)}",
            "prompt": prompt,
            "momentum": shown.momentum,
            "meta_figure": shown.figure,
            "meta_task": shown.task,
            "meta_checkpoint": shown.checkpoint,
        }
        for shown in _SHOWN
        for prompt in shown.prompts
    ]


def build_study(
    output: Path, *, seeds: Sequence[int] = (), columns: dict[str, Any] | None = None
) -> list[tuple[Path, int]]:
    """Write the study: study-grid.parquet and study-prompts.parquet in a folder, or both as one
    manifest where `output` ends in .parquet.

    Every λ and μ that a record does not name is the run's, by default the paper's 0.01 and 0.98.

    Args:
        seeds: every row is made once for each. Without, the grid has one seed and the prompts have
            those of their ids.
        columns: values for every row that has none of its own, e.g. a `model`.

    Returns:
        Each file with its rows.

    Raises:
        ManifestError: rows would not be valid with these columns, or a file cannot be written.
    """
    seed = {} if seeds else {"seed": SEED}
    sets = {
        "study-grid.parquet": [{**record, **seed} for record in grid_records()],
        "study-prompts.parquet": prompt_records(),
    }
    if output.suffix == ".parquet":
        files = {output: [record for records in sets.values() for record in records]}
    else:
        files = {output / name: records for name, records in sets.items()}
    grid = {"seed": seeds} if seeds else {}
    return [
        (path, build_from("the study", records, path, grid=grid, columns=columns))
        for path, records in files.items()
    ]
