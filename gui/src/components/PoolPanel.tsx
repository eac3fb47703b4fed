// A pool: its space, its rules, and a square for each of its placement groups.
import { poolThresholds, scrubPool } from '../api/actions/repair_actions';
import type { PlacementGroup } from '../gen/tessera/v1/placement_pb';
import { ScrubService } from '../gen/tessera/v1/scrub_pb';
import { TopologyService, type StoragePool } from '../gen/tessera/v1/topology_pb';
import { groupInWords, groupState } from '../store/redundancy';
import { ActionButton } from './ActionButton';
import { StackedBar } from './basics';
import { formatBytes } from './format';
import { CapacityBadge, RedundancyBadge } from './states';

export function PoolPanel({ pool, devices, volumes, groups }: {
  pool: StoragePool; devices: number; volumes: number; groups: readonly PlacementGroup[];
}) {
  const capacity = pool.capacity;
  const raw = Number(capacity?.rawCapacityBytes ?? 0n);
  const data = Number(capacity?.rawDataBytes ?? 0n);
  const used = Number(capacity?.rawUsedBytes ?? 0n);
  return (
    <section class="pool">
      <header class="panel-head">
        <h3>Pool {pool.name} <RedundancyBadge state={pool.redundancy} /></h3>
        <div class="actions">
          <ActionButton quiet method={ScrubService.method.startScrub} action={() => scrubPool(pool)} label={`Scrub ${pool.name}`}>Scrub</ActionButton>
          <ActionButton quiet method={TopologyService.method.updateStoragePool} action={() => poolThresholds(pool)} label={`Thresholds of ${pool.name}`}>Thresholds</ActionButton>
        </div>
      </header>
      <p class="muted">
        {pool.replicaCount} copies, IO goes on with {pool.minReplicas} · {devices} devices · {volumes} volumes
        · over-commit {capacity?.overcommitPercent ?? 0} %
      </p>
      <StackedBar label={`Pool ${pool.name}`} whole={raw} parts={[
        { label: 'Data', value: data, kind: 'used' }, { label: 'Journals and metadata', value: Math.max(0, used - data), kind: 'overhead' }]} />
      <p class="bar-legend">
        <span><i class="swatch used" />Data {formatBytes(data)}</span>
        <span><i class="swatch overhead" />Journals and metadata {formatBytes(Math.max(0, used - data))}</span>
        <span class="muted">of {formatBytes(raw)} raw, {formatBytes(capacity?.availableBytes ?? 0n)} available</span>
        {capacity && <CapacityBadge state={capacity.state} />}
      </p>
      {groups.length > 0 && <Groups pool={pool} groups={groups} />}
    </section>
  );
}

function Groups({ pool, groups }: { pool: StoragePool; groups: readonly PlacementGroup[] }) {
  const states = groups.map((group) => groupState(group, pool.replicaCount));
  const count = (state: string) => states.filter((one) => one === state).length;
  const text = `${groups.length} placement groups: ${count('ok')} with all copies, ${count('warning')} with some missing, ${count('error')} with a single copy.`;
  return (
    <>
      <div class="groups" role="img" aria-label={text}>
        {groups.map((group, index) => <span key={String(group.placementGroupId)} class={`group ${states[index]}`} title={groupInWords(group)} />)}
      </div>
      <p class="muted">{text}</p>
    </>
  );
}
