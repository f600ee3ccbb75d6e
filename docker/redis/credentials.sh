#!/bin/sh
# Makes one password a role, once a deployment, and the list of users that Redis reads. Each role mounts its own folder
# under /credentials and no other; Redis mounts /credentials/redis, which holds hashes only.
set -eu
root=${CREDENTIALS_ROOT:-/credentials} template=${ACL_TEMPLATE:-/etc/users.acl.template}
umask 022

users=$(cat "$template")
for role in api light code; do
    file=$root/$role/password
    if [ ! -s "$file" ]; then
        head -c 32 /dev/urandom | sha256sum | cut -d' ' -f1 | tr -d '\n' >"$file.new"
        mv "$file.new" "$file"
    fi
    users=$(printf '%s\n' "$users" | sed "s/HASH_OF_$role/$(sha256sum <"$file" | cut -d' ' -f1)/")
done
printf '%s\n' "$users" >"$root/redis/users.acl.new"
mv "$root/redis/users.acl.new" "$root/redis/users.acl"
