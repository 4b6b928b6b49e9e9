#!/usr/bin/env bash
# shellcheck disable=SC2016
# Makes a relocatable bundle of Peal: the program with every shared library that it needs beyond
# libc and the GPU driver, Open MPI with mpirun and its plugins included. It runs from any folder of
# any x86-64 Linux whose libc is as new as that of the machine that made it, without root and
# without a network. The same build makes the same bytes.
set -euo pipefail

usage() {
  cat <<'EOT'
usage: cluster/bundle.sh [--build FOLDER] [-o FILE] [--with PROGRAM]... [--system LIBRARY]...
  --build FOLDER    a finished build (default: build)
  -o FILE           the archive to write (default: peal-VERSION-x86_64.tar.gz); what is in it lies
                    in one folder of that name
  --with PROGRAM    another program of the build, for the folder bin
  --system LIBRARY  a library that is left to the system, such as libnccl

On every host, at the same path (or once, on a file system that all share):
  tar xf peal-VERSION-x86_64.tar.gz
  peal-VERSION-x86_64/peal doctor --hosts a:4,b:4
  peal-VERSION-x86_64/peal launch --hosts a:4,b:4 job.textproto
Needs patchelf (Debian package) here, and nothing there. Left out: Open MPI's parts for InfiniBand
and the like, which need drivers of the host; ranks talk through TCP and shared memory.
EOT
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$here/build
archive=
programs=(peal)
# What libc brings, and what comes with the driver of a GPU: the system's own.
system_libraries='ld-linux-x86-64|libc|libm|libpthread|libdl|librt|libutil|libresolv|libanl|libcuda|libnvidia-ml'

fail() {
  printf 'bundle.sh: %s\n' "$*" >&2
  exit 2
}

while [[ $# -gt 0 ]]; do
  case "$1" in
    --help | -h) usage; exit 0 ;;
    --build | -o | --with | --system) [[ $# -ge 2 ]] || fail "$1 needs a value" ;;
    *) usage >&2; fail "unknown argument '$1'" ;;
  esac
  case "$1" in
    -o) archive=$2 ;;
    --build) build=$(cd "$2" && pwd) || exit 2 ;;
    --with) programs+=("$2") ;;
    --system) system_libraries+="|$2" ;;
  esac
  shift 2
done
system_libraries="^($system_libraries)\\.so"

for program in "${programs[@]}"; do
  [[ -x $build/$program ]] || fail "$build has no program $program; build it first"
done
[[ $(uname -m) == x86_64 ]] || fail "this makes bundles for x86-64 only"
for tool in patchelf ldd tar gzip mpirun orted; do
  type -P "$tool" > /dev/null || fail "needs $tool (Debian packages patchelf, openmpi-bin)"
done

version=$("$build/peal" --version)
name=peal-${version%% *}-x86_64
archive=${archive:-$name.tar.gz}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/$name
mkdir -p "$root"/{bin,libexec,lib/openmpi,lib/pmix,share/openmpi,etc,examples}

# Open MPI's parts that need drivers of the host, or other schedulers.
left_out='(openib|ofi|ucx|psm|uct|usnic|portals|knem|flux|gridengine|spml|sshmem|memheap|oshmem|scoll|_atomic_|monitoring|java)'

# The shared libraries of a file as "name path", not those of the system.
needed_by() {
  ldd "$1" | awk '$2 == "=>" { print $1, $3 }' | while read -r library path; do
    [[ ! $library =~ $system_libraries ]] || continue
    [[ $path == /* ]] || fail "$1 needs $library, which is not here"
    echo "$library $path"
  done
}

take_libraries() {
  local library path
  while read -r library path; do
    [[ -e $root/lib/$library ]] || install -m 755 "$(readlink -f "$path")" "$root/lib/$library"
  done < <(for file in "$@"; do needed_by "$file"; done | sort -u)
}

installed_at() {
  ompi_info --parsable --path "$1" | sed -n "s/^path:$1://p" | head -n1
}

take_open_mpi() {
  local plugins data plugin
  plugins=$(installed_at pkglibdir)
  data=$(installed_at pkgdatadir)
  [[ -d $plugins && -d $data ]] || fail "ompi_info does not say where Open MPI's plugins are"
  install -m 755 "$(readlink -f "$(type -P mpirun)")" "$root/libexec/mpirun"
  install -m 755 "$(readlink -f "$(type -P orted)")" "$root/libexec/orted"
  for plugin in "$plugins"/mca_*.so; do
    [[ ${plugin##*/} =~ $left_out ]] || install -m 755 "$plugin" "$root/lib/openmpi/"
  done
  cp "$data"/help-*.txt "$root/share/openmpi/"
  cp -r "$data/amca-param-sets" "$root/share/openmpi/"
  cp "$(installed_at sysconfdir)/openmpi-mca-params.conf" "$root/etc/"
}

# PMIx's own plugins lie beside its library. Without them, or the file with their words, every start
# would begin with a message that help was not found.
take_pmix() {
  local library
  library=$(for plugin in "$root"/lib/openmpi/mca_pmix_*.so; do needed_by "$plugin"; done |
    sed -n 's/^libpmix[^ ]* //p' | sort -u)
  [[ -n $library ]] || return 0  # Open MPI has a PMIx of its own inside
  library=$(dirname "$(readlink -f "$library")")
  [[ -d $library/pmix ]] || return 0  # built without plugins
  mkdir -p "$root/share/pmix"
  install -m 755 "$library"/pmix/*.so "$root/lib/pmix/"
  cp "$library"/../share/pmix/help-*.txt "$root/share/pmix/"
}

# A script FILE, from which the bundle is UP, that runs a program of it.
wrapper() {
  cat > "$root/$1" <<EOT
#!/bin/sh
self=\$0
case \$self in */*) ;; *) self=\$(command -v "\$self") ;; esac
[ ! -h "\$self" ] || self=\$(readlink -f "\$self")
root=\$(cd "\${self%/*}/$2" && pwd -P) || exit 1
. "\$root/libexec/environment.sh"
exec "\$root/$3" ${4:-}${4:+ }"\$@"
EOT
  chmod 755 "$root/$1"
}

# mpirun, orted and peal find everything from where they lie. Only sh is asked for.
write_wrappers() {
  cat > "$root/libexec/environment.sh" <<'EOT'
# Where Open MPI, PMIx and hwloc find their parts; $root is the folder of the bundle.
export OPAL_PREFIX="$root" OPAL_BINDIR="$root/bin" OPAL_LIBDIR="$root/lib"
export OPAL_PKGLIBDIR="$root/lib/openmpi" OPAL_DATADIR="$root/share"
export OPAL_PKGDATADIR="$root/share/openmpi" OPAL_SYSCONFDIR="$root/etc"
export PMIX_LIBDIR="$root/lib" PMIX_PKGLIBDIR="$root/lib/pmix" PMIX_DATADIR="$root/share"
export PMIX_PKGDATADIR="$root/share/pmix" PMIX_SYSCONFDIR="$root/etc"
export HWLOC_PLUGINS_PATH="$root/lib/hwloc"
# PMIx crashes where this is not set and the user has no name, as in a container.
export HOME="${HOME:-/}"
# Without ssh mpirun would not start ranks on its own host either.
if ! command -v ssh > /dev/null && ! command -v rsh > /dev/null && [ -z "$SLURM_JOB_ID" ]; then
  export OMPI_MCA_plm="${OMPI_MCA_plm:-isolated}"
fi
EOT
  wrapper peal . bin/peal
  wrapper bin/mpirun .. libexec/mpirun '--prefix "$root"'
  wrapper bin/orted .. libexec/orted
}

write_readme() {
  cp "$here"/examples/*.textproto "$root/examples/"
  cp "$here/LICENSE" "$root/"
  [[ ! -e $here/cluster/ADMIN.md ]] || cp "$here/cluster/ADMIN.md" "$root/"
  # The terms of what is not ours, where the system has them.
  ! type -P dpkg-query > /dev/null || {
    mkdir "$root/licenses"
    local path package
    while read -r path; do
      package=$(dpkg-query -S "*/${path##*/}" 2> /dev/null | sed -n '1s/[:,].*//p') || true
      [[ -z $package || ! -e /usr/share/doc/$package/copyright ]] ||
        cp -L "/usr/share/doc/$package/copyright" "$root/licenses/$package"
    done < <(find "$root/lib" -maxdepth 1 -name '*.so*')
  }
}

set_run_paths() {
  local file
  patchelf --force-rpath --set-rpath '$ORIGIN/../lib' \
    "${programs[@]/#/$root/bin/}" "$root/libexec/mpirun" "$root/libexec/orted"
  for file in "$root"/lib/*.so*; do patchelf --force-rpath --set-rpath '$ORIGIN' "$file"; done
  for file in "${plugins[@]}"; do
    patchelf --force-rpath --set-rpath '$ORIGIN/..' "$file"
  done
}

# Nothing beyond the list may come from the system, and nothing may be missing.
check_bundle() {
  local file library path bad=0
  while read -r file; do
    while read -r library path; do
      [[ $path != "$root"/* && ! $library =~ $system_libraries ]] || continue
      echo "bundle.sh: ${file#"$root"/} would take $library from ${path:-nowhere}" >&2
      bad=1
    done < <(env -u LD_LIBRARY_PATH ldd "$file" |
      awk '$2 == "=>" { print $1, ($3 ~ /^\// ? $3 : "") }')
  done < <(find "${programs[@]/#/$root/bin/}" "$root/libexec" "$root/lib" -type f ! -name '*.sh')
  [[ $bad == 0 ]] || fail "the bundle is not whole"
  env -i "$root/peal" --version > /dev/null || fail "the program of the bundle does not run"
  env -i "$root/bin/mpirun" --version > /dev/null || fail "mpirun of the bundle does not run"
}

for program in "${programs[@]}"; do install -m 755 "$build/$program" "$root/bin/"; done
take_open_mpi
take_pmix
mapfile -t plugins < <(find "$root"/lib/{openmpi,pmix} -name '*.so' | sort)
take_libraries "${programs[@]/#/$root/bin/}" "$root"/libexec/{mpirun,orted} "${plugins[@]}"
write_wrappers
write_readme
set_run_paths
check_bundle
tar --create --directory "$work" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
  --mode='u+w,go-w,a+rX' --format=gnu "$name" | gzip --no-name > "$archive"

echo "libraries:"
find "$root/lib" -maxdepth 1 -name '*.so*' -printf '  %f %k KiB\n' | sort
echo "plugins of Open MPI and PMIx: ${#plugins[@]}"
echo "libc: $(ldd --version | sed -n '1s/.* //p') or newer"
echo "$archive: $(du -sm "$root" | cut -f1) MiB unpacked, $(du -k "$archive" | cut -f1) KiB packed," \
  "sha256 $(sha256sum "$archive" | cut -d' ' -f1)"
