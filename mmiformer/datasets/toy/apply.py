"""Turning a full config into one that a bare CPU finishes in minutes, without touching the network."""

from pathlib import Path
from pkgutil import resolve_name

from mmengine.config import Config, ConfigDict

from mmiformer.tasks import task_of
from mmiformer.utils.configs import walk
from mmiformer.utils.errors import UserError


def apply_demo(cfg: Config, root: Path = Path('data/demo')) -> str:
    """Points a config, in place, at the miniature data of its task; makes the data if need be.

    Changed are data, class count, image size, schedule, learning rate and the number of sampled RoIs,
    BatchNorm learns and nothing is loaded into the backbone; never a layer or a width. A teacher, whose
    weights would have to be fetched, makes room for a small untrained one.

    Args:
        cfg: A config of ours; it is changed.
        root: Folder for the data. Defaults to ``data/demo``, beside the data sets of the configs.

    Returns:
        A description of the data, for people.

    Raises:
        UserError: If the config is of no known task, or the data cannot be made.
    """
    task = task_of(cfg, '--demo')
    toy = resolve_name(task.toy_data)
    try:
        data = toy.make(root / toy.folder)
    except OSError as error:
        raise UserError(f'--demo: the data cannot be made in {root.absolute()} ({error}).') from error
    for name in ('train', 'val', 'test'):
        loader, training = cfg[f'{name}_dataloader'], name == 'train'
        # Images this small load faster than processes start; also kind to machines with few cores.
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset = ConfigDict(
            task.toy_dataset(data, training),
            metainfo=dict(classes=toy.classes),
            test_mode=not training,
            pipeline=loader.dataset.pipeline,
        )
    cfg.train_dataloader.batch_size = task.toy_batch_size
    iterations = task.fit_to_toy_data(cfg)
    for _, part in walk(cfg.model):
        if 'num_classes' in part:
            part.num_classes = len(toy.classes)
        if 'norm_eval' in part:  # Else it does not learn from scratch.
            part.norm_eval = False
        if isinstance(part.get('init_cfg'), dict) and part.init_cfg.get('type') == 'Pretrained':
            del part['init_cfg']
    cfg.load_from = None
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations // 2)
    # Also in place of SGD, which takes longer from scratch.
    cfg.optim_wrapper.optimizer.update(type='AdamW', lr=task.toy_lr, fused=True)
    cfg.optim_wrapper.optimizer.pop('momentum', None)
    cfg.optim_wrapper.clip_grad = dict(max_norm=5)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=30, end=iterations, eta_min=1e-5),
    ]
    cfg.randomness = dict(seed=0)
    cfg.log_processor.by_epoch = False
    cfg.default_hooks.logger.interval = 10
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', by_epoch=False, interval=iterations // 2, max_keep_ckpts=2
    )
    return toy.describe(data)
