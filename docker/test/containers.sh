# Runs the services of docker/compose.yaml without a container engine: each in the root of its image, with the volumes,
# secrets, environment, user, host name and command line that the file gives it, and process ids of its own. Networks are
# one: every service's name is an address of the loopback interface. To be sourced after layers.sh and compose.sh, in a
# mount, network and process namespace of its own.
#
#   $work/volumes/NAME    a volume          $work/containers/NAME    root, log, exit code, process id
#   $work/secrets/NAME    a secret
#
# Volumes have the names that an engine knows them by: `walkeep_data`, unless the file says otherwise.
# shellcheck shell=bash

: "${root:?}" "${work:?}" "${servers:?}"
compose=${compose:-}

# The user of an image, as numbers.
user_of() {
    local user
    user=$(stage_setting "$1" USER)
    # curlimages/curl's.
    [[ $1 != curl ]] || user=100:101
    printf '%s\n' "${user:-0:0}"
}

# The environment of an image, one NAME=VALUE a line. The official PostgreSQL image's is not in our Dockerfile.
environment_of() {
    local layer=$1 path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    case $layer in
    postgres) printf '%s\n' "PATH=$path:/usr/lib/postgresql/server/bin:/usr/lib/postgresql/15/bin" PGDATA=/var/lib/postgresql/data LANG=C.UTF-8 ;;
    *) printf '%s\n' "PATH=$path" && stage_setting "$layer" ENV | tr ' ' '\n' | sed '/^$/d' ;;
    esac
}

# words JSON: an array of strings, NUL after each.
words() { jq -j 'if . == null then empty else .[] | (., "\u0000") end' <<<"${1:-null}"; }

# volume_name KEY: what an engine calls a volume of the file.
volume_name() { jq -r --arg key "$1" '.volumes[$key].name // "\(.name)_\($key)"' <<<"$compose"; }

# mount_volumes SERVICE DIR: what the service mounts, below DIR. A new volume takes content and owner of what it lies on, as with an engine.
mount_volumes() {
    local service=$1 dir=$2 type source target read_only mode size
    while IFS=$'\t' read -r type source target read_only mode size; do
        case $type in
        volume)
            source=$(volume_name "$source")
            mkdir -p "$dir$target"
            if [[ ! -e $work/volumes/$source ]]; then
                mkdir -p "$work/volumes"
                cp -a "$dir$target" "$work/volumes/$source"
            fi
            mount --bind "$work/volumes/$source" "$dir$target"
            ;;
        bind)
            source=$(realpath -e "$root/docker/$source") || die "$service mounts '$source', which does not exist"
            if [[ -d $source ]]; then mkdir -p "$dir$target"; else mkdir -p "$dir${target%/*}" && : >>"$dir$target"; fi
            mount --bind "$source" "$dir$target"
            ;;
        tmpfs)
            mkdir -p "$dir$target"
            mount -t tmpfs -o "size=$size,mode=$(printf '%o' "$mode")" tmpfs "$dir$target"
            ;;
        *) die "$service: unknown mount '$type'" ;;
        esac
        [[ $read_only != true ]] || mount -o remount,ro,bind "$dir$target"
    done < <(service "$service" '(.volumes // [])[] | [.type, .source // "-", .target, .read_only // false, .tmpfs.mode // 0, .tmpfs.size // 0] | @tsv')
    while read -r source; do
        mkdir -p "$dir/run/secrets"
        : >"$dir/run/secrets/$source"
        mount --bind "$work/secrets/$source" "$dir/run/secrets/$source"
        mount -o remount,ro,bind "$dir/run/secrets/$source"
    done < <(service "$service" '(.secrets // [])[]')
}

# create SERVICE LAYER: the service's root, with everything mounted.
create() {
    local name=$1 layer=$2 container=$work/containers/$1 read_only user directory check
    [[ ! -e $container ]] || remove "$name"
    mkdir -p "$container"
    mount_root "$layer" "$container/changes" "$container/root"
    mount --rbind /dev "$container/root/dev"
    mount -t sysfs sysfs "$container/root/sys" 2>/dev/null || true
    hosts >"$container/hosts"
    : >"$container/root/etc/hosts"
    mount --bind "$container/hosts" "$container/root/etc/hosts"
    mkdir -p "$container/root/mnt"
    # What the official images have in them.
    [[ $layer != postgres ]] || mount --bind "$servers/$(service postgres .build.args.POSTGRES)" "$container/root/usr/lib/postgresql/server"
    if [[ $name == garage ]]; then
        : >"$container/root/garage"
        mount --bind "${garage:?}" "$container/root/garage"
    fi
    mount_volumes "$name" "$container/root"
    read_only=$(service "$name" '.read_only // false')
    [[ $read_only != true ]] || mount -o remount,ro "$container/root"
    user=$(user_of "$layer")
    directory=$(stage_setting "$layer" WORKDIR)
    {
        printf '%s\n' setpriv --reuid="${user%:*}" --regid="${user#*:}" --clear-groups
        [[ $(service "$name" '.cap_drop // [] | index("ALL")') == null ]] || printf '%s\n' --bounding-set=-all --inh-caps=-all
        [[ -z $(service "$name" '.security_opt // [] | .[]') ]] || printf '%s\n' --no-new-privs
        printf '%s\n' env -i -C "${directory:-/}" "HOSTNAME=$name"
        environment_of "$layer"
        service "$name" '(.environment // {}) | to_entries[] | "\(.key)=\(.value)"'
    } >"$container/as"
    check=$(service "$name" '.healthcheck.test // empty | .[1:] | tojson')
    [[ -n $check ]] || check=$(stage_setting "$layer" HEALTHCHECK | sed 's/.*CMD \[/[/')
    words "${check/#NONE/null}" >"$container/check"
}

# in_root SERVICE COMMAND…: a program in a created service's root, with its user, rights and environment. The caller says by
# `enter` in which namespaces.
in_root() {
    local container=$work/containers/$1 as
    shift
    mapfile -t as <"$container/as"
    "${enter[@]}" chroot "$container/root" "${as[@]}" "$@"
}

# start SERVICE COMMAND…: the first process of a created container; returns when it has ended.
start() {
    local container=$work/containers/$1 enter hostname
    hostname=$(service "$1" ".hostname // \"$1\"")
    # Until its own /proc is mounted, a process finds the number there by which it is known out here.
    # shellcheck disable=SC2016 # they are the inner shell's
    enter=(unshare --uts --pid --fork --kill-child --mount bash -c
        'read -r pid _ </proc/self/stat && echo "$pid" >"$1/pid" && mount -t proc proc "$1/root/proc" && hostname "$2" && shift 2 && exec "$@"'
        - "$container" "$hostname")
    in_root "$@"
}

# inside SERVICE COMMAND…: a program in a running container, as `docker exec`.
inside() {
    local enter=(nsenter --target "$(<"$work/containers/$1/pid")" --pid --uts --mount)
    in_root "$@"
}

# command_line SERVICE LAYER ARGUMENT…: entrypoint and command of a service, NUL after each word. Arguments take the command's place.
command_line() {
    local name=$1 layer=$2 entrypoint command
    shift 2
    entrypoint=$(service "$name" '.entrypoint // empty | tojson')
    [[ -n $entrypoint ]] || entrypoint=$(stage_setting "$layer" ENTRYPOINT)
    # The official image's, which the stage postgres inherits.
    [[ -n $entrypoint || $layer != postgres ]] || entrypoint='["docker-entrypoint.sh"]'
    words "${entrypoint:-null}"
    if (($#)); then
        printf '%s\0' "$@"
    else
        command=$(service "$name" '.command // empty | tojson')
        [[ -n $command ]] || command=$(stage_setting "$layer" CMD)
        words "$command"
    fi
}

# up SERVICE LAYER: starts a service in the background, as `docker compose up -d`.
up() {
    local name=$1 container=$work/containers/$1 line
    create "$@"
    mapfile -d '' -t line < <(command_line "$@")
    (
        status=0
        start "$name" "${line[@]}" >"$container/log" 2>&1 </dev/null || status=$?
        echo "$status" >"$container/status"
    ) &
    wait_for 60 "the first process of $name" test -s "$container/pid"
}

# run SERVICE LAYER ARGUMENT…: a created service in the foreground, with other arguments: `docker compose run --rm`.
run() {
    local name=$1 line status=0
    mapfile -d '' -t line < <(command_line "$@")
    start "$name" "${line[@]}" </dev/null || status=$?
    rm "$work/containers/$name/pid"
    return "$status"
}

# healthy SERVICE: whether its healthcheck passes.
healthy() {
    local container=$work/containers/$1 check
    mapfile -d '' -t check <"$container/check"
    [[ -s $container/pid ]] && inside "$1" "${check[@]}" >"$container/health" 2>&1
}

ended() { [[ -e $work/containers/$1/status ]]; }

# stop SERVICE [SIGNAL]: ends its first process and waits until the container is gone.
stop() {
    local container=$work/containers/$1
    [[ -s $container/pid ]] || return 0
    kill -s "${2:-TERM}" "$(<"$container/pid")" 2>/dev/null || true
    wait_for 120 "$1 to end" ended "$1"
    rm "$container/pid"
}

# remove SERVICE: a container that has ended, without its volumes.
remove() {
    local container=$work/containers/$1
    stop "$1" KILL
    # What is still mounted belongs to this machine.
    umount --recursive "$container/root" || die "unable to unmount the root of $1"
    rm -rf --one-file-system "$container"
}

logs() {
    local log
    for log in "$work"/containers/*/log; do
        printf -- '--- %s\n' "$(basename "${log%/log}")" >&2
        tail -n 30 "$log" >&2
    done
}

# wait_for SECONDS WHAT COMMAND…: until the command succeeds; in vain as soon as a container has ended by itself.
wait_for() {
    local until=$((SECONDS + $1)) what=$2 container
    shift 2
    until "$@"; do
        ((SECONDS < until)) || die "waited in vain for $what"
        for container in "$work"/containers/*; do
            [[ $1 == ended || ! -e $container/status || ! -e $container/pid ]] ||
                die "$(basename "$container") ended with code $(<"$container/status") while waiting for $what"
        done
        sleep 0.2
    done
}
