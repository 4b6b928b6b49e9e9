#!/usr/bin/env bash
# Installs what building, testing and running Peal needs, from Debian packages; where there is a
# CUDA toolkit also the headers of cuDNN's frontend, from PyPI. Asks for nothing and does nothing
# when everything is there.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: cluster/install_deps.sh [--tests] [--dev] [--list]
  --tests also what only the tests need: LibTorch (large) and pkg-config, for the examples that
          link the comm layer; iproute2 and openssh-server, to make hosts on one machine
          (cluster/testbed.sh), and Slurm with munge, to run jobs on them; patchelf, to make
          a bundle; clang, for the build with the address sanitizer and for fuzzing; Debian
          starts the services ssh and munge when it installs them
  --dev   also what working on Peal needs: clang-format, clang-tidy, shellcheck
  --list  print the packages and change nothing
Where there is a CUDA toolkit (nvcc in PATH or /usr/local/cuda) the headers of cuDNN's frontend go
to /usr/local/include, or to ~/.local/include without root. A build without them is for the CPU only.
EOF
}

packages=(
  g++ cmake ninja-build ccache                                # build
  libopenmpi-dev openmpi-bin                                  # ranks
  libdnnl-dev                                                 # CPU kernels
  libprotobuf-dev protobuf-compiler                           # jobs, manifests
  libcli11-dev libspdlog-dev libfmt-dev nlohmann-json3-dev    # command line, log, JSON
  libxxhash-dev zlib1g-dev libhwloc-dev                       # checksums, gzip, topology
  libpng-dev libjpeg62-turbo-dev                              # pictures
  libcurl4-openssl-dev                                        # shards from a web server
  libpcre2-dev                                                # words of text
  libgtest-dev libgmock-dev libbenchmark-dev libboost-context-dev  # tests
  python3 python3-venv procps                                 # tests
  dataset-fashion-mnist                                       # pictures to train on
)
test_packages=(libtorch-dev pkg-config iproute2 openssh-server openssh-client openssl
               slurmctld slurmd slurm-client munge patchelf
               clang libclang-rt-dev libomp-dev)  # the build with the address sanitizer
developer_packages=(clang-format clang-tidy shellcheck)

# Headers only, so that the wheel of one Python on one processor serves all.
frontend_version=1.32.0
frontend_sha256=c6006556017a4d1c914c52a556c71b1267f2d6a0500f742e7b4edef539878df0

warn() {
  printf 'install_deps.sh: %s\n' "$*" >&2
}

fail() {
  warn "$@"
  exit 1
}

list_only=false
for argument in "$@"; do
  case "$argument" in
    --tests) packages+=("${test_packages[@]}") ;;
    --dev) packages+=("${developer_packages[@]}") ;;
    --list) list_only=true ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; fail "unknown argument '$argument'" ;;
  esac
done
if $list_only; then
  printf '%s\n' "${packages[@]}"
  exit 0
fi

if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
  fail "this is not a Debian-like system (no dpkg-query or apt-get). Install the counterparts of" \
    "these packages by hand: ${packages[*]}"
fi

# One name a line: the packages that are not installed.
missing_packages() {
  local installed
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2> /dev/null |
    sed -n 's/^installed //p' | sort -u) || true
  comm -23 <(printf '%s\n' "${packages[@]}" | sort -u) <(printf '%s\n' "$installed")
}

# Whether the frontend's headers of that version are where CMakeLists.txt looks for them.
frontend_installed() {
  local folder header
  for folder in /usr/local/include "${HOME:-}/.local/include"; do
    header=$folder/cudnn_frontend_version.h
    if [[ -r $header ]] && [[ $frontend_version == "$(
      sed -n 's/^#define CUDNN_FRONTEND_[A-Z]*_VERSION \([0-9]*\)$/\1/p' "$header" | paste -sd .)" ]]; then
      return 0
    fi
  done
  return 1
}

# fetch_frontend SCRATCH FOLDER
fetch_frontend() {
  python3 -m venv "$1/venv" &&
    printf 'nvidia-cudnn-frontend==%s --hash=sha256:%s\n' "$frontend_version" "$frontend_sha256" \
      > "$1/requirements.txt" &&
    "$1/venv/bin/python" -m pip download -q --disable-pip-version-check --retries 2 --timeout 30 \
      --no-deps --require-hashes -r "$1/requirements.txt" --only-binary=:all: \
      --implementation cp --python-version 3.11 --abi cp311 --platform manylinux_2_28_x86_64 \
      --dest "$1" &&
    python3 - "$1"/*.whl "$1/unpacked" <<'EOF' &&
import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
wheel.extractall(sys.argv[2], [name for name in wheel.namelist() if name.startswith("include/")])
EOF
    mkdir -p "$2" && cp -R "$1"/unpacked/include/. "$2"
}

# A build for the CPU does without.
install_frontend() {
  local folder=/usr/local/include scratch
  if ! command -v nvcc > /dev/null && [[ ! -x /usr/local/cuda/bin/nvcc ]] || frontend_installed; then
    return 0
  fi
  [[ $(id -u) -eq 0 ]] || folder=${HOME:?}/.local/include
  printf "Installing the headers of cuDNN's frontend %s: %s\n" "$frontend_version" "$folder"
  scratch=$(mktemp -d)
  fetch_frontend "$scratch" "$folder" ||
    warn "the headers of cuDNN's frontend could not be installed (the message is above); Peal is then" \
      "built without its kernels for CUDA. By hand: pip download --no-deps" \
      "nvidia-cudnn-frontend==$frontend_version, and unzip its folder include into $folder"
  rm -rf "$scratch"
}

mapfile -t missing < <(missing_packages)
if [[ ${#missing[@]} -eq 0 ]]; then
  install_frontend
  exit 0
fi
printf 'Installing Debian packages: %s\n' "${missing[*]}"

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  if ! command -v sudo > /dev/null; then
    fail "these packages are missing and installing them needs root, but there is no sudo." \
      "As root, run: apt-get install ${missing[*]}"
  fi
  # Without a terminal nobody could type a password: find out now and say so.
  if ! sudo -n true 2> /dev/null && [[ ! -t 0 ]]; then
    fail "sudo wants a password and there is no terminal to type it in." \
      "As root, run: apt-get install ${missing[*]}"
  fi
  as_root=(sudo)
fi

apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
    -o DPkg::Lock::Timeout=300 -o Acquire::Retries=2 -o Dpkg::Use-Pty=0 "$@"
}

install_missing() {
  # A source of packages that cannot be reached matters only if a package then cannot be had.
  apt -o APT::Update::Error-Mode=any update || echo "install_deps.sh: apt-get update failed" >&2
  apt install --no-install-recommends "${missing[@]}"
}

if ! install_missing; then
  echo "install_deps.sh: trying once more in 5 s" >&2
  sleep 5
  install_missing || fail "apt-get could not install: ${missing[*]} (its message is above)"
fi

mapfile -t missing < <(missing_packages)
[[ ${#missing[@]} -eq 0 ]] || fail "apt-get finished but these are not installed: ${missing[*]}"
install_frontend
