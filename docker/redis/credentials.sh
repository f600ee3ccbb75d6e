#!/bin/sh
# Makes one password a role, once a deployment, and the list of users that Redis reads. Each role mounts its own folder
# under /credentials and no other; Redis mounts /credentials/redis, which holds hashes only.
set -eu
root=${CREDENTIALS_ROOT:-/credentials} template=${ACL_TEMPLATE:-/etc/users.acl.template}
umask 022

url_of() { # role -> the URL with its password, made on first use
    file=$root/$1/redis-url
    if [ ! -s "$file" ]; then
        password=$(head -c 32 /dev/urandom | sha256sum | cut -d' ' -f1)
        printf 'redis://%s:%s@redis:6379/0' "$1" "$password" >"$file.new"
        mv "$file.new" "$file"
    fi
    cat "$file"
}
hash_of() { url_of "$1" | sed 's|.*://[^:]*:\([^@]*\)@.*|\1|' | tr -d '\n' | sha256sum | cut -d' ' -f1; }

sed -e "s/HASH_OF_api/$(hash_of api)/" -e "s/HASH_OF_light/$(hash_of light)/" -e "s/HASH_OF_code/$(hash_of code)/" \
    "$template" >"$root/redis/users.acl.new"
mv "$root/redis/users.acl.new" "$root/redis/users.acl"
