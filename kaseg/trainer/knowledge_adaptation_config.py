"""Arguments of KnowledgeAdaptationTrainer."""

from dataclasses import dataclass
from typing import Any, ClassVar

from kaseg.configuration_kaseg import OUTPUT_STRIDES
from kaseg.distillation.terms import (
    ADAPTATION_FORMS,
    AUTO,
    BASELINE_TERMS,
    adaptation_loss,
    check_share,
    has_adapters,
    parse_losses,
    parse_weight,
    sources_of,
)
from kaseg.trainer.options import option, with_fields_in_doc
from kaseg.trainer.segmentation_config import SegmentationConfig

TEACHER_VIEWS = ("crop", "image")
FINE_STRIDES = (1, 2, 4, 8)
DISTILLATION_SCHEDULES = ("constant", "linear", "cosine")


@with_fields_in_doc
@dataclass
class KnowledgeAdaptationConfig(SegmentationConfig):
    r"""Arguments of [`KnowledgeAdaptationTrainer`]: those of [`SegmentationConfig`] and the fields of its own.

    "Paper" marks what He et al. 2019 state; everything else is our choice.

    The objective is `L = L_ce + beta * L_adapt + gamma * L_aff + sum of weight * loss`. Defaults that differ from
    `TrainingArguments` are those of [`SegmentationConfig`].
    """

    help_groups: ClassVar[dict[str, str]] = {
        "adaptation_weight": "Objective",
        "adapter_warmup_steps": "Warm-up of the adapters",
        "teacher_tap": "What is tapped",
        "use_autoencoder": "Autoencoder",
    }

    adaptation_weight: float | str = option(
        50.0, "beta, weight of the adaptation loss (paper), or auto. It fits a loss that is a mean over channels."
    )
    affinity_weight: float | str = option(1.0, "gamma, weight of the affinity loss (paper), or auto.")
    distillation_losses: dict[str, Any] = option(
        {},
        f"Baseline losses: {', '.join(BASELINE_TERMS)}, each by its weight or by a mapping of weight and options: "
        "{channel_wise: 3.0, knowledge_distillation: {weight: auto, share: 0.2, temperature: 2.0}}. For a baseline "
        "alone set adaptation_weight and affinity_weight to 0.",
    )
    balanced_share: float = option(
        0.5,
        "A weight of auto is this share of |gradient of the labels' loss| / |gradient of the term|, both at the "
        "student's tapped map.",
    )
    balanced_every: int = option(20, "Steps between two measurements for weights of auto.")
    balanced_decay: float = option(0.9, "Largest share of the old gradient norms that a new measurement keeps.")
    distillation_schedule: str = option(
        "constant", "How the terms' weights change: constant (paper), or to 0 at the end: linear, cosine."
    )
    adaptation_p: float = option(1.0, "Norm of the difference in the adaptation loss.")
    adaptation_q: float = option(2.0, "Norm that features are divided by (adaptation).")
    adaptation_form: str = option(
        "position",
        f"What the adaptation loss compares: {', '.join(ADAPTATION_FORMS)} (paper: position; see docs/levers.md). Each "
        "wants another adaptation_weight.",
    )
    squared_affinity_rows: bool = option(False, "Square the rows' norms (affinity).")
    correct_teacher: bool = option(
        False, "Where the teacher's class is not the label, swap its logits of the two (docs/levers.md)."
    )
    ignore_void_positions: bool = option(False, "Leave void out of the distillation terms; intra_class always does.")
    distillation_class_weights: bool = option(
        False, "Weigh positions of the adaptation loss by class_weights of their label (void: 1)."
    )
    adapter_learning_rate_scale: float = option(1.0, "Factor on learning_rate for the adapters.")
    labelled_share: float = option(0.5, "Share of a batch that has masks, beside images without masks: 0.01 to 0.99.")
    adapter_warmup_steps: int = option(0, "Steps that fit the adapters alone before the student learns (0: paper).")
    adapter_warmup_optim: str = option("adamw_torch", "Its optimizer. Steps of AdamW do not depend on a term's size.")
    adapter_warmup_learning_rate: float = option(1e-3, "Its learning rate; the schedule is poly.")
    teacher_tap: str | None = option(None, "Teacher's submodule to tap; the classifier's input by default.")
    teacher_scale: float = option(1.0, "Factor by which images are resized for the teacher; its maps are brought back.")
    teacher_output_stride: int | None = option(
        None, "Another output stride of the teacher's encoder, with the same weights."
    )
    teacher_view: str = option(
        "crop", "What the teacher sees: the student's crop, in every step (paper), or once the whole image."
    )
    teacher_maps_dir: str | None = option(
        None,
        "Folder of the teacher's maps of whole images, which runs may share; teacher_maps in output_dir by default.",
    )
    teacher_logits_stride: int | None = option(
        None,
        "With teacher_view image, the stride of the grid that logits are compared on, finer than the teacher's own "
        f"(default): {', '.join(map(str, FINE_STRIDES))}.",
    )
    teacher_label_map: dict | None = option(
        None,
        "Student's class: teacher's class, a list of those that make it up, or null for one that the teacher is not "
        "asked about; by name or id. Others are matched by name.",
    )
    student_tap: int = option(-1, "Index into the student's hidden_states; -1: the map before dropout and classifier.")
    use_autoencoder: bool = option(True, "Compare with the autoencoder's code (paper), not with the teacher's own map.")
    latent_channels: int = option(128, "Channels of the autoencoder's code.")
    autoencoder_epochs: float = option(
        1.0, "Epochs of the autoencoder stage (paper), or autoencoder_max_steps, whichever is longer."
    )
    autoencoder_max_steps: int = option(600, "Steps of that stage: about as many as the paper's epoch of VOC has.")
    autoencoder_optim: str = option("sgd", "Its optimizer, as for optim.")
    autoencoder_learning_rate: float = option(0.1, "Its learning rate (paper); AdamW wants about 0.003.")
    autoencoder_weight_decay: float = option(1e-4, "Its weight decay (paper).")
    sparsity_weight: float = option(1e-7, "alpha, weight of the code's L1 norm (paper, printed 10e-7).")
    autoencoder_classifier_weight: float = option(
        0.0, "Weight of the divergence between the teacher's classes on the reconstruction and on its map (0: paper)."
    )
    autoencoder_class_weights: bool = option(
        False, "Weigh positions of that divergence by class_weights of their label (void: 1)."
    )

    def check(self) -> None:
        self.distillation_losses = parse_losses(self.distillation_losses)
        super().check()
        if given := [name for name in ("activation_checkpointing", "gradient_checkpointing") if getattr(self, name)]:
            raise ValueError(f"{', '.join(given)}: the student and its adapters have no checkpoints of activations.")
        self._require_not_negative(
            *("adapter_learning_rate_scale", "adapter_warmup_steps", "sparsity_weight", "autoencoder_epochs"),
            *("autoencoder_learning_rate", "autoencoder_weight_decay", "autoencoder_classifier_weight"),
        )
        self.adaptation_weight = parse_weight(self.adaptation_weight, "adaptation_weight")
        self.affinity_weight = parse_weight(self.affinity_weight, "affinity_weight")
        self._require_one_of("distillation_schedule", DISTILLATION_SCHEDULES)
        self._require_one_of("teacher_view", TEACHER_VIEWS)
        self._require_one_of("teacher_output_stride", (None, *OUTPUT_STRIDES))
        self._require_one_of("teacher_logits_stride", (None, *FINE_STRIDES))
        if self.teacher_view == "crop":
            self._refuse_unused("teacher_maps_", "teacher_view is 'crop'")
            self._refuse_given(("teacher_logits_stride",), "teacher_view is 'crop'")
        elif self.mix is not None:
            raise ValueError("A mixed image has no whole one for the teacher to see: leave mix out, or teacher_view.")
        self._check_adaptation_form()
        if "logits" not in sources_of(self.term_settings):
            self._refuse_given(("teacher_logits_stride",), "no term reads the teacher's logits")
        if self.latent_channels < 1:
            raise ValueError(f"latent_channels must be at least 1, got {self.latent_channels}.")
        for name in ("distillation_class_weights", "autoencoder_class_weights"):
            if getattr(self, name) and self.class_weights is None:
                raise ValueError(f"{name} weighs by class_weights, but there are none: set them, too.")
        of_labelled = {k: v for k, v in self.term_settings.items() if v.get("images") != "unlabelled"}
        if self.correct_teacher and "logits" not in sources_of(of_labelled):
            raise ValueError(
                "correct_teacher would change nothing, as no term reads the teacher's logits of images with masks: "
                "leave it out, or add one that does (distillation_losses: {knowledge_distillation: ...})."
            )
        if not 0.01 <= self.labelled_share <= 0.99:  # beyond, samples would be repeated without end
            raise ValueError(f"labelled_share must be from 0.01 to 0.99, got {self.labelled_share}.")
        self._check_balance()
        self._check_warmup()

    def check_unlabelled(self, given: bool) -> None:
        super().check_unlabelled(given)
        if given:
            return
        self._refuse_given(("labelled_share",), "there are no images without masks")
        for name, options in self.distillation_losses.items():
            if options.get("images") == "unlabelled":
                raise ValueError(
                    f"distillation_losses: {name}: images: unlabelled, but there are no images without masks: give "
                    "them (unlabelled_dataset; in recipes unlabelled_dir or max_labelled_samples), or set images to "
                    "all."
                )

    def _check_adaptation_form(self) -> None:
        self._require_one_of("adaptation_form", ADAPTATION_FORMS)
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
        self._refuse_given((name for name in type(self).__dataclass_fields__ if name.startswith(prefix)), reason)

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
