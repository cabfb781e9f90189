#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice that exists: `launch/cloud_tpu.sh NAME ZONE --config ... --workdir ...`
#
# Once before, on all of its hosts (REPOSITORY: where yours is kept; a bucket or file share for data and runs is
# mounted at /shared):
#
#     gcloud compute tpus tpu-vm create NAME --zone=ZONE --accelerator-type=v5p-128 --version=v2-alpha-tpuv5
#     gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all \
#         --command="git clone REPOSITORY stp_jax && pip install -e './stp_jax[tpu]'"
#
# Started again by hand or by a queue after the slice was preempted, it continues where it was.
set -eu

name=$1
zone=$2
shift 2
flags=$(printf ' %q' "$@")
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd stp_jax && launch/again.sh python3 train.py --coordinator=auto$flags"
