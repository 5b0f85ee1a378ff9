"""What happens to samples that cannot be used: an error by default, or left out, counted and listed."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import datasets

ON_ERROR = ("raise", "skip")
_LISTED = 5


class SkippedSample(NamedTuple):
    """A sample that was left out, and why."""

    id: str
    reason: str


@dataclass
class BadSamples:
    """Decides about the bad samples of one split, `where` in messages: errors, or left out and added to `skipped`."""

    where: str
    skip: bool = False
    skipped: list[SkippedSample] = field(default_factory=list)
    found: list[SkippedSample] = field(default_factory=list, init=False)

    def reject(self, samples: Sequence[SkippedSample], error: type[Exception] = ValueError) -> None:
        """Notes bad samples, or raises `error` about the first of them where bad samples are not skipped."""
        if samples and not self.skip:
            ids = ", ".join(sample.id for sample in samples[:_LISTED])
            more = f" {len(samples)} samples are like this: {ids}{', ...' if len(samples) > _LISTED else '.'}"
            raise error(samples[0].reason + (more if len(samples) > 1 else ""))
        new = [sample for sample in samples if sample not in self.found]  # a stream meets them again in each epoch
        self.found.extend(new)
        self.skipped.extend(new)

    def warn(self, remaining: int) -> None:
        """Counts and lists what was left out in one warning; a ValueError if nothing remains."""
        if not self.found:
            return
        listed = "\n".join(f"  {sample.id}: {sample.reason}" for sample in self.found)
        count = f"{self.where}: {len(self.found)} of {len(self.found) + remaining} samples were skipped"
        if not remaining:
            raise ValueError(f"{count}, so none remains.\n{listed}")
        warnings.warn(f"{count}:\n{listed}", stacklevel=2)


def _find_reason(sample: dict[str, Any], function: Callable[[dict[str, Any]], Any]) -> dict[str, str]:
    """Why a sample cannot be used, or "" if it can."""
    try:
        function(sample)
    except (ValueError, OSError) as error:
        return {"reason": str(error)}
    return {"reason": ""}


def drop_bad_samples(
    data: datasets.Dataset, function: Callable[[dict[str, Any]], Any], bad: BadSamples, num_proc: int | None = None
) -> datasets.Dataset:
    """Tries every sample once, with a progress bar, and leaves those on which `function` fails to `bad`."""
    reasons = data.map(
        _find_reason,
        fn_kwargs={"function": function},
        remove_columns=data.column_names,
        num_proc=num_proc,
        # Files may have changed since; and a cache on disk would hold the answer for the ones that were there.
        load_from_cache_file=False,
        keep_in_memory=True,
        desc=f"Checking {bad.where}",
    )["reason"]
    bad.reject([SkippedSample(str(name), r) for name, r in zip(data["id"], reasons, strict=True) if r])
    return data.select([index for index, reason in enumerate(reasons) if not reason])


def drop_doubled_ids(data: datasets.Dataset, bad: BadSamples) -> datasets.Dataset:
    """Leaves samples whose id an earlier sample has to `bad`."""
    ids = data["id"]
    first = {name: index for index, name in reversed(list(enumerate(ids)))}
    if len(first) == len(ids):
        return data
    doubled = [str(name) for index, name in enumerate(ids) if first[name] != index]
    reason = "{}: the id {!r} is there more than once. Give each sample an id of its own."
    bad.reject([SkippedSample(name, reason.format(bad.where, name)) for name in doubled])
    return data.select(sorted(first.values()))
