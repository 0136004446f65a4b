"""The metrics that are offered, by cAdvisor's names, with their labels in the order in which values come."""

from typing import NamedTuple

from common.api.cri.v1 import api_pb2 as cri

BASE_LABELS = ("container", "id", "image", "name", "namespace", "pod")
"""Every metric has these first; a pod's own have an empty container, image and name."""

COUNTER, GAUGE = cri.COUNTER, cri.GAUGE


class Family(NamedTuple):
    """One metric; `labels` come after the base labels."""

    name: str
    kind: "cri.MetricType.ValueType"
    help: str
    labels: tuple[str, ...] = ()


class Sample(NamedTuple):
    """A value, whole and in the unit of the metric's name; `labels` are values of the family's own."""

    name: str
    value: int
    labels: tuple[str, ...] = ()


_TABLE = """
blkio_device_usage_total                counter  Bytes and operations by block device. | device,major,minor,operation
cpu_cfs_periods_total                   counter  Elapsed enforcement periods.
cpu_cfs_throttled_periods_total         counter  Enforcement periods with throttling.
cpu_cfs_throttled_seconds_total         counter  Time throttled, in seconds.
cpu_system_seconds_total                counter  CPU time in the kernel, in seconds.
cpu_usage_seconds_total                 counter  CPU time, in seconds. | cpu
cpu_user_seconds_total                  counter  CPU time outside the kernel, in seconds.
file_descriptors                        gauge    Open file descriptors of all processes.
fs_inodes_free                          gauge    Free inodes of the filesystem. | device
fs_inodes_total                         gauge    Inodes of the filesystem. | device
fs_limit_bytes                          gauge    Size of the filesystem, in bytes. | device
fs_reads_bytes_total                    counter  Bytes read. | device
fs_reads_total                          counter  Reads completed. | device
fs_usage_bytes                          gauge    Bytes that the container wrote and holds. | device
fs_writes_bytes_total                   counter  Bytes written. | device
fs_writes_total                         counter  Writes completed. | device
hugetlb_max_usage_bytes                 gauge    Largest use of huge pages, in bytes. | pagesize
hugetlb_usage_bytes                     gauge    Use of huge pages, in bytes. | pagesize
last_seen                               gauge    When the container was last read, in seconds since 1970.
memory_cache                            gauge    Page cache, in bytes.
memory_failcnt                          counter  How often the memory limit was hit.
memory_failures_total                   counter  Page faults. | failure_type,scope
memory_kernel_usage                     gauge    Memory of the kernel for the container, in bytes.
memory_mapped_file                      gauge    Mapped files, in bytes.
memory_max_usage_bytes                  gauge    Largest use of memory, in bytes.
memory_rss                              gauge    Anonymous memory, in bytes.
memory_swap                             gauge    Swap, in bytes.
memory_usage_bytes                      gauge    Memory with all caches, in bytes.
memory_working_set_bytes                gauge    Memory less inactive files, in bytes.
network_receive_bytes_total             counter  Bytes received. | interface
network_receive_errors_total            counter  Errors while receiving. | interface
network_receive_packets_dropped_total   counter  Received and dropped. | interface
network_receive_packets_total           counter  Packets received. | interface
network_transmit_bytes_total            counter  Bytes sent. | interface
network_transmit_errors_total           counter  Errors while sending. | interface
network_transmit_packets_dropped_total  counter  Dropped unsent. | interface
network_transmit_packets_total          counter  Packets sent. | interface
oom_events_total                        counter  Processes killed for want of memory.
pressure_cpu_stalled_seconds_total      counter  Total time that all tasks of the container were stalled for CPU, in seconds.
pressure_cpu_waiting_seconds_total      counter  Total time that some tasks of the container were stalled for CPU, in seconds.
pressure_io_stalled_seconds_total       counter  Total time that all tasks of the container were stalled by I/O, in seconds.
pressure_io_waiting_seconds_total       counter  Total time that some tasks of the container were stalled by I/O, in seconds.
pressure_memory_stalled_seconds_total   counter  Total time that all tasks of the container were stalled for memory, in seconds.
pressure_memory_waiting_seconds_total   counter  Total time that some tasks of the container were stalled for memory, in seconds.
processes                               gauge    Processes.
sockets                                 gauge    Open sockets of all processes.
spec_cpu_period                         gauge    Period of the CPU quota, in microseconds.
spec_cpu_quota                          gauge    CPU quota in a period, in microseconds.
spec_cpu_shares                         gauge    CPU shares.
spec_memory_limit_bytes                 gauge    Memory limit; 0 for none.
spec_memory_reservation_limit_bytes     gauge    Memory kept for it; 0 for none.
spec_memory_swap_limit_bytes            gauge    Swap limit; 0 for none.
start_time_seconds                      gauge    When it started, in seconds since 1970.
threads                                 gauge    Threads.
threads_max                             gauge    Threads allowed; 0 for any number.
ulimits_soft                            gauge    Soft limits of the first process. | ulimit
"""
"""After `container_` each name, its kind, its help, and labels of its own, as cAdvisor has them."""

_KINDS = {"counter": COUNTER, "gauge": GAUGE}


def _family(line: str) -> Family:
    said, _, labels = line.partition(" | ")
    name, kind, text = said.split(maxsplit=2)
    return Family(f"container_{name}", _KINDS[kind], text, tuple(labels.split(",")) if labels else ())


FAMILIES = tuple(map(_family, _TABLE.strip().splitlines()))
BY_NAME = {family.name: family for family in FAMILIES}


def descriptors() -> list[cri.MetricDescriptor]:
    """The answer of ListMetricDescriptors."""
    return [
        cri.MetricDescriptor(name=f.name, help=f.help, label_keys=[*BASE_LABELS, *f.labels]) for f in FAMILIES
    ]
