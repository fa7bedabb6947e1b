"""Distillation: training a classifier on a teacher's predictions besides the labels."""

import copy
import logging
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.registry import MODELS
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn import functional as F

from mmiformer.checkpoints import load_weights
from mmiformer.utils.configs import walk
from mmiformer.utils.errors import UserError


class DistilledClassifier(ImageClassifier):
    """mmpretrain's ``ImageClassifier`` whose second head learns from a frozen teacher (DeiT, section 4).

    The first head learns from the labels; in evaluation both are averaged. The teacher sees the same
    augmented images, normalised as it expects them. It is built at the first training step and is no
    submodule: it is neither saved nor trained, and evaluation does not need it.

    Args:
        backbone: See ``ImageClassifier``.
        head: A :class:`~mmiformer.models.heads.head.NormLinearClsHead` with ``num_heads=2``.
        teacher: Model config of any mmpretrain classifier. Its weights are a file or URL in ``init_cfg``, or
            ``checkpoint_path`` of a ``TimmClassifier``; its normalisation is in ``data_preprocessor``, or
            known to timm.
        distillation: ``'hard'``, cross-entropy with the teacher's prediction (DeiT, equation 3), or
            ``'soft'``, divergence from its distribution (DeiT's released code). Defaults to ``'hard'``.
        weight: Weight of the teacher's loss, between 0 and 1; the labels' loss has the rest. Defaults to 0.5.
        temperature: Divides the logits of both in soft distillation. Defaults to 1.
        teacher_autocast: Whether the teacher predicts under autocast, which is faster, also where training is
            in float32. Defaults to False, as in the authors' code.
        kwargs: Further arguments of ``ImageClassifier``.

    Raises:
        UserError: If ``distillation`` is unknown or the head has not two classifiers; at the first step, if
            the teacher's weights do not fit it, its normalisation is unknown, or it has other classes.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        head: dict[str, Any],
        teacher: dict[str, Any],
        distillation: str = 'hard',
        weight: float = 0.5,
        temperature: float = 1.0,
        teacher_autocast: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone=backbone, head=head, **kwargs)
        if len(getattr(self.head, 'heads', ())) != 2:
            raise UserError(
                'model.head', 'distillation needs two classifiers', 'use a NormLinearClsHead with num_heads=2'
            )
        if distillation not in ('hard', 'soft'):
            raise UserError(f"model.distillation='{distillation}'", "expected 'hard' or 'soft'")
        self.teacher_cfg = teacher
        self.distillation = distillation
        self.weight = weight
        self.temperature = temperature
        self.teacher_autocast = teacher_autocast
        self._teacher: Teacher | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the teacher out of copies and pickles."""
        return {**self.__dict__, '_teacher': None}

    def loss(self, inputs: torch.Tensor, data_samples: list[DataSample]) -> dict[str, torch.Tensor]:
        """Weighted losses of both heads.

        Args:
            inputs: Normalised images, N x 3 x H x W.
            data_samples: Their labels, or scores if images are mixed.

        Returns:
            ``loss_label`` and ``loss_teacher``.
        """
        if self._teacher is None:
            self._teacher = Teacher(
                self.teacher_cfg, self.data_preprocessor, inputs.device, self.teacher_autocast
            )
        target = self._teacher(inputs)
        from_labels, from_teacher = self.head.each_forward(self.extract_feat(inputs))
        if target.shape != from_teacher.shape:
            raise UserError(
                self._teacher.name,
                f'its output is {tuple(target.shape)}, that of model.head {tuple(from_teacher.shape)}',
                'use a classifier with the same classes',
            )
        if self.distillation == 'hard':
            loss = F.cross_entropy(from_teacher, target.argmax(1))
        else:
            tau = self.temperature
            student, target = F.log_softmax(from_teacher / tau, 1), F.log_softmax(target / tau, 1)
            divergence = F.kl_div(student, target, reduction='sum', log_target=True)
            loss = divergence * tau**2 / student.numel()  # As DeiT's code: divided by the classes too.
        return dict(
            loss_label=(1 - self.weight) * self.head.loss_of(from_labels, data_samples),
            loss_teacher=self.weight * loss,
        )


class Teacher:
    """A frozen classifier that takes a student's inputs. It is no ``nn.Module``, so no submodule of it.

    Args:
        cfg: Model config of an mmpretrain classifier.
        student: The data preprocessor of the student.
        device: Device of the inputs.
        autocast: Whether it predicts under autocast, else in float32. Defaults to False.
    """

    def __init__(
        self, cfg: dict[str, Any], student: nn.Module, device: torch.device, autocast: bool = False
    ) -> None:
        self.autocast = autocast
        self.name = f'model.teacher ({cfg["type"]})'
        # A resumed run builds the teacher anew: it must not change the random numbers of the training, and
        # an untrained one (--demo) must get the same weights again.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            try:
                self.model = _build(cfg)
            except UserError as error:
                raise UserError(f'{self.name}: {error}') from error
        self.model.requires_grad_(False).eval().to(device)
        theirs, ours = _normalisation(self.model), _normalisation(student)
        if theirs is None or ours is None:
            raise UserError(
                self.name,
                'its normalisation of images or that of the student is unknown',
                'set data_preprocessor=dict(mean=..., std=..., to_rgb=...)',
            )
        self.flip = theirs[2] != ours[2]
        mean, std = (x.flip(0) if self.flip else x for x in ours[:2])
        # (x * std + mean - their mean) / their std
        self.scale = (std / theirs[1]).to(device)
        self.shift = ((mean - theirs[0]) / theirs[1]).to(device)

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits (N x classes, float32) for a student's inputs, N x 3 x H x W."""
        images = (inputs.flip(1) if self.flip else inputs) * self.scale + self.shift
        with torch.autocast(inputs.device.type, enabled=self.autocast):
            return self.model(images).float()


def _build(cfg: dict[str, Any]) -> Any:
    """The teacher with its weights."""
    cfg = copy.deepcopy(cfg)
    is_timm = cfg['type'].endswith('TimmClassifier')
    init_cfg = cfg.pop('init_cfg', None) or {}
    checkpoint = init_cfg.get('checkpoint') or cfg.pop('checkpoint_path' if is_timm else 'pretrained', None)
    model = MODELS.build(cfg)
    if not is_timm:  # timm initialises while building; some of its networks have an init_weights that resets.
        model.init_weights()
    if checkpoint:
        load_weights(model, checkpoint)
    elif not any(part.get('pretrained') or part.get('type') == 'Pretrained' for _, part in walk(cfg)):
        print_log(
            'The teacher has random weights, so its predictions mean nothing.',
            logger='current',
            level=logging.WARNING,
        )
    return model


def _normalisation(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor, bool] | None:
    """Mean and standard deviation (3 x 1 x 1, of 0..255) and whether channels are RGB; None if unknown."""
    preprocessor: Any = getattr(model, 'data_preprocessor', model)
    if hasattr(preprocessor, 'mean'):
        return preprocessor.mean.cpu(), preprocessor.std.cpu(), preprocessor.to_rgb
    timm_cfg = getattr(getattr(model, 'model', None), 'pretrained_cfg', None)
    if timm_cfg and timm_cfg.get('mean'):
        mean, std = (255 * torch.tensor(timm_cfg[k]).view(3, 1, 1) for k in ('mean', 'std'))
        return mean, std, True
    return None
