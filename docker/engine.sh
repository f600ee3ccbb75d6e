#!/bin/bash
# A Docker engine for a command: the one that runs already, or one of our own, started for it and stopped after it.
#
#   docker/engine.sh run COMMAND...   start if needed, run the command, stop what was started
#   docker/engine.sh bare COMMAND...  the same without compose and images, which take most of the time
#
# Starting one needs root on Debian; missing packages come from the machine's own package mirror. Where an image cannot
# be pulled, a stand-in with the same name is made from that mirror too, and said so.
# Ours lives in namespaces of its own, and so does the command: its bridges, firewall rules, published ports and mounts
# are seen by nobody else and end with it, so any number of them can run beside each other and beside other engines.
# Images stay in .cache/engine for the next time.
# Exit status 3: this machine cannot run an engine (the last line says why); else that of the command.
set -euo pipefail

dir=${ENGINE_DIR:-$PWD/.cache/engine}
python_image=python:3.11-slim-bookworm
redis_image=redis:7.2-bookworm
newer_suite=trixie # has compose v2 and buildx, which bookworm lacks
run=               # sockets and process ids of the engine that this call started
enter=()           # what takes a command into that engine's network

say() { echo "engine: $*" >&2; }
cannot() {
    say "cannot: $*"
    exit 3
}
mirror() { apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' | grep -v security | head -1; }

patiently() { # a command that needs the network, up to three times
    "$@" || { sleep 5 && "$@"; } || { sleep 20 && "$@"; }
}

install_packages() { # names of Debian packages, those missing only
    local missing=()
    for package in "$@"; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]}"
    patiently apt-get update -qq || cannot "the package lists cannot be read"
    DEBIAN_FRONTEND=noninteractive patiently apt-get install -y -qq --no-install-recommends "${missing[@]}" \
        >"$dir/apt.log" 2>&1 || cannot "packages ${missing[*]} cannot be installed, see $dir/apt.log"
}

start_daemon() {
    [ "$(id -u)" = 0 ] || cannot "no Docker engine answers, and only root can start one"
    command -v apt-get >/dev/null || cannot "no Docker engine answers, and this is not Debian"
    install_packages docker.io iptables iproute2 slirp4netns ca-certificates debootstrap
    say "starting an engine in $dir"
    run=$(mktemp -d /run/prolonged-rl-engine.XXXXXX)
    unshare --net --mount dockerd --data-root "$dir/data" --exec-root "$run/exec" --pidfile "$run/docker.pid" \
        -H "unix://$run/docker.sock" --bip 198.18.0.1/24 --default-address-pool base=198.19.0.0/16,size=24 \
        >"$dir/dockerd.log" 2>&1 9>&- &
    echo $! >"$run/pid"
    wait_until "its process" not_in_our_network
    # The way out is a process, not a route of this machine's.
    slirp4netns --configure --disable-host-loopback --mtu 65520 "$(cat "$run/pid")" tap0 >"$dir/slirp.log" 2>&1 9>&- &
    echo $! >"$run/slirp"
    enter=(nsenter --net="/proc/$(cat "$run/pid")/ns/net")
    export DOCKER_HOST=unix://$run/docker.sock
    wait_until "the engine" docker info
}

not_in_our_network() { [ "$(readlink "/proc/$(cat "$run/pid")/ns/net")" != "$(readlink /proc/self/ns/net)" ]; }

wait_until() { # what, command
    local what=$1
    shift
    for _ in $(seq 120); do
        "$@" >/dev/null 2>&1 && return
        kill -0 "$(cat "$run/pid")" 2>/dev/null || break
        sleep 0.5
    done
    tail -5 "$dir/dockerd.log" >&2
    cannot "$what does not come up, see $dir/dockerd.log"
}

fetch_plugins() { # compose v2 and buildx, unpacked beside the engine so that the machine's own packages stay as they are
    docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1 && return
    command -v apt-get >/dev/null || cannot "docker compose is missing"
    local apt=$dir/apt
    mkdir -p "$apt"/{lists,archives}/partial "$dir/config/cli-plugins"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) $newer_suite main" >"$apt/sources.list"
    local options=(-o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$apt/lists"
        -o Dir::Cache="$apt" -o APT::Sandbox::User=root -qq)
    (cd "$apt/archives" && patiently apt-get "${options[@]}" update &&
        patiently apt-get "${options[@]}" download docker-compose docker-buildx) ||
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
    cat >"$dir/redis.Dockerfile" <<DOCKERFILE
FROM $python_image
RUN groupadd -g 999 redis && useradd -u 999 -g 999 -d /data redis && apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/* \
 && mkdir -p /data && chown redis:redis /data
WORKDIR /data
CMD ["redis-server"]
DOCKERFILE
    patiently docker build -q -t "$redis_image" -f "$dir/redis.Dockerfile" "$dir/config" >/dev/null ||
        cannot "$redis_image cannot be made"
}

start() {
    if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
        say "using the engine that runs already"
    else
        mkdir -p "$dir"
        exec 9>"$dir/lock" # one engine a folder: a second call waits for the first to end
        flock 9
        start_daemon
    fi
    [ "$1" = run ] || return 0
    [ -z "$run" ] || wait_until "the network (see $dir/slirp.log)" "${enter[@]}" ip link show tap0
    mkdir -p "$dir/config"
    [ -d "$dir/config/cli-plugins" ] && export DOCKER_CONFIG=$dir/config
    docker compose version >/dev/null 2>&1 || export DOCKER_CONFIG=$dir/config
    fetch_plugins
    have_image "$python_image" || make_python_image
    have_image "$redis_image" || make_redis_image
}

stop() { # only what `start` started; containers end with it
    [ -n "$run" ] || return 0
    docker ps -q 2>/dev/null | xargs -r docker kill >/dev/null || true
    local name pid
    for name in pid slirp; do
        [ -f "$run/$name" ] || continue
        pid=$(cat "$run/$name")
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 60); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.5
        done
    done
    rm -rf "$run"
    say "stopped the engine of $dir"
}

case ${1:-} in
run | bare)
    [ $# -gt 1 ] || { say "no command given" && exit 2; }
    trap stop EXIT
    start "$1"
    [ "$1" = run ] || enter=()
    shift
    "${enter[@]}" "$@" 9>&-
    ;;
*)
    sed -n '2,13s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
