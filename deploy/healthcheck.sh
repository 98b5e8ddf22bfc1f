#!/bin/bash
# Is this container healthy? Bash alone answers: a Python would use 20 times as much of the processor.
#   healthcheck PORT PATH       a GET is answered with 200 within 3 s
#   healthcheck FILE SECONDS    the file is not empty, and was touched so many seconds ago or less
set -u
if [[ $1 == /* ]]; then
    printf -v now '%(%s)T' -1
    [[ -s $1 ]] && ((now - $(stat -c %Y "$1") <= $2))
    exit
fi
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$2" >&3
read -r -t 3 _ status _ <&3
[[ ${status-} == 200 ]]
