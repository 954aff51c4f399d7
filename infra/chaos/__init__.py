"""Chaos: many short rows are rendered while everything that can be killed is killed.

Read in this order: `rows` (what is rendered), `nodes` (the cluster), `watch` (what the run folder shows from
outside), `kills` (who is killed, when, and in which window), `storm` (one seed), `verify` (the end), and
`power_loss`, which needs no processes. `python -m infra.chaos` prints the table.
"""
