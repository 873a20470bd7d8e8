#!/usr/bin/env bash
# Builds the micro kernel from Debian's linux-source-7.2: build.sh OUTPUT_DIR
# Needs: apt packages bc flex bison libelf-dev gcc make xz-utils. Takes five to ten minutes on two cores.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
for tool in bc flex bison gcc make xz; do
  command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install bc flex bison libelf-dev gcc make xz-utils" >&2; exit 1; }
done
tarball=${CVMM_LINUX_SOURCE:?set by cargo xtask kernel micro: the linux-source tarball}
src=$out/source
if [ ! -e "$src/Makefile" ]; then
  mkdir -p "$src"
  tar -C "$src" --strip-components=1 -xf "$tarball"
fi
cd "$src"
make -s tinyconfig
for part in base snp tdx fast; do
  # The reasons stand behind the lines; Kconfig wants them gone.
  sed -E 's/^(CONFIG_[A-Z0-9_]+=[^ ]+) +#.*$/\1/; s/^(# CONFIG_[A-Z0-9_]+ is not set) +#.*$/\1/' "$here/$part.config" > "$out/$part.config"
done
scripts/kconfig/merge_config.sh -m .config "$out"/{base,snp,tdx,fast}.config >/dev/null
make -s olddefconfig
for line in $(sed -nE 's/^(CONFIG_[A-Z0-9_]+=[^ ]+).*/\1/p' "$out"/{base,snp,tdx,fast}.config); do
  grep -qxF "$line" .config || echo "note: the kernel's dependencies dropped $line" >&2
done
make -s -j"$(nproc)" bzImage
cp arch/x86/boot/bzImage "$out/bzImage"
cp .config "$out/config"
cp System.map "$out/System.map"
