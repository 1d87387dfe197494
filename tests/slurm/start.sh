#!/usr/bin/env bash
# A real Slurm of one node on this machine, for tests: a controller and a daemon, in the folder that is the one argument.
# Needs Debian's slurmctld, slurmd, slurm-client and munge, and root. Its configuration is linked from
# /etc/slurm/slurm.conf, as job steps look nowhere else; one that is there already is left alone and ends this.
# `kill $(cat FOLDER/*.pid)` ends it.
set -euo pipefail
folder=$(realpath -m "$1")
conf=/etc/slurm/slurm.conf
if [ -e "$conf" ]; then
    echo "$conf exists: this machine has a Slurm of its own" >&2
    exit 1
fi
host=$(hostname -s)
mkdir -p "$folder/state" "$folder/spool"

# Its own socket and key: a munge that the machine may have is left alone.
mkdir -p "$folder/munge"
head -c 128 /dev/urandom > "$folder/munge/munge.key"
chmod 700 "$folder/munge"
chmod 400 "$folder/munge/munge.key"
socket=$(mktemp -d)
chmod 755 "$socket"
munged --force --key-file "$folder/munge/munge.key" --socket "$socket/munge.socket" --pid-file "$folder/munged.pid" \
    --log-file "$folder/munge/munged.log" --seed-file "$folder/munge/munged.seed" --num-threads 1

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }
cat > "$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$socket/munge.socket,cred_expire=5 # so long a job waits that is queued again
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0
MinJobAge=86400
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(awk '/MemTotal/ { print int($2 / 1024 * 0.9) }' /proc/meminfo)
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
mkdir -p /etc/slurm
ln -sf "$folder/slurm.conf" "$conf" # a link that a deleted folder left behind is replaced
slurmctld -c
slurmd -N "$host"
for _ in $(seq 30); do
    [ "$(sinfo --noheader --format %T 2> /dev/null)" = idle ] && exit 0
    sleep 1
done
echo "Slurm did not come up; its logs are in $folder" >&2
tail -n 5 "$folder"/*.log >&2
exit 1
