"""Random-access reading of an object by ranges."""

import io
from collections.abc import Callable


class RangeReader(io.RawIOBase):
    """A seekable file view of an object of `size` bytes. Each read is one `fetch(start, end)`, without read-ahead."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int):
        self.fetch, self.end = fetch, size
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.end}[whence]
        self.position = max(0, start + offset)
        return self.position

    def read(self, size: int | None = -1) -> bytes:
        stop = self.end if size is None or size < 0 else min(self.end, self.position + size)
        if stop <= self.position:
            return b""
        data = self.fetch(self.position, stop)
        self.position += len(data)
        return data
