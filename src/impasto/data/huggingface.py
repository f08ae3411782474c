"""A directory that Hugging Face `datasets` wrote with `save_to_disk`, read through that library."""

from pathlib import Path
from typing import Any

from impasto.config import first_line, nearest
from impasto.data.options import Format
from impasto.data.records import BadSampleError, DataError, Faults, Record, captions_of

MARKS = ("dataset_dict.json", "state.json")


class DatasetRecords:
    """Numbered as the rows are. Pictures come as the bytes that were stored; nothing is decoded here.
    DataError without `datasets`, for a directory that it cannot read, a split or column that is not there."""

    format: Format = "datasets"

    def __init__(
        self, folder: Path, split: str = "train", picture_column: str = "", caption_column: str = ""
    ) -> None:
        self.faults, self._caption_column = Faults(), caption_column
        dataset = _load(Path(folder), split)
        self.fingerprint: str = dataset._fingerprint
        import datasets

        pictures = [name for name, kind in dataset.features.items() if isinstance(kind, datasets.Image)]
        if picture_column:
            pictures = [name for name in pictures if name == picture_column]
        if not pictures:
            wanted = f"'{picture_column}' of pictures" if picture_column else "of pictures"
            raise DataError(
                f"{folder} has no column {wanted}; its columns are {', '.join(dataset.column_names)}"
            )
        if caption_column and caption_column not in dataset.column_names:
            raise DataError(
                f"{folder} has no column '{caption_column}'; {nearest(caption_column, dataset.column_names)}"
            )
        self._column = pictures[0]
        for name in pictures:
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
        self._dataset = dataset.remove_columns(pictures[1:]).with_format(None)

    def __len__(self) -> int:
        return len(self._dataset)

    def key(self, index: int) -> str:
        return f"row {index}"

    def read(self, index: int) -> Record:
        name = self.key(index)
        row: dict[str, Any] = self._dataset[index]
        stored = row.pop(self._column)
        captions = captions_of(row, name, self._caption_column)
        if not captions:
            raise BadSampleError("no caption", name)
        details = {key: value for key, value in row.items() if isinstance(value, (str, int, float, bool))}
        return Record(name, _picture(stored, name), captions, details)


def _picture(stored: dict[str, Any] | None, name: str) -> bytes:
    if stored and stored.get("bytes"):
        return stored["bytes"]
    if stored and stored.get("path"):
        try:
            return Path(stored["path"]).read_bytes()
        except OSError:
            pass
    raise BadSampleError("no picture", name)


def _load(folder: Path, split: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(f"{folder} needs the package datasets: pip install 'impasto[data]'") from None
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # damaged Arrow files raise whatever the library below raises
        raise DataError(f"{folder} cannot be read by datasets: {first_line(error)}") from None
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise DataError(f"{folder} has no split '{split}' (dataset.split); {nearest(split, found)}")
        return found[split]
    return found
