"""What the dashboards show. generate.py makes Grafana's JSON of it.

Every expression picks its series by the variables cluster and instance. Names of the data's own metrics only; no
recorded ones, so that a dashboard works without the rules.
"""
from dataclasses import dataclass, field

PART = 'cluster="$cluster", instance=~"$instance"'
CLUSTER = 'cluster="$cluster"'
VOLUME = PART + ', volume=~"$volume"'
RATE = "[$__rate_interval]"


@dataclass
class Panel:
    title: str
    kind: str
    unit: str
    queries: list        # of (expression, legend)
    description: str
    stacked: bool = False
    thresholds: list = field(default_factory=list)   # of (from this value on, colour)
    lowest: float | None = None
    highest: float | None = None


@dataclass
class Row:
    title: str
    lines: list          # of lists of panels, each a line of the grid


@dataclass
class Dashboard:
    name: str            # of the file; the uid is tessera-<name>
    title: str
    description: str
    instances: str       # series whose "instance" can be chosen
    rows: list
    variables: dict = field(default_factory=dict)    # more of them: name to (label, query)


def graph(title, unit, queries, description, **more):
    return Panel(title, "timeseries", unit, queries, description, **{"lowest": 0, **more})


def stat(title, unit, expression, description, **more):
    return Panel(title, "stat", unit, [(expression, "")], description, **more)


def bars(title, expression, legend, description):
    return Panel(title, "bargauge", "percentunit", [(expression, legend)], description, lowest=0, highest=1,
                 thresholds=[(0.8, "yellow"), (0.9, "red")])


def table(title, unit, expression, description):
    return Panel(title, "table", unit, [(expression, "")], description)


def rate(metric, by, where=PART, more=""):
    """Per second, summed but for the labels `by`."""
    selector = ", ".join(filter(None, [where, more]))
    return f"sum by ({by}) (rate({metric}{{{selector}}}{RATE}))"


def quantile(share, histogram, by, where=PART, more=""):
    labels = ", ".join(filter(None, [by, "le"]))
    return f"histogram_quantile({share}, {rate(histogram + '_bucket', labels, where, more)})"


def percentiles(histogram, by="", legend="", where=PART, more=""):
    """The median and the 99th percentile, as two queries."""
    return [(quantile(share, histogram, by, where, more), f"{legend} {name}".strip())
            for share, name in ((0.5, "p50"), (0.99, "p99"))]


def mean(seconds, count, by, where=PART, more=""):
    return f"{rate(seconds, by, where, more)} / ({rate(count, by, where, more)} > 0)"


def groups(state):
    return f'sum(tessera_mdm_placement_groups{{{CLUSTER}, state="{state}"}})'


ALARM = [(1, "red")]
NOTICE = [(1, "orange")]


def process_row(metric_of_the_part):
    """CPU and memory of the parts that have the metric."""
    join = f"and on (cluster, instance) {metric_of_the_part}{{{PART}}}"
    return Row("Processes", [[
        graph("CPU", "percentunit", [(f"rate(process_cpu_seconds_total{{{PART}}}{RATE}) {join}", "{{instance}}")],
              "Cores in use, by process."),
        graph("Memory", "bytes", [(f"process_resident_memory_bytes{{{PART}}} {join}", "{{instance}}")],
              "Resident memory, by process."),
    ]])


CLUSTER_DASHBOARD = Dashboard(
    "cluster", "Cluster", "Is all well, is there room, and how fast is it?", f"tessera_build_info{{{CLUSTER}}}",
    [
        Row("Is all well?", [[
            stat("Unavailable", "short", groups("unavailable"), "Placement groups whose data nobody can reach.",
                 thresholds=ALARM),
            stat("Single copy", "short", groups("single_copy"),
                 "Placement groups of which one more loss would make data unavailable.", thresholds=ALARM),
            stat("Degraded", "short", groups("degraded"), "Placement groups that lack a copy.", thresholds=NOTICE),
            stat("Servers lost", "short", f'sum(tessera_mdm_component_lost{{{CLUSTER}, kind="sds"}})',
                 "Servers that the MDM does not hear of.", thresholds=ALARM),
            stat("Clients lost", "short", f'sum(tessera_mdm_component_lost{{{CLUSTER}, kind="sdc"}})',
                 "Clients that the MDM does not hear of.", thresholds=NOTICE),
            stat("Devices failed", "short", f"sum(tessera_device_failed{{{CLUSTER}}})", "Devices that are not used any more.",
                 thresholds=ALARM),
        ], [
            stat("Requests", "iops", rate("tessera_sdc_io_requests_total", "cluster", CLUSTER),
                 "Requests of applications, a second."),
            stat("Throughput", "binBps", rate("tessera_sdc_io_bytes_total", "cluster", CLUSTER),
                 "Bytes of applications' requests, a second."),
            stat("Read p99", "s", quantile(0.99, "tessera_sdc_io_duration_seconds", "", CLUSTER, 'op="read"'),
                 "99 of 100 reads are faster."),
            stat("Write p99", "s", quantile(0.99, "tessera_sdc_io_duration_seconds", "", CLUSTER, 'op="write"'),
                 "99 of 100 writes are faster."),
            stat("Volumes", "short", f"sum(tessera_mdm_volumes{{{CLUSTER}}})", "Volumes, without snapshots."),
            stat("Snapshots", "short", f"sum(tessera_mdm_snapshots{{{CLUSTER}}})", "Snapshots of volumes."),
        ], [
            table("Alerts that fire", "short", f'ALERTS{{{CLUSTER}, alertname=~"Tessera.+"}}',
                  "Pending and firing alerts, if Prometheus evaluates Tessera's rules."),
            graph("Redundancy", "short", [(f"sum by (state) (tessera_mdm_placement_groups{{{CLUSTER}}})", "{{state}}")],
                  "Placement groups by redundancy.", stacked=True),
        ]]),
        Row("IO of applications", [[
            graph("Requests", "iops", [(rate("tessera_sdc_io_requests_total", "op", CLUSTER), "{{op}}")],
                  "By operation, all clients."),
            graph("Throughput", "binBps", [(rate("tessera_sdc_io_bytes_total", "op", CLUSTER), "{{op}}")],
                  "By operation, all clients."),
            graph("Errors", "iops", [(rate("tessera_sdc_io_errors_total", "op", CLUSTER), "{{op}}")],
                  "Requests answered with an error."),
        ], [
            graph("Read latency", "s", percentiles("tessera_sdc_io_duration_seconds", where=CLUSTER, more='op="read"'),
                  "From a request's arrival at the client to its answer."),
            graph("Write latency", "s", percentiles("tessera_sdc_io_duration_seconds", where=CLUSTER, more='op="write"'),
                  "From a request's arrival at the client to its answer."),
            graph("Flush latency", "s", percentiles("tessera_sdc_io_duration_seconds", where=CLUSTER, more='op="flush"'),
                  "From a request's arrival at the client to its answer."),
        ]]),
        Row("Pools and capacity", [[
            bars("Pools", f"sum by (pool) (tessera_mdm_pool_used_bytes{{{CLUSTER}}})"
                 f" / (sum by (pool) (tessera_mdm_pool_capacity_bytes{{{CLUSTER}}}) > 0)", "{{pool}}",
                 "How full, of what devices can hold."),
            graph("Used", "bytes", [(f"sum by (pool) (tessera_mdm_pool_used_bytes{{{CLUSTER}}})", "{{pool}} used"),
                                    (f"sum by (pool) (tessera_mdm_pool_data_bytes{{{CLUSTER}}})", "{{pool}} data"),
                                    (f"sum by (pool) (tessera_mdm_pool_capacity_bytes{{{CLUSTER}}})", "{{pool}} capacity")],
                  "Bytes on devices, all copies."),
            graph("Over-commitment", "percentunit",
                  [(f"sum by (pool) (tessera_mdm_pool_provisioned_bytes{{{CLUSTER}}})"
                    f" / (sum by (pool) (tessera_mdm_pool_capacity_bytes{{{CLUSTER}}}) > 0)", "{{pool}}")],
                  "Sizes of volumes by what devices can hold."),
        ]]),
        Row("Repair", [[
            graph("Left to copy", "bytes", [(f"sum by (kind) (tessera_rebuild_bytes_remaining{{{CLUSTER}}})", "{{kind}}")],
                  "Bytes that rebuilds, resyncs, drains and rebalances have left.", stacked=True),
            graph("Copied", "binBps", [(rate("tessera_sds_learner_copied_bytes_total", "instance", CLUSTER), "{{instance}}")],
                  "By the server that copies to itself.", stacked=True),
            graph("Scrubbed", "binBps", [(rate("tessera_sds_scrubbed_bytes_total", "instance", CLUSTER), "{{instance}}")],
                  "Bytes read to check them.", stacked=True),
        ]]),
        Row("Parts", [[
            graph("Servers and clients", "short",
                  [(f"sum by (kind, state) (tessera_mdm_components{{{CLUSTER}}})", "{{kind}} {{state}}")],
                  "As the MDM sees them.", stacked=True),
            table("Versions", "short", f"tessera_build_info{{{PART}}}", "What runs where."),
            graph("Clock offset", "s", [(f"tessera_clock_offset_seconds{{{PART}}}", "{{instance}}")],
                  "The wall clock of the part less the MDM's time.", lowest=None),
        ]]),
        process_row("tessera_build_info"),
    ])


VOLUMES_DASHBOARD = Dashboard(
    "volumes", "Volumes", "Which volume does what. Volumes are named by id; the table says which name has which id.",
    f"tessera_volume_info{{{CLUSTER}}}",
    [
        Row("All chosen volumes", [[
            graph("Reads", "iops", [(rate("tessera_volume_io_requests_total", "volume", VOLUME, 'op="read"'), "{{volume}}")],
                  "Requests answered, by volume."),
            graph("Writes", "iops", [(rate("tessera_volume_io_requests_total", "volume", VOLUME, 'op="write"'), "{{volume}}")],
                  "Requests answered, by volume: writes, trims and zeroes."),
        ], [
            graph("Read throughput", "binBps", [(rate("tessera_volume_io_bytes_total", "volume", VOLUME, 'op="read"'), "{{volume}}")],
                  "Bytes of requests, by volume."),
            graph("Write throughput", "binBps", [(rate("tessera_volume_io_bytes_total", "volume", VOLUME, 'op="write"'), "{{volume}}")],
                  "Bytes of requests, by volume."),
        ], [
            graph("Mean read latency", "s", [(mean("tessera_volume_io_seconds_total", "tessera_volume_io_requests_total", "volume",
                                                   VOLUME, 'op="read"'), "{{volume}}")],
                  "From arrival to answer. Percentiles are kept for each client, not for each volume."),
            graph("Mean write latency", "s", [(mean("tessera_volume_io_seconds_total", "tessera_volume_io_requests_total", "volume",
                                                    VOLUME, 'op="write"'), "{{volume}}")],
                  "From arrival to answer. Percentiles are kept for each client, not for each volume."),
        ], [
            graph("In flight", "short", [(f"sum by (volume) (tessera_volume_in_flight{{{VOLUME}}})", "{{volume}}")],
                  "Requests not answered yet: the mean queue depth."),
            graph("Held by limits", "percentunit", [(rate("tessera_volume_throttled_seconds_total", "volume", VOLUME), "{{volume}}")],
                  "Seconds that requests waited for the volume's limits, a second; above 1: several at once."),
            graph("Errors", "iops", [(rate("tessera_volume_io_errors_total", "volume", VOLUME), "{{volume}}")],
                  "Requests that failed."),
        ]]),
        Row("Which ones", [[
            table("Busiest", "iops", f"topk(10, {rate('tessera_volume_io_requests_total', 'volume', VOLUME)})",
                  "The ten with the most requests a second."),
            table("Names", "short", f"tessera_volume_info{{{VOLUME}}} == 1", "Volumes that are attached, and where."),
        ]]),
        Row("Of the cluster", [[
            graph("Volumes", "short", [(f"sum(tessera_mdm_volumes{{{CLUSTER}}})", "volumes"),
                                       (f"sum(tessera_mdm_mappings{{{CLUSTER}}})", "mapped"),
                                       (f"sum(tessera_mdm_snapshots{{{CLUSTER}}})", "snapshots")], "How many there are."),
            graph("Limits and budgets", "short",
                  [(f"sum(tessera_mdm_clients_over_limit{{{CLUSTER}}})", "clients over their limits"),
                   (f"sum(tessera_mdm_volumes_over_budget{{{CLUSTER}}})", "volumes over their budget")],
                  "Held back by servers; writes that get ENOSPC."),
            graph("Being deleted", "short", [(f"sum(tessera_mdm_pending_deletions{{{CLUSTER}}})", "volumes, by server"),
                                             (f"sum(tessera_mdm_pending_layer_drops{{{CLUSTER}}})", "layers, by server")],
                  "What servers have yet to drop."),
        ]]),
    ],
    {"volume": ("Volume", f'label_values(tessera_volume_info{{{PART}}}, volume)')})


DEVICE = "{{instance}} {{device}}"
SDS_DASHBOARD = Dashboard(
    "sds", "Servers and devices", "Use, saturation and errors of servers (SDS) and their devices.",
    f"tessera_sds_open_streams{{{CLUSTER}}}",
    [
        Row("Requests", [[
            graph("Operations", "iops", [(rate("tessera_sds_io_requests_total", "op"), "{{op}}")], "Answered, by kind."),
            graph("Throughput", "binBps", [(rate("tessera_sds_read_bytes_total", "instance"), "{{instance}} read"),
                                           (rate("tessera_sds_write_bytes_total", "instance"), "{{instance}} written")],
                  "Bytes of clients."),
            graph("Not done", "iops", [(rate("tessera_sds_io_results_total", "status", PART, 'status!~"ok|unspecified"'), "{{status}}")],
                  "Operations answered with something other than success, most of which clients repeat."),
        ], [
            graph("Read duration", "s", percentiles("tessera_sds_io_duration_seconds", "instance", "{{instance}}", more='op="read"'),
                  "From an operation's arrival to its answer."),
            graph("Write duration", "s", percentiles("tessera_sds_io_duration_seconds", "instance", "{{instance}}", more='op="write"'),
                  "From an operation's arrival to its answer."),
            graph("Flush duration", "s", percentiles("tessera_sds_io_duration_seconds", "instance", "{{instance}}", more='op="flush"'),
                  "From an operation's arrival to its answer."),
        ]]),
        Row("Stages, p99", [[
            graph("Queue", "s", [(quantile(0.99, "tessera_sds_queue_duration_seconds", "instance"), "{{instance}}")],
                  "From a message's arrival until a thread took it."),
            graph("Journal", "s", [(quantile(0.99, "tessera_sds_apply_duration_seconds", "instance"), "{{instance}}")],
                  "A batch of changes in the store."),
            graph("Disk flush", "s", [(quantile(0.99, "tessera_sds_flush_duration_seconds", "instance"), "{{instance}}")],
                  "One flush, which many operations share."),
        ], [
            graph("Disk read", "s", [(quantile(0.99, "tessera_sds_cold_read_duration_seconds", "instance"), "{{instance}}")],
                  "Reads that were not in memory."),
            graph("Held by limits", "iops", [(rate("tessera_sds_limit_held_seconds_count", "instance"), "{{instance}}"),
                                             (rate("tessera_sds_limit_refused_total", "instance"), "{{instance}} refused")],
                  "Operations of clients that exceed their limits."),
            graph("Tokens refused", "iops", [(rate("tessera_sds_token_refused_total", "reason"), "{{reason}}")],
                  "By reason. Some 'expired' and 'wrong_generation' are normal when clients change."),
        ]]),
        Row("Devices: use", [[
            bars("Full", f"tessera_device_used_bytes{{{PART}}} / (tessera_device_capacity_bytes{{{PART}}} > 0)", DEVICE,
                 "Bytes that the store uses, of those it may."),
            graph("Busy", "percentunit", [(rate("tessera_device_thread_cpu_seconds_total", "instance, device"), DEVICE)],
                  "CPU time of the device's thread, a second: 1 is its limit."),
            graph("Journal", "percentunit", [(f"tessera_device_journal_used_bytes{{{PART}}}"
                                              f" / (tessera_device_journal_bytes{{{PART}}} > 0)", DEVICE)],
                  "How full the journal is before a checkpoint empties it.", highest=1),
        ]]),
        Row("Devices: saturation and errors", [[
            graph("Queue depth", "short", [(f"tessera_device_queue_depth{{{PART}}}", DEVICE)], "Tasks that wait for the device's thread."),
            graph("Reads that wait", "short", [(f"tessera_sds_disk_reads_queued{{{PART}}}", "{{instance}}")],
                  "Reads that wait for a thread that reads the disk."),
            graph("Bytes in flight", "bytes", [(f"tessera_sds_in_flight_bytes{{{PART}}}", "{{instance}}")],
                  "Requests and replies that are held for all streams."),
        ], [
            graph("Failed", "short", [(f"sum by (instance) (tessera_device_failed{{{PART}}})", "{{instance}}")], "Devices that failed."),
            graph("Corrupt blocks", "short",
                  [(f"sum by (by) (increase(tessera_sds_corrupt_blocks_found_total{{{PART}}}{RATE}))", "found by {{by}}"),
                   (f"sum(increase(tessera_sds_corrupt_blocks_repaired_total{{{PART}}}{RATE}))", "repaired"),
                   (f"sum(increase(tessera_sds_corrupt_blocks_unrepairable_total{{{PART}}}{RATE}))", "no good copy")],
                  "Blocks with a wrong checksum."),
            graph("Streams", "short", [(f"tessera_sds_open_streams{{{PART}}}", "{{instance}}")], "Data streams of clients."),
        ]]),
        Row("Copies", [[
            graph("Copied", "binBps", [(rate("tessera_sds_learner_copied_bytes_total", "instance"), "{{instance}}")],
                  "From other servers."),
            graph("Allowed", "binBps", [(f"tessera_sds_recovery_bytes_per_second{{{PART}}}", "{{instance}}")],
                  "What the control loop leaves for copying beside clients."),
            graph("Replicas brought up to date", "short",
                  [(f"sum by (instance) (increase(tessera_sds_learnings_completed_total{{{PART}}}{RATE}))", "{{instance}}"),
                   (f"sum by (instance) (increase(tessera_sds_learnings_failed_total{{{PART}}}{RATE}))", "{{instance}} begun anew")],
                  "How many became equal to the others."),
        ]]),
        process_row("tessera_sds_open_streams"),
    ])


SDC_DASHBOARD = Dashboard(
    "sdc", "Clients", "What applications see, and where their time goes (SDC).", f"tessera_sdc_io_in_flight{{{CLUSTER}}}",
    [
        Row("Requests", [[
            graph("Requests", "iops", [(rate("tessera_sdc_io_requests_total", "instance, op"), "{{instance}} {{op}}")],
                  "Answered, by client and operation."),
            graph("Throughput", "binBps", [(rate("tessera_sdc_io_bytes_total", "instance, op"), "{{instance}} {{op}}")],
                  "Bytes of requests."),
            graph("Errors", "iops", [(rate("tessera_sdc_io_errors_total", "instance, op"), "{{instance}} {{op}}")],
                  "Requests answered with an error."),
        ], [
            graph("Read latency", "s", percentiles("tessera_sdc_io_duration_seconds", "instance", "{{instance}}", more='op="read"'),
                  "From arrival to answer."),
            graph("Write latency", "s", percentiles("tessera_sdc_io_duration_seconds", "instance", "{{instance}}", more='op="write"'),
                  "From arrival to answer."),
            graph("In flight", "short", [(f"tessera_sdc_io_in_flight{{{PART}}}", "{{instance}}")], "Requests not answered yet."),
        ]]),
        Row("Where the time goes", [[
            graph("Mean, stacked", "s", [(mean("tessera_sdc_stage_duration_seconds_sum", "tessera_sdc_stage_duration_seconds_count", "stage",
                                               PART, 'stage!="slowest_replica"'), "{{stage}}")],
                  "Mean time of the requests that had the stage. `tessera volume latency` names server and device.", stacked=True),
            graph("p99", "s", [(quantile(0.99, "tessera_sdc_stage_duration_seconds", "stage"), "{{stage}}")],
                  "slowest_replica: by how much the slowest replica was later than the others. A part of the other stages."),
            graph("Held by limits", "iops", [(rate("tessera_sdc_limited_requests_total", "instance"), "{{instance}}")],
                  "Requests that waited for their volume's limits."),
        ]]),
        Row("By server", [[
            graph("Round trip", "s", [(mean("tessera_sdc_server_seconds_total", "tessera_sdc_server_operations_total", "sds, op"),
                                       "server {{sds}} {{op}}")],
                  "Mean time from an operation's leaving to its answer."),
            graph("Of that, in the store", "s", [(mean("tessera_sdc_server_store_seconds_total", "tessera_sdc_server_operations_total", "sds, op",
                                                       PART, 'op=~"write|flush"'), "server {{sds}} {{op}}")],
                  "As the servers say it. The rest is network and queues."),
            graph("Operations", "iops", [(rate("tessera_sdc_server_operations_total", "sds, op"), "server {{sds}} {{op}}")],
                  "Answered, by server."),
        ], [
            graph("Connected", "short", [(f"tessera_sdc_server_connected{{{PART}}}", "{{instance}} to {{sds}}")],
                  "1 while the stream to the server is open."),
            graph("In flight", "short", [(f"tessera_sdc_server_in_flight{{{PART}}}", "{{instance}} to {{sds}}")],
                  "Operations that the server has not answered."),
            graph("Streams broken", "short", [(f"sum by (instance) (increase(tessera_sdc_reconnects_total{{{PART}}}{RATE}))", "{{instance}}")],
                  "Streams that broke, and attempts that failed."),
        ]]),
        Row("Repeats and waits", [[
            graph("Repeats", "iops", [(rate("tessera_sdc_read_retries_total", "instance"), "{{instance}} reads"),
                                      (rate("tessera_sdc_write_repeats_total", "instance"), "{{instance}} writes")],
                  "Operations sent again, or to another replica."),
            graph("Trouble", "short",
                  [(f"sum by (instance) (increase(tessera_sdc_io_timeouts_total{{{PART}}}{RATE}))", "{{instance}} given up"),
                   (f"sum by (instance) (increase(tessera_sdc_waits_for_space_total{{{PART}}}{RATE}))", "{{instance}} wait for space"),
                   (f"sum by (instance) (increase(tessera_sdc_replica_failures_reported_total{{{PART}}}{RATE}))",
                    "{{instance}} replicas reported")],
                  "What needs somebody's attention when it goes on."),
            graph("Not flushed", "bytes", [(f"tessera_sdc_unflushed_bytes{{{PART}}}", "{{instance}}")],
                  "Acknowledged writes that are kept until they are durable."),
        ]]),
        Row("NBD and the MDM", [[
            graph("NBD connections", "short", [(f"tessera_sdc_nbd_connections{{{PART}}}", "{{instance}}")], "Open now."),
            graph("NBD bytes in flight", "bytes", [(f"tessera_sdc_nbd_in_flight_bytes{{{PART}}}", "{{instance}}")],
                  "Between socket and reply."),
            graph("MDM", "short", [(f"tessera_sdc_mdm_reachable{{{PART}}}", "{{instance}} reaches it"),
                                   (f"sum by (instance) (increase(tessera_sdc_grant_failures_total{{{PART}}}{RATE}))",
                                    "{{instance}} calls that failed")], "IO goes on while it is away."),
        ]]),
        Row("Read cache", [[
            graph("Hits", "percentunit",
                  [(f"{rate('tessera_sdc_read_cache_hits_total', 'instance')} / ({rate('tessera_sdc_read_cache_hits_total', 'instance')}"
                    f" + {rate('tessera_sdc_read_cache_misses_total', 'instance')} > 0)", "{{instance}}")],
                  "Share of reads answered by the cache.", highest=1),
            graph("Used", "bytes", [(f"tessera_sdc_read_cache_used_bytes{{{PART}}}", "{{instance}} used"),
                                    (f"tessera_sdc_read_cache_size_bytes{{{PART}}}", "{{instance}} size")], "Blocks in the cache."),
            graph("Errors", "short", [(f"sum by (instance) (increase(tessera_sdc_read_cache_errors_total{{{PART}}}{RATE}))", "{{instance}}")],
                  "Of its file. The reads were answered by servers."),
        ]]),
        process_row("tessera_sdc_io_in_flight"),
    ])


MDM_DASHBOARD = Dashboard(
    "mdm", "MDM", "The metadata manager: what it decides, how fast it commits, whom it hears.",
    f"tessera_mdm_volumes{{{CLUSTER}}}",
    [
        Row("Work", [[
            graph("Commits", "ops", [(rate("tessera_mdm_commits_total", "instance"), "committed"),
                                     (rate("tessera_mdm_aborted_transactions_total", "instance"), "refused or failed")],
                  "Transactions of its database."),
            graph("Commit duration", "s", percentiles("tessera_mdm_commit_duration_seconds"), "With the fsync."),
            graph("Database", "bytes", [(f"tessera_mdm_database_bytes{{{PART}}}", "{{instance}}")], "Size of mdm.db and its log."),
        ], [
            graph("Heartbeats", "ops", [(rate("tessera_mdm_heartbeats_total", "instance"), "{{instance}}")], "Of servers and clients."),
            graph("Grants", "ops", [(rate("tessera_mdm_tokens_issued_total", "instance"), "given out"),
                                    (rate("tessera_mdm_grants_renewed_total", "instance"), "renewed")], "To clients."),
            graph("Operations acknowledged", "iops", [(rate("tessera_mdm_acknowledged_operations_total", "instance"), "{{instance}}")],
                  "That servers have told of."),
        ]]),
        Row("What it sees", [[
            graph("Servers and clients", "short", [(f"sum by (kind, state) (tessera_mdm_components{{{PART}}})", "{{kind}} {{state}}")],
                  "By state.", stacked=True),
            graph("Placement groups", "short", [(f"sum by (state) (tessera_mdm_placement_groups{{{PART}}})", "{{state}}")],
                  "By redundancy.", stacked=True),
            graph("Left to copy", "bytes", [(f"sum by (kind) (tessera_rebuild_bytes_remaining{{{PART}}})", "{{kind}}")],
                  "By kind of operation.", stacked=True),
        ], [
            graph("Operations", "short", [(f"sum by (kind) (tessera_mdm_operations_running{{{PART}}})", "{{kind}}")],
                  "Rebuilds, resyncs, drains and the like that run.", stacked=True),
            graph("Events", "short", [(f"sum by (severity) (increase(tessera_mdm_events_total{{{PART}}}{RATE}))", "{{severity}}")],
                  "What happened; tessera event list says it in words."),
            graph("Watches of the map", "short", [(f"tessera_mdm_map_watchers{{{PART}}}", "{{instance}}")], "Parts that follow the map."),
            graph("Pushes that failed", "ops", [(rate("tessera_mdm_map_push_failures_total", "instance"), "{{instance}}")],
                  "Map entries that a part did not take at once."),
        ], [
            graph("Bad blocks told of", "short", [(f"sum by (change) (increase(tessera_mdm_corrupt_blocks_total{{{PART}}}{RATE}))", "{{change}}")],
                  "By what became of them."),
            graph("Snapshot schedules", "short",
                  [(f"sum by (result) (increase(tessera_mdm_snapshot_schedule_runs_total{{{PART}}}{RATE}))", "{{result}}")],
                  "Runs, by result."),
            table("Parts that are lost", "short", f"tessera_mdm_component_lost{{{PART}}} == 1", "By name."),
        ]]),
        process_row("tessera_mdm_volumes"),
    ])


SERVICE = 'service=~"$service"'
FAILED = SERVICE + ', code!="OK"'
HANDLED = "tessera_grpc_server_handled_total"
HANDLING = "tessera_grpc_server_handling_seconds"
GRPC_DASHBOARD = Dashboard(
    "grpc", "gRPC", "Rate, errors and duration of calls, of all parts.", f"{HANDLING}_count{{{CLUSTER}}}",
    [
        Row("Services", [[
            graph("Rate", "reqps", [(rate(HANDLED, "service", more=SERVICE), "{{service}}")], "Calls answered, by service."),
            graph("Errors", "reqps", [(rate(HANDLED, "code", more=FAILED), "{{code}}")],
                  "By code. INVALID_ARGUMENT, NOT_FOUND and the like are the callers'."),
            graph("Duration, p99", "s", [(quantile(0.99, HANDLING, "service", more=SERVICE), "{{service}}")],
                  "Unary calls, from arrival to answer."),
        ], [
            graph("Share of errors", "percentunit",
                  [(f"{rate(HANDLED, 'service', more=FAILED)}"
                    f" / ({rate(HANDLED, 'service', more=SERVICE)} > 0)", "{{service}}")],
                  "Of calls, by service.", highest=1),
            graph("By part", "reqps", [(rate(HANDLED, "instance", more=SERVICE), "{{instance}}")], "Calls answered, by part."),
            graph("Calls at once", "short", [(f"{rate(HANDLING + '_sum', 'service', more=SERVICE)}", "{{service}}")],
                  "Seconds that calls took, a second: how many are under way on average."),
        ]]),
        Row("Methods", [[
            table("Busiest", "reqps", f"topk(15, {rate(HANDLED, 'service, method', more=SERVICE)} > 0)", "Calls a second."),
            table("Slowest", "s", f"topk(15, {quantile(0.99, HANDLING, 'service, method', more=SERVICE)} >= 0)", "99 of 100 calls are faster."),
            table("Failing", "reqps", f"topk(15, {rate(HANDLED, 'service, method, code', more=FAILED)} > 0)",
                  "Calls a second that end with an error."),
        ]]),
    ],
    {"service": ("Service", f"label_values({HANDLED}{{{PART}}}, service)")})


CONSOLE_DASHBOARD = Dashboard(
    "console", "Console", "The console and who uses it (MGMT): sign-ins, browsers, polls, alerts.",
    f"tessera_mgmt_event_subscribers{{{CLUSTER}}}",
    [
        Row("People", [[
            stat("Browsers that watch", "short", f"sum(tessera_mgmt_event_subscribers{{{PART}}})", "Open watches of the console."),
            stat("Sessions", "short", f"sum(tessera_mgmt_sessions{{{PART}}})", "That are not over."),
            stat("Sign-ins", "short", f"sum(increase(tessera_mgmt_logins_total{{{PART}}}[$__range]))", "In the time that is shown."),
            stat("Wrong passwords", "short", f"sum(increase(tessera_mgmt_login_failures_total{{{PART}}}[$__range]))",
                 "In the time that is shown. Wrong names, too.", thresholds=[(20, "orange")]),
            stat("Locked out", "short", f"sum(increase(tessera_mgmt_logins_locked_total{{{PART}}}[$__range]))",
                 "Sign-ins refused after too many wrong tries.", thresholds=NOTICE),
            stat("Audit entries lost", "short", f"sum(tessera_mgmt_audit_entries_lost_total{{{PART}}})",
                 "Changes that could not be written down.", thresholds=ALARM),
        ], [
            graph("Alerts", "short", [(f"sum by (severity) (tessera_mgmt_alerts_active{{{PART}}})", "{{severity}}")],
                  "Active in the console, by severity.", stacked=True),
            graph("Audit log", "ops", [(rate("tessera_mgmt_audit_entries_total", "instance"), "{{instance}}")], "Entries written."),
            graph("Database", "bytes", [(f"tessera_mgmt_database_bytes{{{PART}}}", "{{instance}}")], "Size of mgmt.db."),
        ]]),
        Row("HTTP", [[
            graph("Requests", "reqps", [(rate("tessera_mgmt_http_requests_total", "code"), "{{code}}")], "Answered, by status."),
            graph("Open", "short", [(f"sum(tessera_mgmt_http_connections{{{PART}}})", "connections"),
                                    (f"sum(tessera_mgmt_http_streams_open{{{PART}}})", "calls")], "Of browsers."),
            graph("Bytes", "binBps", [(rate("tessera_mgmt_http_received_bytes_total", "instance"), "{{instance}} received"),
                                      (rate("tessera_mgmt_http_sent_bytes_total", "instance"), "{{instance}} sent")], "Without TLS."),
        ], [
            graph("Messages dropped", "ops", [(rate("tessera_mgmt_events_dropped_total", "instance"), "{{instance}}")],
                  "For readers that were too slow."),
            graph("gRPC calls", "reqps", [(f"{rate(HANDLED, 'instance, service')} and on (instance) tessera_mgmt_event_subscribers{{{PART}}}",
                                           "{{service}}")], "Answered, from browsers and others."),
            graph("gRPC p99", "s", [(f"{quantile(0.99, HANDLING, 'instance, service')} and on (instance) tessera_mgmt_event_subscribers{{{PART}}}",
                                     "{{service}}")], "Unary calls."),
        ]]),
        Row("Polls", [[
            graph("Notifications", "short", [(f"sum by (target) (tessera_mgmt_notifications_queued{{{PART}}})", "{{target}} wait"),
                                             (f"sum by (target) (increase(tessera_mgmt_notifications_sent_total{{{PART}}}{RATE}))", "{{target}} sent"),
                                             (f"sum by (target) (increase(tessera_mgmt_notification_tries_failed_total{{{PART}}}{RATE}))",
                                              "{{target}} failed tries")], "By webhook and mail, of the console's alerts."),
            graph("Polls", "ops", [(rate("tessera_mgmt_polls_total", "kind, result"), "{{kind}} {{result}}")], "Of parts, by kind."),
            graph("Poll, p99", "s", [(quantile(0.99, "tessera_mgmt_poll_duration_seconds", "kind"), "{{kind}}")], "Answered ones."),
            graph("Round", "s", percentiles("tessera_mgmt_poll_round_duration_seconds"), "Until everybody was told of a round."),
        ]]),
        process_row("tessera_mgmt_event_subscribers"),
    ])


DASHBOARDS = [CLUSTER_DASHBOARD, VOLUMES_DASHBOARD, SDS_DASHBOARD, SDC_DASHBOARD, MDM_DASHBOARD, GRPC_DASHBOARD, CONSOLE_DASHBOARD]
