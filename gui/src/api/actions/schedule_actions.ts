// Snapshots by schedule.
import { SnapshotScheduleService, type SnapshotSchedule } from '../../gen/tessera/v1/schedule_pb';
import type { Volume } from '../../gen/tessera/v1/volume_pb';
import { commandDuration } from '../../components/format';
import { tessera } from '../commands';
import { FieldError } from '../errors';
import { call, durationOf, isChecked, numberOf, required, type Action } from './action';

const methods = SnapshotScheduleService.method;

/** `volumes` finds ids of the names that are typed. */
export function createSchedule(volumes: readonly Volume[]): Action {
  return {
    title: 'Create a snapshot schedule', submit: 'Create schedule', done: 'Schedule created', method: methods.createSnapshotSchedule,
    fields: [
      { name: 'name', label: 'Name', kind: 'text', width: 'half', required: true, hint: 'At most 24 characters', requestFields: ['name', 'schedule.name'] },
      { name: 'every', label: 'Every', kind: 'duration', width: 'half', required: true, initial: '1h', hint: 'Whole minutes, at most 31d',
        requestFields: ['interval_seconds', 'schedule.interval_seconds'] },
      { name: 'volumes', label: 'Volumes', kind: 'text', hint: 'Names, with commas between',
        requestFields: ['volume_ids', 'schedule.volume_ids'] },
      { name: 'label', label: 'And all volumes with label', kind: 'text', hint: 'KEY or KEY=VALUE',
        requestFields: ['volume_label', 'schedule.volume_label'] },
      { name: 'last', width: 'third', label: 'Keep the newest', kind: 'number', initial: '24', requestFields: ['retention', 'schedule.retention'] },
      { name: 'daily', width: 'third', label: 'And of so many days', kind: 'number', initial: '7' },
      { name: 'weekly', width: 'third', label: 'And of so many weeks', kind: 'number' },
      { name: 'consistent', label: 'All volumes at one moment (64 at most)', kind: 'checkbox' },
    ],
    build(values) {
      const name = required(values, 'name', 'a name');
      const everyMs = durationOf(values, 'every');
      const named = (values['volumes'] ?? '').split(',').map((part) => part.trim()).filter(Boolean);
      const volumeIds = named.map((one) => {
        const found = volumes.find((volume) => volume.name === one);
        if (!found) throw new FieldError('volumes', `There is no volume “${one}”.`);
        return found.volumeId;
      });
      const label = (values['label'] ?? '').trim();
      if (named.length === 0 && label === '') throw new FieldError('volumes', 'Name volumes, or a label that they have.');
      const [keepLast, keepDaily, keepWeekly] = ['last', 'daily', 'weekly'].map((field) => numberOf(values, field));
      const consistent = isChecked(values, 'consistent');
      return [call(methods.createSnapshotSchedule, {
        schedule: {
          name, volumeIds, volumeLabel: label, intervalSeconds: Math.round(everyMs / 1000), consistent,
          retention: { keepLast, keepDaily, keepWeekly },
        },
      }, tessera('schedule', 'create', name, '--every', commandDuration(everyMs),
        ...named.flatMap((volume) => ['--volume', volume]), ...(label ? ['--label', label] : []),
        ...(keepLast ? ['--keep-last', keepLast] : []), ...(keepDaily ? ['--keep-daily', keepDaily] : []),
        ...(keepWeekly ? ['--keep-weekly', keepWeekly] : []), ...(consistent ? ['--consistent'] : [])))];
    },
  };
}

export function pauseSchedule({ name, scheduleId, paused }: SnapshotSchedule): Action {
  const verb = paused ? 'Resume' : 'Pause';
  return {
    title: `${verb} ${name}`, submit: `${verb} schedule`, done: `${name} is ${verb.toLowerCase()}d`, method: methods.updateSnapshotSchedule,
    intro: paused ? 'It goes on with its next time.' : 'It makes and deletes nothing by itself.', fields: [],
    build: () => [call(methods.updateSnapshotSchedule, {
      scheduleId, schedule: { paused: !paused }, updateMask: { paths: ['paused'] },
    }, tessera('schedule', 'set', name, paused ? '--resume' : '--pause'))],
  };
}

export function runSchedule({ name, scheduleId }: SnapshotSchedule): Action {
  return {
    title: `Run ${name} now`, submit: 'Run now', done: `${name} ran`, method: methods.runSnapshotSchedule, fields: [],
    intro: 'It makes its snapshots now, besides those at their times, and applies its retention.',
    build: () => [call(methods.runSnapshotSchedule, { scheduleId }, tessera('schedule', 'run', name))],
  };
}

export function deleteSchedule({ name, scheduleId }: SnapshotSchedule): Action {
  return {
    title: `Delete schedule ${name}`, submit: 'Delete schedule', danger: true, done: 'Schedule deleted', typedName: name,
    intro: 'Its snapshots stay, as if made by hand.', method: methods.deleteSnapshotSchedule, fields: [],
    build: () => [call(methods.deleteSnapshotSchedule, { scheduleId }, tessera('schedule', 'delete', name))],
  };
}
