// What the double says of where the time of a volume's requests goes: one slow disk, in the words of the MDM.
import { Code, ConnectError } from '@connectrpc/connect';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { ExplainLatencyResponseSchema, LatencyCauseSchema, LatencyOperation, LatencyStage, type ExplainLatencyRequest, type ExplainLatencyResponse }
  from '../../src/gen/tessera/v1/latency_pb';
import type { Volume } from '../../src/gen/tessera/v1/volume_pb';
import { fieldError } from './services';
import type { World } from './world';

const { READ, WRITE, FLUSH } = LatencyOperation;
const windowDefaultS = 300;

const causes: MessageInitShape<typeof LatencyCauseSchema>[] = [
  { operation: WRITE, stage: LatencyStage.JOURNAL, sdsId: 2n, sdsName: 'sds2', deviceId: 3n, devicePath: '/dev/nvme1n1', share: 0.624, samples: 41_200n,
    meanMicros: 4120, p50Micros: 3900n, p99Micros: 18_400n, bestCaseMicros: 210n,
    sentence: '62 % of all time beyond the best case: writes being written to the journal of device /dev/nvme1n1 of server sds2, 4.1 ms on average, 210 µs at best.',
    advice: 'the device takes long to write: look at its health and load (tessera device list, tessera scrub), and drain or replace it' },
  { operation: READ, stage: LatencyStage.NETWORK, sdsId: 4n, sdsName: 'sds4', share: 0.213, samples: 96_000n, meanMicros: 410, p50Micros: 380n, p99Micros: 1240n, bestCaseMicros: 90n,
    sentence: '21 % of all time beyond the best case: reads on the way to and from server sds4, 410 µs on average, 90 µs at best.',
    advice: 'look at the network and the load of both hosts' },
  { operation: WRITE, stage: LatencyStage.QOS_WAIT, share: 0.004, samples: 300n, meanMicros: 900, p50Micros: 800n, p99Micros: 2100n,
    sentence: '0 % of all time beyond the best case: writes waiting for the limits of the volume, 900 µs on average, 0 µs at best.',
    advice: 'raise the limits of the volume or the mapping (tessera volume update, volume map), or ask for less at a time' },
];
const lag: MessageInitShape<typeof LatencyCauseSchema> = {
  operation: WRITE, stage: LatencyStage.SLOWEST_REPLICA, sdsId: 2n, sdsName: 'sds2', deviceId: 3n, devicePath: '/dev/nvme1n1', share: 0.31, samples: 40_100n,
  meanMicros: 3400, p50Micros: 3000n, p99Micros: 15_000n, advice: 'look at the causes of the same device',
  sentence: 'Writes waited 3.4 ms on average for device /dev/nvme1n1 of server sds2 after the other replicas had answered.',
};

function wholeAnswer(): MessageInitShape<typeof ExplainLatencyResponseSchema> {
  return {
    summaries: [
      { operation: READ, samples: 201_554n, meanMicros: 402, p50Micros: 320n, p99Micros: 1900n, maxMicros: 22_000n, bestCaseMicros: 180 },
      { operation: WRITE, samples: 88_210n, meanMicros: 4820, p50Micros: 4300n, p99Micros: 21_000n, maxMicros: 310_000n, bestCaseMicros: 520 },
      { operation: FLUSH, samples: 412n, meanMicros: 5210, p50Micros: 5000n, p99Micros: 9800n, maxMicros: 14_000n, bestCaseMicros: 4900 },
    ],
    causes, replicaLags: [lag],
    slowest: [
      { operation: WRITE, totalMicros: 310_000n, ageMs: 41_000n, offsetBytes: 5n << 30n, lengthBytes: 65_536n, stages: [
        { stage: LatencyStage.CLIENT_QUEUE, micros: 900n }, { stage: LatencyStage.JOURNAL, sdsId: 2n, deviceId: 3n, micros: 301_000n },
        { stage: LatencyStage.NETWORK, sdsId: 5n, micros: 8100n }] },
      { operation: FLUSH, totalMicros: 14_000n, ageMs: 190_000n, stages: [{ stage: LatencyStage.FLUSH_SYNC, sdsId: 4n, deviceId: 7n, micros: 13_900n }] },
    ],
  };
}

export function explainLatency(world: World, volume: Volume, { windowS, operation }: ExplainLatencyRequest): ExplainLatencyResponse {
  if (windowS !== 0 && (windowS < 10 || windowS > 600)) throw fieldError('window_s', `is ${windowS}: must be 10 to 600 seconds, or 0 for 300`);
  const clients = volume.mappings;
  if (clients.length === 0) {
    throw new ConnectError(`volume ${volume.name} is mapped to no client, and only clients know what its requests take: map it, use it, and ask again`,
      Code.FailedPrecondition);
  }
  const silent = clients.filter(({ sdcId }) => world.silentClients.has(sdcId));
  if (silent.length === clients.length) {
    throw new ConnectError(`no client of volume ${volume.name} says what its requests take: ${silent.map(({ sdcName }) => `client ${sdcName}: deadline exceeded`).join('; ')}`,
      Code.Unavailable);
  }
  const { summaries, causes: found, replicaLags, slowest } = create(ExplainLatencyResponseSchema, world.idleVolumes.has(volume.name) ? {} : wholeAnswer());
  const wanted = (one: { operation: LatencyOperation }) => operation === LatencyOperation.UNSPECIFIED || one.operation === operation;
  return create(ExplainLatencyResponseSchema, {
    volumeId: volume.volumeId, volumeName: volume.name, coveredMs: BigInt(1000 * (windowS || windowDefaultS)), silentSdcIds: silent.map(({ sdcId }) => sdcId),
    summaries: summaries.filter(wanted), causes: found.filter(wanted), replicaLags: replicaLags.filter(wanted), slowest: slowest.filter(wanted),
  });
}
