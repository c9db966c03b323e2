#!/bin/bash
# A real Slurm cluster on loopback for SkyPilot to rent from: two nodes with eight pretended H100
# each, two partitions with prices, one of which can be preempted.
#
#   slurm.sh install      Debian packages (as root), the nodes' Python, keys and configuration
#   slurm.sh up           sshd, munged, slurmctld, two slurmd
#   slurm.sh disconnect   ends SkyPilot's SSH connections
#   slurm.sh down         ends what `up` started
#
# LAB is the folder (readable by everybody), LAB_PORT the first of four free ports in a row, LAB_USER
# the account of the nodes, CLIENT_HOME the home folder of SkyPilot's client and API server, PYTHON a
# Python with SkyPilot in it. Needs root: the nodes have host names and mounts of their own.
set -euo pipefail
: "${LAB:?}" "${LAB_PORT:?}" "${LAB_USER:?}" "${CLIENT_HOME:?}" "${PYTHON:?}"
CONTROL=$((LAB_PORT + 1)) NODE1=$((LAB_PORT + 2)) NODE2=$((LAB_PORT + 3))
export SLURM_CONF=$LAB/etc/slurm.conf
umask 022

packages() {
  local missing=
  exec 9>/run/nightshift-lab.lock && flock 9 # another lab may be installing
  for pair in slurmctld:slurmctld slurmd:slurmd srun:slurm-client munged:munge sshd:openssh-server \
    rsync:rsync nc:netcat-openbsd socat:socat; do
    PATH=$PATH:/usr/sbin command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
  done
  if [ -n "$missing" ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
  fi
  flock -u 9
}

packages_of() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

configure() {
  local uv host node gpu packages
  host=$(hostname -s)
  uv=$(dirname "$PYTHON")/uv
  mkdir -p "$LAB"/{etc,run,log,control,spool,dev,node,bin,shim} "$CLIENT_HOME"/{.sky,.slurm}
  cp "$uv" "$LAB/bin/uv"
  # What SkyPilot installs on a node otherwise, from places that a node may not reach.
  "$uv" venv --quiet --python /usr/bin/python3 "$LAB/runtime"
  "$uv" pip install --quiet --python "$LAB/runtime/bin/python" $("$PYTHON" infra/compute/uv.py control) \
    --constraints infra/environments/control.txt 'skypilot[slurm]'
  # Most of it is compiled in our own environment already; what is not, or is not the same, is now.
  packages=$(packages_of "$LAB/runtime/bin/python")
  (cd "$packages" && find . -name '*.py' | sed 's,[^/]*$,__pycache__/&,; s/py$/cpython-311.pyc/') |
    rsync -a --files-from=- --ignore-missing-args "$(packages_of "$PYTHON")/" "$packages/"
  "$LAB/runtime/bin/python" -m compileall -q "$LAB/runtime/lib" >/dev/null || true
  "$uv" venv --quiet --seed --python /usr/bin/python3 "$LAB/userenv"
  { echo '[global]' && "$PYTHON" -m pip config list | tac | sed "s/^[^.]*\.//; s/='/ = /; s/'$//" |
    awk '/^(index-url|extra-index-url|find-links|no-index) / && !seen[$1]++'; } > "$LAB/userenv/pip.conf"
  id "$LAB_USER" >/dev/null 2>&1 || useradd -M -p '*' -d "$LAB/node/home" -s /bin/bash "$LAB_USER"
  usermod -d "$LAB/node/home" "$LAB_USER"
  install -d -o "$LAB_USER" -g "$LAB_USER" "$LAB/node/home" "$LAB/cache"
  install -d -m 700 -o "$LAB_USER" -g "$LAB_USER" "$LAB/node/home/.ssh"
  install -d -o munge -g munge "$LAB/munge"
  dd if=/dev/urandom of="$LAB/munge/key" bs=128 count=1 status=none
  chown munge: "$LAB/munge/key" && chmod 400 "$LAB/munge/key"
  ssh-keygen -q -t ed25519 -N '' -f "$LAB/etc/hostkey"
  ssh-keygen -q -t ed25519 -N '' -f "$LAB/etc/id"
  install -m 600 -o "$LAB_USER" -g "$LAB_USER" "$LAB/etc/id.pub" "$LAB/node/home/.ssh/authorized_keys"
  cat > "$LAB/etc/sshd_config" <<C
ListenAddress 127.0.0.1
Port $LAB_PORT
HostKey $LAB/etc/hostkey
PidFile $LAB/run/sshd.pid
UsePAM no
PasswordAuthentication no
AllowUsers $LAB_USER
MaxSessions 200
MaxStartups 150:30:200
SetEnv SLURM_CONF=$SLURM_CONF UV_CACHE_DIR=$LAB/cache SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
C
  for node in n1 n2; do
    for gpu in 0 1 2 3 4 5 6 7; do mknod -m 666 "$LAB/dev/$node-gpu$gpu" c 1 3; done
    echo "NodeName=$node Name=gpu Type=H100 File=$LAB/dev/$node-gpu[0-7] Flags=nvidia_gpu_env"
  done > "$LAB/etc/gres.conf"
  cat > "$SLURM_CONF" <<C
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$CONTROL
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$LAB/munge/sock
CommunicationParameters=NoCtldInAddrAny
StateSaveLocation=$LAB/control
SlurmdSpoolDir=$LAB/spool/%n
SlurmctldPidFile=$LAB/run/slurmctld.pid
SlurmdPidFile=$LAB/run/slurmd-%n.pid
SlurmctldLogFile=$LAB/log/slurmctld.log
SlurmdLogFile=$LAB/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=3
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
KillWait=5
MinJobAge=60
Prolog=$LAB/etc/prolog.sh
PrologFlags=Alloc
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
NodeName=n1 NodeAddr=127.0.0.2 Port=$NODE1 CPUs=64 RealMemory=512000 Gres=gpu:H100:8 State=UNKNOWN
NodeName=n2 NodeAddr=127.0.0.3 Port=$NODE2 CPUs=64 RealMemory=512000 Gres=gpu:H100:8 State=UNKNOWN
PartitionName=ondemand Nodes=n1,n2 Default=YES MaxTime=04:00:00 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=spot Nodes=n1,n2 MaxTime=04:00:00 PriorityTier=1 PreemptMode=CANCEL State=UP
C
  # The node's image: a ready SkyPilot runtime in every allocation, so that nothing is downloaded.
  cat > "$LAB/etc/prolog.sh" <<C
#!/bin/bash
exec >>$LAB/log/prolog.log 2>&1
name=\$(scontrol show job -o "\$SLURM_JOB_ID" | sed -n 's/.*JobName=\([^ ]*\).*/\1/p')
base=$LAB/node/home; [ -f "\$base/.sky_provision/\$name.sh" ] || exit 0
home=\$base/.sky_clusters/\$name; rt=$LAB/rt/\$name; u=\$SLURM_JOB_USER
install -d -o \$u -g \$u \$base/.sky_clusters \$home \$home/.local \$home/.local/bin \$home/.sky \$home/.sky/wheels \$rt \$rt/.sky
ln -sfn $LAB/bin/uv \$home/.local/bin/uv
ln -sfn $LAB/runtime \$rt/skypilot-runtime
[ -d \$home/sky-user-env ] || { cp -r $LAB/userenv \$home/sky-user-env.\$\$ && chown -R \$u: \$home/sky-user-env.\$\$ && mv -T \$home/sky-user-env.\$\$ \$home/sky-user-env 2>/dev/null || rm -rf \$home/sky-user-env.\$\$; }
ls -t $CLIENT_HOME/.sky/wheels 2>/dev/null | head -1 > \$home/.sky/wheels/current_sky_wheel_hash; chown \$u: \$home/.sky/wheels/current_sky_wheel_hash
exit 0
C
  chmod 755 "$LAB/etc/prolog.sh"
  printf '127.0.0.1 localhost %s\n127.0.0.2 n1\n127.0.0.3 n2\n' "$host" > "$LAB/etc/hosts"
  cat > "$CLIENT_HOME/.slurm/config" <<C
Host local
    HostName 127.0.0.1
    Port $LAB_PORT
    User $LAB_USER
    IdentityFile $LAB/etc/id
    IdentitiesOnly yes
C
  # allowed_clouds: else every check asks 25 clouds, for minutes where there is no internet.
  cat > "$CLIENT_HOME/.sky/config.yaml" <<C
allowed_clouds: [slurm]
admin_policy: infra.compute.policy.RequireReservation
slurm:
  cluster_configs:
    local:
      tmpdir: $LAB/rt
      partition_configs:
        ondemand: {pricing: {cpu: 0.05, memory: 0.01, accelerators: {H100: 3.0}}}
        spot: {pricing: {cpu: 0.02, memory: 0.004, accelerators: {H100: 1.2}}}
C
  # By it SkyPilot names its SSH connections, which would be those of every lab here.
  printf %08x "$LAB_PORT" > "$CLIENT_HOME/.sky/user_hash"
  # A catalogue without a .meta checksum is the user's own, which SkyPilot never fetches.
  mkdir -p "$CLIENT_HOME/.sky/catalogs/v8/common"
  printf "AcceleratorName,Clouds\nH100,\"['AWS', 'Lambda', 'RunPod']\"\n" \
    > "$CLIENT_HOME/.sky/catalogs/v8/common/accelerators.csv"
  printf 'GPU,MemoryGB,Manufacturer\nH100,80,nvidia\n' \
    > "$CLIENT_HOME/.sky/catalogs/v8/common/metadata.csv"
  HOME=$CLIENT_HOME "$PYTHON" -c 'from sky.backends import wheel_utils; wheel_utils.build_sky_wheel()'
}

up() {
  mkdir -p /run/sshd
  setpriv --reuid munge --regid munge --init-groups munged -S "$LAB/munge/sock" \
    --key-file "$LAB/munge/key" --pid-file "$LAB/munge/pid" --log-file "$LAB/munge/log" \
    --seed-file "$LAB/munge/seed" -f 2>/dev/null
  /usr/sbin/sshd -f "$LAB/etc/sshd_config" -E "$LAB/log/sshd.log"
  PATH=$PATH:/usr/sbin slurmctld
  for node in n1 n2; do
    install -d -m 1777 "$LAB/rt" "$LAB/nodert/$node"
    # Ranks come from the host name, so each node has its own.
    unshare -u -m sh -c "hostname $node && mount --bind $LAB/etc/hosts /etc/hosts &&
      mount --bind $LAB/nodert/$node $LAB/rt && PATH=$PATH:/usr/sbin exec slurmd -N $node"
  done
  for _ in $(seq 150); do
    [ "$(sinfo -h -N -t idle -o %N | sort -u | wc -l)" = 2 ] && return
    sleep 0.2
  done
  sinfo -N && exit 1
}

disconnect() {
  find "/tmp/sky_ssh_$(cat "$CLIENT_HOME/.sky/user_hash" 2>/dev/null)" -type s \
    -exec ssh -o ControlPath={} -O exit x \; >/dev/null 2>&1 || true
}

down() {
  local file pid pids=()
  scancel -u "$LAB_USER" 2>/dev/null || true
  sleep 1
  disconnect
  for file in run/slurmd-n1.pid run/slurmd-n2.pid run/slurmctld.pid run/sshd.pid munge/pid; do
    [ -s "$LAB/$file" ] && pid=$(cat "$LAB/$file") && kill "$pid" 2>/dev/null && pids+=("$pid")
  done
  for pid in "${pids[@]}"; do
    # One that nobody waits for is a zombie, and as good as gone.
    for _ in $(seq 50); do grep -qs '^State:.[^Z]' "/proc/$pid/status" || break; sleep 0.2; done
  done
  pkill -KILL -u "$LAB_USER" 2>/dev/null || true
  rm -rf "/tmp/uv_cache_$(id -u "$LAB_USER")" # where SkyPilot lets uv keep it
}

case ${1:-} in
  install) packages && configure ;;
  up) up ;;
  disconnect) disconnect ;;
  down) down ;;
  *) sed -n '2,/^set/p' "$0"; exit 2 ;;
esac
