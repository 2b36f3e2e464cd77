# Roots of images without a container engine: a layer is a directory that lies over others in an overlay. To be sourced;
# the caller has set `root` to the repository and `work` to a scratch directory, and runs as root in a mount namespace of
# its own.
#
# Kept from run to run, by the hash of what made them: Debian (`base`), what stands for the official PostgreSQL image
# (`database`), and those stages of docker/Dockerfile that hold no program of ours. Everything else is made anew.
# shellcheck shell=bash

: "${root:?}" "${work:?}"
layers=${WALKEEP_LAYERS_DIR:-${HOME:?}/.cache/walkeep/docker}
suite=bookworm

# layer_path NAME: where a kept layer lies. Its name ends with the hash of everything that made it.
layer_path() {
    local made_by
    case $1 in
    base) made_by="$suite, version 1" ;;
    database) made_by=$(layer_path base; cat "$root/docker/test/postgres-image" "$root/docker/steps/packages") ;;
    curl) made_by=$(layer_path base; cat "$root/docker/steps/packages") ;;
    runtime) made_by=$(layer_path base; stage_instructions runtime; cat "$root"/docker/steps/{packages,runtime}) ;;
    postgres-runtime) made_by=$(layer_path database; stage_instructions "$1"; cat "$root"/docker/steps/{packages,postgres-runtime}) ;;
    *) printf '%s\n' "$work/layers/$1"; return ;;
    esac
    printf '%s/%s-%s\n' "$layers" "$1" "$(sha256sum <<<"$made_by" | cut -c 1-12)"
}

# The layer below a layer, if there is one.
below() {
    case $1 in
    base) ;;
    database | curl) echo base ;;
    *)
        case $(stage_base "$1") in
        debian:bookworm-slim) echo base ;;
        postgres:*-bookworm) echo database ;;
        *:*) die "docker/Dockerfile: nothing stands for the image '$(stage_base "$1")'" ;;
        *) stage_base "$1" ;;
        esac
        ;;
    esac
}

# The directories of a layer and of those below it, as overlayfs wants them.
stack_of() {
    local name=$1 stack='' path
    while [[ -n $name ]]; do
        path=$(layer_path "$name") || exit
        stack+=${stack:+:}$path
        name=$(below "$name") || exit
    done
    printf '%s\n' "$stack"
}

# mount_root LAYER UPPER DIR: the root of an image at DIR; what is changed there goes to UPPER, beside which a directory is used.
mount_root() {
    mkdir -p "$2" "$2.work" "$3"
    mount -t overlay -o "lowerdir=$(stack_of "$1"),upperdir=$2,workdir=$2.work" overlay "$3" ||
        die "unable to mount an overlay with its changes in '$2': name a directory of a disk by WALKEEP_LAYERS_DIR and TMPDIR"
}

# make_layer NAME: makes a layer and those below it, unless it is kept.
make_layer() {
    local name=$1 path under
    path=$(layer_path "$name")
    [[ ! -e $path ]] || return 0
    under=$(below "$name")
    mkdir -p "${path%/*}"
    if [[ $path == "$layers"/* && -z ${locked:-} ]]; then
        # One preparation at a time; a second one then finds what it needs. Held to the end.
        exec 8>"$layers/.lock"
        flock 8
        locked=1
        [[ ! -e $path ]] || return 0
    fi
    if [[ $name == base ]]; then
        log "debootstrap: Debian $suite"
        local attempt
        for attempt in 1 2 3; do
            rm -rf "$path.new"
            ! debootstrap --variant=minbase "$suite" "$path.new" http://deb.debian.org/debian >"$work/debootstrap.log" || break
            ((attempt < 3)) || die "unable to make a Debian: $(tail -n 3 "$work/debootstrap.log")"
        done
        # As in Debian's own images: no lists and packages, and no sync for each file that is installed.
        echo force-unsafe-io >"$path.new/etc/dpkg/dpkg.cfg.d/unsafe-io"
        rm -rf "$path.new"/var/lib/apt/lists/* "$path.new"/var/cache/apt/*.bin "$path.new"/var/cache/apt/archives/*.deb "$path.new"/var/log/*.log
    else
        make_layer "$under"
        rm -rf "$path.new"
        mkdir -p "$path.new" "$path.new.work" "$work/root"
        mount -t overlay -o "lowerdir=$(stack_of "$under"),upperdir=$path.new,workdir=$path.new.work" overlay "$work/root" ||
            die "unable to mount an overlay with its changes in '$path.new': name a directory of a disk by WALKEEP_LAYERS_DIR and TMPDIR"
        case $name in
        database) install_by "$root/docker/test/postgres-image" ;;
        curl) install_by "$root/docker/steps/packages" curl ca-certificates ;;
        *) "$root/docker/build-image-root" "$name" "$work/programs" "$work/root" ;;
        esac
        umount "$work/root"
        rm -rf "$path.new.work"
    fi
    # Those that other steps made.
    [[ $path != "$layers"/* ]] || rm -rf "${path%-*}"-????????????
    mv "$path.new" "$path"
}

# install_by SCRIPT ARGUMENT…: a script of docker/ within $work/root.
install_by() {
    local script=$1
    shift
    mkdir "$work/root/docker"
    mount --bind "$root/docker" "$work/root/docker"
    mount -t proc proc "$work/root/proc"
    : >>"$work/root/etc/resolv.conf"
    mount --bind "$(readlink -f /etc/resolv.conf)" "$work/root/etc/resolv.conf"
    chroot "$work/root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "/docker/${script#"$root/docker/"}" "$@"
    umount "$work/root/docker" "$work/root/proc" "$work/root/etc/resolv.conf"
    rmdir "$work/root/docker"
}
