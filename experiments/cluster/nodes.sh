#!/usr/bin/env bash
# The same cluster on machines of your own: one line on each of them. Ends with Ctrl-C.
#
#   nodes.sh head                      the head: coordinates, scores nothing
#   nodes.sh scorer HEAD:6379          scorers on all processors
#   nodes.sh gpu-scorer HEAD:6379      scorers on its GPUs
#   nodes.sh device HEAD:6379 [NAME]   measures latency and does nothing else; with a NAME for `--device NAME`
#
# RAY_AUTH_MODE=token is Ray's own authentication: ~/.ray/auth_token must be the same file on all of them. Without it (disabled) whoever
# reaches a port runs what he likes. ADDRESS is where this machine is reached by the others; CPUS how many scorers it runs.
set -euo pipefail
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
role="${1:?head, scorer, gpu-scorer or device}"
words=(--block ${ADDRESS:+--node-ip-address "$ADDRESS"} --disable-usage-stats)
if [ "$role" != head ]; then words+=(--address "${2:?the address of the head, such as 10.0.0.1:6379}"); fi
case "$role" in
    head) words+=(--head --port "${PORT:-6379}" --num-cpus 0 --dashboard-host 127.0.0.1) ;;
    scorer) words+=(--num-cpus "${CPUS:-$(nproc)}" --num-gpus 0) ;;
    gpu-scorer) words+=(--num-cpus "${CPUS:-$(nproc)}") ;;
    device) words+=(--num-cpus 0 --resources "{\"latency_device${3:+:$3}\": 1}") ;;
    *) sed -n '2,9p' "$0" >&2; exit 2 ;;
esac
exec ray start "${words[@]}"
