// Which servers and devices hold a volume's placement groups, and in what state: a row of bars for each device.
import type { Topology, VolumeReplicaNode } from '../gen/tessera/v1/topology_pb';
import type { Volume } from '../gen/tessera/v1/volume_pb';
import { useTopology } from '../store/objects';
import { Empty, Loaded } from './basics';
import { Table } from './Table';

export interface ReplicaRow extends Pick<VolumeReplicaNode, 'deviceId' | 'inSync' | 'learning' | 'outOfSync'> {
  server: string;
  device: string;
}

/** One row for each device that holds parts of the volume. */
export function replicaRows(topology: Topology, volumeId: bigint): ReplicaRow[] {
  for (const domain of topology.protectionDomains) {
    const servers = new Map(domain.sdss.map((sds) => [sds.sdsId, sds]));
    for (const pool of domain.pools) {
      const node = pool.volumes.find(({ volume }) => volume?.volumeId === volumeId);
      if (!node) continue;
      return node.replicas.map((replica) => {
        const server = servers.get(replica.sdsId);
        const device = server?.devices.find(({ deviceId }) => deviceId === replica.deviceId);
        return { deviceId: replica.deviceId, inSync: replica.inSync, learning: replica.learning, outOfSync: replica.outOfSync,
          server: server?.name ?? `server ${replica.sdsId}`, device: device?.description?.path || `device ${replica.deviceId}` };
      });
    }
  }
  return [];
}

export function VolumePlacement({ volume }: { volume: Volume }) {
  const topology = useTopology();
  return (
    <Loaded of={topology}>
      {(tree) => {
        const rows = tree ? replicaRows(tree, volume.volumeId) : [];
        const most = Math.max(1, ...rows.map(({ inSync, learning, outOfSync }) => inSync + learning + outOfSync));
        return (
          <Table caption={`Where ${volume.name} lies`} rows={rows} keyOf={({ deviceId }) => String(deviceId)} sortedBy="server" columns={[
            { id: 'server', head: 'Server', sort: ({ server }) => server, cell: ({ server }) => server },
            { id: 'device', head: 'Device', sort: ({ device }) => device, cell: ({ device }) => <span class="path">{device}</span> },
            { id: 'groups', head: 'Placement groups', cell: (row) => (
              <span class="bar wide-bar" role="img" aria-label={`${row.inSync} in sync, ${row.learning} catching up, ${row.outOfSync} out of date`}>
                <span class="bar-part ok" style={{ width: `${(100 * row.inSync) / most}%` }} />
                <span class="bar-part warning" style={{ width: `${(100 * row.learning) / most}%` }} />
                <span class="bar-part error" style={{ width: `${(100 * row.outOfSync) / most}%` }} />
              </span>
            ) },
            { id: 'sync', head: 'In sync', align: 'right', sort: ({ inSync }) => inSync, cell: ({ inSync }) => inSync },
            { id: 'learning', head: 'Catching up', align: 'right', sort: ({ learning }) => learning, cell: ({ learning }) => learning },
            { id: 'out', head: 'Out of date', align: 'right', sort: ({ outOfSync }) => outOfSync, cell: ({ outOfSync }) => outOfSync },
          ]} empty={<Empty title="Nothing of it is placed yet." />} />
        );
      }}
    </Loaded>
  );
}
