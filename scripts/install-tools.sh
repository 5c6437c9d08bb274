#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that a make target needs, and nothing when they are all there.
#
#   scripts/install-tools.sh SET...        SET: build, run, demo, test, bench, fuzz, soak
#
# Says nothing and touches no network when nothing is missing. Uses sudo when it is not run by root.
set -euo pipefail

usage() {
    echo "usage: ${0##*/} build|run|demo|test|bench|fuzz|soak..." >&2
    exit 2
}

# What each set adds. A busybox is not among them: Debian's static one and its dynamic one exclude each other, so
# scripts/fixtures.sh unpacks a static one of its own where the machine has none.
packages_of() {
    case $1 in
        build) echo gcc libc6-dev ;;
        run) echo qemu-system-x86 ;;
        demo) echo cpio gzip xz-utils zstd ;;
        test) echo ca-certificates docker-registry skopeo buildah podman uidmap umoci qemu-utils curl jq python3-kubernetes strace faketime passt nftables iproute2 openssh-client zsh fish ;;
        bench) echo etcd-server ;;
        fuzz) echo g++ ;;
        soak) echo python3-venv ;;
        *) usage ;;
    esac
}

# A larger set includes the smaller ones that it cannot do without.
sets_of() {
    case $1 in
        build) echo build ;;
        run) echo run ;;
        demo) echo build run demo ;;
        test) echo build run demo test ;;
        bench) echo build run demo test bench ;;
        fuzz) echo build fuzz ;;
        soak) echo build run demo test soak ;;
        *) usage ;;
    esac
}

is_installed() {
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

[[ $# -gt 0 ]] || usage

missing=()
for asked in "$@"; do
    sets=$(sets_of "$asked")
    for set in $sets; do
        packages=$(packages_of "$set")
        for package in $packages; do
            if ! command -v dpkg-query >/dev/null; then
                echo "error: no dpkg here, so packages cannot be installed: only Debian and Ubuntu are known" >&2
                echo "hint: install what these Debian packages hold by hand, then run the cargo commands of the Makefile: $packages" >&2
                exit 1
            fi
            # Two sets may name the same package.
            [[ " ${missing[*]-} " == *" $package "* ]] || is_installed "$package" || missing+=("$package")
        done
    done
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

as_root=()
if [[ $(id -u) -ne 0 ]]; then
    if ! command -v sudo >/dev/null; then
        echo "error: these packages are missing, and there is no sudo here to install them with: ${missing[*]}" >&2
        echo "hint: as root, run: apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi

echo "installing ${missing[*]}" >&2
# `env` so that the variable survives sudo, which clears the environment.
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get --quiet --quiet --option Dpkg::Use-Pty=0)
install=("${apt[@]}" install --yes --no-install-recommends "${missing[@]}")

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The package lists of this machine may be recent enough; fetching them anew takes longer than most installs.
if ! "${install[@]}" >"$log" 2>&1; then
    "${apt[@]}" update >"$log" 2>&1 || true # a broken third-party source must not stop the rest
    if ! "${install[@]}" >"$log" 2>&1; then
        cat "$log" >&2
        echo "error: apt-get could not install ${missing[*]}" >&2
        exit 1
    fi
fi

# The tests start servers of their own; the packages' services would listen beside them.
for service in docker-registry etcd; do
    if [[ " ${missing[*]} " == *" $service"* ]] && [[ -d /run/systemd/system ]]; then
        "${as_root[@]}" systemctl disable --now --quiet "$service.service" >"$log" 2>&1 || cat "$log" >&2
    fi
done
