# Slurm on the hosts of testbed.sh, which includes this file: munge and slurmctld run on the host
# `control`, slurmd on all others. Configuration, keys, sockets, spool and logs lie in the bed's
# state, and ports are those of its own networks: a Slurm of the machine itself never notices.
# shellcheck shell=bash disable=SC2154  # state is set there

check_slurm_installed() {
  local program missing=()
  for program in munged slurmctld slurmd srun sbatch; do
    type -P "$program" > /dev/null || missing+=("$program")
  done
  [[ ${#missing[@]} -eq 0 ]] ||
    fail "--slurm needs ${missing[*]}; cluster/install_deps.sh --tests installs them"
}

# Hosts share the cores of this machine, so their number is free: 8 each. A requeued job waits for
# cred_expire before it starts again.
write_slurm_files() {
  local folder=$state/slurm k
  mkdir -p "$folder/controller"
  for ((k = 1; k <= $1; ++k)); do mkdir "$folder/h$k"; done
  head -c 1024 /dev/urandom > "$folder/munge.key"
  chmod 400 "$folder/munge.key"
  cat > "$folder/slurm.conf" <<END
ClusterName=testbed
SlurmctldHost=control
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/controller
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=pmix
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,sched_interval=5,bf_interval=5,permit_job_expansion
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
NodeName=h[1-$1] CPUs=8
PartitionName=main Nodes=ALL Default=YES GraceTime=30
PartitionName=short Nodes=ALL MaxTime=1
PartitionName=urgent Nodes=ALL PriorityTier=10
END
}

# On the host itself, before it becomes its sshd.
start_slurm() {
  local folder=$state/slurm
  export SLURM_CONF=$folder/slurm.conf
  if [[ $1 == control ]]; then
    munged --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" \
      --pid-file "$folder/munged.pid" --log-file "$folder/munged.log" \
      --seed-file "$folder/munged.seed"
    slurmctld -i -D &
  else
    slurmd -N "$1" -D &
  fi
}

wait_for_slurm() {
  local ready
  for _ in {1..150}; do
    ready=$(on_host control sinfo --noheader --partition main --states idle --format %D 2>&1) || true
    [[ $ready != "$1" ]] || return 0
    sleep 0.2
  done
  fail "Slurm is not ready after 30 s; sinfo says: $ready;" \
    "$(tail -qn3 "$state"/slurm/*.log 2> /dev/null | paste -sd' ')"
}
