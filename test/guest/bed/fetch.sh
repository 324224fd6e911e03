#!/bin/bash
# fetch.sh SUITE OUTDIR: a cloud kernel of a Debian suite and the modules of its virtio NIC, by apt from the mirror that
# this machine already uses. Nothing is installed. What is there already is not fetched again.
# OUTDIR then has vmlinuz, version, modules (in the order they are loaded) and their *.ko.
set -euo pipefail
suite=$1
out=$(realpath -m "$2")
# 6.1 has virtio and virtio_pci as modules too; later ones have them built in.
wanted=(virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover virtio_net)

die() { echo "cannot fetch a kernel of $suite: $*" >&2; exit 1; }

mkdir -p "$(dirname "$out")"
exec {lock}>"$out.lock"
flock "$lock"
[[ -e $out/version ]] && exit 0

work=$out.part
rm -rf "$work"
mkdir -p "$work/lists/partial" "$work/sources" "$work/debs" "$out"
uri=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null | grep -v security | head -1)
[[ -n $uri ]] || uri=$(sed -n 's/^deb \(\[[^]]*\] \)\?\(http[^ ]*\) .*/\2/p' /etc/apt/sources.list 2>/dev/null | grep -v security | head -1)
[[ -n $uri ]] || die "apt has no source"
printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' \
  "$uri" "$suite" >"$work/sources/bed.sources"
apt=(-qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/sources" -o "Dir::State::lists=$work/lists"
  -o APT::Sandbox::User=root -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o Acquire::Retries=3)
apt-get "${apt[@]}" update >"$work/log" 2>&1 || die "$(tail -1 "$work/log")"

depends() { apt-cache "${apt[@]}" show "$1" 2>/dev/null | sed -n 's/^Depends: //p' | head -1; }
image=$(depends linux-image-cloud-amd64 | grep -o 'linux-image-[^ ,]*' | head -1) || die "it has no cloud kernel"
version=${image#linux-image-}
packages=("$image")
# From 7.x on the image package is empty.
[[ $(depends "$image") == *linux-binary-"$version"* ]] && packages=("linux-binary-$version" "linux-modules-$version")
(cd "$work/debs" && apt-get "${apt[@]}" download "${packages[@]}" >"$work/log" 2>&1) || die "$(tail -1 "$work/log")"
for deb in "$work"/debs/*.deb; do
  dpkg-deb -x "$deb" "$work/root"
done

find "$work/root" -name 'vmlinuz*' -type f -exec cp {} "$out/vmlinuz" \;
[[ -e $out/vmlinuz ]] || die "the package has no kernel"
: >"$out/modules"
for module in "${wanted[@]}"; do
  found=$(find "$work/root" -name "$module.ko" -o -name "$module.ko.xz" | head -1)
  case $found in
    *.xz) xz -dc "$found" >"$out/$module.ko" ;;
    *.ko) cp "$found" "$out/$module.ko" ;;
    *) continue ;;
  esac
  echo "$module" >>"$out/modules"
done
rm -rf "$work"
echo "$version" >"$out/version" # last: it says that all is there
