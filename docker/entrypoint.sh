#!/usr/bin/env bash
# Entrypoint of the agent's image: walkeep-entrypoint COMMAND…
#
# Before every command it puts secrets that came as files where walkeep looks for them. So they stand in no environment and
# in no list of processes, and `docker exec … walkeep …` finds them too:
#
#   PGPASSWORD_FILE                                         ~/.pgpass
#   AWS_ACCESS_KEY_ID_FILE, AWS_SECRET_ACCESS_KEY_FILE      ~/.aws/credentials
#   and AWS_SESSION_TOKEN_FILE, if there is one
#
# Before `walkeep agent`, where there is no configuration yet, it waits for the data directory and runs `walkeep init`. All
# settings come from WALKEEP_SECTION_KEY variables, so the configuration it leaves is empty: to be edited, or replaced by a
# file that is mounted there.
set -euo pipefail

say() { printf 'walkeep-entrypoint: %s\n' "$*" >&2; }

# wrong MESSAGE HINT: ends with the code that walkeep has for a wrong configuration.
wrong() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 3
}

# secret NAME: prints the first line of the file that NAME_FILE names.
secret() {
    local name=$1 file=$1_FILE value=''
    [[ -z ${!name:-} ]] || wrong "both $name and $file are set" "keep the one that is meant"
    [[ -f ${!file} && -r ${!file} ]] ||
        wrong "unable to read $file='${!file}'" "mount a file there that user $(id -u) may read"
    IFS= read -r value <"${!file}" || [[ -n $value ]] || wrong "$file='${!file}' is empty" "put the secret into its first line"
    printf '%s' "$value"
}

# private FILE: writes standard input to FILE, which nobody else may read.
private() {
    { mkdir -p "${1%/*}" && (umask 077 && cat >"$1.new") && mv "$1.new" "$1"; } ||
        wrong "unable to write '$1'" "give user $(id -u) a HOME that it may write to"
}

take_password() {
    local password
    password=$(secret PGPASSWORD)
    # In this file, backslash and colon stand behind a backslash.
    password=${password//\\/\\\\}
    printf '*:*:*:*:%s\n' "${password//:/\\:}" | private "$HOME/.pgpass"
}

take_keys() {
    local id key token=''
    [[ -z ${AWS_SHARED_CREDENTIALS_FILE:-} ]] ||
        wrong "both AWS_ACCESS_KEY_ID_FILE and AWS_SHARED_CREDENTIALS_FILE are set" "keep the one that is meant"
    [[ -n ${AWS_SECRET_ACCESS_KEY_FILE:-} ]] ||
        wrong "AWS_ACCESS_KEY_ID_FILE is set and AWS_SECRET_ACCESS_KEY_FILE is not" "set both"
    id=$(secret AWS_ACCESS_KEY_ID)
    key=$(secret AWS_SECRET_ACCESS_KEY)
    [[ -z ${AWS_SESSION_TOKEN_FILE:-} ]] || token=$(secret AWS_SESSION_TOKEN)
    {
        printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$id" "$key"
        [[ -z $token ]] || printf 'aws_session_token = %s\n' "$token"
    } | private "$HOME/.aws/credentials"
}

# Waits until the data directory holds a cluster that this user can read: the server's container may still create it.
wait_for_cluster() {
    local pgdata=$1 waited=0
    # Process 1 ignores signals that it does not ask for.
    trap 'exit 143' TERM
    trap 'exit 130' INT
    until [[ -r $pgdata/global/pg_control ]]; do
        if ((waited % 30 == 0)); then
            if [[ -d $pgdata && ! -x $pgdata ]]; then
                say "unable to read '$pgdata': user $(stat -c %u "$pgdata") owns it, this is user $(id -u); run this container as its owner"
            else
                say "waiting for a cluster in '$pgdata'"
            fi
        fi
        waited=$((waited + 1))
        sleep 1 &
        wait $!
    done
    trap - TERM INT
}

create_repository() {
    local config=$1 pgdata=${WALKEEP_CLUSTER_PGDATA:-} repository=${WALKEEP_REPOSITORY_URL:-${WALKEEP_REPOSITORY_PATH:-}}
    [[ -n $pgdata ]] || wrong "WALKEEP_CLUSTER_PGDATA is not set" "name the data directory, as it is mounted here"
    [[ -n $repository ]] || wrong "WALKEEP_REPOSITORY_PATH is not set" "name a directory, or a bucket by WALKEEP_REPOSITORY_URL=s3://BUCKET/PREFIX"
    wait_for_cluster "$pgdata"
    say "no configuration '$config' yet: creating the repository '$repository', or finding it there"
    printf '# What is not here comes from variables WALKEEP_SECTION_KEY, which have precedence.\n' >"$config.new" ||
        wrong "unable to write '$config'" "let user $(id -u) write to its directory, or mount a configuration"
    walkeep --quiet --config "$config.new" init --pgdata "$pgdata" --repo "$repository" \
        ${WALKEEP_CLUSTER_NAME:+--cluster "$WALKEEP_CLUSTER_NAME"} \
        ${WALKEEP_CLUSTER_CONNINFO:+--conninfo "$WALKEEP_CLUSTER_CONNINFO"}
    # Only a complete initialisation leaves a configuration: the next start tries again.
    mv "$config.new" "$config"
}

[[ -z ${PGPASSWORD_FILE:-} ]] || take_password
[[ -z ${AWS_ACCESS_KEY_ID_FILE:-} ]] || take_keys

if [[ ${1:-} == walkeep && ${*: -1} == agent ]]; then
    configuration=${WALKEEP_CONFIG:-/etc/walkeep/walkeep.toml}
    [[ -e $configuration ]] || create_repository "$configuration"
fi
exec "$@"
