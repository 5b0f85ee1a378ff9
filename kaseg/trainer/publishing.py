"""A `Trainer` that sends to the Hub what a consumer needs, and whose runs outlive a Hub that fails."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, run_as_future
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress

from kaseg.model_card.published_files import published_files
from kaseg.uploading import Destination, UploadError, create_repository, upload

logger = logging.getLogger(__name__)


class PublishingTrainer(Trainer):
    """`transformers.Trainer` with other uploads: weights, config, image processor, card, recipe and results, see
    [`~kaseg.model_card.published_files.published_files`].

    Nothing else is sent, pickles least of all, but for the states of optimizer, scheduler and random numbers that
    `hub_strategy="checkpoint"` and `"all_checkpoints"` ask for. Uploads during training run in the background; one that
    fails is reported, and training goes on.
    """

    args: Any
    push_in_progress: PushInProgress | None

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository that `args` names, or raise an UploadError that says what to do; with `push_to_hub=True`
        this is done before training starts."""
        if self.is_world_process_zero():
            private = self.args.hub_private_repo if private is None else private
            self.hub_model_id = create_repository(self._destination(token, private=private))
            self.push_in_progress = None

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> CommitInfo | Any:
        """Save the model to `output_dir`, write its card and send both.

        Args:
            commit_message (`str`, defaults to `"End of training"`): Commit message.
            blocking (`bool`, defaults to `True`): Wait; otherwise a `Future` is returned.
            token, revision, private (*optional*): In place of `args.hub_token`, `hub_revision` and `hub_private_repo`.
                A branch is made if it is missing.
            kwargs: For `create_model_card`.

        Raises:
            UploadError: it could not be sent. The model lies in `output_dir`; the message says how to send it later.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        try:
            if self.hub_model_id is None:
                self.init_hf_repo(token=token, private=private)
            self.create_model_card(**kwargs)
            self._finish_current_push()
            files = published_files(self.args.output_dir)
            destination = self._destination(token, revision, private)
            if not blocking:
                return run_as_future(upload, files, destination, commit_message)
            return upload(files, destination, commit_message or "End of training")
        except UploadError as error:
            where = self.args.output_dir
            raise UploadError(f"The model is saved in {where}, but not published. {error}\n{self._later()}") from error

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # Called by Trainer after it wrote a checkpoint.
        strategy = self.args.hub_strategy
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if not self.is_world_process_zero() or strategy == HubStrategy.END or (busy and not self.args.hub_always_push):
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        # Of the files' own: the next checkpoint must not change what is under way, nor save_total_limit remove it.
        staged = Path(tempfile.mkdtemp(prefix="_push-", dir=self.args.output_dir))
        checkpoint = Path(checkpoint_folder)
        _stage(published_files(self.args.output_dir), staged, shutil.copy)
        _stage(published_files(checkpoint), staged, _link)
        folder_in_repo = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: checkpoint.name}
        if strategy in folder_in_repo:
            state = {path.name: path for path in checkpoint.iterdir() if path.name != TRAINING_ARGS_NAME}
            _stage(state, staged / folder_in_repo[strategy], _link)
        by_steps = self.args.save_strategy == SaveStrategy.STEPS
        place = f"step {self.state.global_step}" if by_steps else f"epoch {int(self.state.epoch or 0)}"
        job = run_as_future(_send_staged, staged, self._destination(), f"Training in progress, {place}")
        jobs = self.push_in_progress.jobs if self.push_in_progress is not None and busy else []
        self.push_in_progress = PushInProgress([*jobs, job])

    def _destination(
        self, token: str | None = None, revision: str | None = None, private: bool | None = None
    ) -> Destination:
        repo_id = self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        return Destination(
            repo_id,
            private=self.args.hub_private_repo if private is None else private,
            revision=revision or self.args.hub_revision,
            token=token or self.args.hub_token,
        )

    def _later(self) -> str:
        destination = self._destination()
        branch = f" --revision {destination.revision}" if destination.revision else ""
        return f"When that is mended: kaseg push {self.args.output_dir} {destination.repo_id}{branch}"


def _stage(files: Mapping[str, Path | bytes], folder: Path, put: Callable[[Path, Path], Any]) -> None:
    """Put files into a folder, in place of those that are there."""
    for name, source in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if isinstance(source, bytes):
            target.write_bytes(source)
        else:
            put(source, target)


def _link(source: Path, target: Path) -> None:
    """A second name for a file that nobody writes to again, or a copy where the disk has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _send_staged(folder: Path, destination: Destination, message: str) -> None:
    """Send everything in a folder and remove it; a failure is a warning."""
    try:
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        upload(files, destination, message)
    except UploadError as error:
        logger.warning("%s (Training goes on, and the next checkpoint is sent again.)", error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
