# The part `compose` of scripts/check-docker, which sources it: docker/compose.yaml and what it refers to. Every finding is
# told before it fails.
# shellcheck shell=bash

: "${root:?}" "${tools:?}" "${promtool:?}" "${work:?}" "${compose:?}" "${program:?}"

findings=0
finding() {
    printf '%s: %s\n' "$program" "$*" >&2
    findings=$((findings + 1))
}

"$tools/bin/check-jsonschema" --builtin-schema vendor.compose-spec "$root/docker/compose.yaml" >"$work/schema" 2>&1 || finding "$(<"$work/schema")"

# What is mounted from here exists. A secret's file is made by docker/make-secrets, which runs into a scratch directory.
for name in $(services); do
    while IFS= read -r source; do
        [[ -e $root/docker/$source ]] || finding "service $name mounts '$source', which does not exist"
    done < <(service "$name" '(.volumes // [])[] | select(.type == "bind") | .source')
    while IFS= read -r volume; do
        [[ $(jq --arg volume "$volume" '.volumes | has($volume)' <<<"$compose") == true ]] || finding "service $name mounts the volume '$volume', which is not declared"
    done < <(service "$name" '(.volumes // [])[] | select(.type == "volume") | .source')
    while IFS= read -r secret; do
        [[ $(jq --arg secret "$secret" '.secrets | has($secret)' <<<"$compose") == true ]] || finding "service $name uses the secret '$secret', which is not declared"
    done < <(service "$name" '(.secrets // [])[]')
    while IFS= read -r secret; do
        service "$name" '(.secrets // [])[]' | grep -qx "$secret" || finding "service $name names /run/secrets/$secret, which it does not mount"
    done < <(service "$name" '.environment // {} | .[] | select(startswith("/run/secrets/")) | ltrimstr("/run/secrets/")')
done
"$root/docker/make-secrets" "$work/secrets" >/dev/null
while IFS= read -r file; do
    [[ -s $work/secrets/${file#./secrets/} ]] || finding "docker/make-secrets does not make '$file'"
done < <(jq -r '.secrets[].file' <<<"$compose")
made=$(cat "$work"/secrets/*)
"$root/docker/make-secrets" "$work/secrets" >/dev/null
[[ $(cat "$work"/secrets/*) == "$made" ]] || finding "docker/make-secrets makes new secrets where some are"
[[ $(stat -c %a "$work/secrets") == 700 ]] || finding "docker/make-secrets leaves its directory open to others"

# Bases and images have a version, and Rust's is the project's.
while IFS= read -r image; do
    [[ $image =~ :[^:/]+$ && $image != *:latest ]] || finding "image '$image' has no version"
done < <({ jq -r '.services[].image' <<<"$compose"; dockerfile_instructions | awk '$1 == "FROM" { print $2 }' | grep -vxF "$(dockerfile_instructions | awk '$1 == "FROM" { print $4 }')"; } | sort -u)
channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$root/rust-toolchain.toml")
[[ $(stage_base build) == "rust:$channel-slim-bookworm" ]] || finding "the stage build begins with '$(stage_base build)', rust-toolchain.toml says $channel"
[[ $(stage_setting build ENV) == "RUSTUP_TOOLCHAIN=$channel" ]] || finding "the stage build uses '$(stage_setting build ENV)', rust-toolchain.toml says $channel"

# The context that .dockerignore leaves holds the whole workspace, and nothing secret.
mkdir "$work/context"
copy_context "$work/context"
(cd "$work/context" && cargo metadata --offline --locked --no-deps --format-version 1 >/dev/null 2>"$work/metadata") || finding "the context of the build is no workspace: $(<"$work/metadata")"
[[ ! -e $work/context/docker/secrets ]] || finding ".dockerignore lets secrets into the context"
while read -r source; do
    [[ -e $work/context/$source ]] || finding "docker/Dockerfile mounts '$source', which .dockerignore leaves out"
done < <(dockerfile_instructions | grep -o 'type=bind,source=[^,]*' | sed 's/.*source=//')

# Variables of ours are known to the programs: a section that nobody knows would be overlooked in silence, so it is compared
# with the list in the source; a key that nobody knows ends walkeep with code 3.
sections=$(sed -n '/^const SECTIONS/,/;/p' "$root/agent/src/config/load.rs" | grep -o '"[a-z0-9]*"' | tr -d '"')
for name in $(services); do
    mapfile -t variables < <(service "$name" '.environment // {} | to_entries[] | select(.key | startswith("WALKEEP_")) | "\(.key)=\(.value)"')
    ((${#variables[@]})) || continue
    for variable in "${variables[@]}"; do
        section=${variable#WALKEEP_}
        section=${section%%_*}
        grep -qx "${section,,}" <<<"$sections" || finding "service $name: ${variable%%=*} belongs to no section of the configuration"
    done
    status=0
    # No such repository: 4 is fine.
    env -i "${variables[@]}" "WALKEEP_STATE_DIR=$work/nowhere" "$work/programs/walkeep" list >"$work/said" 2>&1 || status=$?
    ((status != 3)) || finding "service $name: $(<"$work/said")"
done
# All else that the agent's container is given, its entrypoint or AWS's library knows.
while IFS= read -r variable; do
    grep -qw "$variable" "$root/docker/entrypoint.sh" || finding "service agent: nobody knows the variable $variable"
done < <(service agent '.environment | keys[] | select(startswith("WALKEEP_") | not)')

# The page's table has what can be set, each with its default; several in one row have theirs in the same order.
said=$(sed -n '/^## The stack/,/^## /p' "$root/docker/README.md" | awk -F ' *[|] *' '$2 ~ /^`[A-Z_`, ]*$/ {
    count = split($2, names, ", "); split($4, defaults, ", ")
    for (i = 1; i <= count; i++) print names[i] "=" defaults[i] }' | tr -d '`' | sort)
meant=$(grep -oE '\$\{[A-Z_]+:-[^}]*' "$root/docker/compose.yaml" | sed 's/^..//; s/:-/=/' | sort -u)
[[ $said == "$meant" ]] || finding "docker/README.md and compose.yaml name other variables or defaults: $(diff <(echo "$said") <(echo "$meant"))"

# Grafana finds its data source by the name that the dashboard uses, if it names one.
dashboard=$root/deploy/grafana/walkeep.json
if [[ -e $dashboard ]]; then
    uid=$(sed -n 's/^ *uid: //p' "$root/docker/grafana/provisioning/datasources/prometheus.yaml")
    while IFS= read -r named; do
        [[ $named == "$uid" || $named == '$'* || $named == '-- Grafana --' || $named == grafana ]] || finding "the dashboard asks the data source '$named', the one here is '$uid'"
    done < <(jq -r '[.. | objects | .datasource? | objects | .uid? | strings] | unique[]' "$dashboard")
fi

# Prometheus takes its configuration with the rules at their place, and asks under the name that the rules look for.
rules=$root/deploy/prometheus/walkeep.rules.yml
if [[ -e $rules ]]; then
    mkdir "$work/prometheus"
    cp "$root/docker/prometheus/prometheus.yml" "$rules" "$work/prometheus/"
    "$promtool" check config "$work/prometheus/prometheus.yml" >"$work/said" 2>&1 || finding "promtool objects: $(<"$work/said")"
    while IFS= read -r job; do
        grep -qxF "  - job_name: $job" "$root/docker/prometheus/prometheus.yml" || finding "the alert rules look for the job '$job', which docker/prometheus/prometheus.yml does not have"
    done < <(grep -o 'job="[^"]*"' "$rules" | sort -u | sed 's/job="\(.*\)"/\1/')
fi

((findings == 0)) || die "docker/compose.yaml: $findings findings"
log "compose: $(services | wc -l) services, $(jq '.secrets | length' <<<"$compose") secrets"
