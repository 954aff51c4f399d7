"""Checkpoint files: found locally or on a hub, read by their headers, loaded.

`zs2.models` and `zs2.addons` are the way in; here is what each kind of file needs:

- `hub`, `folders`, `single_file`: the three places a checkpoint lies in; `weights`: which files of it count;
  `parts`: what each part must have
- `controlnet_file`, `lora`, `ip_adapter`: what is added to a pipeline
- `quiet`: libraries that talk as they load
"""
