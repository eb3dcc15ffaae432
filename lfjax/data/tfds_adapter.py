"""TFDS: Records to a TensorFlow Datasets directory and back, for users and pods whose data lives
there. TensorFlow itself is neither needed nor imported.

A Record travels as one JSON text, because TFDS has no optional fields, and in its own place, under
its index as the key and with shuffling off, because TFDS otherwise orders by a hash.
"""

import contextlib
import hashlib
import io
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lfjax.data.records import Record
from lfjax.errors import UserError

FIELD = "record"
VERSION = "1.0.0"
INFO = "dataset_info.json"  # what makes a folder a dataset
POLL_SECONDS, WAIT_SECONDS = 2.0, 3600.0


def write_tfds(
    splits: Mapping[str, Sequence[Record]], data_dir: str, *, name: str = "records"
) -> str:
    """Write records, by split, as the TFDS dataset `name`; its directory, for `read_tfds`.

    Args:
      splits: e.g. {"train": records}; the order of each is kept.
      data_dir: where TFDS keeps datasets, a folder or a bucket (`gs://…`). The dataset becomes
        visible under it only when it is complete.
      name: of the dataset, a word of small letters, digits and underscores.

    Process 0 writes; all processes call this, and return when the dataset is there. The same
    records written again are left as they are.

    Raises: UserError if other records are there already, a split is empty, the place cannot be
    written, or TFDS is not installed.
    """
    import jax

    if not splits or not all(splits.values()):
        raise UserError(f"write_tfds: splits {list(splits)}, expected at least one, none empty.")
    path, digest = dataset_path(data_dir, name), _digest(splits)
    if jax.process_index():
        wait_tfds(path)
    elif not is_tfds(path):
        _prepare(splits, path, digest)
    if _open(path).info.description != digest:
        raise UserError(
            f"{path}: holds other records; choose another name or data_dir, or delete it."
        )
    return path


def dataset_path(data_dir: str, name: str) -> str:
    """Where `write_tfds` puts a dataset.

    Raises: UserError for a name that TFDS does not take.
    """
    from etils import epath

    if not name.isidentifier() or name != name.lower():
        raise UserError(f"TFDS: name '{name}', expected small letters, digits and underscores.")
    return str(epath.Path(data_dir) / name / VERSION)


def wait_tfds(path: str) -> None:
    """Return when a dataset is there that another process writes.

    Looks for it instead of meeting at a barrier of the devices: one of those would end while
    process 0 is still reading a large set.

    Raises: UserError if it is not there in `WAIT_SECONDS`.
    """
    end = time.monotonic() + WAIT_SECONDS
    while not is_tfds(path):
        if time.monotonic() > end:
            raise UserError(
                f"{path}: process 0 has not written it in {WAIT_SECONDS:.0f} seconds; its own "
                "output says why."
            )
        time.sleep(POLL_SECONDS)


def _prepare(splits, path: str, digest: str) -> None:
    """Write a dataset beside its place, and move it there when it is complete.

    TFDS does so by renaming its folder. A bucket cannot rename a folder at once, nor does
    array_record write there: the files are copied, last of all the one that makes it a dataset.
    """
    from etils import epath

    place, remote = epath.Path(path), "://" in path
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = scratch if remote else str(place.parent.parent)
        _tfds().disable_progress_bar()  # the program has bars of its own
        try:
            builder = _builder(splits, data_dir, place.parent.name, digest)
            with contextlib.redirect_stdout(io.StringIO()):  # TFDS tells of a download
                builder.download_and_prepare(download_dir=scratch)
            if remote:
                place.mkdir(parents=True, exist_ok=True)
                files = sorted(epath.Path(builder.data_dir).iterdir(), key=lambda f: f.name == INFO)
                for file in files:
                    file.copy(place / file.name, overwrite=True)
        except Exception as error:  # every file system raises its own
            raise UserError(f"{path}: cannot be written ({error}).") from error


def _digest(splits) -> str:
    """What a dataset's description says: a hash of the records that it holds."""
    digest = hashlib.sha256()
    for split, records in splits.items():
        for record in records:
            digest.update(f"{split} {_text(record)}\n".encode())
    return f"lfjax Records, sha256 {digest.hexdigest()}"


def _builder(splits, data_dir: str, name: str, digest: str):
    tfds = _tfds()

    class Records(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                description=digest,
                features=tfds.features.FeaturesDict({FIELD: tfds.features.Text()}),
                disable_shuffling=True,
            )

        def _split_generators(self, download):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            return ((i, {FIELD: _text(r)}) for i, r in enumerate(splits[split]))

    Records.name = name
    Records.VERSION = tfds.core.Version(VERSION)
    return Records(data_dir=data_dir, file_format="array_record")


def _text(record: Record) -> str:
    return json.dumps(record.to_json(), ensure_ascii=False)


class TfdsRecords(Sequence):
    """The records of a split, read when they are asked for. `folder` lives as long as they do."""

    def __init__(self, source, path: str, folder: tempfile.TemporaryDirectory | None = None):
        self.source, self.path, self.folder = source, path, folder

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index):
        """A Record, or a list of them for a slice. Raises: RecordError for a malformed one."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return Record.from_json(self.row(index % len(self)), f"{self.path}[{index}]")

    def row(self, index: int) -> Any:
        """The JSON object of a record, not yet validated."""
        return json.loads(self.source[index][FIELD])


def read_tfds(path: str, split: str = "train") -> TfdsRecords:
    """The records of a directory that `write_tfds` returned, in their order, by random access.
    Those of a bucket are fetched first: a request for each would take long.

    Raises: UserError if it is no TFDS dataset, has no such split, or holds something else.
    """
    builder = _open(path)
    if split not in builder.info.splits:
        raise UserError(f"{path}: has no split '{split}'; it has {', '.join(builder.info.splits)}.")
    if list(builder.info.features or ()) != [FIELD]:
        raise UserError(
            f"{path}: has the features {', '.join(builder.info.features)}; expected one, "
            f"'{FIELD}', as written by write_tfds."
        )
    folder = _fetched(path) if "://" in path else None
    if folder:
        builder = _open(folder.name)
    return TfdsRecords(builder.as_data_source(split=split), path, folder)


def _fetched(path: str) -> tempfile.TemporaryDirectory:
    """A copy of a dataset on this machine. Raises: UserError if it cannot be had."""
    from etils import epath

    folder = tempfile.TemporaryDirectory()
    try:
        for file in epath.Path(path).iterdir():
            file.copy(epath.Path(folder.name) / file.name)
    except Exception as error:  # every file system raises its own
        raise UserError(f"{path}: cannot be fetched ({error}).") from error
    return folder


def _open(path: str):
    """The builder of a dataset that is there, with what it holds.

    Raises: UserError if it cannot be read.
    """
    tfds = _tfds()
    try:
        return tfds.builder_from_directory(path)
    except Exception as error:  # TFDS, protobuf and file systems each raise their own
        raise UserError(f"{path}: is no TFDS dataset that can be read ({error}).") from None


def is_tfds(path: str) -> bool:
    """Whether a path is a TFDS dataset's directory.

    Raises: UserError where the place cannot be looked at, as a bucket without the package for it.
    """
    from etils import epath

    try:
        return (epath.Path(path) / INFO).exists()
    except Exception as error:  # every file system raises its own
        raise UserError(
            f"{path}: cannot be looked at ({type(error).__name__}: {error}). A path is a file, a "
            "directory, or a bucket (gs://…, with the package gcsfs installed)."
        ) from None


def rows(path: str) -> Iterator[tuple[str, Any]]:
    """(place, object) for each record of the split `train`."""
    records = read_tfds(path)
    yield from ((f"{path}[{i}]", records.row(i)) for i in range(len(records)))


def _tfds():
    try:
        import tensorflow_datasets
    except ImportError:
        raise UserError(
            "TFDS is not installed; pip install tensorflow-datasets array_record "
            "importlib_resources (TensorFlow is not needed)."
        ) from None
    return tensorflow_datasets
