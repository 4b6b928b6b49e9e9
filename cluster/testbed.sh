#!/usr/bin/env bash
# Several hosts on one machine, to rehearse a cluster: each host is a set of Linux namespaces with
# its own network card, host name, processes, /tmp, /dev/shm and sshd; a switch joins them. Nothing
# of it has a name outside its own namespaces, so that `down` leaves no trace, also after a crash.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: cluster/testbed.sh COMMAND, as root
  up N [--rate RATE] [--share FOLDER]... [--slurm]
                        make hosts h1..hN (10.77.0.1..N); RATE limits every link, both ways (1gbit);
                        --slurm: Slurm runs on them, and a host `control` beside them controls it
  mpirun SLOTS ARG...   mpirun from h1 over all hosts, with SLOTS ranks on each
  exec HOST COMMAND...  run a command on a host, in the folder where you are
  srun ARG...           a command of Slurm on `control`; likewise sbatch, salloc, scancel, squeue,
                        sinfo and scontrol
  rate RATE|none        change the speed of all links
  link HOST down|up     take a host's cable out, or put it back
  freeze HOST           stop everything on a host, as a machine that hangs; `thaw HOST` goes on
  kill HOST             end everything on a host at once, as a power cut
  start HOST            a host that was killed comes back, with empty folders; or a new one
  status                the hosts and how many processes run on them
  down                  end all of it

Hosts see the whole file system of this machine, except /tmp and /dev/shm, which are their own.
This checkout stays visible also where it lies in /tmp; so does each FOLDER. They reach each other
by ssh without a password.
PEAL_TESTBED names the folder of the bed's state (default /run/peal-testbed): several beds can be
up at once.

Examples:
  cluster/testbed.sh up 2 --rate 1gbit
  cluster/testbed.sh mpirun 2 build/peal train job.textproto
  cluster/testbed.sh down
  cluster/testbed.sh up 2 --slurm
  cluster/testbed.sh srun --nodes 2 --ntasks-per-node 2 build/peal train job.textproto
EOF
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
state=${PEAL_TESTBED:-/run/peal-testbed}
network=10.77.0
control_number=254  # the host `control` in the network

fail() {
  printf 'testbed.sh: %s\n' "$*" >&2
  exit 2
}

# shellcheck source=cluster/testbed_slurm.sh
source "$here/cluster/testbed_slurm.sh"

# What tells a process from a later one with the same number.
started() {
  sed 's/.*) //' "/proc/$1/stat" 2> /dev/null | cut -d' ' -f20
}

alive() {
  local pid start
  [[ -r $state/$1.pid ]] && read -r pid start < "$state/$1.pid" && [[ $(started "$pid") == "$start" ]]
}

hosts() {
  find "$state" -name 'h*.pid' -printf '%f\n' 2> /dev/null | sed 's/\.pid$//' | sort -V
}

# The hosts, and `control` where there is one.
machines() {
  hosts
  [[ ! -r $state/control.pid ]] || echo control
}

address_of() {
  local number=${1#h}
  [[ $1 != control ]] || number=$control_number
  echo "$network.$number"
}

# The first process of a host, or of the switch.
pid_of() {
  alive "$1" || fail "no host '$1' is up; there are: $(machines | paste -sd' ')"
  cut -d' ' -f1 "$state/$1.pid"
}

# Starts a command in new namespaces, in the background, and notes the first process inside them.
spawn() {
  local name=$1 outer inner=
  shift
  setsid unshare "$@" < /dev/null >> "$state/$name.log" 2>&1 &
  outer=$!
  for _ in {1..250}; do
    inner=$(cat "/proc/$outer/task/$outer/children" 2> /dev/null || true)
    inner=${inner%% *}
    [[ -z $inner ]] || break
    sleep 0.02
  done
  [[ -n $inner ]] || fail "$name did not start: $(cat "$state/$name.log")"
  echo "$inner $(started "$inner")" > "$state/$name.pid"
}

in_network_of() {
  local pid
  pid=$(pid_of "$1")
  shift
  nsenter -t "$pid" --net -- "$@"
}

set_rate() {
  local rate=$1 host
  for host in $(machines); do
    alive "$host" || continue
    in_network_of "$host" tc qdisc del dev eth0 root 2> /dev/null || true
    in_network_of switch tc qdisc del dev "$host" root 2> /dev/null || true
    [[ $rate != none ]] || continue
    in_network_of "$host" tc qdisc add dev eth0 root tbf rate "$rate" burst 256kb latency 50ms ||
      fail "tc does not take the rate '$rate'; write it like 1gbit or 200mbit"
    in_network_of switch tc qdisc add dev "$host" root tbf rate "$rate" burst 256kb latency 50ms
  done
}

# Makes a host known to all, also while they run: they see this very file.
name_host() {
  printf '%s %s\n' "$(address_of "$1")" "$1" >> "$state/hosts"
  printf '%s,%s %s\n' "$1" "$(address_of "$1")" "$(cut -d' ' -f1,2 "$state/host_key.pub")" \
    >> "$state/known_hosts"
}

write_files() {
  local host
  ssh-keygen -q -t ed25519 -N '' -f "$state/key"
  ssh-keygen -q -t ed25519 -N '' -f "$state/host_key"
  cp "$state/key.pub" "$state/authorized_keys"
  printf '127.0.0.1 localhost\n' > "$state/hosts"
  for host in "$@"; do name_host "$host"; done
  cat > "$state/ssh_config" <<END
Host *
  IdentityFile $state/key
  UserKnownHostsFile $state/known_hosts
  BatchMode yes
  ConnectTimeout 5
END
  cat > "$state/sshd_config" <<END
HostKey $state/host_key
AuthorizedKeysFile $state/authorized_keys
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
PidFile none
MaxStartups 200
END
}

# Runs inside the namespaces of a new host, which gets a name and folders of its own and then is its
# sshd. Folders that the new /tmp would hide are carried over.
boot() {
  local name=$1 folder k
  shift
  hostname "$name"
  mount --bind "$state/hosts" /etc/hosts
  mount --bind "$state/ssh_config" /etc/ssh/ssh_config
  mount -t tmpfs tmpfs /mnt
  k=0
  for folder in "$@"; do
    mkdir "/mnt/$((++k))"
    mount --bind "$folder" "/mnt/$k"
  done
  mount -t tmpfs -o mode=1777 tmpfs /tmp
  mount -t tmpfs -o mode=1777 tmpfs /dev/shm
  k=0
  for folder in "$@"; do
    mkdir -p "$folder"
    mount --bind "/mnt/$((++k))" "$folder"
  done
  umount --recursive /mnt
  [[ ! -e $state/slurm ]] || start_slurm "$name"
  exec /usr/sbin/sshd -D -e -f "$state/sshd_config"
}

# A host: its namespaces, and a cable to the switch.
make_host() {
  local name=$1 pid
  shift
  spawn "$name" --net --mount --uts --ipc --pid --fork --kill-child --mount-proc \
    "$here/cluster/testbed.sh" boot "$name" "$@"
  pid=$(pid_of "$name")
  in_network_of switch ip link add "$name" type veth peer name eth0 netns "$pid"
  in_network_of switch ip link set "$name" master br0 up
  in_network_of "$name" ip address add "$(address_of "$name")/24" dev eth0
  in_network_of "$name" ip link set eth0 up
  in_network_of "$name" ip link set lo up
}

wait_for_sshd() {
  local host
  for host in "$@"; do
    for _ in {1..250}; do
      alive "$host" || fail "$host did not start: $(tail -n3 "$state/$host.log")"
      if in_network_of "$host" bash -c "exec 3<> /dev/tcp/$(address_of "$host")/22" 2> /dev/null; then
        continue 2
      fi
      sleep 0.02
    done
    fail "$host: its sshd does not answer: $(tail -n3 "$state/$host.log")"
  done
}

up() {
  local n=${1:-} rate=none slurm=false shares=("$here" "$state") names=() name k
  [[ $n =~ ^[1-9][0-9]?$ ]] || fail "up needs a number of hosts from 1 to 99, not '$n'"
  shift
  while [[ $# -gt 0 ]]; do
    if [[ $1 == --slurm ]]; then
      slurm=true
      shift
      continue
    fi
    [[ $# -ge 2 ]] || fail "$1 needs a value"
    case "$1" in
      --rate) rate=$2 ;;
      --share) shares+=("$(cd "$2" && pwd)") ;;
      *) fail "unknown argument '$1'; allowed: --rate RATE, --share FOLDER, --slurm" ;;
    esac
    shift 2
  done
  ! $slurm || check_slurm_installed
  mkdir -p "$(dirname "$state")" /run/sshd
  mkdir "$state" 2> /dev/null || fail "$state exists: a bed is up, or crashed; 'down' ends it"
  trap down EXIT
  for ((k = 1; k <= n; ++k)); do names+=("h$k"); done
  ! $slurm || names=(control "${names[@]}")
  write_files "${names[@]}"
  printf '%s\n' "${shares[@]}" > "$state/shares"
  echo "$rate" > "$state/rate"
  ! $slurm || write_slurm_files "$n"
  spawn switch --net --pid --fork --kill-child sleep infinity
  in_network_of switch ip link add br0 type bridge
  in_network_of switch ip link set br0 up
  for name in "${names[@]}"; do make_host "$name" "${shares[@]}"; done
  set_rate "$rate"
  # shellcheck disable=SC2046  # names without spaces
  wait_for_sshd $(machines)
  ! $slurm || wait_for_slurm "$n"
  trap - EXIT
  echo "up: $(machines | paste -sd' '); state in $state"
}

start_host() {
  local name=$1 shares
  [[ $name =~ ^h[1-9][0-9]?$ ]] || fail "a host is named h1 to h99, not '$name'"
  alive switch || fail "no bed is up; see 'up'"
  ! alive "$name" || fail "$name is up"
  grep -q " $name\$" "$state/hosts" || name_host "$name"
  mapfile -t shares < "$state/shares"
  make_host "$name" "${shares[@]}"
  set_rate "$(cat "$state/rate")"
  wait_for_sshd "$name"
}

down() {
  local name
  for name in $(machines) switch; do
    alive "$name" || continue
    kill -KILL "$(pid_of "$name")"
    for _ in {1..250}; do
      alive "$name" || break
      sleep 0.02
    done
  done
  rm -rf "$state"
}

# Enters all namespaces of a host and goes to the folder where the caller is.
on_host() {
  local pid
  pid=$(pid_of "$1")
  shift
  # shellcheck disable=SC2016  # expanded on the host
  [[ ! -e $state/slurm ]] || export SLURM_CONF=$state/slurm/slurm.conf
  exec nsenter -t "$pid" --net --mount --uts --ipc --pid --root -- \
    sh -c 'cd "$0" && exec "$@"' "$PWD" "$@"
}

run_mpi() {
  local slots=${1:-} list
  [[ $slots =~ ^[1-9][0-9]*$ ]] || fail "mpirun needs the number of ranks of a host, not '$slots'"
  shift
  list=$(hosts | sed "s/\$/:$slots/" | paste -sd,)
  [[ -n $list ]] || fail "no hosts are up; see 'up'"
  on_host h1 env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
    mpirun --host "$list" --oversubscribe --bind-to none \
    --mca oob_tcp_if_include "$network.0/24" --mca btl_tcp_if_include "$network.0/24" \
    --mca btl_vader_single_copy_mechanism none "$@"
}

processes() {
  local pid
  pid=$(pid_of "$1")
  pgrep --ns "$pid" --nslist pid
}

signal_host() {
  local pids
  mapfile -t pids < <(processes "$2")
  kill "-$1" "${pids[@]}"
}

status() {
  local host
  for host in $(machines); do
    if alive "$host"; then
      printf '%s up, %s processes\n' "$host" "$(processes "$host" | wc -l)"
    else
      printf '%s dead\n' "$host"
    fi
  done
}

[[ $# -ge 1 ]] || { usage >&2; exit 2; }
command=$1
shift
case "$command" in --help | -h | help) usage; exit 0 ;; esac
[[ $(id -u) -eq 0 ]] || fail "namespaces need root: sudo $0 $command ..."
case "$command" in
  up) up "$@" ;;
  boot) boot "$@" ;;
  down) down ;;
  exec) [[ $# -ge 2 ]] || fail "exec needs a host and a command"; on_host "$@" ;;
  mpirun) run_mpi "$@" ;;
  srun | sbatch | salloc | scancel | squeue | sinfo | scontrol)
    [[ -e $state/slurm ]] || fail "no Slurm runs here; see 'up --slurm'"
    on_host control "$command" "$@"
    ;;
  rate)
    [[ $# -eq 1 ]] || fail "rate needs a rate, or none"
    set_rate "$1"
    echo "$1" > "$state/rate"
    ;;
  link)
    [[ $# -eq 2 && ($2 == down || $2 == up) ]] || fail "link needs a host, then down or up"
    in_network_of "$1" ip link set eth0 "$2"
    ;;
  freeze) signal_host STOP "${1:-}" ;;
  thaw) signal_host CONT "${1:-}" ;;
  start) start_host "${1:-}" ;;
  kill) kill -KILL "$(pid_of "${1:-}")" ;;
  status) status ;;
  *) usage >&2; fail "unknown command '$command'" ;;
esac
