"""Training a classifier on the answers of a larger one beside the labels."""

import copy
import logging
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn import functional as F

from mmiformer.checkpoints import load_weights, read
from mmiformer.utils.configs import walk
from mmiformer.utils.errors import UserError


class DistilledClassifier(ImageClassifier):
    """mmpretrain's ``ImageClassifier`` whose second head learns from a frozen teacher (DeiT, section 4).

    The first head learns from the labels, as ever; at test both are averaged. The teacher sees the same
    augmented images, normalised as it expects them. It is no part of the model: it is built at the first
    training step, and neither saved, nor moved, nor trained, nor needed for a test.

    Configs name this class by its import path, so that importing mmiformer does not need mmpretrain.

    Args:
        backbone: See ``ImageClassifier``.
        head: A :class:`~mmiformer.models.heads.head.NormLinearClsHead` with ``num_heads=2``.
        teacher: Model config of any mmpretrain classifier, with ``init_cfg`` for its weights and
            ``data_preprocessor`` for its normalisation; for ``TimmClassifier`` timm knows both.
        distillation: ``'hard'``, cross-entropy to the teacher's first choice (DeiT, equation 3), or
            ``'soft'``, the divergence from its distribution (DeiT's released code). Defaults to ``'hard'``.
        weight: Share of the teacher in the loss, between 0 and 1. Defaults to 0.5.
        temperature: Softens both distributions where they are compared; 1 leaves them. Defaults to 1.
        kwargs: Further arguments of ``ImageClassifier``.

    Raises:
        UserError: If an argument is out of its range; at the first step, if the teacher cannot be built or
            filled, states no normalisation, or has other classes.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        head: dict[str, Any],
        teacher: dict[str, Any],
        distillation: str = 'hard',
        weight: float = 0.5,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone=backbone, head=head, **kwargs)
        heads = getattr(self.head, 'heads', ())
        if len(heads) != 2:
            raise UserError(
                f'model.head has {len(heads)} classifiers: distillation needs a NormLinearClsHead with '
                'num_heads=2, one for the labels and one for the teacher.'
            )
        if distillation not in ('hard', 'soft'):
            raise UserError(f"model.distillation='{distillation}': expected 'hard' or 'soft'.")
        if not 0 <= weight <= 1:
            raise UserError(f'model.weight={weight}: expected a share between 0 and 1.')
        if temperature <= 0:
            raise UserError(f'model.temperature={temperature}: expected a positive number.')
        self.teacher_cfg = teacher
        self.distillation = distillation
        self.weight = weight
        self.temperature = temperature
        self._teacher: Teacher | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave the teacher behind; it is built anew where it is needed."""
        return {**self.__dict__, '_teacher': None}

    def loss(self, inputs: torch.Tensor, data_samples: list[DataSample]) -> dict[str, torch.Tensor]:
        """Losses of both heads, weighted.

        Args:
            inputs: Normalised images, N x 3 x H x W.
            data_samples: Their labels, or scores where images are mixed.

        Returns:
            ``loss_label`` and ``loss_teacher``.
        """
        if self._teacher is None or self._teacher.device != inputs.device:
            self._teacher = Teacher(self.teacher_cfg, self.data_preprocessor, inputs.device)
        answer = self._teacher(inputs)
        own, taught = self.head.each_forward(self.extract_feat(inputs))
        if answer.shape != taught.shape:
            raise UserError(
                self._teacher.name,
                f'answers with {answer.shape[1]} classes, and model.head has num_classes={taught.shape[1]}',
                'name a teacher of the same classes',
            )
        if self.distillation == 'hard':
            from_teacher = F.cross_entropy(taught, answer.argmax(1))
        else:
            tau = self.temperature
            student = F.log_softmax(taught / tau, 1)
            target = F.log_softmax(answer / tau, 1)
            divergence = F.kl_div(student, target, reduction='sum', log_target=True)
            from_teacher = divergence * tau**2 / taught.numel()  # As DeiT's code: classes count too.
        return dict(
            loss_label=(1 - self.weight) * self.head.loss_of(own, data_samples),
            loss_teacher=self.weight * from_teacher,
        )


class Teacher:
    """A frozen network that answers to a student's inputs.

    It is no module, so that the student does not count it among its own.

    Args:
        cfg: Model config of an mmpretrain classifier.
        student: The data preprocessor that the inputs went through.
        device: Where the inputs are.

    Raises:
        UserError: If it cannot be built or filled, states no normalisation, or takes no such images.
    """

    def __init__(self, cfg: dict[str, Any], student: nn.Module, device: torch.device) -> None:
        self.name = f'model.teacher ({cfg.get("type")})'
        self.device = device
        # Untrained ones, as of the demo, must be the same after resuming, and the student's own course
        # of random numbers the same with any teacher.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            try:
                self.model = _build(cfg)
            except UserError as error:
                raise UserError(f'{self.name}: {error}') from error
            except Exception as error:  # Of timm, of the hub it fetches from, or of any model's code.
                raise UserError(f'{self.name}: cannot be built ({error}).'.replace('\n', ' ')) from error
        self.model.requires_grad_(False).eval().to(device)
        theirs, ours = _normalisation(self.model), _normalisation(student)
        if theirs is None or ours is None:
            raise UserError(
                self.name,
                'it and the student must state how images are normalised',
                'give it data_preprocessor=dict(mean=..., std=..., to_rgb=...)',
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
        with torch.autocast(inputs.device.type):
            try:
                answer = self.model(images)
            except AssertionError as error:  # timm's, of transformers for one size.
                raise UserError(
                    f'{self.name}: takes no images of {images.shape[2]}x{images.shape[3]} ({error}).'
                ) from error
        if not isinstance(answer, torch.Tensor) or answer.ndim != 2:
            raise UserError(self.name, 'expected one vector of logits an image', 'give it a head')
        return answer.float()


def _build(cfg: dict[str, Any]) -> BaseModel:
    """The teacher with its weights, of which a file must fill every one."""
    cfg = copy.deepcopy(cfg)
    init_cfg = cfg.get('init_cfg')
    checkpoint = cfg.pop('pretrained', None) if isinstance(cfg.get('pretrained'), str) else None
    if isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained':
        checkpoint, cfg['init_cfg'] = init_cfg['checkpoint'], None
    is_timm = cfg['type'].endswith('TimmClassifier')
    if is_timm:
        checkpoint = cfg.pop('checkpoint_path', None) or checkpoint
        if cfg.get('pretrained'):
            cfg['pretrained_cfg_overlay'] = dict(state_dict=_published_weights(cfg))
    model: BaseModel = MODELS.build(cfg)
    if is_timm:
        model.model.pretrained_cfg.pop('state_dict', None)
        model.model.is_init = True  # timm has filled it already; some of its networks would start anew.
    model.init_weights()
    if checkpoint:
        load_weights(model, checkpoint)
    elif not any(part.get('type') == 'Pretrained' or part.get('pretrained') for _, part in walk(cfg)):
        print_log(
            'The teacher has no weights of its own: what it teaches means nothing.',
            logger='current',
            level=logging.WARNING,
        )
    return model


def _published_weights(cfg: dict[str, Any]) -> Any:
    """The weights that timm would fetch by itself, by our reader."""
    import timm

    name = cfg['model_name']
    published = timm.get_pretrained_cfg(name)
    if published is None or not (published.hf_hub_id or published.url):
        raise UserError(
            name, 'timm knows no weights of it', 'name a file as checkpoint_path, with pretrained=False'
        )
    if cfg.get('num_classes', published.num_classes) != published.num_classes:
        raise UserError(
            f'{name} is published with {published.num_classes} classes, so that num_classes='
            f'{cfg["num_classes"]} leaves its classifier untrained; name a file of your own weights '
            'as checkpoint_path, with pretrained=False.'
        )
    on_hub = f'https://huggingface.co/{published.hf_hub_id}/resolve/main/model.safetensors'
    return read(on_hub if published.hf_hub_id else published.url).state_dict


def _normalisation(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor, bool] | None:
    """Mean and standard deviation (3 x 1 x 1, of 0..255) and whether channels are RGB, None if not stated."""
    preprocessor: Any = getattr(model, 'data_preprocessor', model)
    if hasattr(preprocessor, 'mean'):
        return preprocessor.mean.cpu(), preprocessor.std.cpu(), preprocessor.to_rgb
    timm_cfg = getattr(getattr(model, 'model', None), 'pretrained_cfg', None)
    if timm_cfg and timm_cfg.get('mean'):
        mean, std = (255 * torch.tensor(timm_cfg[k]).view(3, 1, 1) for k in ('mean', 'std'))
        return mean, std, True
    return None
