#!/usr/bin/env bash
# Health of the agent's container: whether the agent answers. `walkeep status` alone also succeeds where none runs.
#
# A server or a bucket that is away is no ill health of the agent, and no reason to restart it: alerts are for that.
set -euo pipefail

status=$(walkeep --json status)
if [[ $status =~ \"agent\":\ null ]]; then
    echo "no agent runs" >&2
    exit 1
fi
walkeep status
