"""How zs2's bundled models are made: scenes, captions, training, export, evaluation."""
