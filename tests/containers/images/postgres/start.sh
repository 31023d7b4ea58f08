#!/bin/sh
# The first start makes the files; every connection over the network needs the password.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  (umask 077 && echo "$POSTGRES_PASSWORD" > /tmp/password)
  initdb -D "$PGDATA" -U "$POSTGRES_USER" --pwfile=/tmp/password --auth=scram-sha-256 \
    --encoding=UTF8 --locale-provider=builtin --locale=C.UTF-8 --no-instructions
  rm /tmp/password
  echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp "$@"
