#!/usr/bin/env bash
# Unpacks Debian's kubectl (1.20) to target/tools/kubectl-1.20: tests run with an old client beside the one in the search
# path. Nothing is installed. Where the archive has no such package this says so, and the tests that want it say so too.
set -euo pipefail
export LC_ALL=C

cd "$(dirname "$0")/.."
readonly out=target/tools/kubectl-1.20
[[ ! -x $out ]] || exit 0

mkdir -p target/tools
work=$(mktemp -d "$PWD/target/tools/kubectl.XXXXXX")
trap 'rm -rf "$work"' EXIT
# Root would otherwise download as the user _apt, who may not be able to write here.
apt=(apt-get --quiet --option APT::Sandbox::User=root)
download() { (cd "$work" && "${apt[@]}" "$@" download kubernetes-client) >>"$work/log" 2>&1; }
if ! download; then
    # Lists of our own, so that it takes no privilege and leaves the machine's alone.
    mkdir -p "$work/apt/lists/partial" "$work/apt/archives/partial"
    own=(--option "Dir::State::lists=$work/apt/lists" --option "Dir::Cache=$work/apt")
    "${apt[@]}" "${own[@]}" update >>"$work/log" 2>&1 || true # `download` says what is missing
    if ! download "${own[@]}"; then
        echo "old-kubectl: this system's archive has no kubernetes-client; tests run with one kubectl only" >&2
        exit 0
    fi
fi
dpkg-deb --extract "$work"/kubernetes-client_*.deb "$work/root"
chmod 0755 "$work/root/usr/bin/kubectl"
mv "$work/root/usr/bin/kubectl" "$out"
