# Reads docker/compose.yaml. To be sourced; the caller has set `compose` to what compose_json printed.
# shellcheck shell=bash

: "${root:?}" "${tools:?}"
compose=${compose:-}

# docker/compose.yaml as JSON, anchors and `${NAME:-default}` resolved by the environment, as Compose does it.
compose_json() {
    "$tools/bin/python" -c 'import json, sys; from ruamel.yaml import YAML; json.dump(YAML(typ="safe").load(sys.stdin), sys.stdout)' \
        <"$root/docker/compose.yaml" |
        jq 'walk(if type == "string" then gsub("\\$\\{(?<name>[A-Z_]+):-(?<default>[^}]*)\\}"; env[.name] // .default) else . end)'
}

services() { jq -r '.services | keys_unsorted[]' <<<"$compose"; }

# service NAME FILTER: something of a service.
service() { jq -r --arg name "$1" ".services[\$name] | $2" <<<"$compose"; }

# /etc/hosts of every container: each service is an address of the loopback interface.
hosts() {
    local name number=0
    echo '127.0.0.1 localhost'
    for name in $(services); do
        printf '127.0.1.%d %s\n' $((number += 1)) "$name"
    done
}

# Reads an AWS credentials file: credential NAME FILE.
credential() { sed -n "s/^$1 *= *//p" "$2"; }
