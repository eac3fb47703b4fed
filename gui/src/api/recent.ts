// What a page that joins late has to be told: the newest overview, and alerts and operations that came after it.
import type { WatchConsoleResponse } from '../gen/tessera/v1/console_pb';

/** Alerts or operations that are kept, each kind. */
const limit = 500;

export class RecentState {
  private overview: WatchConsoleResponse | null = null;
  private later = new Map<string, WatchConsoleResponse>();

  note(message: WatchConsoleResponse): void {
    const { change } = message;
    if (change.case === 'overview') {
      this.overview = message;
      this.later.clear();
    } else if (change.case === 'alert') {
      this.keep(`alert ${change.value.alertId}`, message);
    } else if (change.case === 'operation') {
      this.keep(`operation ${change.value.operationId}`, message);
    }
  }

  forget(): void {
    this.overview = null;
    this.later.clear();
  }

  messages(): WatchConsoleResponse[] {
    return [...(this.overview ? [this.overview] : []), ...this.later.values()];
  }

  private keep(key: string, message: WatchConsoleResponse): void {
    this.later.delete(key);
    this.later.set(key, message);
    if (this.later.size > limit) {
      const oldest = this.later.keys().next().value;
      if (oldest !== undefined) this.later.delete(oldest);
    }
  }
}
