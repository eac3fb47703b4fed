// Servers, devices and clients as tiles: colour, letter and words for the state, a bar for the fill.
import { DeviceUse, type Device, type Sdc, type Sds } from '../gen/tessera/v1/topology_pb';
import { ComponentKind, ComponentState } from '../gen/tessera/v1/types_pb';
import { overview } from '../store/live';
import { linkTo } from '../store/router';
import { useStore } from '../store/store';
import { formatBytes, formatPercent, words } from './format';
import { componentLetter, componentTone, partLetter, partTone, partWords } from './states';

const detail = (what: string, show: string) => linkTo(['topology'], { show: show === what ? '' : what });

/**
 * Whether MGMT's last poll of a part was answered: that is known seconds after it died, the MDM's judgement comes by
 * heartbeats that are missing.
 */
function useAnswer(kind: ComponentKind, id: bigint, state: ComponentState) {
  const answers = useStore(overview, (known) =>
    known?.components.find((part) => part.kind === kind && part.componentId === id)?.answers ?? true);
  return { state, answers };
}

export function ServerTile({ sds, atRisk, show }: { sds: Sds; atRisk: number; show: string }) {
  const what = `sds/${sds.sdsId}`;
  const part = useAnswer(ComponentKind.SDS, sds.sdsId, sds.state);
  const tone = partTone(part);
  return (
    <div class={`tile-box server ${tone} ${show === what ? 'shown' : ''}`}>
      <a class="tile-head" href={detail(what, show)} aria-expanded={show === what}>
        <span class={`letter ${tone}`} aria-hidden="true">{partLetter(part)}</span>
        <strong>{sds.name}</strong>
        <span class="muted">{sds.maintenanceUntilMs > 0n ? 'maintenance' : partWords(part)}</span>
      </a>
      {atRisk > 0 && <p class="risk">Has the last copy of {atRisk} placement {atRisk === 1 ? 'group' : 'groups'}</p>}
      <div class="devices">
        {sds.devices.map((device) => <DeviceTile key={String(device.deviceId)} device={device} show={show} />)}
        {sds.devices.length === 0 && <span class="muted">no devices</span>}
      </div>
    </div>
  );
}

function DeviceTile({ device, show }: { device: Device; show: string }) {
  const what = `device/${device.deviceId}`;
  const used = device.description?.usedBytes ?? 0n;
  const capacity = device.description?.capacityBytes ?? 0n;
  const tone = componentTone[device.state] ?? 'neutral';
  const use = device.use === DeviceUse.DRAINING ? ', draining' : device.use === DeviceUse.REMOVED ? ', removed' : '';
  const inWords = `Device ${device.deviceId}, ${words(ComponentState, device.state)}${use}, ${formatBytes(used)} of ${formatBytes(capacity)} used`;
  return (
    <a class={`device ${tone} ${show === what ? 'shown' : ''}`} href={detail(what, show)} title={inWords} aria-expanded={show === what}>
      <span class="hidden">{inWords}</span>
      <span class="device-letter" aria-hidden="true">{componentLetter[device.state]}</span>
      <span class="device-name" aria-hidden="true">{shortPath(device)}</span>
      <span class="device-fill" aria-hidden="true"><span style={{ width: formatFill(used, capacity) }} /></span>
      <span class="device-percent" aria-hidden="true">{formatPercent(used, capacity)}</span>
    </a>
  );
}

function formatFill(used: bigint, capacity: bigint): string {
  return capacity > 0n ? `${Math.min(100, (100 * Number(used)) / Number(capacity))}%` : '0%';
}

/** The end of its path, which is what tells devices of a server apart. */
export function shortPath(device: Device): string {
  const path = device.description?.path ?? '';
  return path.split('/').filter(Boolean).at(-1) ?? `device ${device.deviceId}`;
}

export function ClientTile({ sdc, show }: { sdc: Sdc; show: string }) {
  const what = `sdc/${sdc.sdcId}`;
  const part = useAnswer(ComponentKind.SDC, sdc.sdcId, sdc.state);
  const tone = partTone(part);
  return (
    <div class={`tile-box ${tone} ${show === what ? 'shown' : ''}`}>
      <a class="tile-head" href={detail(what, show)} aria-expanded={show === what}>
        <span class={`letter ${tone}`} aria-hidden="true">{partLetter(part)}</span>
        <strong>{sdc.name}</strong>
        <span class="muted">{partWords(part)}</span>
      </a>
      <p class="muted">{sdc.mappings.length === 0 ? 'no volumes' : `${sdc.mappings.length} ${sdc.mappings.length === 1 ? 'volume' : 'volumes'}`}</p>
    </div>
  );
}
