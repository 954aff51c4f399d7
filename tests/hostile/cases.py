"""The table: what a row may bring, and what must become of it. Good rows stand beside every one."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.hostile.yard import Yard

DOTS = "1 to 128 of `A-Za-z0-9._-`"
LONG = "at most 100,000 characters"


class Case(NamedTuple):
    """One hostile row.

    Attributes:
        columns: its values; {in}, {secret} and {url} stand for places of the yard.
        invalid: words of what planning says of it; none where it is planned.
        unreadable: words of what reading its source clip says; none where it is rendered.
    """

    columns: dict[str, Any]
    invalid: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()

    def row(self, yard: Yard, row_id: str) -> dict[str, Any]:
        """The row's columns, with an id and a prompt where it has none of its own."""
        places = {"{in}": yard.inside, "{secret}": yard.secret, "{url}": yard.url}
        values = {"id": row_id, "prompt": "p", **self.columns}
        if "source_video" in values:
            values = {"model": yard.editor, **values}
        return {name: _placed(value, places) for name, value in values.items()}


def _placed(value: Any, places: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_placed(item, places) for item in value]
    for name, place in places.items():
        value = value.replace(name, str(place)) if isinstance(value, str) else value
    return value


def _id(row_id: str | None, *words: str) -> Case:
    return Case({"id": row_id}, ("id", *(words or (DOTS,))))


def _clip(name: str, *words: str) -> Case:
    return Case({"source_video": name}, ("source_video", *words))


def _content(name: str, *words: str) -> Case:
    return Case({"source_video": name}, unreadable=words)


def _model(name: str, *words: str) -> Case:
    return Case({"model": name}, ("model", *words))


IDS = {
    "parent": _id(".."),
    "here": _id("."),
    "climbs": _id("../x"),
    "absolute": _id("/etc/passwd"),
    "slash": _id("a/b"),
    "backslash": _id("a\\b"),
    "hidden": _id(".hidden"),
    "129 letters": _id("x" * 129),
    "a megabyte": _id("x" * 2**20),
    "empty": _id(""),
    "null": _id(None, "no value"),
    "line end": _id("a\nb"),
    "line end at the end": _id("a\n"),
    "NUL": _id("a\0b"),
    "emoji": _id("🌌"),
    "right to left": _id("\u202egnp.exe"),
    "the name of a bad row": _id("invalid-row-0", "invalid-row-N"),
    "a shell's words": _id("$(touch x)"),
    "an option": Case({"id": "-rf"}),
    "a device of another system": Case({"id": "con"}),
    "128 letters": Case({"id": "y" * 128}),
}
TEXTS = {
    "a megabyte of prompt": Case({"prompt": "x" * 2**20}, ("prompt", LONG, "1,048,576")),
    "five megabytes": Case({"prompt": "x" * 5 * 2**20}, ("prompt", LONG, "5,242,880 bytes")),
    "NUL in a prompt": Case({"prompt": "a\0b"}, ("prompt", "NUL")),
    "NUL in a negative": Case({"negative_prompt": "\0"}, ("negative_prompt", "NUL")),
    "a storyboard too long": Case({"prompt": ["p"] * 5000}, ("prompt", "5000 prompts")),
    "script": Case({"prompt": "<script>fetch('{url}')</script>"}),
    "script's end": Case({"prompt": "</script><img src=x onerror=\"fetch('{url}')\">"}),
    "comment": Case({"prompt": "<!-- <script> ]]> &lt; {{data}}"}),
    "right to left": Case({"prompt": "\u202eשלום\u202c \u2067عربى\u2069"}),
    "emoji": Case({"prompt": "👩‍👩‍👧‍👦🏳️‍🌈 𝕳𝖊𝖑𝖑𝖔"}),
    "control characters": Case({"prompt": "\x1b]0;title\x07\x1b[2J\x08\x7f\x9b31m\r\n\t"}),
    "line separators": Case({"prompt": "a\u2028b\u2029c\x85d"}),
    "metadata": Case({"prompt": ";FFMETADATA1\ntitle=x\n[CHAPTER]\n=\\#;"}),
    "a shell's prompt": Case({"prompt": "'; touch x; $(touch y) `touch z` %s %n {0}"}),
    "100,000 characters": Case({"prompt": "é" * 100_000}),
    "empty prompt": Case({"prompt": ""}),
    "HTML in meta": Case({"meta_note": "<script>fetch('{url}')</script>"}),
    "a megabyte of meta": Case({"meta_note": "\u202e<" * 2**18}),
    "five megabytes of meta": Case({"meta_note": "x" * 5 * 2**20}, ("meta_note", "4,194,304")),
}
PATHS = {
    "parent": _clip("../secret/secret.mp4", "a path inside", "--input-root"),
    "round about": _clip("mixed/../../secret/secret.mp4", "a path inside"),
    "absolute": _clip("{secret}/secret.mp4", "a path inside"),
    "a link out": _clip("link.mp4", "a path inside"),
    "a folder link out": _clip("linked", "a path inside"),
    "below a folder link": _clip("linked/0.png", "a path inside"),
    "a link out in a folder": _clip("mixed", "a path inside", "99.png"),
    "links that go round": _clip("loop.mp4", "a video or a folder"),
    "a named pipe": _clip("pipe.mp4", "neither a file nor a folder"),
    "a socket": _clip("socket.mp4", "neither a file nor a folder"),
    "a link to /dev/zero": _clip("zeros.mp4", "a path inside"),
    "/dev/zero": _clip("/dev/zero", "a path inside"),
    "/proc": _clip("/proc/self/environ", "a path inside"),
    "http": _clip("{url}/x.mp4", "expected a local path"),
    "file URL": _clip("file://{secret}/secret.mp4", "expected a local path"),
    "concat protocol": _clip("concat:../secret/secret.mp4|x", "nothing of that name"),
    "home": _clip("~/x.mp4", "nothing of that name"),
    "300 letters": _clip("x" * 300, "File name too long"),
    "NUL": _clip("a\0.mp4", "NUL"),
    "blank": _clip("  ", "the path"),
    "line ends": _clip("a\nrow 7: fine.mp4", "nothing of that name"),
    "17 GiB": _clip("huge.mp4", "at most 17,179,869,184 bytes", "18,253,611,008"),
    "a folder as a picture": Case(
        {"ip_adapter": "adapter.bin", "ip_adapter_image": "mixed"}, ("ip_adapter_image", "a folder")
    ),
    "an option": Case({"source_video": "-i.mp4"}),
    "concat as a name": Case({"source_video": "concat:good.mp4|good.mp4"}),
    "a pattern": Case({"source_video": "%d.mp4"}),
    "a shell's words": Case({"source_video": "a;touch b$(touch c).mp4"}),
}
CONTENTS = {
    "HLS of a secret": _content("hls.mp4", "expected a video"),
    "HLS of the network": _content("hls.m3u8", "expected a video"),
    "concat of a secret": _content("concat.mp4", "expected a video"),
    "concat of the network": _content("concat.txt", "expected a video"),
    "SDP": _content("stream.sdp", "expected a video"),
    "DASH": _content("dash.mpd", "expected a video"),
    "SVG": _content("picture.svg", "expected a video"),
    "PostScript": _content("program.png", "expected a picture"),
    "text": _content("text.mp4", "expected a video"),
    "subtitles": _content("subtitles.mkv", "expected a video"),
    "AviSynth": _content("script.avs", "expected a video"),
    "a filter's words": _content("lavfi.mp4", "expected a video"),
    "no bytes": _content("zero.mp4", "cannot decode"),
    "cut": _content("cut.mp4", "cannot decode"),
    "noise": _content("noise.mp4", "expected a video"),
    "a header that lies": _content("lies.mp4", "expected a video"),
    "gigapixel PNG": _content("gigapixel.png", "more than 67108864 pixels"),
    "a PNG's notes": _content("notes.png", "expected"),
    "cut PNG": _content("cut.png", "expected"),
    "TIFF bomb": _content("bomb.tiff", "more than 67108864 pixels"),
    "JPEG bomb": _content("wide.jpg", "more than 67108864 pixels"),
    "16k×16k video": _content("wide.mjpeg", "cannot decode", "16384x16384"),
    "WebP": _content("broken.webp", "expected a picture"),
    "an empty folder": _content("empty", "found 0 images"),
    "a folder of pipes": _content("pipes", "found 0 images"),
    "a folder in itself": _content("round", "found 0 images"),
    "100,000 pictures": Case({"source_video": "long.gif"}),
    "a million seconds": Case({"source_video": "ages.mkv"}),
}
MODELS = {
    "a pickled checkpoint": _model("{in}/model.ckpt", "pickled", "--trust-pickle"),
    "a pickle by another name": _model("{in}/model.safetensors", "expected a safetensors"),
    "a pickled part": _model("{in}/m-pickled", "pickled", "--trust-pickle"),
    "a disguised part": _model("{in}/m-disguised", "unet/diffusion_pytorch_model"),
    "code of its own": _model("{in}/m-code", "'evil'", "never runs"),
    "a pipeline of its own": _model("{in}/m-class", "'evil'", "never runs"),
    "guidance NaN": _model("{in}/m-nan", "guidance_scale"),
    "a kilometre high": _model("{in}/m-tall", "height", "1000000000"),
    "steps in words": _model("{in}/m-steps", "num_inference_steps", "many"),
    "JSON without end": _model("{in}/m-deep", "readable JSON"),
    "a pipe for a configuration": _model("{in}/m-pipe", "readable JSON", "no regular file"),
    "a pipe": _model("{in}/pipe.safetensors", "model"),
    "/dev/zero": _model("/dev/zero", "model"),
    "shapes in words": _model("{in}/shapes.safetensors", "expected a safetensors"),
    "a header without end": _model("{in}/deep.safetensors", "expected a safetensors"),
    "a header of exabytes": _model("{in}/long.safetensors", "expected a safetensors"),
    "http": _model("{url}/model.safetensors", "model"),
    "climbs": _model("../../etc", "model"),
    "NUL": _model("a\0b", "NUL"),
    "a pickled LoRA": Case({"lora": ["{in}/lora.bin"]}, ("lora", "pickled")),
    "a LoRA of the network": Case({"lora": ["{url}/x.safetensors:1"]}, ("lora",)),
    "a pickled ControlNet": Case(
        {"control": "canny", "controlnet": "{in}/net.pth", "control_video": "good.mp4"},
        ("controlnet", "pickled"),
    ),
    "a pickled IP-Adapter": Case(
        {"ip_adapter": "{in}/adapter.bin", "ip_adapter_image": "mixed/0.png"},
        ("ip_adapter", "pickled"),
    ),
    "a pickled depth model": Case(
        {"control": "depth:{in}/depth", "controlnet": "{in}/net.pth", "control_video": "good.mp4"},
        ("pickled",),
    ),
}
NUMBERS = {
    "2^31 frames": Case({"num_frames": 2**31}, ("num_frames", "2147483647")),
    "no frames": Case({"num_frames": 0}, ("num_frames", "≥ 1")),
    "NaN fps": Case({"fps": float("nan")}, ("fps", "nan")),
    "infinite λ": Case({"kl_target": float("inf")}, ("kl_target", "inf")),
    "infinite guidance": Case({"guidance_scale": float("inf")}, ("guidance_scale", "inf")),
    "a negative seed": Case({"seed": -1}, ("seed", "-1")),
    "a kilometre high": Case({"height": 2**30}, ("height", "8192")),
}
TABLES = {
    "id": IDS,
    "text": TEXTS,
    "path": PATHS,
    "clip": CONTENTS,
    "model": MODELS,
    "number": NUMBERS,
}
CASES = {
    f"{table}: {name}": case for table, cases in TABLES.items() for name, case in cases.items()
}
