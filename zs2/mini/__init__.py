"""The bundled models: folders in diffusers' StableDiffusionPipeline layout, shipped as safetensors.

Their recipe is `infra/mini/`; `zs2.models` finds them by name.
"""
