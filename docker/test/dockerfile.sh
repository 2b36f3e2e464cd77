# Reads docker/Dockerfile and .dockerignore. To be sourced; the caller has set `root` to the repository.
# shellcheck shell=bash

: "${root:?}"

# All instructions, one a line, without comments.
dockerfile_instructions() { sed -e '/^#/d' -e ':a' -e '/\\$/{N;s/\\\n *//;ba' -e '}' -e '/^$/d' "$root/docker/Dockerfile"; }

# The instructions of a stage, its FROM included.
stage_instructions() {
    local said
    said=$(dockerfile_instructions | awk -v stage="$1" '$1 == "FROM" { here = ($4 == stage) } here')
    [[ -n $said ]] || die "docker/Dockerfile has no stage '$1'"
    printf '%s\n' "$said"
}

# What a stage begins with: another stage, or an image.
stage_base() { stage_instructions "$1" | awk '$1 == "FROM" { print $2 }'; }

# stage_setting STAGE INSTRUCTION: the last such instruction of the stage or of the stages below it; empty if there is none.
stage_setting() {
    local stage=$1 said
    while dockerfile_instructions | awk -v stage="$stage" '$1 == "FROM" && $4 == stage { found = 1 } END { exit !found }'; do
        said=$(stage_instructions "$stage" | awk -v name="$2" '$1 == name { $1 = ""; print substr($0, 2) }')
        if [[ -n $said ]]; then
            printf '%s\n' "$said"
            return
        fi
        stage=$(stage_base "$stage")
    done
}

# Copies into DIR what .dockerignore leaves over: all is ignored but the names behind `!`.
copy_context() {
    local name
    [[ $(grep -v -e '^#' -e '^$' "$root/.dockerignore" | head -n 1) == '*' ]] || die ".dockerignore does not begin with *"
    while IFS= read -r name; do
        [[ $name == !* ]] || die ".dockerignore: expected a name behind !, not '$name'"
        [[ -e $root/${name#!} ]] || die ".dockerignore names '${name#!}', which does not exist"
        (cd "$root" && cp -a --parents "${name#!}" "$1")
    done < <(grep -v -e '^#' -e '^$' "$root/.dockerignore" | tail -n +2)
}
