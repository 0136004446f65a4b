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


_DEVICE = ("device",)
_INTERFACE = ("interface",)
_PRESSURE = "Total time that {who} tasks of the container were stalled {why}, in seconds."

FAMILIES = (
    Family(
        "container_blkio_device_usage_total",
        COUNTER,
        "Bytes and operations by block device.",
        ("device", "major", "minor", "operation"),
    ),
    Family("container_cpu_cfs_periods_total", COUNTER, "Elapsed enforcement periods."),
    Family("container_cpu_cfs_throttled_periods_total", COUNTER, "Enforcement periods with throttling."),
    Family("container_cpu_cfs_throttled_seconds_total", COUNTER, "Time throttled, in seconds."),
    Family("container_cpu_system_seconds_total", COUNTER, "CPU time in the kernel, in seconds."),
    Family("container_cpu_usage_seconds_total", COUNTER, "CPU time, in seconds.", ("cpu",)),
    Family("container_cpu_user_seconds_total", COUNTER, "CPU time outside the kernel, in seconds."),
    Family("container_file_descriptors", GAUGE, "Open file descriptors of all processes."),
    Family("container_fs_inodes_free", GAUGE, "Free inodes of the filesystem.", _DEVICE),
    Family("container_fs_inodes_total", GAUGE, "Inodes of the filesystem.", _DEVICE),
    Family("container_fs_limit_bytes", GAUGE, "Size of the filesystem, in bytes.", _DEVICE),
    Family("container_fs_reads_bytes_total", COUNTER, "Bytes read.", _DEVICE),
    Family("container_fs_reads_total", COUNTER, "Reads completed.", _DEVICE),
    Family("container_fs_usage_bytes", GAUGE, "Bytes that the container wrote and holds.", _DEVICE),
    Family("container_fs_writes_bytes_total", COUNTER, "Bytes written.", _DEVICE),
    Family("container_fs_writes_total", COUNTER, "Writes completed.", _DEVICE),
    Family("container_hugetlb_max_usage_bytes", GAUGE, "Largest use of huge pages, in bytes.", ("pagesize",)),
    Family("container_hugetlb_usage_bytes", GAUGE, "Use of huge pages, in bytes.", ("pagesize",)),
    Family("container_last_seen", GAUGE, "When the container was last read, in seconds since 1970."),
    Family("container_memory_cache", GAUGE, "Page cache, in bytes."),
    Family("container_memory_failcnt", COUNTER, "How often the memory limit was hit."),
    Family("container_memory_failures_total", COUNTER, "Page faults.", ("failure_type", "scope")),
    Family("container_memory_kernel_usage", GAUGE, "Memory of the kernel for the container, in bytes."),
    Family("container_memory_mapped_file", GAUGE, "Mapped files, in bytes."),
    Family("container_memory_max_usage_bytes", GAUGE, "Largest use of memory, in bytes."),
    Family("container_memory_rss", GAUGE, "Anonymous memory, in bytes."),
    Family("container_memory_swap", GAUGE, "Swap, in bytes."),
    Family("container_memory_usage_bytes", GAUGE, "Memory with all caches, in bytes."),
    Family("container_memory_working_set_bytes", GAUGE, "Memory less inactive files, in bytes."),
    Family("container_network_receive_bytes_total", COUNTER, "Bytes received.", _INTERFACE),
    Family("container_network_receive_errors_total", COUNTER, "Errors while receiving.", _INTERFACE),
    Family("container_network_receive_packets_dropped_total", COUNTER, "Received and dropped.", _INTERFACE),
    Family("container_network_receive_packets_total", COUNTER, "Packets received.", _INTERFACE),
    Family("container_network_transmit_bytes_total", COUNTER, "Bytes sent.", _INTERFACE),
    Family("container_network_transmit_errors_total", COUNTER, "Errors while sending.", _INTERFACE),
    Family("container_network_transmit_packets_dropped_total", COUNTER, "Dropped unsent.", _INTERFACE),
    Family("container_network_transmit_packets_total", COUNTER, "Packets sent.", _INTERFACE),
    Family("container_oom_events_total", COUNTER, "Processes killed for want of memory."),
    *(
        Family(f"container_pressure_{what}_{kind}_seconds_total", COUNTER, _PRESSURE.format(who=who, why=why))
        for what, why in (("cpu", "for CPU"), ("io", "by I/O"), ("memory", "for memory"))
        for kind, who in (("stalled", "all"), ("waiting", "some"))
    ),
    Family("container_processes", GAUGE, "Processes."),
    Family("container_sockets", GAUGE, "Open sockets of all processes."),
    Family("container_spec_cpu_period", GAUGE, "Period of the CPU quota, in microseconds."),
    Family("container_spec_cpu_quota", GAUGE, "CPU quota in a period, in microseconds."),
    Family("container_spec_cpu_shares", GAUGE, "CPU shares."),
    Family("container_spec_memory_limit_bytes", GAUGE, "Memory limit; 0 for none."),
    Family("container_spec_memory_reservation_limit_bytes", GAUGE, "Memory kept for it; 0 for none."),
    Family("container_spec_memory_swap_limit_bytes", GAUGE, "Swap limit; 0 for none."),
    Family("container_start_time_seconds", GAUGE, "When it started, in seconds since 1970."),
    Family("container_threads", GAUGE, "Threads."),
    Family("container_threads_max", GAUGE, "Threads allowed; 0 for any number."),
    Family("container_ulimits_soft", GAUGE, "Soft limits of the first process.", ("ulimit",)),
)
BY_NAME = {family.name: family for family in FAMILIES}


def descriptors() -> list[cri.MetricDescriptor]:
    """The answer of ListMetricDescriptors."""
    return [
        cri.MetricDescriptor(name=f.name, help=f.help, label_keys=[*BASE_LABELS, *f.labels]) for f in FAMILIES
    ]
