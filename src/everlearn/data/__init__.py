"""Data: samples, streams, and the readers of every format."""

from everlearn.data.dicom import dicom_to_picture
from everlearn.data.open import open_source, read_picture
from everlearn.data.orders import blurred, by_site, by_task, by_time, class_incremental, shuffled
from everlearn.data.reading import load
from everlearn.data.samples import Batch
from everlearn.data.source import Source
from everlearn.data.streams import Quarantined, Stream
from everlearn.data.table import Columns

__all__ = [
    "Batch",
    "Columns",
    "Quarantined",
    "Source",
    "Stream",
    "blurred",
    "by_site",
    "by_task",
    "by_time",
    "class_incremental",
    "dicom_to_picture",
    "load",
    "open_source",
    "read_picture",
    "shuffled",
]
