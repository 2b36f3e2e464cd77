# What scripts/test and scripts/quickstart share. To be sourced; the caller has set `root` to the repository.
# shellcheck shell=bash

: "${root:?}"
program=${0##*/}

log() { printf '%s: %s\n' "$program" "$*" >&2; }
die() { printf '%s: error: %s\n' "$program" "$*" >&2; exit 1; }

# A service that starts jobs may set neither HOME nor a PATH with Cargo on it.
find_cargo() {
    if [[ -z ${HOME:-} ]]; then
        HOME=$(getent passwd "$(id -u)" | cut -d: -f6)
        export HOME
    fi
    if ! command -v cargo >/dev/null; then
        PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
        export PATH
    fi
    command -v cargo >/dev/null || die "no cargo: install Rust from https://rustup.rs, then run this again"
    # rust-toolchain.toml names the version; rustup may be told not to fetch it by itself.
    if command -v rustup >/dev/null && ! (cd "$root" && cargo --version >/dev/null 2>&1); then
        log "installing the toolchain that rust-toolchain.toml names"
        (cd "$root" && rustup toolchain install) || die "unable to install the toolchain"
    fi
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/walkeep/target}
    export CARGO_NET_RETRY=${CARGO_NET_RETRY:-10}
}

# Seconds as people read them.
elapsed() {
    local seconds=$1
    if ((seconds < 60)); then printf '%d s' "$seconds"; else printf '%d min %d s' $((seconds / 60)) $((seconds % 60)); fi
}

# Where scripts/deploy-tools puts programs that only tests use.
tools_directory() { printf '%s\n' "${WALKEEP_TOOLS_DIR:-${HOME:?}/.cache/walkeep/tools}"; }
