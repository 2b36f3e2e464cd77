# What the checks inside scripts/scratch-root share. To be sourced; PostgreSQL 15 is installed in the copy.
# shellcheck shell=bash

cluster=/var/lib/postgresql/15/main
export PGHOST=/run/postgresql PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# promise WHAT COMMAND…: fails with WHAT and the command when it fails.
promise() {
    local what=$1
    shift
    "$@" || fail "$what: $*"
}

# equals WHAT EXPECTED ACTUAL
equals() { [[ $2 == "$3" ]] || fail "$1: expected '$2', found '$3'"; }

# as_documented DIRECTORY COMMANDS: runs what scripts/documented printed.
as_documented() {
    [[ -n $2 ]] || fail "no commands were found" # where the argument's own failure ends nothing
    # Nobody asks whether this machine has sudo: its stand-in of the tests does here.
    [[ -x /usr/local/bin/sudo ]] || install -m 0755 "${root:?}/tests/pg-integration/src/documents/host/sudo" /usr/local/bin/sudo
    (cd "$1" && bash -euo pipefail -c "$2") >/tmp/documented.log 2>&1 || { cat /tmp/documented.log; fail "the page says: $2"; }
}

# Runs a command as the server's user.
as_postgres() { runuser -u postgres -- "$@"; }

# wait_for WHAT COMMAND…: until the command succeeds, for a minute.
wait_for() {
    local what=$1 deadline=$((SECONDS + 60))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || fail "waited a minute for $what"
        sleep 0.1
    done
}

# As if this machine had never seen Walkeep, and were none of the images that forbid packages to start and stop anything.
fresh_machine() {
    dpkg --purge walkeep walkeep-restore >/dev/null 2>&1 || true
    rm -rf /etc/walkeep /var/lib/walkeep /srv/walkeep /usr/local/bin/walkeep* /etc/systemd/system/walkeep*
    rm -f /usr/sbin/policy-rc.d
}

# A running cluster where Debian would put it, with a table.
start_cluster() {
    rm -rf "$cluster"
    install -d -o postgres -g postgres -m 0755 /var/lib/postgresql /var/lib/postgresql/15 "$PGHOST"
    as_postgres initdb --auth=trust --no-sync --data-checksums --pgdata="$cluster" >/dev/null
    as_postgres pg_ctl --silent --wait --pgdata="$cluster" --log=/var/lib/postgresql/log \
        --options="-c listen_addresses='' -c unix_socket_directories=$PGHOST" start >/dev/null
    as_postgres psql -qXc 'create table kept as select generate_series(1, 1000) as number'
}

restart_cluster() { as_postgres pg_ctl --silent --wait --pgdata="$cluster" --mode=fast restart >/dev/null; }
