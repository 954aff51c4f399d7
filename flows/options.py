"""Arguments, options and exit codes that several commands of the command line share."""

from __future__ import annotations

from typing import Annotated

import typer

OK, CANNOT_GO_ON, BAD_USAGE = 0, 1, 2

ManifestArgument = Annotated[
    str, typer.Argument(help="A Parquet file, a folder of them, or a quoted glob; also s3://…")
]
OutArgument = Annotated[str, typer.Argument(help="A run folder, or its URL.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="COLUMN=VALUE", help="A value for rows that leave the column empty."
    ),
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option("--allow-model", help="Models and add-ons that rows may name; repeatable."),
]
InputRootOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input-root",
        help="A folder or URL where clips and pictures are looked for after the manifest's; repeatable.",
    ),
]
TrustOption = Annotated[
    list[str] | None,
    typer.Option(
        "--trust-pickle",
        metavar="NAME",
        help="A hub id, file or folder whose pickled weights, which can run code, to load.",
    ),
]
DtypeOption = Annotated[
    str, typer.Option(help="auto, float32, float16 or bfloat16; auto: float16 on a GPU.")
]
EngineOption = Annotated[
    str,
    typer.Option(
        help="eager, or compiled: faster after the minutes that torch takes to compile; other last bits."
    ),
]
ClipsPerCallOption = Annotated[
    int,
    typer.Option(
        help="Clips side by side in a UNet call, of rows that can share one; other last bits."
    ),
]
SamplersOption = Annotated[
    int | None, typer.Option(help="Sampler actors; default one a GPU, or one a CPU core.")
]
SamplerThreadsOption = Annotated[int, typer.Option(help="CPU threads of a sampler.")]
GpusPerSamplerOption = Annotated[float, typer.Option(help="0 renders on the CPU.")]
SplitClipsOption = Annotated[
    str,
    typer.Option(
        metavar="auto|always|never",
        help="Spread one clip's segments over the samplers; auto: where rows are fewer than samplers. Rows "
        "sampled together (--clips-per-call) are not split.",
    ),
]
RayAddressOption = Annotated[
    str | None, typer.Option(help="A Ray cluster; default $RAY_ADDRESS, else this machine.")
]
MinNodesOption = Annotated[int, typer.Option(help="Wait until the cluster has so many nodes.")]
MinGpusOption = Annotated[
    int, typer.Option(help="And so many GPUs; one that autoscales is asked for them.")
]
ClusterWaitOption = Annotated[
    float, typer.Option(help="Seconds to wait for these, and while other runs hold the cluster.")
]
KeepLatentsOption = Annotated[
    bool, typer.Option("--keep-latents", help="Post-processing can change without sampling.")
]
RowDeadlineOption = Annotated[
    float, typer.Option(help="Seconds a stage of a row may take; times --clips-per-call.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
SafetyOption = Annotated[
    str, typer.Option(help="on honours a checkpoint's own safety checker; off does without.")
]
PriceOption = Annotated[float | None, typer.Option(help="Of one device, for the cost.")]
ModelArgument = Annotated[
    str, typer.Argument(help="A bundled name, a hub id, a folder or a .safetensors file.")
]
PromptsOption = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="A .txt, .csv, .jsonl or manifest; default, for zs2-mini, 64 captions of its world.",
    ),
]
PromptOption = Annotated[
    list[str] | None, typer.Option("-p", "--prompt", help="Instead of a file; repeatable.")
]
ScorerOption = Annotated[
    str, typer.Option(help="A CLIP: the bundled one, a hub id with optional @revision, a folder.")
]
ThreadsOption = Annotated[int, typer.Option(help="CPU threads.")]
