#!/usr/bin/env bash
# Submits a search to the cluster, as many drivers as there are islands. Run it where the dashboard's port (8265) can be reached: on the
# head, or behind `ssh -L 8265:127.0.0.1:8265 HEAD`.
#
#   ISLANDS=4 TRACK=webface-sfr job.sh [more words of zennas.search]
#
# `python` is the one that the head's Ray was started with, its environment active; another one: PYTHON=/path/to/python.
# The store's URL lies in a file on the head (STORAGE_FILE), so that no password is in the list of jobs. What a driver leaves behind
# lies in ~/runs/TRACK there.
set -euo pipefail
track="${TRACK:-webface-sfr}" islands="${ISLANDS:-1}" storage="${STORAGE_FILE:-/etc/zennas/storage}"
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}" RAY_ADDRESS="${RAY_ADDRESS:-http://127.0.0.1:8265}"
cd "$(dirname "$0")/../.."
for island in $(seq "$islands"); do
    ray job submit --no-wait --working-dir . --runtime-env experiments/cluster/runtime_env.yaml -- \
        "${PYTHON:-python}" -m zennas.search --track "$track" --storage "@$storage" --islands "$islands" --address auto "$@"
done
