"""What the benchmarks of `zs2 bench` measure, one module each; `flows.cli_bench` holds their words."""
