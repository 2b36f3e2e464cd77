# Plays `docker` for the commands of docker/README.md, by the functions of layers.sh and containers.sh. It knows the verbs and
# options that stand there, and refuses any other. To be sourced after those two.
#
# The caller sets `project`, the directory that the page's commands are for, and `elsewhere`, the services that it plays itself by
# `play SERVICE`, called each time that one is to run.
# shellcheck shell=bash

: "${root:?}" "${work:?}"
elsewhere=()

# follow COMMANDS: runs what scripts/documented printed, in the project's directory; $work/followed has what it says.
follow() {
    local status=0
    [[ -n $1 ]] || die "docker/README.md does not have the commands" # where the argument's own failure ends nothing
    # Not as a condition, in which the shell would go on behind a command that fails.
    (
        cd "${project:?}" || exit
        eval "$1"
    ) >"$work/followed" 2>&1 </dev/null &
    wait $! || status=$?
    ((status == 0)) || die "docker/README.md says
$1which ended with code $status: $(<"$work/followed")"
    read_compose
}

docker() {
    case $1 in
    build) shift && docker_build "$@" ;;
    compose) shift && docker_compose "$@" ;;
    volume)
        [[ $2 == rm && $# == 3 ]] || die "docker $* is not played"
        [[ -d $work/volumes/$3 ]] || die "there is no volume '$3'"
        ! grep -qF "/volumes/$3 " /proc/self/mountinfo || die "the volume '$3' is in use"
        rm -r "${work:?}/volumes/$3"
        ;;
    *) die "docker $* is not played" ;;
    esac
}

# The stages that were asked for are made; $work/built has their names.
docker_build() {
    local file='' target='' tag='' arguments=()
    while [[ $# -gt 1 ]]; do
        case $1 in
        -f) file=$2 ;;
        -t) tag=$2 ;;
        --target) target=$2 ;;
        --build-arg) arguments+=("$2") ;;
        *) die "docker build $1 is not played" ;;
        esac
        shift 2
    done
    [[ $(realpath -e "$file") == "$root/docker/Dockerfile" ]] || die "'$file' is not docker/Dockerfile"
    [[ $(realpath -e "${1:?a context}") == "$root" ]] || die "the context '$1' is not the repository, to which .dockerignore belongs"
    local argument
    for argument in "${arguments[@]}"; do
        dockerfile_instructions | grep -qE "^ARG ${argument%%=*}(=|\$)" || die "docker/Dockerfile has no ARG ${argument%%=*}"
    done
    [[ $tag == "walkeep-$target" ]] || die "the stage '$target' becomes '$tag'"
    make_layer "$target"
    echo "$target" >>"$work/built"
}

# The file, with the variables of the project's .env.
read_compose() {
    compose=$(
        set -a
        # shellcheck source=/dev/null
        [[ ! -e ${project:?}/.env ]] || source "$project/.env"
        compose_json
    )
}

docker_compose() {
    local profiles='[]' verb
    if [[ $1 == --profile ]]; then
        profiles="[\"$2\"]"
        shift 2
    fi
    verb=$1
    shift
    read_compose
    case $verb in
    up) compose_up "$@" ;;
    run) [[ $1 == --rm ]] && compose_run "${@:2}" ;;
    exec) compose_exec "$@" ;;
    rm) [[ $1 == -sf && $# == 2 ]] && take_down "$2" ;;
    down)
        (($# == 0)) || die "docker compose down $* is not played"
        local name
        for name in $(active "$profiles"); do take_down "$name"; done
        ;;
    *) die "docker compose $verb is not played" ;;
    esac
}

# active PROFILES: the services of these profiles, a JSON array, and those of none.
active() {
    jq -r --argjson on "$1" '.services | to_entries[] | select(.value.profiles == null or (.value.profiles - $on) != .value.profiles) | .key' <<<"$compose"
}

compose_up() {
    local names=() build=0 wait=0 word name
    for word in "$@"; do
        case $word in
        -d) ;;
        --build) build=1 ;;
        --wait) wait=1 ;;
        -*) die "docker compose up $word is not played" ;;
        *) names+=("$word") ;;
        esac
    done
    ((${#names[@]})) || mapfile -t names < <(active "${profiles:?}")
    for name in "${names[@]}"; do
        ((!build)) || [[ $(service "$name" '.build // empty') == '' ]] || make_layer "$(layer_of "$name")"
        bring_up "$name"
    done
    ((wait)) || return 0
    for name in "${names[@]}"; do
        is_elsewhere "$name" || ends_by_itself "$name" || wait_for 120 "$name to be healthy" healthy "$name"
    done
}

# bring_up SERVICE: starts it, unless it runs, behind what it depends on.
bring_up() {
    local name=$1 dependency dependencies
    if is_elsewhere "$name"; then
        play "$name"
        return
    fi
    mapfile -t dependencies < <(service "$name" '.depends_on // {} | if type == "array" then .[] else keys_unsorted[] end')
    for dependency in "${dependencies[@]}"; do
        bring_up "$dependency"
        [[ $(service "$name" ".depends_on[\"$dependency\"].condition?") != service_healthy ]] || is_elsewhere "$dependency" ||
            wait_for 120 "$dependency to be healthy" healthy "$dependency"
    done
    if ends_by_itself "$name"; then
        create "$name" "$(layer_of "$name")"
        run "$name" "$(layer_of "$name")" >"$work/$name" 2>&1 || die "$name failed: $(<"$work/$name")"
    else
        runs "$name" || up "$name" "$(layer_of "$name")"
    fi
}

compose_run() {
    local name=$1 dependency status=0
    for dependency in $(service "$name" '.depends_on // {} | keys_unsorted[]'); do bring_up "$dependency"; done
    create "$name" "$(layer_of "$name")"
    run "$name" "$(layer_of "$name")" "${@:2}" || status=$?
    remove "$name"
    return "$status"
}

compose_exec() {
    local as=()
    if [[ $1 == -u ]]; then
        as=(setpriv --reuid="$2" --regid="$2" --init-groups)
        shift 2
    fi
    runs "$1" || die "the service '$1' does not run"
    inside "$1" "${as[@]}" "${@:2}"
}

take_down() {
    [[ -e $work/containers/$1 ]] || return 0
    # The official image's signal, by which the server ends at once.
    if [[ $(layer_of "$1") == postgres ]]; then stop "$1" INT; else stop "$1"; fi
    remove "$1"
}

# layer_of SERVICE: the layer that is its image, or stands for it.
layer_of() {
    local image
    image=$(service "$1" '.build.target // .image')
    case $image in
    dxflrs/garage:*) echo base ;;
    curlimages/curl:*) echo curl ;;
    *:*) die "nothing stands for the image '$image'" ;;
    *) printf '%s\n' "$image" ;;
    esac
}

is_elsewhere() { [[ " ${elsewhere[*]} " == *" $1 "* ]]; }
runs() { [[ -s $work/containers/$1/pid && ! -e $work/containers/$1/status ]]; }
# Whether a service is waited for to its end by others.
ends_by_itself() {
    [[ $(jq --arg name "$1" '[.services[].depends_on? | objects | .[$name].condition?] | index("service_completed_successfully")' <<<"$compose") != null ]]
}
