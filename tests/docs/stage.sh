# Makes machines for the how-tos: folders with this machine's /usr and everything else of their own, each the root of a mount
# namespace. Runs in a network, mount and process namespace of its own, so that all of it ends with this process.
#
# stage.sh FOLDER PROGRAM NAME...: machine number N is FOLDER/NAME, the process FOLDER/NAME.pid is in its namespace, and its sshd
# listens on 127.0.0.(N+1).
set -eu
stage=$1
program=$2
shift 2

ip link set lo up

printf '127.0.0.1 localhost\n' >"$stage/hosts"
number=1
for name; do
    number=$((number + 1))
    printf '127.0.0.%d %s\n' "$number" "$name" >>"$stage/hosts"
done

# People and accounts: one who uses Nix, one that serves a store, and the one of NixOS's nix.sshServe.
passwd='root:x:0:0::/root:/bin/bash
sshd:x:100:65534::/run/sshd:/usr/sbin/nologin
nixbld1:x:30001:30000::/var/empty:/usr/sbin/nologin
alice:x:1000:1000::/home/alice:/bin/bash
nix:x:1001:1001::/home/nix:/bin/bash
nix-ssh:x:1002:1002::/home/nix-ssh:/bin/bash'
group='root:x:0:
nogroup:x:65534:
nixbld:x:30000:nixbld1
alice:x:1000:
nix:x:1001:
nix-ssh:x:1002:'

number=1
for name; do
    number=$((number + 1))
    root=$stage/$name
    mkdir -p "$root"
    # So that it can become the root.
    mount --bind "$root" "$root"
    cd "$root"
    mkdir -p usr dev proc etc/ssh etc/nix root/.cargo/bin home run/sshd var/empty var/log tmp mnt nix/store
    for folder in bin sbin lib lib32 lib64; do
        [ ! -L "/$folder" ] || cp -P "/$folder" .
    done
    mount --rbind /usr usr
    mount --rbind /dev dev
    mount -t proc proc proc
    # Programs that were installed on this machine by hand play no part, and what a how-to installs goes with it.
    mount -t tmpfs -o mode=755 machine usr/local/bin
    chmod 700 root
    chmod 1777 tmp
    chmod 755 run/sshd var/empty
    install -m 755 "$program" root/.cargo/bin/ssh-substituter
    # Root needs no sudo to be root.
    printf '#!/bin/sh\nexec "$@"\n' >usr/local/bin/sudo
    chmod 755 usr/local/bin/sudo
    cp /etc/ld.so.cache etc
    cp "$stage/hosts" etc/hosts
    printf '%s\n' "$passwd" >etc/passwd
    printf '%s\n' "$group" >etc/group
    printf 'passwd: files\ngroup: files\nhosts: files\n' >etc/nsswitch.conf
    for user in alice:1000 nix:1001 nix-ssh:1002; do
        install -d -o "${user#*:}" -g "${user#*:}" "home/${user%:*}"
    done
    printf 'sandbox = false\nsubstituters =\nexperimental-features = nix-command\n' >etc/nix/nix.conf
    ssh-keygen -q -t ed25519 -N '' -C "$name" -f etc/ssh/ssh_host_ed25519_key
    printf 'ListenAddress 127.0.0.%d\nUsePAM no\nPasswordAuthentication no\n' "$number" >etc/ssh/sshd_config
    printf 'HostKey /etc/ssh/ssh_host_ed25519_key\nPidFile /run/sshd.pid\n' >>etc/ssh/sshd_config
    # No chroot: Nix's daemon goes back to the root of its namespace before it starts another program.
    unshare --mount sh -euc 'pivot_root . mnt; umount -l /mnt; : >/run/up; exec sleep infinity' &
    echo $! >"$root.pid"
    until [ -e run/up ]; do
        kill -0 $!
        sleep 0.01
    done
done
cd "$stage"

echo ready
# Ends with the test, whose end of this pipe closes.
read -r _ || true
