// What was clicked in the picture, and what can be done with it.
import { drainDevice, drainSds, enterMaintenance, exitMaintenance, removeDevice } from '../api/actions/repair_actions';
import { RepairService } from '../gen/tessera/v1/repair_pb';
import { DeviceUse, type Device, type Sdc, type Sds, type Topology } from '../gen/tessera/v1/topology_pb';
import { ComponentKind } from '../gen/tessera/v1/types_pb';
import { linkTo } from '../store/router';
import { ActionButton } from './ActionButton';
import { Age, Empty, Facts, Panel } from './basics';
import { formatBytes, formatPercent, words } from './format';
import { ComponentBadge } from './states';

const methods = RepairService.method;

export function TopologyDetail({ topology, show }: { topology: Topology; show: string }) {
  const [kind, id] = show.split('/');
  const servers = [...topology.protectionDomains.flatMap(({ sdss }) => sdss), ...topology.unassignedSdss];
  const close = <a href={linkTo(['topology'])}>Close</a>;
  if (kind === 'sds') {
    const sds = servers.find(({ sdsId }) => String(sdsId) === id);
    if (sds) return <Panel class="detail" title={`Server ${sds.name}`} actions={close}><ServerDetail sds={sds} /></Panel>;
  }
  if (kind === 'device') {
    const sds = servers.find(({ devices }) => devices.some(({ deviceId }) => String(deviceId) === id));
    const device = sds?.devices.find(({ deviceId }) => String(deviceId) === id);
    if (sds && device) return <Panel class="detail" title={`Device ${device.deviceId} of ${sds.name}`} actions={close}><DeviceDetail device={device} sds={sds} /></Panel>;
  }
  if (kind === 'sdc') {
    const sdc = topology.sdcs.find(({ sdcId }) => String(sdcId) === id);
    if (sdc) return <Panel class="detail" title={`Client ${sdc.name}`} actions={close}><ClientDetail sdc={sdc} /></Panel>;
  }
  return <Panel class="detail" title="Not found" actions={close}><Empty title={`There is no ${show} any more.`} /></Panel>;
}

function monitoringLink(kind: ComponentKind, id: bigint) {
  return <a href={linkTo(['monitoring'], { subject: `${kind}/${id}` })}>Its figures over time</a>;
}

function ServerDetail({ sds }: { sds: Sds }) {
  const away = sds.maintenanceUntilMs > 0n;
  return (
    <>
      <Facts facts={[
        ['State', <ComponentBadge state={sds.state} />],
        ['Last heard of', <Age ms={sds.lastHeartbeatMs} />],
        ...(away ? [['Maintenance until', <><Age ms={sds.maintenanceUntilMs} />{sds.maintenanceReason && `: ${sds.maintenanceReason}`}</>] as [string, preact.ComponentChildren]] : []),
        ['Data plane', sds.endpoints?.data ?? ''], ['Management', sds.endpoints?.management ?? ''],
        ['Version', sds.softwareVersion], ['Devices', sds.devices.length],
        ['Figures', monitoringLink(ComponentKind.SDS, sds.sdsId)],
      ]} />
      <div class="actions">
        {away
          ? <ActionButton method={methods.exitMaintenance} action={() => exitMaintenance(sds)}>End maintenance</ActionButton>
          : <ActionButton method={methods.enterMaintenance} action={() => enterMaintenance(sds)}>Enter maintenance</ActionButton>}
        <ActionButton danger method={methods.startDrain} action={() => drainSds(sds)}>Drain</ActionButton>
      </div>
    </>
  );
}

function DeviceDetail({ device, sds }: { device: Device; sds: Sds }) {
  const label = `device ${device.deviceId} of ${sds.name}`;
  const { capacityBytes = 0n, usedBytes = 0n, path = '', failure = '', deviceUuid = '' } = device.description ?? {};
  return (
    <>
      <Facts facts={[
        ['State', <ComponentBadge state={device.state} />],
        ...(failure ? [['Failure', failure] as [string, preact.ComponentChildren]] : []),
        ['Use', words(DeviceUse, device.use)],
        ['Fill', `${formatBytes(usedBytes)} of ${formatBytes(capacityBytes)} (${formatPercent(usedBytes, capacityBytes)})`],
        ['Placement groups', device.placementGroups],
        ['Path', <span class="path">{path}</span>], ['UUID', <span class="path">{deviceUuid}</span>],
      ]} />
      <div class="actions">
        <ActionButton danger method={methods.startDrain} action={() => drainDevice(device, label)}>Drain</ActionButton>
        <ActionButton danger method={methods.removeDevice} action={() => removeDevice(device, label)} disabled={device.placementGroups > 0}
          why="Drain it first">Remove</ActionButton>
      </div>
    </>
  );
}

function ClientDetail({ sdc }: { sdc: Sdc }) {
  return (
    <>
      <Facts facts={[
        ['State', <ComponentBadge state={sdc.state} />], ['Last heard of', <Age ms={sdc.lastHeartbeatMs} />],
        ['Version', sdc.softwareVersion], ['NBD', sdc.nbdUris.map((uri) => <code key={uri} class="block">{uri}</code>)],
        ['Figures', monitoringLink(ComponentKind.SDC, sdc.sdcId)],
      ]} />
      <h3>Volumes</h3>
      {sdc.mappings.length === 0 ? <Empty title="None is mapped to it." /> : (
        <ul>{sdc.mappings.map((one) => <li key={String(one.volumeId)}><a href={linkTo(['volumes', one.volumeId])}>{one.volumeName}</a></li>)}</ul>
      )}
    </>
  );
}
