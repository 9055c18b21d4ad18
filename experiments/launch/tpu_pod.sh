#!/bin/bash
# The same command on every host of a TPU slice; JAX finds the others in the slice's metadata.
#   experiments/launch/tpu_pod.sh NAME ZONE train --config=C --workdir=SHARED_FOLDER
# The repository must lie in ~/vlp_jax on every host, installed with the extra [tpu].
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,4s/^# //p' "$0"; exit 2; }
name=$1 zone=$2
shift 2
printf -v words '%q ' "$@"
# A lost host or a hang ends every process (69) and a maintenance event saves first (75):
# both go on with the same command.
for attempt in $(seq 1 "${ATTEMPTS:-20}"); do
  code=0
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd ~/vlp_jax && exec python -u -m vlp_jax $words" || code=$?
  if [ $code -ne 69 ] && [ $code -ne 75 ]; then exit $code; fi
  echo "attempt $attempt ended with code $code; again in 30 s" >&2
  sleep 30
done
exit $code
