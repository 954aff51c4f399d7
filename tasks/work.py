"""What there is to do, in the units that time and disk are reckoned in."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.job import Job
from tasks.split import most_shares

FINISHED_BYTES_PER_PIXEL = 0.03  # h264 at quality 18 on the demo's clips, rounded up
LATENT_BYTES = 4


@dataclass
class Work:
    """What there is to do, added up over rows.

    `most_shares`: over how many samplers the longest row can be spread. `controlled_pictures` are those
    of `unet_pictures` that have a ControlNet beside them, `padded_pictures` those that are of no frame,
    `shallow_pictures` those of which the outermost blocks alone are computed. `filled_pictures` are those
    of the padded ones that fill up calls of several clips. `shared_native_pictures` are those of
    `native_pictures` in calls of several clips, `filled_native_pictures` those of them that fill these up.
    `batches`: what a sampler takes at a time, a row or rows that are sampled together.
    """

    rows: int = 0
    batches: int = 0
    frames: int = 0
    output_frames: int = 0
    unet_calls: int = 0
    unet_pictures: int = 0
    native_pictures: float = 0.0
    controlled_pictures: int = 0
    shallow_pictures: int = 0
    padded_frames: int = 0
    padded_pictures: int = 0
    filled_pictures: int = 0
    shared_native_pictures: float = 0.0
    filled_native_pictures: float = 0.0
    video_bytes: int = 0
    latent_bytes: int = 0
    most_shares: int = 1

    @classmethod
    def of(cls, job: Job) -> Work:
        """The work of one job."""
        row = job.row
        height, width = row.height or 0, row.width or 0
        pixels = height * width * row.spatial_scale**2
        latent = height * width // job.model.scale_factor**2 * job.model.latent_channels
        pictures = job.unet_pictures
        return cls(
            rows=1,
            batches=1,
            frames=row.num_frames,
            output_frames=job.output_frames,
            unet_calls=job.unet_calls,
            unet_pictures=pictures,
            native_pictures=job.native_pictures,
            controlled_pictures=pictures if job.conditions.controlnet else 0,
            shallow_pictures=job.shallow_pictures,
            padded_frames=row.num_segments * row.segment_frames - row.num_frames,
            padded_pictures=job.padded_pictures,
            video_bytes=int(job.output_frames * pixels * FINISHED_BYTES_PER_PIXEL) + 2048,
            latent_bytes=row.num_frames * latent * LATENT_BYTES,
            most_shares=most_shares(job),
        )

    @property
    def padding(self) -> float:
        """The share of the UNet's pictures that are of no frame."""
        return self.padded_pictures / self.unet_pictures if self.unet_pictures else 0.0

    def share_calls(self, one: Work, rows: int, clips: int) -> None:
        """So many rows, each of the work `one` and counted already as if it had its UNet calls to
        itself, share these, so many clips in each; the last ones are filled up."""
        batches = -(-rows // clips)
        filling = batches * clips - rows
        self.batches -= rows - batches
        self.unet_calls -= (rows - batches) * one.unet_calls
        self.unet_pictures += filling * one.unet_pictures
        self.native_pictures += filling * one.native_pictures
        self.shallow_pictures += filling * one.shallow_pictures
        self.padded_frames += filling * (one.frames + one.padded_frames)
        self.padded_pictures += filling * one.unet_pictures
        self.filled_pictures += filling * one.unet_pictures
        self.shared_native_pictures += batches * clips * one.native_pictures
        self.filled_native_pictures += filling * one.native_pictures

    def add(self, other: Work) -> None:
        """Count other work, too."""
        self.rows += other.rows
        self.batches += other.batches
        self.frames += other.frames
        self.output_frames += other.output_frames
        self.unet_calls += other.unet_calls
        self.unet_pictures += other.unet_pictures
        self.native_pictures += other.native_pictures
        self.controlled_pictures += other.controlled_pictures
        self.shallow_pictures += other.shallow_pictures
        self.padded_frames += other.padded_frames
        self.padded_pictures += other.padded_pictures
        self.filled_pictures += other.filled_pictures
        self.shared_native_pictures += other.shared_native_pictures
        self.filled_native_pictures += other.filled_native_pictures
        self.video_bytes += other.video_bytes
        self.latent_bytes += other.latent_bytes
        self.most_shares = max(self.most_shares, other.most_shares)
