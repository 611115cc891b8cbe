#!/usr/bin/env bash
# Installs what the acceptance suite drives: stock clients from Debian, a Python venv in target/venv and node packages in
# target/node. Safe to run again; when everything is there it only compares two stamps and returns.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-target}"
mkdir -p "$target"

# package:program-or-file that shows it is there
debian=(
    openssh-client:/usr/bin/ssh
    openssh-server:/usr/sbin/sshd
    dropbear-bin:/usr/bin/dbclient
    putty-tools:/usr/bin/plink
    openssl:/usr/bin/openssl
    procps:/usr/bin/pgrep
    curl:/usr/bin/curl
    runc:/usr/sbin/runc
    uidmap:/usr/bin/newuidmap
    sqlite3:/usr/bin/sqlite3
    rsync:/usr/bin/rsync
    git:/usr/bin/git
    sshfs:/usr/bin/sshfs
    fuse3:/usr/bin/fusermount3
    fio:/usr/bin/fio
    rclone:/usr/bin/rclone
    lftp:/usr/bin/lftp
    btrfs-progs:/usr/sbin/mkfs.btrfs
    docker-registry:/usr/bin/docker-registry
    skopeo:/usr/bin/skopeo
    apache2-utils:/usr/bin/htpasswd
    zstd:/usr/bin/zstd
    busybox-static:/bin/busybox
    erofs-utils:/usr/bin/mkfs.erofs
    crun:/usr/bin/crun
    runsc:/usr/bin/runsc
    docker.io:/usr/sbin/dockerd
    podman:/usr/bin/podman
    qemu-system-x86:/usr/bin/qemu-system-x86_64
    e2fsprogs:/usr/sbin/mke2fs
    chromium:/usr/bin/chromium
)
missing=()
for pair in "${debian[@]}"; do
    package="${pair%%:*}" file="${pair#*:}"
    [ -e "$file" ] || missing+=("$package")
done
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        # A failing install is not the end: each test that misses its client says so as a skip.
        apt-get update -qq || true
        # policy-rc.d keeps Debian from starting a system sshd just because the package is there.
        DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}" \
            >"$target/setup-apt.log" 2>&1 || echo "setup: apt-get could not install ${missing[*]}, see $target/setup-apt.log"
    else
        echo "setup: these Debian packages are missing and only root can install them: ${missing[*]}"
    fi
fi

stamp_matches() { [ -e "$1" ] && [ "$(cat "$1")" = "$2" ]; }

wanted="$(sha256sum tests/clients/requirements.txt | cut -d' ' -f1)"
if ! stamp_matches "$target/venv/.sandgate-stamp" "$wanted"; then
    rm -rf "$target/venv"
    if { python3 -m venv "$target/venv" || /usr/bin/python3 -m venv "$target/venv"; } >"$target/setup-venv.log" 2>&1 &&
        "$target/venv/bin/pip" install -q --disable-pip-version-check -r tests/clients/requirements.txt >>"$target/setup-venv.log" 2>&1; then
        echo "$wanted" >"$target/venv/.sandgate-stamp"
    else
        echo "setup: the Python clients could not be installed, see $target/setup-venv.log"
    fi
fi

wanted="$(cat tests/clients/package.json tests/clients/package-lock.json | sha256sum | cut -d' ' -f1)"
if ! stamp_matches "$target/node/.sandgate-stamp" "$wanted"; then
    rm -rf "$target/node"
    mkdir -p "$target/node"
    cp tests/clients/package*.json "$target/node/"
    # ssh2's native add-on only speeds it up; its pure JavaScript is what most users run.
    if npm --prefix "$target/node" install --no-audit --no-fund --omit=optional --ignore-scripts >"$target/setup-node.log" 2>&1; then
        echo "$wanted" >"$target/node/.sandgate-stamp"
    else
        echo "setup: the node clients could not be installed, see $target/setup-node.log"
    fi
fi

# For virtual machines: a kernel with its modules, not installed but unpacked into target/kernel, and the vsock device.
if [ -x /usr/bin/qemu-system-x86_64 ]; then
    package="$(apt-cache depends --important linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' | head -n 1)"
    wanted="$package $(apt-cache policy "${package:-none}" 2>/dev/null | sed -n 's/^ *Candidate: //p')"
    # A machine whose package lists are gone keeps the kernel that it has.
    if [ -n "$package" ] && ! stamp_matches "$target/kernel/.sandgate-stamp" "$wanted"; then
        rm -rf "$target/kernel"
        mkdir -p "$target/kernel/package"
        # apt-get may fetch as a user of its own, who cannot write there; as root it then fetches as root and says so.
        if (cd "$target/kernel/package" && apt-get download -qq "$package") >"$target/setup-kernel.log" 2>&1 &&
            dpkg-deb -x "$target"/kernel/package/linux-image-*.deb "$target/kernel" >>"$target/setup-kernel.log" 2>&1; then
            rm -rf "$target/kernel/package"
            echo "$wanted" >"$target/kernel/.sandgate-stamp"
        else
            echo "setup: the kernel for virtual machines could not be unpacked, see $target/setup-kernel.log"
        fi
    fi
    wanted="vhost-device-vsock 0.3.0"
    if ! stamp_matches "$target/tools/.vsock-stamp" "$wanted"; then
        if CARGO_TARGET_DIR="$target/tools-build" nice cargo install --quiet --locked --root "$target/tools" vhost-device-vsock --version 0.3.0 \
            >"$target/setup-vsock.log" 2>&1; then
            echo "$wanted" >"$target/tools/.vsock-stamp"
            rm -rf "$target/tools-build"
        else
            echo "setup: vhost-device-vsock could not be built, see $target/setup-vsock.log"
        fi
    fi
fi
