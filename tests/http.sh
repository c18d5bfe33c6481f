#!/usr/bin/env bash
# The HTTP example on rawtcp against curl and wrk: 1 GiB each way with its SHA-256, then many requests with and
# without keep-alive, over lo and over veth, IPv4 and IPv6, with every kind of offload. As root.
#
#   tests/http.sh [BYTES]            (default 1073741824)
#   tests/http.sh load [REQUESTS]    only that many requests (default 1000000) with keep-alive, and as many without, over
#                                    veth, IPv4: none fails, none stalls for a second, no handshake needs a second SYN
#
# Everything happens in network namespaces that are made here and removed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

requests=
if [ "${1:-}" = load ]; then
    requests=${2:-1000000}
    bytes=0
else
    bytes=${1:-1073741824}
fi
server=${CARGO_TARGET_DIR:-target}/release/examples/http_server
[ -x "$server" ] || cargo build --release --quiet -p rawtcp-examples --example http_server

name=rawtcp-http-$$
work=$(mktemp -d)
server_pid=
clean_up() {
    [ -z "$server_pid" ] || kill "$server_pid" 2>/dev/null || true
    ip netns del "$name-s" 2>/dev/null || true
    ip netns del "$name-c" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT

ip netns add "$name-s"
ip netns add "$name-c"
ip link add eth0 netns "$name-s" type veth peer name eth0 netns "$name-c"
for side in "s 10.9.0.2 fd09::2" "c 10.9.0.1 fd09::1"; do
    read -r which v4 v6 <<<"$side"
    ip -n "$name-$which" address add "$v4/24" dev eth0
    ip -n "$name-$which" address add "$v6/64" dev eth0 nodad
    ip -n "$name-$which" link set eth0 up
    ip -n "$name-$which" link set lo up
done
in_s() { ip netns exec "$name-s" "$@"; }
in_c() { ip netns exec "$name-c" "$@"; }

head -c "$bytes" /dev/zero >"$work/zeros"
want_down=$(python3 - "$bytes" <<'PY'
import hashlib, sys
left, digest, block = int(sys.argv[1]), hashlib.sha256(), bytes(range(251)) * 4096
while left > 0:
    digest.update(block[:left])
    left -= len(block)
print(digest.hexdigest())
PY
)
want_up=$(sha256sum <"$work/zeros" | cut -d' ' -f1)
failures=0

fail() {
    echo "  FAILED: $*"
    failures=$((failures + 1))
}

# start ADDRESS, stop: the server on ADDRESS:8080 in its namespace.
start() {
    # Not by the function: a subshell would take the signal.
    ip netns exec "$name-s" "$server" "$1:8080" >"$work/log" 2>&1 &
    server_pid=$!
    for _ in $(seq 100); do grep -q listening "$work/log" && break || sleep 0.05; done
}
stop() {
    kill -TERM "$server_pid"
    wait "$server_pid" || fail "the server ended with status $?"
    server_pid=
}

# scene NAME ADDRESS CLIENT-RUNNER: files, and then many requests.
scene() {
    local what=$1 at=$2 runner=$3 url=http://$2:8080
    echo "$what"
    start "$at"

    [ "$($runner curl -gsS -m 20 "$url/")" = "hello from rawtcp" ] || fail "GET /"
    local start end got
    start=$(date +%s.%N)
    got=$($runner curl -gsS -m 300 "$url/bytes/$bytes" | sha256sum | cut -d' ' -f1)
    end=$(date +%s.%N)
    [ "$got" = "$want_down" ] || fail "the download's digest is $got"
    echo "  down: $bytes bytes in $(python3 -c "print(f'{$end-$start:.2f} s, {$bytes*8/($end-$start)/1e9:.2f} Gbit/s')")"
    start=$(date +%s.%N)
    got=$($runner curl -gsS -m 300 -T "$work/zeros" "$url/upload")
    end=$(date +%s.%N)
    [[ $got == "$bytes bytes, sha256 $want_up"* ]] || fail "the upload's answer is $got"
    echo "  up:   $bytes bytes in $(python3 -c "print(f'{$end-$start:.2f} s, {$bytes*8/($end-$start)/1e9:.2f} Gbit/s')")"

    load "$runner" 20000 "$url/" "keep-alive"
    load "$runner" 2000 "$url/" "close" -H "Connection: close"

    stop
}

# load RUNNER REQUESTS URL NAME [WRK OPTIONS]: at least so many requests on 64 connections, none of them failed or
# slower than a second.
load() {
    local runner=$1 least=$2 url=$3 kind=$4 out
    shift 4
    out=$($runner wrk -t 1 -c 64 -d 2s --timeout 1s --latency "$@" "$url")
    local requests errors slowest
    requests=$(awk '/requests in/ {print $1}' <<<"$out")
    errors=$(grep -E "Socket errors|Non-2xx" <<<"$out" || true)
    slowest=$(awk '$1 == "Latency" {print $4}' <<<"$out")
    echo "  $kind: $requests requests in 2 s on 64 connections, slowest $slowest"
    [ "$requests" -ge "$least" ] || fail "only $requests requests"
    [ -z "$errors" ] || fail "$errors"
    [[ $slowest =~ (us|ms)$ ]] || fail "a stall of $slowest"
}

# counter NAME: of the client's kernel, by its name in /proc/net/netstat or snmp.
counter() {
    in_c cat /proc/net/netstat /proc/net/snmp | awk -v name="$1" '
        $1 == last { for (i = 2; i <= NF; i++) if (names[i] == name) print $i; last = ""; next }
        { last = $1; split($0, names) }'
}

# many NAME [WRK OPTIONS]: 64 connections, ten seconds at a time, until there were enough requests.
many() {
    local kind=$1 total=0 runs=0 out done_now slowest worst=0 errors start syns segments
    shift
    start=$(date +%s.%N) syns=$(counter TCPSynRetrans) segments=$(counter RetransSegs)
    while [ "$total" -lt "$requests" ]; do
        out=$(in_c wrk -t 1 -c 64 -d 10s --timeout 1s --latency "$@" http://10.9.0.2:8080/)
        done_now=$(awk '/requests in/ {print $1}' <<<"$out")
        errors=$(grep -E "Socket errors|Non-2xx" <<<"$out" || true)
        slowest=$(awk '$1 == "Latency" {print $4}' <<<"$out")
        [ -z "$errors" ] || fail "$kind: $errors"
        [[ $slowest =~ (us|ms)$ ]] || fail "$kind: a stall of $slowest"
        [ "$done_now" -ge 1000 ] || { fail "$kind: only $done_now requests in 10 s" && break; }
        worst=$(python3 -c "print(max($worst, float('${slowest//[a-z]/}') * (1 if '$slowest'.endswith('ms') else 0.001)))")
        total=$((total + done_now)) runs=$((runs + 1))
    done
    syns=$(($(counter TCPSynRetrans) - syns)) segments=$(($(counter RetransSegs) - segments))
    python3 -c "import time; print(f'  $kind: $total requests in $runs runs, {$total / (time.time() - $start):.0f} a second, slowest $worst ms;',
        'segments sent again by the clients: $segments, SYNs among them: $syns')"
    [ "$syns" = 0 ] || fail "$kind: $syns handshakes waited a second for an answer"
}

if [ -n "$requests" ]; then
    echo "veth, default offloads, IPv4: $requests requests of each kind"
    start 10.9.0.2
    many "keep-alive"
    many "close" -H "Connection: close"
    stop
    [ "$failures" = 0 ] || { echo "$failures failed"; exit 1; }
    echo "all passed"
    exit
fi

scene "lo, IPv4" 127.0.0.1 in_s
scene "lo, IPv6" "[::1]" in_s
scene "veth, default offloads, IPv4" 10.9.0.2 in_c
scene "veth, default offloads, IPv6" "[fd09::2]" in_c
for side in s c; do ip netns exec "$name-$side" ethtool -K eth0 tso off gso off gro off >/dev/null; done
scene "veth, TSO, GSO and GRO off, IPv4" 10.9.0.2 in_c
for side in s c; do ip netns exec "$name-$side" ethtool -K eth0 tx off rx off >/dev/null; done
scene "veth, checksum offload off too, IPv4" 10.9.0.2 in_c
scene "veth, checksum offload off too, IPv6" "[fd09::2]" in_c

[ "$failures" = 0 ] || { echo "$failures failed"; exit 1; }
echo "all passed"
