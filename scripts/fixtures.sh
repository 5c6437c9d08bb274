#!/usr/bin/env bash
# Makes what the demo and the tests boot, in target/fixtures:
#
#   vmlinuz          the distribution's kernel for virtual machines
#   vmlinuz-other    another version of it, for tests in which an image's kernel changes
#   initrd           demo/init, a busybox and the few modules that it loads
#   initrd-other     the same for the other version
#   initrd-network   a busybox, the modules of a virtio network card, and the init in crates/ferrovirt/tests/lifecycle
#   initrd-agent     the same with QEMU's guest agent, an SSH server, an echo of UDP, and the modules of the agent's port,
#                    of a RAM disk and of the memory balloon
#   versions         `FILE VERSION` a line, the version as `uname -r` prints it in the guest
#   modules/VERSION  the modules, as a directory for `image build --modules`
#
# Nothing is installed: the packages are downloaded and unpacked, which any user may do. The bytes of the
# initrds depend on the packages and what goes into them alone. A second call does nothing unless this script or that
# changed.
set -euo pipefail
export LC_ALL=C

cd "$(dirname "$0")/.."
readonly out=target/fixtures

readonly network_files=crates/ferrovirt/tests/lifecycle
readonly network_modules="failover net_failover virtio_net"
readonly agent_modules="virtio_console brd virtio_balloon"
readonly agent_programs="usr/sbin/qemu-ga usr/sbin/dropbear usr/bin/dropbearkey bin/nc.traditional"

stamp=$(cat "$0" demo/init "$network_files"/network-{init,lease} | cksum)
is_ready() { [[ -f $out/stamp && $(<"$out/stamp") == "$stamp" ]]; }
if is_ready; then
    exit 0
fi

mkdir -p target
exec {lock}>target/fixtures.lock
flock "$lock"
if is_ready; then
    exit 0 # another make was faster
fi

work=$(mktemp -d "$PWD/target/fixtures.XXXXXX")
trap 'rm -rf "$work"' EXIT
readonly log=$work/log

fail() {
    [[ ! -s $log ]] || tail -n 20 "$log" >&2
    echo "error: $1" >&2
    exit 1
}

# --- packages -------------------------------------------------------------------------------------------------------

# Root would otherwise download as the user _apt, who may not be able to write here.
apt_options=(--option APT::Sandbox::User=root)

# Fetches the package lists into a directory of our own, so that it takes no privilege and leaves the machine's alone.
refreshed=no
refresh_lists() {
    [[ $refreshed == no ]] || return 0
    refreshed=yes
    echo "fixtures: fetching package lists" >&2
    mkdir -p "$work/apt/lists/partial" "$work/apt/archives/partial"
    apt_options+=(--option "Dir::State::lists=$work/apt/lists" --option "Dir::Cache=$work/apt")
    apt-get --quiet "${apt_options[@]}" update >>"$log" 2>&1 || true # `download` says what is missing
}

# Unpacks package $1 into directory $2.
unpack() {
    mkdir -p "$2" "$work/deb"
    rm -f "$work"/deb/*.deb
    if ! (cd "$work/deb" && apt-get --quiet "${apt_options[@]}" download "$1") >>"$log" 2>&1; then
        return 1
    fi
    dpkg-deb --extract "$work"/deb/*.deb "$2"
}

# The packages that package $1 needs, of which the names look like a kernel or its modules.
kernel_dependencies() {
    apt-cache "${apt_options[@]}" depends --important "$1" 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-\(image\|modules\)-[^ ]*\)$/\1/p'
}

# Follows meta packages (linux-image-cloud-amd64) to the package that holds a kernel.
resolve_kernel_package() {
    local name=$1 next
    for _ in 1 2 3; do
        if [[ $name =~ ^linux-image-[0-9]+\.[0-9]+\.[0-9] ]]; then
            echo "$name"
            return
        fi
        next=$(kernel_dependencies "$name" | grep '^linux-image-' | head -n 1) || return 1
        name=$next
    done
    return 1
}

# Debian has a kernel for clouds; Ubuntu has `virtual`, its generic kernel with fewer modules beside it.
find_kernel_package() {
    local meta
    for meta in linux-image-cloud-amd64 linux-image-virtual linux-image-amd64 linux-image-generic; do
        if resolve_kernel_package "$meta"; then
            return
        fi
    done
    return 1
}

# Other versions of the kernel package $1: the nearest older one first, then newer ones.
other_kernel_packages() {
    local flavour older
    flavour=${1##*[0-9]-}
    older=yes
    {
        apt-cache "${apt_options[@]}" pkgnames linux-image- |
            grep -E "^linux-image-[0-9][0-9.]*[^-]*(-[0-9]+)?-$flavour\$" || true
        echo "$1"
    } | sort --version-sort --unique >"$work/kernels"
    while read -r name; do
        if [[ $name == "$1" ]]; then
            older=no
        elif [[ $older == yes ]]; then
            echo "$name"
        fi
    done <"$work/kernels" | tac
    sed "1,/^$1\$/d" "$work/kernels"
}

# The packages $@ and those of the libraries that they need.
library_packages() {
    local all=("$@") next=("$@")
    while [[ ${#next[@]} -gt 0 ]]; do
        mapfile -t next < <(apt-cache "${apt_options[@]}" depends --important "${next[@]}" |
            sed -n 's/^ *Depends: \(z\?lib[^ ]*\)$/\1/p' | sort --unique |
            grep --invert-match --line-regexp --fixed-strings --file=<(printf '%s\n' "${all[@]}") || true)
        all+=("${next[@]}")
    done
    printf '%s\n' "${all[@]}"
}

# --- parts ----------------------------------------------------------------------------------------------------------

# The modules after $2, from the unpacked packages in $1 into the directory $2, uncompressed.
take_modules() {
    local from=$1 to=$2 module file
    shift 2
    mkdir -p "$to"
    # File names use `-` and `_` alike.
    for module in "$@"; do
        file=$(find "$from" -name "${module//_/[-_]}.ko*" -type f | head -n 1)
        case $file in
            '') continue ;; # built in, or absent from this kernel
            *.ko) cp "$file" "$to/$module.ko" ;;
            *.ko.xz) xz --decompress --stdout "$file" >"$to/$module.ko" ;;
            *.ko.zst) zstd --quiet --decompress --stdout "$file" >"$to/$module.ko" ;;
            *.ko.gz) gzip --decompress --stdout "$file" >"$to/$module.ko" ;;
            *) fail "do not know how the module $file is compressed" ;;
        esac
    done
    chmod 0755 "$to"
    find "$to" -type f -exec chmod 0644 {} +
}

# Unpacks kernel package $1 and takes its kernel as file $2 of the result.
take_kernel() {
    local tree=$work/$2.tree name kernel version modules
    unpack "$1" "$tree" || return 1
    # Ubuntu keeps the modules in packages of their own.
    for name in $(kernel_dependencies "$1" | grep '^linux-modules-' || true); do
        unpack "$name" "$tree" || return 1
    done
    kernel=$(find "$tree/boot" -name 'vmlinuz-*' -type f | head -n 1)
    [[ -n $kernel ]] || fail "package $1 holds no kernel in /boot"
    version=${kernel##*/vmlinuz-}
    # Ubuntu's are readable by root only; QEMU does not run as root.
    install --mode 0644 "$kernel" "$work/result/$2"
    echo "$2 $version" >>"$work/result/versions"
    # The list in demo/init is one of words.
    read -ra modules < <(sed -n 's/^modules="\(.*\)"$/\1/p' demo/init)
    take_modules "$tree" "$work/result/modules/$version" "${modules[@]}"
    read -ra modules <<<"$network_modules"
    take_modules "$tree" "$work/network-modules/$version" "${modules[@]}"
    read -ra modules <<<"$agent_modules"
    take_modules "$tree" "$work/agent-modules/$version" "${modules[@]}"
    rm -rf "$tree"
}

# ldd fails on a static executable, so only its words are looked at.
is_static() { [[ $(ldd "$1" 2>&1 || true) == *@(not a dynamic executable|statically linked)* ]]; }

take_busybox() {
    local installed
    installed=$(command -v busybox || true)
    if [[ -n $installed ]] && is_static "$installed"; then
        cp --dereference "$installed" "$1"
        return
    fi
    unpack busybox-static "$work/busybox" || { refresh_lists && unpack busybox-static "$work/busybox"; } ||
        fail "cannot download the package busybox-static"
    # /bin on older releases, /usr/bin on newer ones
    cp "$(find "$work/busybox" -path '*bin/busybox' -type f | head -n 1)" "$1"
}

# Makes initrd $1 with the modules for kernel $2 around the busybox $3.
make_initrd() {
    local root=$work/$1.root modules applet
    modules=lib/modules/$(sed -n "s/^$2 //p" "$work/result/versions")
    mkdir -p "$root"/{bin,dev,proc,sys,"$modules"}
    cp "$3" "$root/bin/busybox"
    for applet in awk cat echo find grep halt head insmod mount poweroff reboot sed seq sh sleep sort stty uname; do
        ln -s busybox "$root/bin/$applet"
    done
    cp demo/init "$root/init"
    find "$work/result/${modules#lib/}" -name '*.ko' -exec cp {} "$root/$modules" \;
    chmod 0755 "$root/init" "$root/bin/busybox"
    pack "$root" "$1"
}

# Makes the initrd $1 for the kernel vmlinuz around the busybox $2: with the init of guests that have a network, and with
# the modules in the directories $3 and on.
make_network_initrd() {
    local root=$work/$1.root name=$1 busybox=$2 version modules
    shift 2
    version=$(sed -n 's/^vmlinuz //p' "$work/result/versions")
    mkdir -p "$root"/bin "$root/lib/modules/$version"
    install --mode 0755 "$busybox" "$root/bin/busybox"
    install --mode 0755 "$network_files/network-init" "$root/init"
    install --mode 0755 "$network_files/network-lease" "$root/lease"
    for modules in "$@"; do
        find "$modules/$version" -name '*.ko' -exec cp {} "$root/lib/modules/$version" \;
    done
    pack "$root" "$name"
}

# Puts the guest agent and the SSH server with their libraries where make_network_initrd finds them.
take_agent() {
    local root=$work/initrd-agent.root tree=$work/agent loader directories package program
    for package in $(library_packages qemu-guest-agent dropbear-bin netcat-traditional); do
        unpack "$package" "$tree" || return 1
    done
    mkdir -p "$root/lib64"
    loader=$(find "$tree" -name 'ld-linux-x86-64.so.2' -type f | head -n 1)
    [[ -n $loader ]] || fail "no package holds ld-linux-x86-64.so.2"
    install --mode 0755 "$loader" "$root/lib64/ld-linux-x86-64.so.2"
    directories=$(find "$tree" -name '*.so.*' -printf '%h\n' | sort --unique | paste -sd:)
    for program in $agent_programs; do
        install -D --mode 0755 "$tree/$program" "$root/$program"
        # The loader of the packages names the libraries as it would load them.
        "$loader" --library-path "$directories" --list "$tree/$program" |
            sed -n 's/^[[:space:]]*\([^ /]*\) => \([^ ]*\) (.*/\1 \2/p' >"$work/libraries"
        while read -r name file; do
            install -D --mode 0644 "$file" "$root/lib/$name"
        done <"$work/libraries"
    done
}

# Packs the directory $1 as the initrd $2, whose bytes depend on nothing but what is in there.
pack() {
    find "$1" -type d -exec chmod 0755 {} +
    find "$1" -exec touch --no-dereference --date=@0 {} +
    (cd "$1" && find . -mindepth 1 -printf '%P\0' | sort --zero-terminated |
        cpio --null --create --format=newc --reproducible --owner=0:0 --quiet) | gzip --no-name -9 >"$work/result/$2"
}

# --- the whole ------------------------------------------------------------------------------------------------------

mkdir "$work/result"
package=$(find_kernel_package) || { refresh_lists && package=$(find_kernel_package); } ||
    fail "the package lists name no kernel"
echo "fixtures: unpacking $package" >&2
if ! take_kernel "$package" vmlinuz; then
    # The lists of this machine may be older than the archive.
    refresh_lists
    package=$(find_kernel_package) || fail "the package lists name no kernel"
    take_kernel "$package" vmlinuz || fail "cannot download $package"
fi

other=
for candidate in $(other_kernel_packages "$package" | head -n 5); do
    echo "fixtures: unpacking $candidate" >&2
    if take_kernel "$candidate" vmlinuz-other; then
        other=$candidate
        break
    fi
done
if [[ -z $other ]]; then
    # An archive with one version of this kernel still has another flavour of it.
    for candidate in linux-image-amd64 linux-image-generic; do
        candidate=$(resolve_kernel_package "$candidate") || continue
        [[ $candidate != "$package" ]] || continue
        echo "fixtures: unpacking $candidate" >&2
        if take_kernel "$candidate" vmlinuz-other; then
            other=$candidate
            break
        fi
    done
fi
[[ -n $other ]] || fail "the archive has no second kernel beside $package"

take_busybox "$work/busybox.static"
make_initrd initrd vmlinuz "$work/busybox.static"
make_initrd initrd-other vmlinuz-other "$work/busybox.static"
make_network_initrd initrd-network "$work/busybox.static" "$work/result/modules" "$work/network-modules"
take_agent || { refresh_lists && take_agent; } || fail "cannot download qemu-guest-agent, dropbear-bin and netcat-traditional"
make_network_initrd initrd-agent "$work/busybox.static" "$work/result/modules" "$work/network-modules" "$work/agent-modules"
echo "$stamp" >"$work/result/stamp"
chmod 0755 "$work/result" "$work/result/modules"
rm -rf "$out"
mv "$work/result" "$out"
echo "fixtures: $(paste -sd, "$out/versions"), initrd of $(stat --format=%s "$out/initrd") bytes" >&2
