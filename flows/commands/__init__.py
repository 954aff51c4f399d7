"""What the commands of `zs2` do, one module each; `flows.cli` holds their words."""
