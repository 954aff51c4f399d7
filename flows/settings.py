"""The settings of a render run: typed, described, validated before a run starts."""

from __future__ import annotations

import glob
import os
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from flows.verdict import FailIf
from manifests.inputs import InputFiles
from tasks.catalogue import Catalogue
from tasks.crew import CLUSTER_WAIT, Cluster
from tasks.job import CALL_DEADLINE, MOST_CLIPS, Engine
from tasks.plan import SHARD_ROWS
from tasks.split import SplitClips


class RenderSettings(BaseModel):
    """How a manifest is rendered; what a row asks for stands in the manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    defaults: dict[str, Any] = Field(
        default_factory=dict,
        description="Manifest columns with a value for the rows that leave them empty.",
    )
    on_invalid: Literal["fail", "skip"] = Field(
        "fail", description="Bad rows: render nothing, or note them in the ledger and go on."
    )
    fail_if: FailIf = Field(
        "any",
        description="When a run that has ended counts as failed: any row failed or is invalid, more "
        "than this share of all rows (0 to 1), or never. Everything is published before.",
    )
    only_failed: bool = Field(False, description="Render only rows whose last result is a failure.")
    allow_models: list[str] | None = Field(
        None,
        description="Hub ids, files and folders that rows may name as models and add-ons; "
        "empty allows all.",
    )
    trust_pickles: list[str] = Field(
        default_factory=list,
        description="Hub ids, files and folders whose pickled weights, which can run code, may be "
        "loaded.",
    )
    input_roots: list[str] = Field(
        default_factory=list,
        description="Folders or URLs that rows may read clips and pictures from, beside their manifest's.",
    )
    safety_checker: bool = Field(True, description="Honour a checkpoint's own safety checker.")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="auto is float16 on a GPU and float32 on the CPU."
    )
    engine: Literal["eager", "compiled"] = Field(
        "eager",
        description="compiled: the UNet's blocks compiled by torch, which takes minutes at first; other "
        "last bits, so other clips.",
    )
    clips_per_call: int = Field(
        1,
        ge=1,
        le=MOST_CLIPS,
        description="Clips side by side in a UNet call, of rows that agree in all but prompt, "
        "negative_prompt, seed and kl_target; other last bits, so other clips.",
    )
    keep_latents: bool = Field(
        False, description="Keep sampled latents: a change of post-processing needs no sampling."
    )
    ray_address: str | None = Field(
        None, description="A Ray cluster's address; empty starts a local one."
    )
    local_gpus: int | None = Field(
        None, ge=0, description="GPUs of the local cluster; empty lets Ray find them."
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Where the local cluster serves metrics to Prometheus; empty lets Ray choose.",
    )
    samplers: int | None = Field(
        None, ge=1, description="Sampler actors; empty is one a GPU, or one a CPU core."
    )
    threads: int = Field(1, ge=1, description="CPU threads a sampler; decides the last bits.")
    gpus_per_sampler: float = Field(1.0, ge=0, description="GPUs a sampler; 0 renders on the CPU.")
    split_clips: SplitClips = Field(
        "auto",
        description="Spread the segments of one clip over the samplers: auto where there are fewer rows "
        "than samplers, always, or never. Rows that are sampled together are not split. It changes no "
        "byte.",
    )
    min_nodes: int = Field(0, ge=0, description="Nodes that the cluster must have.")
    min_gpus: int = Field(
        0,
        ge=0,
        description="GPUs that the cluster must have; one that autoscales is asked for them.",
    )
    cluster_wait: float = Field(
        CLUSTER_WAIT,
        ge=0,
        description="Seconds to wait for these, and for room where other runs hold the cluster.",
    )
    shard_rows: int = Field(SHARD_ROWS, ge=1, description="Rows of one Prefect task run, at least.")
    row_deadline: float = Field(
        CALL_DEADLINE,
        gt=0,
        description="Seconds one stage of one row may take before it is given up; for clips that are "
        "sampled together, as often as there are clips.",
    )
    price_per_hour: float | None = Field(
        None, ge=0, description="Of one device; gives the summary its cost."
    )

    @field_validator("split_clips")
    @classmethod
    def _check_split_clips(cls, split_clips: SplitClips, others: ValidationInfo) -> SplitClips:
        clips = others.data.get("clips_per_call", 1)
        if split_clips == "always" and clips > 1:
            raise PydanticCustomError(
                "split_clips",
                "expected auto or never beside {clips} clips a call, as rows that are sampled together are "
                "not split (or leave clips_per_call at 1)",
                {"clips": clips},
            )
        return split_clips

    def catalogue(self) -> Catalogue:
        """What rows may name, and the hashes of what they named."""
        return Catalogue(
            self.allow_models, trusted=self.trust_pickles, inputs=InputFiles(self.input_roots)
        )

    def computing(self) -> Engine:
        """How the sampler computes."""
        return Engine(self.dtype, self.safety_checker, self.engine, self.clips_per_call)

    def cluster(self) -> Cluster:
        """Where to compute: the settings, else RAY_ADDRESS, else this machine."""
        return Cluster(
            address=self.ray_address or os.environ.get("RAY_ADDRESS") or None,
            local_gpus=self.local_gpus,
            samplers=self.samplers,
            threads=self.threads,
            gpus_per_sampler=self.gpus_per_sampler,
            deadline=self.row_deadline,
            min_nodes=self.min_nodes,
            min_gpus=self.min_gpus,
            wait=self.cluster_wait,
            metrics_port=self.metrics_port,
            split_clips=self.split_clips,
        )


def default_out(manifest: str) -> Path:
    """renders/<manifest name>; a glob's is the name of the folder above its first wildcard."""
    parts = Path(manifest).parts
    fixed = Path(*takewhile(lambda part: not glob.has_magic(part), parts))
    is_file = len(fixed.parts) == len(parts) and fixed.suffix == ".parquet"
    return Path("renders") / ((fixed.stem if is_file else fixed.name) or "manifest")
