#!/usr/bin/env bash
# A Prefect worker of the work pool zs2: `infra/worker.sh`, or `RAY_ADDRESS=head:6379 infra/worker.sh` where its flow
# runs are to drive a Ray cluster; without one they render on this machine.
#
# A Ray driver needs a Ray node on its own machine, so this one becomes a node first, without CPUs or GPUs for actors.
# Node and worker end together: a worker that has lost its node would only fail its runs. Whoever started this
# (Docker, Kubernetes, systemd) starts both again.
set -euo pipefail

# What was started in a shell's background ignores SIGINT, with which Prefect's worker ends itself when it is told to.
worker=(env --default-signal=INT prefect worker start --pool "${ZS2_POOL:-zs2}" --type process)
if [ -z "${RAY_ADDRESS:-}" ]; then
  exec "${worker[@]}"
fi

# Process ids of the raylets here that belong to that cluster, by its port.
raylets() {
  for process in /proc/[0-9]*; do
    if grep -sqx raylet "$process/comm" && grep -sqaE ":${RAY_ADDRESS##*:}([^0-9]|$)" "$process/cmdline"; then
      echo "${process#/proc/}"
    fi
  done | sort
}

others=$(raylets)
ray start --address "$RAY_ADDRESS" --num-cpus 0 --num-gpus 0 --disable-usage-stats \
  ${RAY_METRICS_PORT:+--metrics-export-port "$RAY_METRICS_PORT"}
node=$(comm -13 <(echo "$others") <(raylets))
[[ "$node" =~ ^[0-9]+$ ]] || { echo "expected one new Ray node here, found: ${node:-none}" >&2; exit 1; }

"${worker[@]}" &
work=$!
# The worker first, who ends its runs at once (the same runs go on where they stopped); then the node.
trap 'kill -TERM "$work" 2>/dev/null || true' TERM INT
while kill -0 "$work" 2>/dev/null && kill -0 "$node" 2>/dev/null; do
  sleep 1 & wait $! || true # a signal is heard at once
done
lost=0
kill -0 "$node" 2>/dev/null || { echo "the Ray node has ended; so does the worker" >&2; lost=1; }
kill -TERM "$work" 2>/dev/null || true
code=0
wait "$work" || code=$?
kill -TERM "$node" 2>/dev/null || true
[ "$lost" = 0 ] || exit 1
exit "$code"
