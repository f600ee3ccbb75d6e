#!/bin/bash
# A Docker engine for a command: the one that runs already, or one of our own, started for it and stopped after it.
#
#   docker/engine.sh run COMMAND...   start if needed, run the command, stop what was started
#   docker/engine.sh bare COMMAND...  the same without compose and images, which take most of the time
#   docker/engine.sh start | stop     the same in two halves; `start` prints the variables to export
#
# Starting one needs root on Debian; missing packages come from the machine's own package mirror. Where an image cannot
# be pulled, a stand-in with the same name is made from that mirror too, and said so.
# Exit status 3: this machine cannot run an engine (the last line says why); else that of the command.
set -euo pipefail

dir=${ENGINE_DIR:-$PWD/.cache/engine}
python_image=python:3.11-slim-bookworm
redis_image=redis:7.2-bookworm
bridge=prl-engine0 # of our own, so that other engines' coming and going leaves it alone
newer_suite=trixie # has compose v2 and buildx, which bookworm lacks

say() { echo "engine: $*" >&2; }
cannot() {
    say "cannot: $*"
    exit 3
}
mirror() { apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' | grep -v security | head -1; }

install_packages() { # names of Debian packages, those missing only
    local missing=()
    for package in "$@"; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]}"
    apt-get update -qq || cannot "the package lists cannot be read"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$dir/apt.log" 2>&1 ||
        cannot "packages ${missing[*]} cannot be installed, see $dir/apt.log"
}

start_daemon() {
    mkdir -p "$dir"
    [ "$(id -u)" = 0 ] || cannot "no Docker engine answers, and only root can start one"
    command -v apt-get >/dev/null || cannot "no Docker engine answers, and this is not Debian"
    install_packages docker.io iptables iproute2 ca-certificates debootstrap
    say "starting an engine in $dir"
    ip link show "$bridge" >/dev/null 2>&1 ||
        { ip link add "$bridge" type bridge && ip address add 198.18.0.1/24 dev "$bridge" && ip link set "$bridge" up; } ||
        cannot "the bridge $bridge cannot be made"
    dockerd --bridge "$bridge" --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" -H "unix://$dir/docker.sock" \
        >"$dir/dockerd.log" 2>&1 &
    for _ in $(seq 60); do
        DOCKER_HOST=unix://$dir/docker.sock docker info >/dev/null 2>&1 && return
        sleep 0.5
    done
    tail -5 "$dir/dockerd.log" >&2
    cannot "the engine does not come up, see $dir/dockerd.log"
}

fetch_plugins() { # compose v2 and buildx, unpacked beside the engine so that the machine's own packages stay as they are
    docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1 && return
    command -v apt-get >/dev/null || cannot "docker compose is missing"
    local apt=$dir/apt
    mkdir -p "$apt"/{lists,archives}/partial "$dir/config/cli-plugins"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) $newer_suite main" >"$apt/sources.list"
    local options=(-o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$apt/lists"
        -o Dir::Cache="$apt" -o APT::Sandbox::User=root -qq)
    (cd "$apt/archives" && apt-get "${options[@]}" update && apt-get "${options[@]}" download docker-compose docker-buildx) ||
        cannot "docker compose v2 is missing and $newer_suite cannot be reached"
    for package in "$apt"/archives/*.deb; do dpkg-deb -x "$package" "$apt/unpacked"; done
    ln -sf "$apt"/unpacked/usr/libexec/docker/cli-plugins/* "$dir/config/cli-plugins/"
    docker compose version >/dev/null || cannot "docker compose does not run"
}

have_image() { docker image inspect "$1" >/dev/null 2>&1 || timeout 60 docker pull -q "$1" >/dev/null 2>&1; }

# The machine's own certificates go into the stand-in, so that the project's Dockerfiles need not know of them.
make_python_image() {
    local root=$dir/root
    say "$python_image cannot be pulled: making a stand-in from $(mirror)"
    install_packages debootstrap
    rm -rf "$root"
    debootstrap --variant=minbase --include=python3,python3-pip,ca-certificates bookworm "$root" "$(mirror)" \
        >"$dir/debootstrap.log" 2>&1 || cannot "debootstrap failed, see $dir/debootstrap.log"
    cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/" 2>/dev/null || true
    chroot "$root" update-ca-certificates >/dev/null 2>&1
    ln -sf python3 "$root/usr/bin/python"
    rm -rf "$root"/usr/lib/python3.11/EXTERNALLY-MANAGED "$root"/usr/share/{doc,man,locale}/*
    tar -C "$root" --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' -c . |
        docker import -c 'CMD ["python3"]' -c 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt' - "$python_image" >/dev/null
    rm -rf "$root"
}

make_redis_image() {
    say "$redis_image cannot be pulled: making a stand-in from Debian's redis-server"
    docker build -q -t "$redis_image" - >/dev/null <<DOCKERFILE
FROM $python_image
RUN groupadd -g 999 redis && useradd -u 999 -g 999 -d /data redis && apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/* \
 && mkdir -p /data && chown redis:redis /data
WORKDIR /data
CMD ["redis-server"]
DOCKERFILE
}

use_ours() { export DOCKER_HOST=unix://$dir/docker.sock; }

start() {
    if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
        say "using the engine that runs already"
    else
        use_ours
        docker info >/dev/null 2>&1 || start_daemon
    fi
    [ "$1" = bare ] && return
    mkdir -p "$dir/config"
    [ -d "$dir/config/cli-plugins" ] && export DOCKER_CONFIG=$dir/config
    docker compose version >/dev/null 2>&1 || export DOCKER_CONFIG=$dir/config
    fetch_plugins
    have_image "$python_image" || make_python_image
    have_image "$redis_image" || make_redis_image
    echo "export DOCKER_HOST=${DOCKER_HOST:-} DOCKER_CONFIG=${DOCKER_CONFIG:-$HOME/.docker}"
}

stop() { # only what `start` started; containers of ours end with it, and so does its bridge
    [ -f "$dir/pid" ] || return 0
    use_ours
    docker ps -q | xargs -r docker kill >/dev/null
    local pid
    pid=$(cat "$dir/pid")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 60); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.5
    done
    rm -f "$dir/pid"
    ip link delete "$bridge" 2>/dev/null || true
    say "stopped the engine of $dir"
}

case ${1:-} in
start) start full ;;
stop) stop ;;
run | bare)
    trap stop EXIT
    start "$1" >"${TMPDIR:-/tmp}/engine-env.$$"
    rm -f "${TMPDIR:-/tmp}/engine-env.$$"
    shift
    "$@"
    ;;
*)
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
