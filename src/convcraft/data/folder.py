"""Class-folder trees: one folder per class, with or without train, val and test folders around them.

    DATA/ants/1.jpg                     DATA/train/ants/1.jpg
    DATA/bees/2.jpg                     DATA/val/bees/2.jpg

Which of the two it is follows from the names of the folders in DATA and from where images lie, never from chance:
folders called train, val, test (or an alias) that hold class folders are splits; a folder that holds images itself is a
class, also when it is called "train". Both at once is refused.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from convcraft.data.natural_sort import natural_key, natural_sorted
from convcraft.data.sample import ALL, Finding, Progress, Sample, Source
from convcraft.data.splits import canonical_split
from convcraft.errors import UserError

# What may be an image by its name; whether it is one, and can be decoded, the scan finds out.
IMAGE_ENDINGS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".jp2", ".tga"),
    }
)
SYSTEM_NAMES = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"})
MAX_DEPTH = 64  # folders below DATA; deeper is taken for a mistake
FILES_NAMED = 20  # a finding names so many files, its message counts all


def is_image_name(name: str) -> bool:
    """Whether a file name has the ending of an image format."""
    return os.path.splitext(name)[1].casefold() in IMAGE_ENDINGS  # noqa: PTH122  # a tenth of the time of Path.suffix


def is_system_name(name: str) -> bool:
    """Whether an operating system, not a person, made a file or folder of this name (hidden ones included)."""
    return name.startswith(".") or name.casefold() in SYSTEM_NAMES


@dataclass(frozen=True)
class _Listing:
    """What lies directly in a folder, sorted: folders, image files, and (entry, why) of what is left out."""

    folders: list[Path]
    images: list[Path]
    skipped: list[tuple[Path, str]]


@dataclass
class _Tree:
    """Walks folders below DATA in sorted order, each read once, and remembers what was left out."""

    root: Path
    progress: Progress | None = None
    skipped: dict[str, dict[str, None]] = field(default_factory=dict)  # why -> names, each once
    images_seen: int = 0
    listings: dict[Path, _Listing] = field(default_factory=dict)

    def name(self, path: Path) -> str:
        """POSIX path relative to DATA, printable also where a file name is not valid UTF-8."""
        text, above = os.fspath(path), f"{self.root}{os.sep}"
        relative = text[len(above) :].replace(os.sep, "/") if text.startswith(above) else None
        if relative is None:
            relative = path.relative_to(self.root).as_posix()
        return (
            relative if relative.isascii() else relative.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        )

    def skip(self, path: Path, why: str) -> None:
        self.skipped.setdefault(why, {})[self.name(path)] = None

    def entries(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """(folders, image files) directly in a folder, each sorted; everything else is noted as skipped.

        A link that points nowhere but is named like an image counts as an image: the scan reports it as unreadable.
        Pipes and devices never do: opening one could wait for ever.
        """
        listing = self.listings.get(folder)
        if listing is None:
            listing = self.listings[folder] = _list(folder)
        for path, why in listing.skipped:
            self.skip(path, why)
        return listing.folders, listing.images

    def images(self, folder: Path) -> Iterator[Path]:
        """All images below a folder. Links to folders are followed, but each real folder is entered once."""
        seen: set[tuple[int, int]] = set()
        pending = [folder]
        while pending:
            current = pending.pop()
            status = current.stat()
            too_deep = len(current.relative_to(self.root).parts) > MAX_DEPTH
            if (status.st_dev, status.st_ino) in seen or too_deep:
                self.skip(current, "a folder that was read already, or lies too deep")
                continue
            seen.add((status.st_dev, status.st_ino))
            folders, images = self.entries(current)
            for image in images:
                self.images_seen += 1
                if self.progress is not None and self.images_seen % 1000 == 0:
                    self.progress(self.images_seen, 0, "listing images")
                yield image
            pending.extend(reversed(folders))

    def has_image(self, folder: Path) -> bool:
        """Whether there is an image anywhere below a folder."""
        probe = _Tree(self.root, listings=self.listings)  # notes of its own: what it skips, the walk may never reach
        return next(probe.images(folder), None) is not None

    def holds_class_folders(self, folder: Path) -> bool:
        return any(self.has_image(child) for child in self.entries(folder)[0])

    def findings(self) -> list[Finding]:
        return [
            Finding(
                "unreadable",
                "info",
                tuple(names)[:FILES_NAMED],
                f"{len(names)} {'entry' if len(names) == 1 else 'entries'} left out: {why}.",
                "Nothing to do, unless one of them is meant to be an image.",
            )
            for why, names in sorted(self.skipped.items())
        ]


def _list(folder: Path) -> _Listing:
    listing = _Listing([], [], [])
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: natural_key(entry.name))
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}", "a folder that can be read", "Check its rights.") from error
    for entry in entries:
        path = folder / entry.name
        if is_system_name(entry.name):
            listing.skipped.append((path, "hidden or made by the system"))
        elif entry.is_dir():
            listing.folders.append(path)
        elif not is_image_name(entry.name):
            listing.skipped.append((path, "not named like an image"))
        elif entry.is_file() or (entry.is_symlink() and not path.exists()):
            listing.images.append(path)
        else:
            listing.skipped.append((path, "not a regular file"))
    return listing


def read_folder(root: Path, progress: Progress | None = None) -> Source:
    """Read a class-folder tree.

    Args:
        root: DATA, a folder.
        progress: called as progress(images so far, 0, what).

    Raises:
        UserError: no images, images without class folders, fewer than two classes, or a layout that can be read in
            two ways; the message says what was found.
    """
    tree = _Tree(root, progress)
    folders, loose = tree.entries(root)
    filled = [folder for folder in folders if tree.has_image(folder)]
    if not filled:
        raise _nothing_found(root, loose, tree)
    split_folders = [folder for folder in filled if canonical_split(folder.name) and tree.holds_class_folders(folder)]
    findings: list[Finding] = []
    if split_folders:
        splits = _read_split_folders(tree, filled, split_folders, findings)
        loose += [image for folder in split_folders for image in tree.entries(folder)[1]]
    else:
        _refuse_bare_splits(tree, filled)
        splits = {ALL: _read_classes(tree, folders, findings)}
    if loose:
        names = tuple(tree.name(path) for path in loose[:FILES_NAMED])
        message = f"{len(loose)} images lie outside of any class folder and were left out."
        findings.append(Finding("unreadable", "warning", names, message, "Move them into the folder of their class."))
    classes = tuple(natural_sorted({name for part in splits.values() for name, _ in part}))
    _check_classes(root, classes, tree)
    number = {name: index for index, name in enumerate(classes)}
    samples = {
        split: [Sample(path, number[name], tree.name(path)) for name, path in part] for split, part in splits.items()
    }
    findings += _classes_missing_from_splits(classes, splits)
    return Source(root.name or str(root), classes, samples, tuple(findings + tree.findings()))


LabelledPaths = list[tuple[str, Path]]


def _read_split_folders(
    tree: _Tree, filled: Sequence[Path], split_folders: Sequence[Path], findings: list[Finding]
) -> dict[str, LabelledPaths]:
    others = [folder for folder in filled if folder not in split_folders]
    if others:
        raise UserError(
            f"{tree.root} holds split folders ({_names(split_folders)}) and other folders with images "
            f"({_names(others)})",
            "either split folders or class folders, not both side by side",
            "Move the other folders away, or into the split that they belong to.",
        )
    by_split: dict[str, Path] = {}
    for folder in split_folders:
        split = str(canonical_split(folder.name))
        if split in by_split:
            raise UserError(
                f"{tree.root} holds {by_split[split].name} and {folder.name}, which both mean {split}",
                f"one folder for {split}",
                "Join or rename them.",
            )
        by_split[split] = folder
    order = [split for split in ("train", "val", "test") if split in by_split]
    return {split: _read_classes(tree, tree.entries(by_split[split])[0], findings) for split in order}


def _read_classes(tree: _Tree, folders: Sequence[Path], findings: list[Finding]) -> LabelledPaths:
    """(class name, file) of every image; folders without one are reported and make no class."""
    labelled: LabelledPaths = []
    empty: list[str] = []
    for folder in folders:
        before = len(labelled)
        labelled.extend((folder.name, path) for path in tree.images(folder))
        if len(labelled) == before:
            empty.append(tree.name(folder))
    if empty:
        message = f"{len(empty)} folders hold no image: {', '.join(empty[:FILES_NAMED])}."
        fix = "Add images, or remove the folders."
        findings.append(Finding("too_few", "warning", tuple(empty[:FILES_NAMED]), message, fix))
    return labelled


def _refuse_bare_splits(tree: _Tree, filled: Sequence[Path]) -> None:
    """Folders that are all called train, val or test but hold images themselves: nobody said what the images show.
    Class folders that all hold train and val folders: the tree is inside out."""
    if all(canonical_split(folder.name) for folder in filled):
        raise UserError(
            f"{_names(filled)} in {tree.root} hold images, but no class folders",
            "one folder per class inside each split, such as train/cats and train/dogs",
            "Put the images into folders named after what they show, or give a CSV or Parquet file with labels.",
        )
    inside = [child for folder in filled for child in tree.entries(folder)[0]]
    if inside and all(canonical_split(child.name) for child in inside) and len(filled) > 1:
        raise UserError(
            f"the class folders {_names(filled)} hold split folders ({_names(inside)})",
            "splits outside, classes inside: train/cats, not cats/train",
            "Turn the two levels of folders around.",
        )


def _nothing_found(root: Path, loose: Sequence[Path], tree: _Tree) -> UserError:
    if loose:
        return UserError(
            f"{root} holds {len(loose)} images, but no class folders",
            "one folder per class with its images, such as cats/1.jpg and dogs/2.jpg",
            "Put the images into folders named after what they show, or give a CSV or Parquet file with labels.",
        )
    seen = sorted({Path(name).suffix or name for names in tree.skipped.values() for name in names})[:8]
    found = f" (only {', '.join(seen)})" if seen else ""
    return UserError(
        f"{root} holds no images{found}",
        "a folder with one folder of images per class, tables named train/val/test, or IDX files",
        f"Check the path. Image files end in {', '.join(sorted(IMAGE_ENDINGS))}.",
    )


def _check_classes(root: Path, classes: Sequence[str], tree: _Tree) -> None:
    if len(classes) >= 2:
        return
    only = root / classes[0]
    inner = [folder for folder in tree.entries(only)[0] if tree.has_image(folder)] if only.is_dir() else []
    fix = (
        f"Give {only} if that is the data ({_names(inner)} lie in it)." if inner else "Add a folder of a second class."
    )
    raise UserError(f"{root} holds one class folder, {classes[0]}", "at least two classes to tell apart", fix)


def _classes_missing_from_splits(classes: Sequence[str], splits: dict[str, LabelledPaths]) -> list[Finding]:
    findings = []
    for split, part in splits.items():
        present = Counter(name for name, _ in part)
        missing = [name for name in classes if name not in present]
        if missing:
            severity = "warning" if split == "train" else "info"
            message = f"{len(missing)} of {len(classes)} classes have no image in {split}: {', '.join(missing[:20])}."
            findings.append(Finding("too_few", severity, (), message, "Add images if that is not meant."))
    return findings


def _names(folders: Sequence[Path]) -> str:
    names = list(dict.fromkeys(folder.name for folder in folders))
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
