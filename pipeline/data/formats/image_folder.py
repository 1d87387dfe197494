"""A folder of images, from which no name leads out."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from pipeline.common.files import path_fault
from pipeline.common.images import ALLOWED, DAMAGED, is_image, stored_size, turned_size
from pipeline.common.squares import Box, turn_box
from pipeline.data.records import BadRecord as BadRecord


def _inside(root: Path, name: str, file: object, where: object) -> Path:
    """The path `name` below `root`. Raises BadRecord for one that leaves it."""
    if fault := path_fault(name):
        raise BadRecord(file, where, fault)
    return Path(root, *PurePosixPath(name).parts)


class ImageFolder:
    """The images of one folder, each looked at once."""

    def __init__(self, root: Path):
        self.root = Path(root)
        self._known: dict[str, Path] = {}
        self._sizes: dict[Path, tuple[tuple[int, int], int]] = {}

    def path(self, name: str, file: object, where: object) -> Path:
        """The path of an image, which is there and of a format that is read. Raises BadRecord."""
        if name not in self._known:
            path = _inside(self.root, name, file, where)
            try:
                with open(path, "rb") as image:
                    # Four bytes tell the format. Whether the image is whole is seen when it is used.
                    head = image.read(4)
            except OSError:
                raise BadRecord(file, where, f"no image {path}") from None
            if not is_image(head):
                raise BadRecord(file, where, f"not a {ALLOWED} image: {path}")
            self._known[name] = path
        return self._known[name]

    def stored(self, path: Path, file: object, where: object) -> tuple[tuple[int, int], int]:
        """Width and height in px of the pixels as they are stored, and how they are turned upright; from the header."""
        if path not in self._sizes:
            try:
                self._sizes[path] = stored_size(path)
            except DAMAGED as error:
                raise BadRecord(
                    file, where, f"image header of {path} cannot be read ({type(error).__name__})"
                ) from None
        return self._sizes[path]

    def upright(self, box: Box, size: tuple[int, int], path: Path, file: object, where: object) -> Box:
        """A box in shares of an image of `size` px, in shares of the upright image.

        It is of the pixels as they are stored, unless the size is that of the upright image alone.
        """
        stored, turn = self.stored(path, file, where)
        # A size that fits both ways says nothing; then the box counts as one of the stored pixels.
        return box if size == turned_size(stored, turn) != stored else turn_box(box, turn)
