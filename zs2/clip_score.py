"""How well a clip shows its prompt, and how alike its frames are, by a CLIP of transformers'.

Any CLIPModel of the hub or a local folder serves; `zs2-mini-clip` comes with zs2 and knows the world of
zs2-mini, and nothing else. Scores of different CLIPs are not comparable: a table names its scorer.

Describing a scorer loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from zs2.checkpoints import weights
from zs2.models import BUNDLED, ModelError, names_model, placement

if TYPE_CHECKING:
    import torch

BUNDLED_SCORER = "zs2-mini-clip"
IMAGES_AT_ONCE = 32
TEXTS_AT_ONCE = 64

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_NEEDED = ("config.json", "preprocessor_config.json")
_TOKENIZER = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_VOCABULARIES = ({"tokenizer.json"}, {"vocab.json", "merges.txt"})
_AGAIN = "copy or download it again"


@dataclass(frozen=True)
class ScorerInfo:
    """A CLIP known before it is loaded.

    Attributes:
        name: as the user wrote it.
        location: a local folder, or a hub id.
        revision: the hub's commit; of a folder 16 hex digits over the contents of its files.
        is_local: whether `location` is a folder.
        files: what is loaded, relative to the location; `weights` those of them that hold tensors.
        variant: `fp16` where there are no other weights.
        pickled: the weights are pickles.
    """

    name: str
    location: str
    revision: str
    is_local: bool
    files: tuple[str, ...]
    weights: tuple[str, ...]
    variant: str | None
    pickled: bool

    @property
    def identity(self) -> str:
        """`name@revision`, the same wherever the scorer lies: what stands beside scores."""
        name = Path(self.location).resolve().name if self.is_local else self.location
        return f"{name}@{self.revision}"


def describe_scorer(name: str = BUNDLED_SCORER, *, trusted: Sequence[str] = ()) -> ScorerInfo:
    """Find a CLIP by its name and see that it is one; no weights are loaded.

    Args:
        name: `zs2-mini-clip`, a local folder, or a hub id with optional `@revision`.
        trusted: scorers whose weights may be pickles, which can run code.

    Raises:
        ModelError: an unknown name, no CLIPModel, parts missing, pickles that are not trusted, a hub
            that does not answer.
    """
    folder = BUNDLED / name if name == BUNDLED_SCORER else Path(name).expanduser()
    if name and folder.is_dir():
        names = weights.names_in(folder)
        files, chosen, variant = _choose(name, str(folder), names, trusted)
        _check_kind(name, folder)
        return ScorerInfo(
            *(name, str(folder), _hash(name, folder, files), True),
            *(files, chosen, variant, _is_pickled(chosen)),
        )
    if Path(name).is_absolute() or name.startswith((".", "~")) or not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"scorer {name!r}: expected {BUNDLED_SCORER!r}, a local folder of a CLIP, or a hub id such "
            "as 'openai/clip-vit-large-patch14'; found none of them; check the name"
        )
    from zs2.checkpoints import hub

    repository = hub.find(name)
    folder = hub.fetch(repository, (*_NEEDED, *_TOKENIZER), quiet=True)
    files, chosen, variant = _choose(name, repository.id, hub.file_names(repository), trusted)
    _check_kind(name, folder)
    return ScorerInfo(
        *(name, repository.id, repository.commit, False),
        *(files, chosen, variant, _is_pickled(chosen)),
    )


def _is_pickled(chosen: Sequence[str]) -> bool:
    return any(file.endswith(".bin") for file in chosen)


def _choose(
    name: str, where: str, names: Collection[str], trusted: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...], str | None]:
    """All files to load, the weights among them, and their variant."""
    here = {file for file in names if "/" not in file}
    for file in _NEEDED:
        if file not in here:
            raise ModelError(
                f"scorer {name!r}: expected a CLIP with {file} in {where}, found no such file; name the "
                "folder of a whole CLIP (model, tokenizer and image processor)"
            )
    if not any(vocabulary <= here for vocabulary in _VOCABULARIES):
        raise ModelError(
            f"scorer {name!r}: expected a vocabulary in {where} (tokenizer.json, or vocab.json and "
            f"merges.txt), found none; {_AGAIN}"
        )
    variants = weights.weights_of("", "transformers", here)
    variant = None if None in variants else weights.HALF
    chosen = variants.get(variant, [])
    if not chosen:
        raise ModelError(
            f"scorer {name!r}: expected model.safetensors in {where}, found no weights; {_AGAIN}"
        )
    if _is_pickled(chosen) and not names_model(name, trusted):
        raise ModelError(
            f"scorer {name!r}: expected .safetensors weights in {where}, found pickled weights "
            f"{chosen[0]}, which can run code; name a revision with model.safetensors, or trust this "
            "one (--trust-pickle, or trusted= in Python) if you know where it comes from"
        )
    indexes = [file for file in here if file.endswith(".index.json")]
    configuration = [file for file in (*_NEEDED, *_TOKENIZER) if file in here]
    return (*configuration, *indexes, *chosen), tuple(chosen), variant


def _check_kind(name: str, folder: Path) -> None:
    from zs2.checkpoints.folders import read_json

    config = read_json(name, folder / "config.json")
    kind = config.get("model_type")
    if kind != "clip" or "vision_config" not in config:
        raise ModelError(
            f"scorer {name!r}: expected a CLIPModel (model_type 'clip', both towers) in "
            f"{folder / 'config.json'}, found model_type {str(kind)[:60]!r}; name a CLIP"
        )


def _hash(name: str, folder: Path, files: Sequence[str]) -> str:
    found = sha256()
    try:
        for file in sorted(files):
            with (folder / file).open("rb") as content:
                found.update(f"{file} {file_digest(content, 'sha256').hexdigest()}\n".encode())
    except OSError as error:
        raise ModelError(f"scorer {name!r}: expected readable files, found {error}") from error
    return found.hexdigest()[:16]


class ClipScorer:
    """A loaded CLIP; see `from_pretrained`.

    Attributes:
        info: what it is; `info.identity` stands beside every score.
        text_length: tokens of a prompt that it reads, start and end included.
    """

    def __init__(self, info: ScorerInfo, model: Any, tokenizer: Any, processor: Any) -> None:
        self.info = info
        self.text_length = int(model.config.text_config.max_position_embeddings)
        self._model = model
        self._tokenizer = tokenizer
        self._processor = processor

    @classmethod
    def from_pretrained(
        cls,
        name: str | ScorerInfo = BUNDLED_SCORER,
        *,
        device: str | torch.device | None = "cpu",
        dtype: torch.dtype | str | None = None,
        trusted: Sequence[str] = (),
    ) -> ClipScorer:
        """Load a CLIP: safetensors, pickles only where trusted, never code of the checkpoint's own.

        Args:
            name: see `describe_scorer`; or what that returned.
            device: None takes the GPU where there is one.
            dtype: default float16 on a GPU, float32 on the CPU.
            trusted: see `describe_scorer`.

        Raises:
            ModelError: as `describe_scorer`; files that do not load, or are not whole.
        """
        info = describe_scorer(name, trusted=trusted) if isinstance(name, str) else name
        where, number_type = placement(dtype, device)
        folder = fetch_scorer(info)
        from zs2.checkpoints.quiet import brief, quiet

        try:
            with quiet():
                model, tokenizer, processor = _load(info, folder, number_type)
        except ModelError:
            raise
        except (
            Exception
        ) as error:  # a folder put together wrongly makes the libraries raise anything
            raise ModelError(
                f"scorer {info.name!r}: expected a CLIP that loads from {info.location}, found that it "
                f"cannot be loaded: {brief(error)}; {_AGAIN}"
            ) from error
        return cls(info, model.eval().requires_grad_(False).to(where), tokenizer, processor)

    def image_embeddings(
        self, frames: UInt8[np.ndarray, "frame height width 3"]
    ) -> Float[np.ndarray, "frame d"]:
        """Each frame's place on CLIP's sphere: unit length, float32.

        Frames are resized, cropped to the middle square and normalised as the checkpoint's image
        processor says, by PIL: what lies outside the square of a wide clip is not seen.
        """
        import torch

        parameter = next(self._model.parameters())
        found: list[np.ndarray] = []
        for start in range(0, len(frames), IMAGES_AT_ONCE):
            pixels = self._processor(
                list(frames[start : start + IMAGES_AT_ONCE]),
                input_data_format="channels_last",  # or three rows or columns could be taken for colours
                return_tensors="pt",
            )["pixel_values"].to(parameter)
            with torch.inference_mode():
                pooled = self._model.vision_model(pixel_values=pixels).pooler_output
                found.append(_unit(self._model.visual_projection(pooled)))
        return np.concatenate(found)

    def text_embeddings(self, prompts: Sequence[str]) -> Float[np.ndarray, "prompt d"]:
        """Each prompt's place on CLIP's sphere: unit length, float32.

        What is longer than `text_length` tokens is cut there, as CLIP does; `truncates` tells.
        """
        import torch

        device = next(self._model.parameters()).device
        found: list[np.ndarray] = []
        for start in range(0, len(prompts), TEXTS_AT_ONCE):
            tokens = self._tokenizer(
                list(prompts[start : start + TEXTS_AT_ONCE]),
                padding=True,
                truncation=True,
                max_length=self.text_length,
                return_tensors="pt",
            ).to(device)
            with torch.inference_mode():
                pooled = self._model.text_model(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                ).pooler_output
                found.append(_unit(self._model.text_projection(pooled)))
        return np.concatenate(found)

    def truncates(self, prompts: Sequence[str]) -> list[bool]:
        """Whether the end of each prompt is not read, because it is longer than `text_length`."""
        from zs2.checkpoints.quiet import quiet

        with quiet():  # which warns of long ones
            ids = self._tokenizer(list(prompts))["input_ids"]
        return [len(each) > self.text_length for each in ids]


def fetch_scorer(info: ScorerInfo) -> Path:
    """The folder with a described scorer's files, downloaded where the cache has them not.

    Raises:
        ModelError: a hub that does not answer.
    """
    if info.is_local:
        return Path(info.location)
    from zs2.checkpoints import hub

    return hub.fetch(hub.Repository(info.location, info.revision, info.name), info.files)


def _load(info: ScorerInfo, folder: Path, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    import transformers

    for file in info.weights:
        if not info.pickled:
            try:
                weights.read_named(folder, file)
            except (OSError, ValueError) as error:
                raise ModelError(
                    f"scorer {info.name!r}: expected whole safetensors files, found that {error}; "
                    f"{_AGAIN}"
                ) from error
    offline: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    found: Any = transformers.CLIPModel.from_pretrained(
        folder,
        dtype=dtype,
        variant=info.variant,
        use_safetensors=not info.pickled,
        output_loading_info=True,
        **offline,
    )
    model, told = found
    if missing := sorted(told["missing_keys"]):  # they would be random
        raise ModelError(
            f"scorer {info.name!r}: expected all tensors of a CLIPModel in {info.location}, found "
            f"{len(missing)} missing, the first of them {missing[0]}; {_AGAIN}"
        )
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, **offline)
    if len(tokenizer) > model.config.text_config.vocab_size:
        raise ModelError(
            f"scorer {info.name!r}: expected a vocabulary of at most "
            f"{model.config.text_config.vocab_size:,} tokens in {info.location}, found "
            f"{len(tokenizer):,}: the tokenizer is another model's; {_AGAIN}"
        )
    # by PIL, as CLIP was trained, whether or not torchvision is there; older transformers have one only
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    return model, tokenizer, kind.from_pretrained(folder, **offline)


def _unit(embeddings: torch.Tensor) -> np.ndarray:
    found = embeddings.float().cpu().numpy()
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def clip_score(
    images: Float[np.ndarray, "frame d"],
    text: Float[np.ndarray, " d"] | Float[np.ndarray, "frame d"],
) -> float:
    """How well frames show a text: 100·max(cos, 0) of their CLIP embeddings, mean over frames.

    Args:
        images, text: of unit length, from one `ClipScorer`; a text for all frames, or one each (a
            storyboard).

    Unit: none, 0 to 100, more is better. With OpenAI's CLIPs good matches have about 25 to 35: only
    differences under one scorer mean anything.

    Source: Hessel et al., "CLIPScore", EMNLP 2021, who scale by 2.5 instead of 100; the factor of 100
    is that of most tables of text-to-video papers.
    """
    cosines = (images.astype(np.float64) * text).sum(-1)
    return float(100 * np.maximum(cosines, 0).mean())


def frame_consistency(images: Float[np.ndarray, "frame d"]) -> float:
    """How alike neighbouring frames are: 100·cos of their CLIP embeddings, mean over pairs.

    Unit: none, up to 100. A still clip has 100: read it beside the dynamic degree only. NaN for a
    single frame.

    Source: the "frame consistency" of Esser et al., "Structure and Content-Guided Video Synthesis
    with Diffusion Models", ICCV 2023, and Wu et al., "Tune-A-Video", ICCV 2023, who take all pairs
    of frames or neighbours; neighbours here.
    """
    if len(images) < 2:
        return float("nan")
    return float(100 * (images[1:].astype(np.float64) * images[:-1]).sum(-1).mean())
