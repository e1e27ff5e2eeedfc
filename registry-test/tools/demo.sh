#!/usr/bin/env bash
# Publish three small packages to a folder, install them elsewhere and run them there, and run them as a container.
# Needs no root, no engine and no network, and writes to ./demo alone.
set -euo pipefail
cd "$(dirname "$0")/../.."

show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

rm -rf demo
mkdir demo
export OCI_BINPKG_LAYER_CACHE=$PWD/demo/layer-cache
python registry-test/tools/demo_tree.py packages demo/built
cache=oci-layout:demo/cache

echo "Three small packages were built in demo/built; every file knows its absolute path."
show oci-binpkg push "$cache" --store demo/built --update-index
show oci-binpkg find --from "$cache"
show oci-binpkg install greet --from "$cache" --store demo/apps
mv demo/built demo/built-and-moved-away
show demo/apps/*/greet-2.1-*/bin/greet
mv demo/built-and-moved-away demo/built

if [ "$(uname -s)" = Linux ] && command -v ldd >/dev/null; then
    python registry-test/tools/demo_tree.py base demo/base
    printf '\nThe base image is the shell of this machine, with its C library: demo/base.\n'
    show oci-binpkg image "$cache" greet --store demo/built --tag greet --cmd greet --base-image oci-layout:demo/base:host
    show oci-binpkg run "$cache:greet" ||
        echo "(not run: Docker and Podman do not answer here, and the kernel lets $(id -un) make no user namespaces)"
fi

cat <<'END'

Next: oci-binpkg inspect oci-layout:demo/cache:greet              what the image is made of
      oci-binpkg push oci://HOST/NAME --store demo/built           the same, to a registry of yours
      oci-binpkg push oci-layout:apps --store YOUR-SPACK/opt/spack your own packages
END
