#!/bin/bash
# Prints the Secrets that k8s/base needs, with fresh random passwords and one API key:
#   k8s/secrets.sh | kubectl apply -f -
# Run again it prints new ones; see "Rotating keys" in docs/operations.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder"/{redis,api,light,code}
CREDENTIALS_ROOT=$folder ACL_TEMPLATE=$here/../docker/redis/users.acl sh "$here/../docker/redis/credentials.sh"
key=$(head -c 32 /dev/urandom | sha256sum | cut -d' ' -f1)

secret() { # name, then key=file or key=text
    local name=$1 pair
    shift
    printf -- '---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: prolonged-rl}\ntype: Opaque\ndata:\n' "$name"
    for pair in "$@"; do
        if [ -f "${pair#*=}" ]; then base64 -w0 <"${pair#*=}"; else printf %s "${pair#*=}" | base64 -w0; fi |
            sed "s/^/  ${pair%%=*}: /"
        echo
    done
}
secret redis-users "users.acl=$folder/redis/users.acl"
for role in api light code; do secret "redis-$role" "password=$folder/$role/password"; done
secret api-keys "api-keys=$key"
secret metrics-key "key=$key"
secret trainer-key "key=$key"
