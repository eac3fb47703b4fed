// One typed client for each service, at the page's origin. All calls have a deadline.
import { createClient, type CallOptions, type Client } from '@connectrpc/connect';
import { create, type DescMessage, type DescMethodUnary, type DescService, type Message } from '@bufbuild/protobuf';
import { AlertService } from '../gen/tessera/v1/alert_pb';
import { AuditService } from '../gen/tessera/v1/audit_pb';
import { AuthService } from '../gen/tessera/v1/auth_pb';
import { ConsoleService } from '../gen/tessera/v1/console_pb';
import { HealthService } from '../gen/tessera/v1/health_pb';
import { OperationService } from '../gen/tessera/v1/operation_pb';
import { PlacementService } from '../gen/tessera/v1/placement_pb';
import { RepairService } from '../gen/tessera/v1/repair_pb';
import { SnapshotScheduleService } from '../gen/tessera/v1/schedule_pb';
import { ScrubService } from '../gen/tessera/v1/scrub_pb';
import { TopologyService } from '../gen/tessera/v1/topology_pb';
import { UsageService } from '../gen/tessera/v1/usage_pb';
import { VolumeService } from '../gen/tessera/v1/volume_pb';
import { callTimeoutMs, createTransport } from './transport';

let sessionOver = () => {};
/** Who is told when an answer says that the session is over. */
export function onSessionOver(listener: () => void): void {
  sessionOver = listener;
}

const transport = createTransport(() => sessionOver());

/** A client whose calls have a deadline unless the caller sets another. */
function clientOf<S extends DescService>(service: S): Client<S> {
  const client = createClient(service, transport) as unknown as Record<string, unknown>;
  return new Proxy(client, {
    get(target, name: string) {
      const method = target[name];
      if (typeof method !== 'function') return method;
      return (request: unknown, options: CallOptions = {}) =>
        method(request, { timeoutMs: callTimeoutMs, ...options }) as unknown;
    },
  }) as unknown as Client<S>;
}

export const alerts = clientOf(AlertService);
export const audit = clientOf(AuditService);
export const auth = clientOf(AuthService);
export const consoleClient = clientOf(ConsoleService);
export const health = clientOf(HealthService);
export const operations = clientOf(OperationService);
export const placement = clientOf(PlacementService);
export const repair = clientOf(RepairService);
export const schedules = clientOf(SnapshotScheduleService);
export const scrub = clientOf(ScrubService);
export const topology = clientOf(TopologyService);
export const usage = clientOf(UsageService);
export const volumes = clientOf(VolumeService);

/** Calls any method with a request that was made already. */
export async function callMethod(method: DescMethodUnary, request: Message, signal?: AbortSignal): Promise<Message> {
  const answer = await transport.unary(method, signal, callTimeoutMs, undefined,
    create(method.input as DescMessage, request as never));
  return answer.message as Message;
}
