#!/bin/bash
# initramfs.sh OUT KERNELDIR [FILE:DEST ...]: what a guest starts with: busybox, the modules of KERNELDIR, init, and files.
# A program or library brings its libraries with it, each as one file and links: two copies of one library would be two libraries.
set -euo pipefail
out=$(realpath -m "$1")
kernel=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

mkdir -p "$root"/{bin,proc,sys,dev,tmp,run,modules,etc,usr/lib,usr/lib64,usr/bin}
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
cp /bin/busybox "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
cp "$here/init" "$root/init"
chmod 755 "$root/init"
number=10
while read -r module; do
  cp "$kernel/$module.ko" "$root/modules/$number-$module.ko"
  number=$((number + 1))
done <"$kernel/modules"

library() { # PATH
  local real
  real=$(realpath "$1")
  if [[ ! -e $root$real ]]; then
    mkdir -p "$root$(dirname "$real")"
    cp "$real" "$root$real"
  fi
  [[ -e $root$1 ]] || { mkdir -p "$root$(dirname "$1")"; ln -s "$real" "$root$1"; }
}

for pair in "$@"; do
  file=${pair%%:*}
  if [[ $file == *.so* ]]; then
    library "$file"
  else
    mkdir -p "$root/$(dirname "${pair#*:}")"
    cp -L "$file" "$root/${pair#*:}"
    strip --strip-debug "$root/${pair#*:}" 2>/dev/null || true
  fi
  for needed in $(ldd "$file" 2>/dev/null | grep -o '/[^ ]*' || true); do
    library "$needed"
  done
done
(cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0) >"$out.part"
mv "$out.part" "$out"
