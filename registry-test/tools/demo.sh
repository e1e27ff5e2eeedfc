#!/usr/bin/env bash
# Push the golden install tree into an OCI layout on disk, find and inspect what was pushed, and run it where an engine
# answers. Needs no root unless the tree has to be put where it was built; everything it makes outside ./demo is removed.
set -euo pipefail
cd "$(dirname "$0")/../.."

root=/opt/golden # the packages were built to live here, and their files say so
store=$root/store
cache=oci-layout:demo/cache
made=no

leave() {
    if [ "$made" = yes ]; then rm -rf "$root"; fi
}
trap leave EXIT

say() { printf '\n$ %s\n' "$*"; }
show() {
    say "$@"
    "$@"
}

if [ -e "$store/.spack-db/index.json" ]; then
    echo "using the install tree that is already at $store"
elif [ ! -e "$root" ] && mkdir -p "$root" 2>/dev/null; then
    made=yes
    tar -xzf fixtures/golden/store.tar.gz -C / --no-same-owner
    echo "unpacked five small packages to $store, where they were built; removed again at the end"
else
    echo "The demo's packages were built to live in $store, and $root cannot be created by $(id -un)."
    echo "Instead of pushing them, this shows the same packages as Spack pushed them (fixtures/golden/oci-layout)."
    echo "Run 'make demo' as root, or let an administrator create $root for you, to see the push."
    show oci-binpkg find --from oci-layout:fixtures/golden/oci-layout
    show oci-binpkg inspect oci-layout:fixtures/golden/oci-layout:greet-2.1-pciyz3mcnwsea3kxfvomliqdagbtq7g5.spack
    exit 0
fi

rm -rf demo
mkdir demo

# The packages need a C library to run. `make real` keeps a small Debian as an OCI layout; an image gets it below its
# packages when it is there, and is whole but cannot be run when it is not.
base=()
for layout in "$HOME"/.cache/oci-binpkg-tests/debian-bookworm-*/; do
    if [ -e "${layout}oci-layout" ]; then
        ln -s "${layout%/}" demo/debian
        base=(--base-image oci-layout:demo/debian:bookworm)
    fi
done

show oci-binpkg push "$cache" --store "$store" --update-index
show oci-binpkg find --from "$cache"
show oci-binpkg image "$cache" greet@2.1 --store "$store" --tag greet --cmd greet "${base[@]}"
show oci-binpkg inspect "$cache:greet"

echo
if [ "${#base[@]}" = 0 ]; then
    echo "The image has no base image here, so it is not run. 'make real' as root makes one on Debian; or name your own:"
    echo "  oci-binpkg image $cache greet@2.1 --store STORE --tag greet --base-image debian:12"
elif docker version >/dev/null 2>&1 || [ -S /run/podman/podman.sock ] || [ -S "${XDG_RUNTIME_DIR:-/nowhere}/podman/podman.sock" ]; then
    show oci-binpkg run "$cache:greet"
else
    echo "No Docker or Podman answers here, so nothing is run. With one: oci-binpkg run $cache:greet"
fi
