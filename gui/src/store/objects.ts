// Lists that several pages show, read anew when the stream says that they changed.
import { health, topology, volumes } from '../api/clients';
import { onObjectsChanged, overview } from './live';
import { readPages } from './pages';
import { useResource } from './resource';

/** So many rows are kept in the page; more are found by searching. */
export const volumeLimit = 10_000;

const onVolumes = (listener: () => void) =>
  onObjectsChanged(({ volumes: changed }) => { if (changed) listener(); });
const onTopology = (listener: () => void) =>
  onObjectsChanged(({ topology: changed, volumes: too }) => { if (changed || too) listener(); });
/** Each poll brings another overview. */
export const onPoll = (listener: () => void) => overview.subscribe(listener);
const onEither = (listener: () => void) => {
  const stops = [onPoll(listener), onTopology(listener)];
  return () => stops.forEach((stop) => stop());
};

export function useVolumes(nameContains: string, trashed: boolean) {
  return useResource(`volumes ${trashed} ${nameContains}`, (signal) =>
    readPages(volumeLimit, async (pageToken) => {
      const answer = await volumes.listVolumes({ pageSize: 1000, pageToken, nameContains, trashed }, { signal });
      return { items: answer.volumes, nextPageToken: answer.nextPageToken };
    }), onVolumes);
}

export function useVolume(volumeId: bigint) {
  return useResource(`volume ${volumeId}`, async (signal) =>
    (await volumes.getVolume({ volumeId }, { signal })).volume ?? null, onVolumes);
}

/** The whole tree; read again at each poll, too, because fill and states change without being an event. */
export function useTopology() {
  return useResource('topology', async (signal) =>
    (await topology.getTopology({}, { signal })).topology ?? null, onEither);
}

export function useClients() {
  return useResource('clients', async (signal) =>
    (await topology.listSdcs({ pageSize: 1000 }, { signal })).sdcs, onTopology);
}

export function usePools() {
  return useResource('pools', async (signal) =>
    (await topology.listStoragePools({ pageSize: 1000 }, { signal })).pools, onTopology);
}

export function useVolumeHealth() {
  return useResource('volume health', (signal) =>
    readPages(volumeLimit, async (pageToken) => {
      const answer = await health.listVolumeHealth({ pageSize: 1000, pageToken }, { signal });
      return { items: answer.volumes, nextPageToken: answer.nextPageToken };
    }), onEither);
}
