"""The text of every configuration file (pure: values in, text out) and the names that others rely on."""

from dataclasses import dataclass
from pathlib import Path

CLUSTER_NAME = "slurmfutures"
NODES = ("n1", "n2", "n3", "n4")
CPUS_PER_NODE = 8
MEMORY_PER_NODE = 5000  # MB; with the default memory of a CPU, 32 one-CPU jobs run at once
DEFAULT_MEMORY_PER_CPU = 500  # MB

CONTROLLER_PORT = 16817
DATABASE_PORT = 16819
FIRST_NODE_PORT = 17001

MIN_JOB_AGE = 10  # s that slurmctld remembers a finished job; it may be twice that
SLURMD_TIMEOUT = 20  # s without an answer after which a node is down and its jobs have failed
REQUEUE_DELAY = 15  # s from a requeue to the next start, and for how long a launch may be late
KILL_WAIT = 5  # s between SIGTERM and SIGKILL

ACCOUNT = "tests"
SMALL_QOS = "tiny"
SMALL_QOS_MAX_SUBMIT = 20  # jobs of one user in that QOS, each array task counted

ACCOUNTING = (
    f"add cluster {CLUSTER_NAME}",
    f"add qos {SMALL_QOS} MaxSubmitJobsPerUser={SMALL_QOS_MAX_SUBMIT}",
    f"add account {ACCOUNT} Cluster={CLUSTER_NAME} QOS=normal,{SMALL_QOS} DefaultQOS=normal",
    f"add user root Account={ACCOUNT} DefaultAccount={ACCOUNT}",
)
"""What sacctmgr is told once; associations and limits are enforced, so a further user needs a line too."""


@dataclass(frozen=True)
class Layout:
    """Names of all files of one cluster, below its state directory."""

    directory: Path

    @property
    def slurm_conf(self) -> Path:
        return self.directory / "etc" / "slurm.conf"

    @property
    def munge_key(self) -> Path:
        return self.directory / "etc" / "munge.key"

    @property
    def munge_socket(self) -> Path:
        return self.directory / "run" / "munge.socket"

    @property
    def database(self) -> Path:
        return self.directory / "mariadb"

    @property
    def database_socket(self) -> Path:
        return self.directory / "run" / "mariadb.socket"

    @property
    def complete(self) -> Path:
        """Exists once a start was completed."""
        return self.directory / "complete"

    def pid_file(self, daemon: str) -> Path:
        return self.directory / "run" / f"{daemon}.pid"

    def log(self, daemon: str) -> Path:
        return self.directory / "log" / f"{daemon}.log"

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders, which a new cluster begins without."""
        return tuple(self.directory / name for name in ("etc", "run", "log", "state", "spool", "mariadb"))


def slurm_conf(layout: Layout, host: str, cgroups: bool) -> str:
    """`host` is this machine's short host name; without `cgroups` no job ends as OUT_OF_MEMORY."""
    first, last = FIRST_NODE_PORT, FIRST_NODE_PORT + len(NODES) - 1
    nodes = ",".join(NODES)
    return f"""\
ClusterName={CLUSTER_NAME}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={CONTROLLER_PORT}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket},cred_expire={REQUEUE_DELAY}
CredType=cred/munge
MpiDefault=none
MailProg=/bin/true

SlurmctldPidFile={layout.pid_file("slurmctld")}
SlurmctldLogFile={layout.log("slurmctld")}
StateSaveLocation={layout.directory}/state
SlurmdPidFile={layout.directory}/run/slurmd-%n.pid
SlurmdLogFile={layout.directory}/log/slurmd-%n.log
SlurmdSpoolDir={layout.directory}/spool/%n
SlurmdParameters=config_overrides

ProctrackType=proctrack/{"cgroup" if cgroups else "linuxproc"}
TaskPlugin=task/{"cgroup" if cgroups else "none"}
JobAcctGatherType=jobacct_gather/linux

SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0
PriorityType=priority/basic
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU={DEFAULT_MEMORY_PER_CPU}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE

MaxArraySize=1001
MaxJobCount=5000
MinJobAge={MIN_JOB_AGE}
JobRequeue=1
KillWait={KILL_WAIT}
OverTimeLimit=0
SlurmdTimeout={SLURMD_TIMEOUT}
ReturnToService=2

AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePass={layout.munge_socket}
AccountingStoragePort={DATABASE_PORT}
AccountingStorageEnforce=associations,limits,qos

NodeName={nodes} NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{first}-{last}] \
CPUs={CPUS_PER_NODE} RealMemory={MEMORY_PER_NODE} State=UNKNOWN
PartitionName=DEFAULT Nodes={nodes} State=UP MaxTime=INFINITE PriorityTier=1 PreemptMode=OFF
PartitionName=main Default=YES
PartitionName=short MaxTime=1
PartitionName=low PreemptMode=REQUEUE
PartitionName=lowcancel PreemptMode=CANCEL
PartitionName=high PriorityTier=10
"""


# Named also where it has nothing to do: slurmd would look for one by itself, and not start where there is none, nor,
# with cgroup v2, outside systemd.
NO_CGROUPS_CONF = """\
CgroupPlugin=cgroup/v1
"""


def cgroup_conf(mount_point: Path, limit_swap: bool) -> str:
    """`mount_point` holds one folder for each cgroup v1 controller."""
    return f"""\
CgroupPlugin=cgroup/v1
CgroupMountpoint={mount_point}
CgroupAutomount=no
ConstrainRAMSpace=yes
ConstrainSwapSpace={"yes" if limit_swap else "no"}
AllowedSwapSpace=0
"""


def slurmdbd_conf(layout: Layout, host: str) -> str:
    return f"""\
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={DATABASE_PORT}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket}
PidFile={layout.pid_file("slurmdbd")}
LogFile={layout.log("slurmdbd")}
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
"""
