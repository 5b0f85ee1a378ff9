"""What goes into a repository on the Hub, and how."""

from kaseg.hub.checkpoint_folder import write_checkpoint_folder
from kaseg.hub.datasets import dataset_files, dataset_label_space
from kaseg.hub.push import checkpoint_to_publish, files_as_transformers, files_to_push, push
from kaseg.hub.space import files_for_space
from kaseg.uploading import Destination, UploadError

__all__ = [
    "Destination", "UploadError", "checkpoint_to_publish", "dataset_files", "dataset_label_space",
    "files_as_transformers", "files_for_space", "files_to_push", "push", "write_checkpoint_folder",
]  # fmt: skip
