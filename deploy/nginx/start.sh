#!/bin/sh
# Writes nginx.conf with this environment's values, and becomes nginx.
#   EDGE_API         where the apis are; the name is resolved again and again
#   EDGE_RESOLVER    the server that resolves it, and how long its answers hold
#   EDGE_LISTEN      port, or address and port, to listen on; EDGE_HEALTH the same for health checks
#   EDGE_CERTS       folder with fullchain.pem and privkey.pem: with them it speaks TLS, without them it does not
#   EDGE_RUN         folder for the pid and the configuration
#   GLOWL_MAX_BODY_BYTES, GLOWL_MAX_FILE_BYTES    as the api has them
set -eu
run=${EDGE_RUN:-/tmp}
certs=${EDGE_CERTS:-/certs}
port=${EDGE_LISTEN:-8080}
body=${GLOWL_MAX_BODY_BYTES:-67108864}
file=${GLOWL_MAX_FILE_BYTES:-209715200}
for number in "$body" "$file"; do
    case $number in
        '' | *[!0-9]*)
            echo "edge: GLOWL_MAX_BODY_BYTES and GLOWL_MAX_FILE_BYTES are whole numbers of bytes, not '$number'" >&2
            exit 2
            ;;
    esac
done
listen="listen $port;"
if [ -e "$certs/fullchain.pem" ] || [ -e "$certs/privkey.pem" ]; then
    for part in fullchain.pem privkey.pem; do
        if [ ! -r "$certs/$part" ]; then
            echo "edge: $certs/$part is not there, or user $(id -u) cannot read it" >&2
            exit 2
        fi
    done
    # Who says http to this port is sent to https.
    listen="listen $port ssl; ssl_certificate $certs/fullchain.pem; ssl_certificate_key $certs/privkey.pem;"
    listen="$listen ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:tls:5m;"
    listen="$listen error_page 497 =308 https://\$http_host\$request_uri;"
fi
# A form has at most a megabyte around its file.
upload=$((file + 1048576))
[ "$upload" -gt "$body" ] || upload=$body
sed -e "s|@API@|${EDGE_API:-http://api:8000}|" \
    -e "s|@RESOLVER@|${EDGE_RESOLVER:-127.0.0.11 valid=5s}|" \
    -e "s|@LISTEN@|$listen|" \
    -e "s|@HEALTH@|${EDGE_HEALTH:-127.0.0.1:8081}|" \
    -e "s|@MAX_BODY@|$body|" \
    -e "s|@MAX_UPLOAD@|$upload|" \
    -e "s|@RUN@|$run|" \
    "$(dirname "$0")/nginx.conf" >"$run/nginx.conf"
exec nginx -c "$run/nginx.conf" -g 'daemon off;'
