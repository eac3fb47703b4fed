// States of the API in words, letters and colours.
import { AlertSeverity } from '../gen/tessera/v1/alert_pb';
import { VolumeVerdict, EventSeverity } from '../gen/tessera/v1/health_pb';
import { OperationState } from '../gen/tessera/v1/operation_pb';
import type { MonitoredComponent } from '../gen/tessera/v1/console_pb';
import { RedundancyState, CapacityState } from '../gen/tessera/v1/topology_pb';
import { ComponentKind, ComponentState } from '../gen/tessera/v1/types_pb';
import { Badge, type Tone } from './basics';
import { words } from './format';

export const componentTone: Record<ComponentState, Tone> = {
  [ComponentState.UNSPECIFIED]: 'neutral', [ComponentState.ONLINE]: 'ok', [ComponentState.DEGRADED]: 'warning',
  [ComponentState.STALE]: 'error', [ComponentState.OFFLINE]: 'error', [ComponentState.FAILED]: 'critical',
};
export const componentLetter: Record<ComponentState, string> = {
  [ComponentState.UNSPECIFIED]: '?', [ComponentState.ONLINE]: 'O', [ComponentState.DEGRADED]: 'D',
  [ComponentState.STALE]: 'S', [ComponentState.OFFLINE]: 'X', [ComponentState.FAILED]: 'F',
};
export function ComponentBadge({ state }: { state: ComponentState }) {
  return <Badge tone={componentTone[state] ?? 'neutral'} letter={componentLetter[state]}>{words(ComponentState, state)}</Badge>;
}

/** A part as MGMT sees it: one that does not answer is not well, whatever was last said of it. */
export function partTone(part: Pick<MonitoredComponent, 'state' | 'answers'>): Tone {
  const tone = componentTone[part.state] ?? 'neutral';
  return part.answers || tone === 'critical' ? tone : 'error';
}
export function partLetter(part: Pick<MonitoredComponent, 'state' | 'answers'>): string {
  return part.answers || componentTone[part.state] !== 'ok' ? componentLetter[part.state] ?? '?' : componentLetter[ComponentState.STALE];
}
export function partWords(part: Pick<MonitoredComponent, 'state' | 'answers'>): string {
  return part.answers ? words(ComponentState, part.state) : 'does not answer';
}
export function PartBadge({ part }: { part: MonitoredComponent }) {
  return <Badge tone={partTone(part)} letter={partLetter(part)}>{partWords(part)}</Badge>;
}

export const severityTone: Record<AlertSeverity, Tone> = {
  [AlertSeverity.UNSPECIFIED]: 'ok', [AlertSeverity.INFO]: 'info', [AlertSeverity.WARNING]: 'warning',
  [AlertSeverity.ERROR]: 'error', [AlertSeverity.CRITICAL]: 'critical',
};
export function SeverityBadge({ severity }: { severity: AlertSeverity }) {
  return <Badge tone={severityTone[severity] ?? 'neutral'}>{words(AlertSeverity, severity)}</Badge>;
}

const eventTone: Record<EventSeverity, Tone> = {
  [EventSeverity.UNSPECIFIED]: 'neutral', [EventSeverity.INFO]: 'info', [EventSeverity.WARNING]: 'warning', [EventSeverity.ERROR]: 'error',
};
export function EventBadge({ severity }: { severity: EventSeverity }) {
  return <Badge tone={eventTone[severity] ?? 'neutral'}>{words(EventSeverity, severity)}</Badge>;
}

export const verdictTone: Record<VolumeVerdict, Tone> = {
  [VolumeVerdict.UNSPECIFIED]: 'neutral', [VolumeVerdict.HEALTHY]: 'ok', [VolumeVerdict.DEGRADED]: 'warning',
  [VolumeVerdict.SINGLE_COPY]: 'error', [VolumeVerdict.UNAVAILABLE]: 'critical', [VolumeVerdict.DAMAGED]: 'critical',
};
export function VerdictBadge({ verdict }: { verdict: VolumeVerdict }) {
  return <Badge tone={verdictTone[verdict] ?? 'neutral'}>{words(VolumeVerdict, verdict)}</Badge>;
}

export const redundancyTone: Record<RedundancyState, Tone> = {
  [RedundancyState.UNSPECIFIED]: 'neutral', [RedundancyState.HEALTHY]: 'ok', [RedundancyState.DEGRADED]: 'warning',
  [RedundancyState.SINGLE_COPY]: 'error', [RedundancyState.UNAVAILABLE]: 'critical',
};
export function RedundancyBadge({ state }: { state: RedundancyState }) {
  return <Badge tone={redundancyTone[state] ?? 'neutral'}>{words(RedundancyState, state)}</Badge>;
}

const operationTone: Record<OperationState, Tone> = {
  [OperationState.UNSPECIFIED]: 'neutral', [OperationState.RUNNING]: 'info', [OperationState.BLOCKED]: 'error',
  [OperationState.PAUSED]: 'warning', [OperationState.SUCCEEDED]: 'ok', [OperationState.CANCELLED]: 'neutral',
};
export function OperationBadge({ state }: { state: OperationState }) {
  return <Badge tone={operationTone[state] ?? 'neutral'}>{words(OperationState, state)}</Badge>;
}

const capacityTone: Record<CapacityState, Tone> = {
  [CapacityState.UNSPECIFIED]: 'neutral', [CapacityState.NORMAL]: 'ok', [CapacityState.WARNING]: 'warning', [CapacityState.CRITICAL]: 'critical',
};
export function CapacityBadge({ state }: { state: CapacityState }) {
  return <Badge tone={capacityTone[state] ?? 'neutral'}>{words(CapacityState, state)}</Badge>;
}

/** "SDS", "device". */
export function kindName(kind: ComponentKind): string {
  return kind === ComponentKind.DEVICE ? 'device' : kind === ComponentKind.UNSPECIFIED ? 'cluster' : ComponentKind[kind] ?? '';
}
