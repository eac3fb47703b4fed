// The newest of a log that can only be read onwards from an id.
export interface Numbered {
  eventId: bigint;
}

/**
 * The newest `limit` entries, oldest first. `read` answers up to `count` entries after an id. The end is found by
 * doubling and halving, some tens of short calls however long the log is.
 */
export async function newestEvents<E extends Numbered>(
  limit: number, read: (after: bigint, count: number) => Promise<E[]>,
): Promise<E[]> {
  let known = 0n;   // there is an entry with this id, or it is 0
  let step = 1n;
  let beyond: bigint | null = null;   // nothing comes after this id
  while (beyond === null) {
    const [next] = await read(known + step - 1n, 1);
    if (next) {
      known = next.eventId;
      step *= 2n;
    } else {
      beyond = known + step - 1n;
    }
  }
  while (known < beyond) {
    const middle: bigint = (known + beyond) / 2n;
    const [next] = await read(middle, 1);
    if (next) known = next.eventId;
    else beyond = middle;
  }
  const from = known > BigInt(limit) ? known - BigInt(limit) : 0n;
  return (await read(from, limit)).slice(-limit);
}
