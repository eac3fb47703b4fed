"""A device's files from outside: flips bytes of given blocks wherever a store keeps them."""


def flip(device_folder, pattern, at=100):
    """Flips one bit `at` bytes after each place where the pattern is found in the device's data. How many there were."""
    count = 0
    for name in ("journal", "data"):
        path = device_folder / name
        with open(path, "r+b") as file:
            offset, tail = 0, b""
            places = []
            while piece := file.read(1 << 22):
                window = tail + piece
                start = 0
                while (found := window.find(pattern, start)) >= 0:
                    places.append(offset - len(tail) + found)
                    start = found + 1
                tail = window[-(len(pattern) - 1):]
                offset += len(piece)
            for place in set(places):
                file.seek(place + at)
                byte = file.read(1)
                file.seek(place + at)
                file.write(bytes([byte[0] ^ 0x10]))
                count += 1
    return count
