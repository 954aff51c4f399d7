"""The work between a manifest and its videos: plan, actors, post-processing, publishing."""
