"""Turning a config into one that trains in minutes on a CPU, without changing the network."""

from pathlib import Path
from pkgutil import resolve_name

from mmengine.config import Config, ConfigDict

from mmiformer.tasks import task_of
from mmiformer.utils.configs import walk


def apply_demo(cfg: Config) -> str:
    """Points a config, in place, at the miniature data of its task, which is drawn below ``data/demo``.

    This changes data, class count, image size, schedule, learning rate and the number of sampled RoIs, lets
    BatchNorm learn and removes pretrained weights, but never changes a layer or a width. A small untrained
    teacher replaces one whose weights would have to be downloaded.

    Args:
        cfg: A config of mmiformer; it is changed.

    Returns:
        A sentence about the data, to print.

    Raises:
        UserError: If the task of the config is unknown, or the folder holds other data.
    """
    task = task_of(cfg, '--demo')
    toy = resolve_name(task.toy_data)
    data = toy.make(Path('data/demo', toy.folder))
    for name in ('train', 'val', 'test'):
        loader, training = cfg[f'{name}_dataloader'], name == 'train'
        # Images this small load faster than processes start.
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset = ConfigDict(
            task.toy_dataset(data, training),
            metainfo=dict(classes=toy.classes),
            test_mode=not training,
            pipeline=loader.dataset.pipeline,
        )
    cfg.train_dataloader.batch_size = task.toy_batch_size
    # SGD takes longer from scratch.
    cfg.optim_wrapper.optimizer.update(type='AdamW', lr=task.toy_lr)
    cfg.optim_wrapper.optimizer.pop('momentum', None)
    iterations = task.fit_to_toy_data(cfg)
    for _, part in walk(cfg.model):
        if 'num_classes' in part:
            part.num_classes = len(toy.classes)
        if 'norm_eval' in part:
            part.norm_eval = False
        if isinstance(part.get('init_cfg'), dict) and part.init_cfg.get('type') == 'Pretrained':
            del part['init_cfg']
    cfg.load_from = None
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations // 2)
    cfg.optim_wrapper.clip_grad = dict(max_norm=5)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=30, end=iterations, eta_min=1e-5),
    ]
    cfg.randomness = dict(seed=0)
    cfg.log_processor.by_epoch = False
    cfg.default_hooks.logger.update(interval=10, log_metric_by_epoch=False)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=iterations // 2, max_keep_ckpts=2)
    numbers = f'{toy.num_train} training and {toy.num_val} validation images'
    return f'{data}: {numbers} of {", ".join(toy.classes)}'
