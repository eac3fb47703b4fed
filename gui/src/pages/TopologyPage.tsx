// The cluster as a picture: domains, fault sets, servers, devices; pools with their placement groups; clients.
import { useMemo } from 'preact/hooks';
import { placement } from '../api/clients';
import { Empty, Loaded, PageHead, Panel } from '../components/basics';
import { ClientTile, ServerTile } from '../components/tiles';
import { PoolPanel } from '../components/PoolPanel';
import { TopologyDetail } from '../components/TopologyDetail';
import type { PlacementGroup } from '../gen/tessera/v1/placement_pb';
import type { ProtectionDomainNode, Sds, Topology } from '../gen/tessera/v1/topology_pb';
import { onPoll, useTopology } from '../store/objects';
import { readPages } from '../store/pages';
import { lastCopies } from '../store/redundancy';
import { useResource } from '../store/resource';
import { useRoute } from '../store/router';

/** Placement groups of each pool. */
export type Groups = ReadonlyMap<bigint, readonly PlacementGroup[]>;

function useGroups(topology: Topology | null) {
  const poolIds = topology?.protectionDomains.flatMap(({ pools }) => pools.flatMap(({ pool }) => (pool ? [pool.poolId] : []))) ?? [];
  return useResource(`groups ${poolIds.join()}`, async (signal): Promise<Groups> => new Map(await Promise.all(poolIds.map(async (poolId) => {
    const { items } = await readPages(4096, async (pageToken) => {
      const answer = await placement.listPlacementGroups({ poolId, pageToken }, { signal });
      return { items: answer.placementGroups, nextPageToken: answer.nextPageToken };
    });
    return [poolId, items] as const;
  }))), onPoll);
}

export function TopologyPage() {
  const { query } = useRoute();
  const topology = useTopology();
  const groups = useGroups(topology.value);
  const show = query.get('show') ?? '';
  return (
    <>
      <PageHead title="Topology" />
      <Loaded of={topology} lines={10}>
        {(tree) => tree === null || (tree.protectionDomains.length === 0 && tree.unassignedSdss.length === 0)
          ? <Empty title="There is no server yet.">Start tessera-sds with a join token, and it turns up here.</Empty>
          : (
            <div class={show ? 'topology with-detail' : 'topology'}>
              <Picture topology={tree} groups={groups.value ?? new Map()} show={show} />
              {show && <TopologyDetail topology={tree} show={show} />}
            </div>
          )}
      </Loaded>
    </>
  );
}

function Picture({ topology, groups, show }: { topology: Topology; groups: Groups; show: string }) {
  return (
    <div class="picture">
      {topology.protectionDomains.map((domain) => (
        <Domain key={String(domain.protectionDomain?.protectionDomainId)} domain={domain} groups={groups} show={show} />
      ))}
      {topology.unassignedSdss.length > 0 && (
        <Panel title="In no protection domain">
          <div class="tiles-row">{topology.unassignedSdss.map((sds) => <ServerTile key={String(sds.sdsId)} sds={sds} atRisk={0} show={show} />)}</div>
        </Panel>
      )}
      {topology.sdcs.length > 0 && (
        <Panel title="Clients">
          <div class="tiles-row">{topology.sdcs.map((sdc) => <ClientTile key={String(sdc.sdcId)} sdc={sdc} show={show} />)}</div>
        </Panel>
      )}
    </div>
  );
}

function Domain({ domain, groups, show }: { domain: ProtectionDomainNode; groups: Groups; show: string }) {
  const risk = useMemo(() => {
    const sum = new Map<bigint, number>();
    for (const { pool } of domain.pools) {
      if (!pool) continue;
      for (const [sdsId, count] of lastCopies(groups.get(pool.poolId) ?? [], pool.replicaCount)) sum.set(sdsId, (sum.get(sdsId) ?? 0) + count);
    }
    return sum;
  }, [domain, groups]);
  return (
    <Panel title={<>Protection domain <em>{domain.protectionDomain?.name}</em></>} class="domain">
      <div class="fault-sets">{faultSetsOf(domain).map(({ name, servers }) => (
        <section key={name} class="fault-set">
          {name && <h3>Fault set {name}</h3>}
          <div class="tiles-row">
            {servers.map((sds) => <ServerTile key={String(sds.sdsId)} sds={sds} atRisk={risk.get(sds.sdsId) ?? 0} show={show} />)}
          </div>
        </section>
      ))}</div>
      {domain.pools.map(({ pool, devices, volumes }) => pool && (
        <PoolPanel key={String(pool.poolId)} pool={pool} devices={devices.length} volumes={volumes.length} groups={groups.get(pool.poolId) ?? []} />
      ))}
    </Panel>
  );
}

/** Servers by fault set; those that have none are a set each, and stand together without a name. */
function faultSetsOf(domain: ProtectionDomainNode): { name: string; servers: Sds[] }[] {
  const sets = domain.faultSets.map((set) => ({
    name: set.name, servers: domain.sdss.filter(({ faultSetId }) => faultSetId === set.faultSetId),
  }));
  const own = domain.sdss.filter(({ faultSetId }) => !domain.faultSets.some((set) => set.faultSetId === faultSetId));
  return [...sets, ...(own.length > 0 ? [{ name: '', servers: own }] : [])];
}
