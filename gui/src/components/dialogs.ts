// Which action's dialog is open, and what was done last.
import { createStore } from '../store/store';
import type { Action } from '../api/actions/action';
import type { Message } from '@bufbuild/protobuf';

export interface OpenAction {
  action: Action;
  onDone?: (answers: Message[]) => void;
  /** Another one each time, so that a dialog begins anew. */
  number: number;
}

export const openAction = createStore<OpenAction | null>(null);
let number = 0;

export function start(action: Action, onDone?: (answers: Message[]) => void): void {
  number += 1;
  openAction.set({ action, onDone, number });
}

export interface Notice {
  text: string;
  number: number;
}
export const notice = createStore<Notice | null>(null);

/** Says what was done, for some seconds, to eyes and screen readers. */
export function say(text: string): void {
  number += 1;
  const mine = { text, number };
  notice.set(mine);
  setTimeout(() => {
    if (notice.get() === mine) notice.set(null);
  }, 6000);
}
