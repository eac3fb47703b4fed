// All pages of a list, up to a bound.

export interface Listing<T> {
  items: T[];
  /** There are more than were read. */
  truncated: boolean;
}

/** Reads pages until the last one or until there are `limit` items. */
export async function readPages<T>(
  limit: number, read: (pageToken: string) => Promise<{ items: T[]; nextPageToken: string }>,
): Promise<Listing<T>> {
  const items: T[] = [];
  let pageToken = '';
  do {
    const page = await read(pageToken);
    items.push(...page.items);
    pageToken = page.nextPageToken;
  } while (pageToken !== '' && items.length < limit);
  return { items: items.slice(0, limit), truncated: pageToken !== '' || items.length > limit };
}
