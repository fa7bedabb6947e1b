"""A training that takes a fraction of a second, in the current folder."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.structures import BaseDataElement
from torch import nn

from mmiformer.engine.runner import Runner


@DATASETS.register_module()
class Five(BaseDataset):
    def load_data_list(self) -> list[dict]:
        return [dict(inputs=torch.tensor([i / 4, 1.0]), data_samples=i) for i in range(5)]


@METRICS.register_module()
class AlwaysOne(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results) -> dict[str, float]:
        return dict(score=1.0)


@MODELS.register_module()
class Random(BaseModel):
    """Draws random numbers in training, in the loss, and keeps statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 1))

    def loss(self, inputs, data_samples) -> dict[str, torch.Tensor]:
        torch.rand(1)
        return dict(loss_square=(self.layers(inputs)[:, 0] - data_samples).square().mean())

    def forward(self, inputs, data_samples, sample_idx=None, mode='tensor'):
        return self.loss(inputs, data_samples) if mode == 'loss' else [BaseDataElement()] * len(inputs)


def small_training(run: str, checkpoint: dict | None = None, **hooks) -> Runner:
    """A run of three epochs of two steps, with an evaluation after each."""
    loader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=dict(type='Five', pipeline=[]),
        collate_fn=dict(type='default_collate'),
    )
    return Runner.from_cfg(
        Config(
            dict(
                model=dict(type='Random'),
                work_dir=run,
                train_dataloader=dict(loader, drop_last=True),
                val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
                train_cfg=dict(by_epoch=True, max_epochs=3, val_interval=1),
                val_cfg=dict(),
                val_evaluator=dict(type='AlwaysOne'),
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05)),
                default_hooks=dict(
                    checkpoint=dict(type='AtomicCheckpointHook', interval=1, **(checkpoint or {})),
                    logger=dict(type='LoggerHook', interval=1),
                    **hooks,
                ),
                randomness=dict(seed=0),
                experiment_name=f'{Path.cwd().name}_{run}',
            )
        )
    )
