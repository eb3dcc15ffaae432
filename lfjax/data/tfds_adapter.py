"""TFDS: Records to a TensorFlow Datasets directory and back, for users and pods whose data lives
there. TensorFlow itself is neither needed nor imported.

A Record travels as one JSON text, because TFDS has no optional fields, and in its own place, under
its index as the key and with shuffling off, because TFDS otherwise orders by a hash.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lfjax.data.records import Record
from lfjax.errors import UserError

FIELD = "record"
VERSION = "1.0.0"


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

    Raises: UserError if other records are there already, a split is empty, or TFDS is not
    installed.
    """
    import jax

    tfds = _tfds()
    if not splits or not all(splits.values()):
        raise UserError(f"write_tfds: splits {list(splits)}, expected at least one, none empty.")
    if not name.isidentifier() or name != name.lower():
        raise UserError(
            f"write_tfds: name '{name}', expected small letters, digits and underscores."
        )
    try:
        if jax.process_index() == 0:
            _prepare(tfds, splits, data_dir, name)
    except ImportError as error:  # the package for a bucket
        raise UserError(f"{data_dir}: cannot be written ({error}).") from None
    finally:  # the others wait here, also for a process 0 that failed
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(f"write_tfds {data_dir} {name}")
    found = _builder(tfds, splits, data_dir, name)
    if not found.is_prepared():
        raise UserError(f"{data_dir}: process 0 could not write the dataset '{name}'.")
    return str(found.data_dir)


def _prepare(tfds, splits, data_dir, name) -> None:
    digest = _digest(splits)
    builder = _builder(tfds, splits, data_dir, name, digest)
    if not builder.is_prepared():
        tfds.disable_progress_bar()  # the program has bars of its own
        with contextlib.redirect_stdout(io.StringIO()):  # nothing is downloaded, as TFDS would say
            builder.download_and_prepare()
        return
    # The builder's own `info` says what would be written, not what is there.
    there = tfds.builder_from_directory(builder.data_dir).info.description
    if there != digest:
        raise UserError(
            f"{builder.data_dir}: holds other records; choose another name or data_dir, or delete "
            "it."
        )


def _digest(splits) -> str:
    """What a dataset's description says: a hash of the records that it holds."""
    digest = hashlib.sha256()
    for split, records in splits.items():
        for record in records:
            digest.update(f"{split} {_text(record)}\n".encode())
    return f"lfjax Records, sha256 {digest.hexdigest()}"


def _builder(tfds, splits, data_dir, name, digest=""):
    """The builder of a dataset."""

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
    """The records of a split, read when they are asked for."""

    def __init__(self, source, path: str):
        self.source, self.path = source, path

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

    Raises: UserError if it is no TFDS dataset, has no such split, or holds something else.
    """
    tfds = _tfds()
    try:
        builder = tfds.builder_from_directory(path)
    except Exception as error:  # TFDS, protobuf and file systems each raise their own
        raise UserError(f"{path}: is no TFDS dataset that can be read ({error}).") from None
    if split not in builder.info.splits:
        raise UserError(f"{path}: has no split '{split}'; it has {', '.join(builder.info.splits)}.")
    if list(builder.info.features or ()) != [FIELD]:
        raise UserError(
            f"{path}: has the features {', '.join(builder.info.features)}; expected one, "
            f"'{FIELD}', as written by write_tfds."
        )
    return TfdsRecords(builder.as_data_source(split=split), path)


def is_tfds(path: str) -> bool:
    """Whether a path is a TFDS dataset's directory.

    Raises: UserError where the place cannot be looked at, as a bucket without the package for it.
    """
    from etils import epath

    try:
        return (epath.Path(path) / "dataset_info.json").exists()
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
