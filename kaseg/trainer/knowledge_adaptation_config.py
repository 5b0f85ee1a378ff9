"""Arguments of KnowledgeAdaptationTrainer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

from kaseg.configuration_kaseg import OUTPUT_STRIDES
from kaseg.distillation.terms import (
    ADAPTATION_FORMS,
    AUTO,
    adaptation_loss,
    check_share,
    has_adapters,
    parse_losses,
    parse_weight,
)
from kaseg.trainer.segmentation_config import SegmentationConfig

TEACHER_VIEWS = ("crop", "image")
DISTILLATION_SCHEDULES = ("constant", "linear", "cosine")


@dataclass
class KnowledgeAdaptationConfig(SegmentationConfig):
    r"""Arguments of [`KnowledgeAdaptationTrainer`]: those of [`SegmentationConfig`] and the ones below.

    "Paper" marks what He et al. 2019 state; everything else is our choice.

    > Parameters that control the objective `L = L_ce + beta * L_adapt + gamma * L_aff + sum of weight * loss`

    adaptation_weight (`float` or `"auto"`, *optional*, defaults to 50.0): beta (paper). It means something
        only together with the reduction of [`~kaseg.distillation.losses.AdaptationLoss`]: a mean over batch, positions
        and channels.
    affinity_weight (`float` or `"auto"`, *optional*, defaults to 1.0): gamma (paper), see
        [`~kaseg.distillation.losses.AffinityLoss`].
    distillation_losses (`dict`, *optional*): Rival losses (see `docs/method.md`), each by its weight, or by a mapping
        of `weight` and the loss's own arguments: `{"channel_wise": 3.0, "knowledge_distillation": {"weight": 1.0,
        "temperature": 2.0}}`. Names: `knowledge_distillation`, `hint`, `attention_transfer`, `pairwise`,
        `channel_wise` (with `source`: `"logits"` or `"features"`), `intra_class`, `dist`. For a rival alone set
        `adaptation_weight` and `affinity_weight` to 0. A weight may be `"auto"`, with a `share` of its own beside it:
        `{"knowledge_distillation": {"weight": "auto", "share": 0.2}}`.
    balanced_share (`float`, *optional*, defaults to 0.5): Share of every term whose weight is `"auto"` and that has
        none of its own. The weight is set to `share * |gradient of the labels' loss| / |gradient of the term|`, both
        at the student's tapped map (terms on logits through the classifier); see
        [`~kaseg.distillation.balance.GradientBalance`]. Logged as `weight/<term>`. Such a term starts after the first
        step, which measures.
    balanced_every (`int`, *optional*, defaults to 20): Steps between two measurements. One costs a backward pass
        through head and adapters for each term; the encoder has no part.
    balanced_decay (`float`, *optional*, defaults to 0.9): How much of the smoothed norms a new measurement leaves at
        most.
    distillation_schedule (`str`, *optional*, defaults to `"constant"`): How the weights of all distillation terms
        change over training: stay as they are (paper), or fall to 0 at the last step, `"linear"`ly or along half
        a `"cosine"`.
    adaptation_p, adaptation_q (`float`, *optional*, default to 1.0 and 2.0): Norm of the difference and norm that both
        sides are divided by.
    adaptation_form (`str`, *optional*, defaults to `"position"`): What the adaptation loss compares: the code's vectors
        at each `"position"` (paper), or each `"channel"` over the positions, centred and scaled
        ([`~kaseg.distillation.losses.PearsonLoss`], PKD), or each channel of the `"whitened"` code, through an
        orthogonal projection ([`~kaseg.distillation.losses.WhitenedLoss`], after VkD). The last two lie in 0 to 2
        whatever `latent_channels` is, and so want another `adaptation_weight`; see `docs/levers.md`.
    squared_affinity_rows (`bool`, *optional*, defaults to `False`): Square the rows' L2 norms in the affinity loss.
    ignore_void_positions (`bool`, *optional*, defaults to `False`): Leave positions whose label is void out of all
        distillation terms (`intra_class` always does).
    distillation_class_weights (`bool`, *optional*, defaults to `False`): Weigh the positions of the adaptation loss by
        `class_weights` of their labels (void: 1, or 0 with `ignore_void_positions`).
    adapter_learning_rate_scale (`float`, *optional*, defaults to 1.0): Factor on `learning_rate` for the adapters.

    > Parameters that control the warm-up of the adapters (between the autoencoder and the student)

    adapter_warmup_steps (`int`, *optional*, defaults to 0): Steps in which the adapters are fitted alone, to a student
        that stays as it is (after Heo et al. 2019; see [`~kaseg.trainer.adapter_trainer.AdapterTrainer`]).
    adapter_warmup_optim (`str`, *optional*, defaults to `"adamw_torch"`): Its optimizer. AdamW does not mind how large
        a term is.
    adapter_warmup_learning_rate (`float`, *optional*, defaults to 1e-3): Its learning rate; the schedule is poly.

    > Parameters that control what is tapped

    teacher_tap (`str`, *optional*): Name of the teacher's submodule whose output is distilled; by default the map that
        its classifier reads.
    teacher_scale (`float`, *optional*, defaults to 1.0): Factor by which images are resized for the teacher, whose maps
        are brought back; see `image_scale` of [`~kaseg.distillation.TeacherAdapter`].
    teacher_output_stride (`int`, *optional*): Give the teacher's encoder another output stride, such as 8, with the
        same weights; see [`~kaseg.distillation.teachers.output_stride.at_output_stride`]. Its own by default.
    teacher_view (`str`, *optional*, defaults to `"crop"`): What the teacher is shown: in every step the `"crop"` of the
        student (paper), or once, before the training, the whole `"image"` at its own size, from whose maps the crop is
        then cut out (our choice, see [`~kaseg.distillation.teachers.maps.TeacherMaps`]).
    teacher_maps_dir (`str`, *optional*): Folder where the maps of whole images are kept; runs may share it. By default
        `teacher_maps` in `output_dir`.
    teacher_label_map (`dict`, *optional*): Student's class -> teacher's class, a list of those that make it up, or null
        for one that the teacher is not asked about; by name or id. Classes that it leaves out are matched by name. See
        [`~kaseg.distillation.teachers.match_labels`].
    student_tap (`int`, *optional*, defaults to -1): Index into the student's `hidden_states`; -1 is the map before
        dropout and classifier.

    > Parameters that control the autoencoder (the first stage)

    use_autoencoder (`bool`, *optional*, defaults to `True`): Without it there is no first stage: the paper's terms
        compare with the teacher's tapped map, resized to the student's grid, in as many channels as it has.
    latent_channels (`int`, *optional*, defaults to 128): Channels of the code.
    autoencoder_epochs (`float`, *optional*, defaults to 1.0): Epochs (paper), or `autoencoder_max_steps`, whichever is
        longer. A stream has no epochs.
    autoencoder_max_steps (`int`, *optional*, defaults to 600): About as many steps as the paper's epoch of VOC has.
    autoencoder_optim (`str`, *optional*, defaults to `"sgd"`): Its optimizer; SGD has a momentum of 0.9.
    autoencoder_learning_rate (`float`, *optional*, defaults to 0.1): Paper; the schedule is poly. AdamW wants about
        0.003, and keeps more of the teacher's map in as many steps (see `docs/camvid.md`).
    autoencoder_weight_decay (`float`, *optional*, defaults to 1e-4): Paper.
    sparsity_weight (`float`, *optional*, defaults to 1e-7): alpha, weight of the code's L1 norm (paper, printed 10e-7).
    autoencoder_classifier_weight (`float`, *optional*, defaults to 0.0): Weight of the divergence between what the
        teacher's classifier says of the reconstruction and of the map itself; 0 is the paper's autoencoder. A squared
        error alone drops the rare classes first, which hardly matter to it (see `docs/camvid.md`).
    autoencoder_class_weights (`bool`, *optional*, defaults to `False`): Weigh the positions of that divergence by
        `class_weights` of their labels (void: 1).

    > Defaults that differ from `TrainingArguments`: those of [`SegmentationConfig`].
    """

    help_groups: ClassVar[dict[str, str]] = {
        "adaptation_weight": "Objective",
        "adapter_warmup_steps": "Warm-up of the adapters",
        "teacher_tap": "What is tapped",
        "use_autoencoder": "Autoencoder",
    }

    adaptation_weight: float | str = field(
        default=50.0, metadata={"help": "beta, weight of the adaptation loss (paper), or auto."}
    )
    affinity_weight: float | str = field(
        default=1.0, metadata={"help": "gamma, weight of the affinity loss (paper), or auto."}
    )
    distillation_losses: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Rival losses: {name: weight} or {name: {weight: ..., option: ...}}."}
    )
    balanced_share: float = field(
        default=0.5, metadata={"help": "Share of the labels' gradient that a term of weight auto gets."}
    )
    balanced_every: int = field(default=20, metadata={"help": "Steps between two measurements for weights of auto."})
    balanced_decay: float = field(
        default=0.9, metadata={"help": "How much of the smoothed gradient norms a new measurement leaves."}
    )
    distillation_schedule: str = field(
        default="constant",
        metadata={"help": "How the terms' weights change: constant (paper), or to 0 at the end: linear, cosine."},
    )
    adaptation_p: float = field(default=1.0, metadata={"help": "Norm of the difference in the adaptation loss."})
    adaptation_q: float = field(default=2.0, metadata={"help": "Norm that features are divided by (adaptation)."})
    adaptation_form: str = field(
        default="position",
        metadata={"help": f"What the adaptation loss compares: {', '.join(ADAPTATION_FORMS)} (paper: position)."},
    )
    squared_affinity_rows: bool = field(default=False, metadata={"help": "Square the rows' norms (affinity)."})
    ignore_void_positions: bool = field(default=False, metadata={"help": "Leave void out of the distillation terms."})
    distillation_class_weights: bool = field(
        default=False, metadata={"help": "Weigh positions of the adaptation loss by class_weights of their label."}
    )
    adapter_learning_rate_scale: float = field(
        default=1.0, metadata={"help": "Factor on learning_rate for the adapters."}
    )
    adapter_warmup_steps: int = field(
        default=0, metadata={"help": "Steps that fit the adapters alone before the student learns (0: paper)."}
    )
    adapter_warmup_optim: str = field(default="adamw_torch", metadata={"help": "Its optimizer, as for optim."})
    adapter_warmup_learning_rate: float = field(default=1e-3, metadata={"help": "Its learning rate."})
    teacher_tap: str | None = field(
        default=None, metadata={"help": "Teacher's submodule to tap; the classifier's input by default."}
    )
    teacher_scale: float = field(
        default=1.0, metadata={"help": "Factor by which images are resized for the teacher; its maps are brought back."}
    )
    teacher_output_stride: int | None = field(
        default=None,
        metadata={"help": "Another output stride of the teacher's encoder, with the same weights."},
    )
    teacher_view: str = field(
        default="crop",
        metadata={"help": "What the teacher sees: the crop (paper), in every step, or once the whole image."},
    )
    teacher_maps_dir: str | None = field(
        default=None, metadata={"help": "Folder of the teacher's maps of whole images; runs may share it."}
    )
    teacher_label_map: dict | None = field(
        default=None, metadata={"help": "Student's class: teacher's class or classes; by name where it is silent."}
    )
    student_tap: int = field(default=-1, metadata={"help": "Index into the student's hidden_states."})
    use_autoencoder: bool = field(
        default=True, metadata={"help": "Compare with the autoencoder's code (paper), not with the teacher's own map."}
    )
    latent_channels: int = field(default=128, metadata={"help": "Channels of the autoencoder's code."})
    autoencoder_epochs: float = field(default=1.0, metadata={"help": "Epochs of the autoencoder stage (paper)."})
    autoencoder_max_steps: int = field(
        default=600, metadata={"help": "Steps of the autoencoder stage if these are more than autoencoder_epochs."}
    )
    autoencoder_optim: str = field(default="sgd", metadata={"help": "Its optimizer, as for optim."})
    autoencoder_learning_rate: float = field(default=0.1, metadata={"help": "Its learning rate (paper)."})
    autoencoder_weight_decay: float = field(default=1e-4, metadata={"help": "Its weight decay (paper)."})
    sparsity_weight: float = field(default=1e-7, metadata={"help": "alpha, weight of the code's L1 norm (paper)."})
    autoencoder_classifier_weight: float = field(
        default=0.0, metadata={"help": "Weight of the classifier's divergence on the reconstruction (0: paper)."}
    )
    autoencoder_class_weights: bool = field(
        default=False, metadata={"help": "Weigh positions of that divergence by class_weights of their label."}
    )

    def __post_init__(self) -> None:
        self.distillation_losses = parse_losses(self.distillation_losses)
        super().__post_init__()

    def check(self) -> None:
        super().check()
        if given := [name for name in ("activation_checkpointing", "gradient_checkpointing") if getattr(self, name)]:
            raise ValueError(f"{', '.join(given)}: the student and its adapters have no checkpoints of activations.")
        for name in ("sparsity_weight", "autoencoder_epochs", "autoencoder_classifier_weight", "adapter_warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        self.adaptation_weight = parse_weight(self.adaptation_weight, "adaptation_weight")
        self.affinity_weight = parse_weight(self.affinity_weight, "affinity_weight")
        if self.distillation_schedule not in DISTILLATION_SCHEDULES:
            raise ValueError(
                f"distillation_schedule must be one of {DISTILLATION_SCHEDULES}, got {self.distillation_schedule!r}."
            )
        if self.teacher_view not in TEACHER_VIEWS:
            raise ValueError(f"teacher_view must be one of {TEACHER_VIEWS}, got {self.teacher_view!r}.")
        if self.teacher_view == "crop":
            self._refuse_unused("teacher_maps_", "teacher_view is 'crop'")
        elif self.mix is not None:
            raise ValueError("A mixed image has no whole one for the teacher to see: leave mix out, or teacher_view.")
        if self.teacher_output_stride not in (None, *OUTPUT_STRIDES):
            raise ValueError(
                f"teacher_output_stride must be one of {OUTPUT_STRIDES}, got {self.teacher_output_stride}."
            )
        if self.latent_channels < 1:
            raise ValueError(f"latent_channels must be at least 1, got {self.latent_channels}.")
        for name in ("distillation_class_weights", "autoencoder_class_weights"):
            if getattr(self, name) and self.class_weights is None:
                raise ValueError(f"{name} weighs by class_weights, but there are none: set them, too.")
        self._check_adaptation_form()
        self._check_balance()
        self._check_warmup()

    def _check_adaptation_form(self) -> None:
        if self.adaptation_form not in ADAPTATION_FORMS:
            raise ValueError(f"adaptation_form must be one of {tuple(ADAPTATION_FORMS)}, got {self.adaptation_form!r}.")
        if self.adaptation_form == "position":
            return
        if self.adaptation_weight == 0:
            raise ValueError("adaptation_form changes nothing with an adaptation_weight of 0: leave one of them out.")
        if (self.adaptation_p, self.adaptation_q) != (1.0, 2.0):
            raise ValueError(
                f"adaptation_p and adaptation_q are norms of adaptation_form='position'; {self.adaptation_form!r} has "
                "none, so leave them out."
            )

    def _check_balance(self) -> None:
        check_share(self.balanced_share, "balanced_share")
        if self.balanced_every < 1:
            raise ValueError(f"balanced_every must be at least 1, got {self.balanced_every}.")
        if not 0 <= self.balanced_decay < 1:
            raise ValueError(f"balanced_decay must be at least 0 and below 1, got {self.balanced_decay}.")
        if not self.balanced_shares:
            self._refuse_unused("balanced_", f"no term has a weight of {AUTO} (such as adaptation_weight: {AUTO})")

    def _check_warmup(self) -> None:
        if self.adapter_warmup_learning_rate <= 0:
            raise ValueError(f"adapter_warmup_learning_rate must be positive, got {self.adapter_warmup_learning_rate}.")
        if self.adapter_warmup_steps == 0:
            self._refuse_unused("adapter_warmup_", "adapter_warmup_steps is 0")
        elif not has_adapters(self.term_settings):
            raise ValueError(
                "adapter_warmup_steps fits adapters, but no term has one: leave it out, or add a term on features "
                "(adaptation_weight, affinity_weight, distillation_losses: {hint: ...})."
            )

    def _refuse_unused(self, prefix: str, reason: str) -> None:
        """Raise a ValueError if a field whose name starts with `prefix` is set, as it would change nothing."""
        own = {item.name: item.default for item in dataclasses.fields(self) if item.name.startswith(prefix)}
        changed = [name for name, default in own.items() if getattr(self, name) != default]
        if changed:
            raise ValueError(f"{', '.join(changed)} would change nothing, as {reason}.")

    @property
    def term_settings(self) -> dict[str, dict[str, Any]]:
        """Weight, source and options of every distillation term by name: the paper's, then `distillation_losses`."""
        source = "code" if self.use_autoencoder else "features"
        norms = {"p": self.adaptation_p, "q": self.adaptation_q} if self.adaptation_form == "position" else {}
        paper = {
            "adaptation": {"weight": self.adaptation_weight, "loss": adaptation_loss(self.adaptation_form), **norms},
            "affinity": {"weight": self.affinity_weight, "squared_rows": self.squared_affinity_rows},
        }
        return {name: {**options, "source": source} for name, options in paper.items()} | self.distillation_losses

    @property
    def balanced_shares(self) -> dict[str, float]:
        """Shares of the labels' gradient by name, for the terms whose weight is `"auto"`."""
        terms = self.term_settings.items()
        return {name: options.get("share", self.balanced_share) for name, options in terms if options["weight"] == AUTO}
