#!/bin/busybox sh
# The first process of every guest. Three serial ports: ttyS0 is the console (its log says why a
# guest died), ttyS1 carries events out and commands in, ttyS2 memory figures.
/bin/busybox mkdir -p /bin /sbin /dev /proc /sys /run /tmp /var/lib /etc
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
exec </dev/null >/dev/ttyS0 2>&1
. /lab/plan

for port in ttyS1 ttyS2; do stty -F /dev/$port raw -echo; done
# Held open from here on: opening a serial port discards what has arrived before.
exec 3<>/dev/ttyS1 4>/dev/ttyS2
event() { echo "{\"event\":$1}" >&3; }

for module in $MODULES; do insmod "/lab/$module" || echo "lab: $module not loaded"; done
ip link set lo up
# The usual fq_codel drops, and counts nowhere, what waits for more than some milliseconds, as packets do
# on translated links; and a RST that is dropped is never sent again. A client's queue has room for a RST of
# each of its connections, should the server's machine stand still while they are closed; or for as many as the
# kernel allows.
echo pfifo_fast >/proc/sys/net/core/default_qdisc
queue=1000 # what a card comes with
[ "$ROLE" = client ] && queue=400000
place=0
for address in $ADDRESSES; do
    length=$queue
    # Newer kernels refuse (ERANGE) what others take.
    while [ $length -gt 1000 ] && ! echo $length >/sys/class/net/eth$place/tx_queue_len; do length=$((length / 2)); done
    ip address add "$address" dev eth$place && ip link set eth$place up || event '"failed","why":"no eth'$place'"'
    place=$((place + 1))
done
ulimit -n 1048576
# A wall of epoll's own, at 4 % of the memory; a machine that serves with epoll would have it raised.
echo 100000000 >/proc/sys/fs/epoll/max_user_watches
sh /lab/tune || echo "lab: tuning failed"
[ -s /run/doctor ] && event '"doctor","page":'"$(tr -d '\n' </run/doctor)"
# Files lie in memory here.
[ "$PROGRAM" = c1m ] || rm -f /bin/c1m
event '"booted"'

# Total, free and available memory, slab, and the resident memory of our process, in KiB.
vitals() {
    while sleep "$1"; do
        awk '$1 ~ /^(MemTotal|MemFree|MemAvailable|Slab|SUnreclaim|VmRSS):$/ { line = line " " $1 $2 }
            END { print "vitals" line }' /proc/meminfo "/proc/$(cat /run/pid)/status" >&4 2>/dev/null
    done
}

# The sockets of the host, less the listeners: the same figure for every server, and the only one for those
# that do not count.
count_sockets() {
    while sleep 0.25; do
        while read -r name _ sockets _; do
            [ "$name" = TCP: ] && event '"sockets","held":'$((sockets > 100 ? sockets - 100 : 0))
        done </proc/net/sockstat
    done
}

# Every cache: its name, objects, bytes of an object, objects and pages of a slab, slabs.
caches() {
    awk '/^[^#s]|^s[^l]/ { print "slab", $1, $2, $4, $5, $6, $(NF-1) } END { print "slabs-end" }' /proc/slabinfo >&4
}

# Runs the role's command with its input and output, and tells its exit code.
role() {
    echo $$ >/run/pid
    sh -c 'echo $$ >/run/pid; exec sh /lab/command'
    code=$?
    # A plain server ends by the signal that stops it.
    [ "$COUNTS $code" = "false 143" ] && code=0
    # The way that its own lines take, so that it comes after them.
    echo '{"event":"exited","code":'$code'}'
}

case $ROLE in
probe)
    poweroff -f
    ;;
server)
    caches
    # A plain server says a plain word.
    role </dev/null | while read -r line; do
        [ "$line" = ready ] && line='{"event":"ready"}'
        echo "$line"
    done >&3 &
    vitals 2 &
    count_sockets &
    ;;
client)
    until ping -c 1 -W 1 "$SERVER" >/dev/null; do sleep 1; done
    event '"linked"'
    read -r go <&3
    role <&3 >&3
    ;;
esac
while read -r word <&3; do
    case $word in
    caches) caches ;;
    stop) kill -TERM "$(cat /run/pid)" ;;
    off)
        # Present kernels break the cards as they power off, and whoever sends on a broken card then (TCP does, to a
        # machine that was killed) waits for it without end: linux 6.1.192, start_xmit of virtio_net.
        for card in /sys/class/net/eth*; do ip link set "${card##*/}" down; done
        poweroff -f
        ;;
    esac
done
