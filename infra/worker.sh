#!/usr/bin/env bash
# A Prefect worker whose flow runs drive a Ray cluster: `infra/worker.sh` with RAY_ADDRESS=head:6379.
#
# A Ray driver needs a Ray node on its own host, so this host becomes one, without CPUs or GPUs for actors. Node and
# worker end together: a worker that has lost its node would only fail its runs. Without RAY_ADDRESS runs render on
# this host.
set -euo pipefail

jobs=()
if [ -n "${RAY_ADDRESS:-}" ]; then
  ray start --address "$RAY_ADDRESS" --num-cpus 0 --num-gpus 0 --disable-usage-stats --block &
  jobs+=($!)
fi
prefect worker start --pool "${ZS2_POOL:-zs2}" --type process &
worker=$!
jobs+=("$worker")

# The worker first, who lets its runs end; then the node.
trap 'kill -TERM "$worker" 2>/dev/null || true' TERM INT
code=0
wait -n "${jobs[@]}" || code=$?
kill -TERM "$worker" 2>/dev/null || true
wait "$worker" || true
kill -TERM "${jobs[@]}" 2>/dev/null || true
wait || true
exit "$code"
