#!/usr/bin/env bash
# Entrypoint of the restore image: walkeep-restore-entrypoint [ARGUMENT…]
#
# `list`, `windows` and other commands are handed on; without one it is a restore into $PGDATA, which must be empty. The
# restored server gets its WAL by /usr/local/bin/walkeep-restore, which the image `postgres` has at the same place.
set -euo pipefail

case ${1:-} in
-V | --version | -h | --help | help | list | windows | fetch-wal) exec walkeep-restore "$@" ;;
*) exec walkeep-restore --target-dir "${PGDATA:?}" --fetch-with /usr/local/bin/walkeep-restore "$@" ;;
esac
