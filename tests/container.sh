#!/usr/bin/env bash
# Builds cluster/Dockerfile, and by hand what cluster/peal.def says, without a registry, and tries what
# came out. Debian's packages make the base image; buildah builds as `docker build` does.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: tests/container.sh [--keep FOLDER]
  --keep FOLDER  store the images there and leave them, with a cache of compiled files for another run
                 (default: a folder that goes at the end)
As root. Needs buildah and debootstrap (Debian packages), a mirror of Debian's packages, 6 GB of disk,
Fashion-MNIST (dataset-fashion-mnist) and a finished build of these sources in build, whose hash the
images must reach. Takes a quarter of an hour on two cores.
EOF
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mirror=http://deb.debian.org
data=/usr/share/datasets/fashion-mnist
base=docker.io/library/debian:12-slim
home=/root  # in containers
keep=

fail() {
  printf 'container.sh: %s\n' "$*" >&2
  exit 1
}

while [[ $# -gt 0 ]]; do
  case "$1" in
    --help | -h) usage; exit 0 ;;
    --keep) [[ $# -ge 2 ]] || fail "$1 needs a value"; keep=$2; shift ;;
    *) usage >&2; fail "unknown argument '$1'" ;;
  esac
  shift
done
[[ $(id -u) -eq 0 ]] || fail "needs root, for debootstrap and chroot"
for tool in buildah debootstrap; do
  type -P "$tool" > /dev/null || fail "needs $tool (a Debian package)"
done
[[ -x $here/build/peal ]] || fail "needs build/peal: cmake --preset default && cmake --build --preset default"
[[ -d $data ]] || fail "needs $data (Debian package dataset-fashion-mnist)"

work=${keep:-$(mktemp -d)}
mkdir -p "$work"/{store,run,ccache}
containers=()
log=  # of what runs
clean() {
  [[ $? -eq 0 || -z $log ]] || { tail -n 20 "$log"; echo "container.sh: failed; the end of $log is above"; } >&2
  [[ ${#containers[@]} -eq 0 ]] || build_with rm "${containers[@]}" > /dev/null || true
  [[ -n $keep ]] || { build_with rmi --all --force > /dev/null || true; rm -rf "$work"; }
}
build_with() {
  buildah --root "$work/store" --runroot "$work/run" "$@"
}
trap clean EXIT

step() {
  printf '== %s\n' "$*"
}

# As the registry's image: without manual pages and the like, and apt keeps no caches.
make_base() {
  local root=$work/root container
  debootstrap --variant=minbase bookworm "$root" "$mirror/debian" > "$work/debootstrap.log" ||
    fail "debootstrap failed; see $work/debootstrap.log"
  printf 'deb %s bookworm%s main\n' "$mirror/debian" '' "$mirror/debian" -updates \
    "$mirror/debian-security" -security > "$root/etc/apt/sources.list"
  printf 'path-exclude /usr/share/%s/*\n' doc man info locale lintian > "$root/etc/dpkg/dpkg.cfg.d/docker"
  printf 'path-include /usr/share/doc/*/copyright\n' >> "$root/etc/dpkg/dpkg.cfg.d/docker"
  cat > "$root/etc/apt/apt.conf.d/docker-clean" <<'EOF'
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";
EOF
  printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
  chmod 755 "$root/usr/sbin/policy-rc.d"
  find "$root/usr/share/doc" ! -type d ! -name copyright -delete
  rm -rf "$root"/usr/share/{man,info,locale,lintian}/* "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
  container=$(build_with from scratch)
  build_with add -q "$container" "$root" / > /dev/null
  build_with config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
  build_with commit -q --rm "$container" "$base" > /dev/null
  rm -rf "$root"
}

new_container() {
  container=$(build_with from --pull-never "$1")
  containers+=("$container")
  root=$(build_with mount "$container")
}

# The lines of peal.def in SECTION of STAGE, a line as `%files from build`.
section() {
  awk -v stage="$1" -v section="$2" '
    $1 == "Stage:" { in_stage = $2 == stage; inside = 0; next }
    $1 == "Bootstrap:" { inside = 0 }
    /^%/ { inside = in_stage && $0 == section; next }
    inside && NF && $1 !~ /^#/ { sub(/^ */, ""); print }' "$here/cluster/peal.def"
}

# A script of peal.def as Apptainer runs it.
run_section() {
  section "$2" "$3" > "$work/section"
  [[ -s $work/section ]] || fail "peal.def has no $3 in its stage $2"
  build_with run --isolation chroot --volume "$work/ccache:$home/.cache/ccache" "$1" -- \
    sh -cex "$(cat "$work/section")"
}

# Copies files into $root as Apptainer does: links are followed, a / at the end means into a folder.
# Sources lie in FROM.
copy_files() {
  local source target
  while read -r source target; do
    if [[ $target == */ ]]; then mkdir -p "$root$target"; else mkdir -p "$root${target%/*}"; fi
    cp -fLr "$1/$source" "$root$target"
  done
}

from_definition() {
  local built
  new_container "$base"
  copy_files "$here" < <(section build %files)
  run_section "$container" build %post
  built=$root
  new_container "$base"
  copy_files "$built" < <(section final '%files from build')
  run_section "$container" final %post
  run_section "$container" final %test
}

# A command in $root as in a container: without a network, with as small a /dev/shm as podman's and
# docker's own; as $user, with $environment.
# shellcheck disable=SC2016
inside() {
  local script='mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" &&
    mount -t tmpfs -o size=62500k tmpfs "$0/dev/shm" && mount --rbind /sys "$0/sys" &&
    mount -t tmpfs tmpfs "$0/tmp" && mkdir -p "$0/work" "$0$2" && mount --bind "$2" "$0$2" &&
    ip link set lo up && exec chroot --userspec "$3" "$0" sh -c "cd /work && $1"'
  env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${environment[@]}" \
    unshare --mount --pid --net --ipc --uts --fork --kill-child sh -c "$script" "$root" "$1" "$data" \
    "$user" 2>&1
}

job="examples/fashion_mnist_cnn.textproto"
sets="--set train.max_steps=20 --set eval.every_epochs=0"

# $root trains to the hash of the build tree, without a word of Open MPI's, also on 2 and 4 ranks.
check_image() {
  local ranks said
  for ranks in 1 2 4; do
    said=$(inside "peal launch -n $ranks /opt/peal/$job $sets --set run.directory=/tmp/run &&
      peal inspect --hash /tmp/run") || fail "launch failed: $said"
    [[ $said == "peal "* ]] || fail "something else came first: $said"
    [[ ${said##*$'\n'} == "$hash" ]] || fail "another hash than $hash of $ranks ranks: $said"
  done
  said=$(inside "mpirun -np 2 --oversubscribe peal --version") || fail "mpirun failed: $said"
  said=$(inside "for c in cc gcc g++ c++ ld as cmake ninja python3 ccache; do
    ! command -v \$c || exit 1; done; [ ! -e /peal ] && [ ! -e /build ]") ||
    fail "it has what only the build needs: $said"
  [[ -s $root/etc/ssl/certs/ca-certificates.crt ]] || fail "it has no certificates"
  echo "1, 2 and 4 ranks: $hash; $(du -xsm "$root" | cut -f1) MB"
}

build_with images -q "$base" > /dev/null 2>&1 || { step "debian:12-slim, by debootstrap"; make_base; }
step "build/peal"
"$here/build/peal" --version
# shellcheck disable=SC2086
(cd "$here" && build/peal train --fresh "$job" $sets --set "run.directory=$work/here" > /dev/null)
hash=$("$here/build/peal" inspect --hash "$work/here")

step "cluster/Dockerfile"
user=0:0
log=$work/dockerfile.log
build_with bud --isolation chroot --pull=never --layers --volume "$work/ccache:$home/.cache/ccache" \
  -f "$here/cluster/Dockerfile" -t peal "$here" > "$log" 2>&1
log=
new_container peal
mapfile -t environment < <(build_with inspect --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' \
  "$container" | grep '=')
check_image
[[ -z $(find "$root/etc/ssh" -name 'ssh_host_*') ]] || fail "the image has keys of an ssh server"
inside "ssh-keygen -A && /usr/sbin/sshd -t" > /dev/null || fail "sshd would not start"

step "cluster/peal.def, its lines by hand"
environment=()
user=1234:1234  # in Apptainer one is who one is outside
log=$work/definition.log
from_definition > "$log" 2>&1
log=
check_image
printf '#!/bin/sh\n%s\n' "$(section final %runscript)" > "$root/runscript"
chmod 755 "$root/runscript"
[[ $(inside "/runscript --version") == "$("$here/build/peal" --version)" ]] || fail "%runscript does not run"
