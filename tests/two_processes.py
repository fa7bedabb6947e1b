"""What tests/tools/test_distributed.py has two processes do, and the same for one.

As a script, which each of them is started with as Slurm does: ``two_processes.py OUT DET SEG CLS CALLS``,
configs of the tasks and arguments of tools as JSON. It leaves what it found in OUT/RANK.pt.
"""

import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from helpers import forget_visualizers, trained_looking
from mmcv.cnn import ConvModule
from mmengine.dist import get_rank
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmiformer.apis.cli import load_config
from mmiformer.checkpoints import fetching
from mmiformer.engine import distributed
from mmiformer.engine.seeding import reseed_each_step

TOOLS = Path(__file__).resolve().parents[1] / 'tools'
TIMEOUT = 456  # Seconds.
IMAGES, SEED = 24, 3
HEADING = '---- {} ----'  # Stands above what a tool prints.


def gradients(
    config: str, images: slice = slice(None), wrap: Callable[[nn.Module], nn.Module] | None = None
) -> dict[str, torch.Tensor]:
    """Gradients of a classifier's or segmentor's loss of some of four fixed images, in double precision.

    In eval mode BatchNorm keeps to its statistics, and dropout and drop path are off.
    """
    from mmpretrain.structures import DataSample
    from mmseg.structures import SegDataSample

    cfg = load_config(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    cfg.model.backbone.init_cfg = None
    model = trained_looking(MODELS.build(cfg.model)).double()
    model = wrap(model) if wrap else revert_sync_batchnorm(model)
    inputs = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    if cfg.default_scope == 'mmseg':
        labels = torch.randint(150, (4, 1, 64, 64))
        # Some ignored pixels, more from image to image. The configs' loss divides by all pixels, ignored
        # ones too, so that the mean of two halves is still that of the whole.
        for i in range(4):
            labels[i, :, : 10 * i] = 255
        samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    else:
        samples = [DataSample().set_gt_label(label) for label in torch.randint(1000, (4,))]
    losses = model(inputs[images], samples[images], mode='loss')
    inner = model.module if wrap else model
    inner.parse_losses(losses)[0].backward()
    return {name: p.grad for name, p in inner.named_parameters()}


def batches(config: str) -> list[list[list[tuple]]]:
    """Two epochs of this process's training batches: id, height and width, and flip of each image."""
    cfg = load_config(config, demo=True)
    init_default_scope(cfg.default_scope)
    cfg.train_dataloader.update(batch_size=2)
    cfg.train_dataloader.dataset.indices = IMAGES
    reseed_each_step(cfg)
    torch.manual_seed(os.getpid())  # Chance of before must not matter.
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=SEED)
    epochs = []
    for epoch in range(2):
        loader.batch_sampler.sampler.set_epoch(epoch)
        epochs.append([[(x.img_id, x.ori_shape, x.flip) for x in batch['data_samples']] for batch in loader])
    return epochs


def sync_bn(rank: int, processes: int, port: int, out: str) -> None:
    """One step of a convolution with SyncBN, on this process's share of four images, on GPUs over gloo."""
    device = torch.device('cuda', rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    address = f'tcp://127.0.0.1:{port}'
    torch.distributed.init_process_group('gloo', address, rank=rank, world_size=processes)
    model = DistributedDataParallel(conv('SyncBN').to(device))
    share = slice(4 * rank // processes, 4 * (rank + 1) // processes)
    model(images()[share].to(device)).square().mean().backward()
    torch.save(state(model.module), f'{out}/{rank}.pt')


def conv(norm: str) -> nn.Module:
    """Convolution, normalisation and ReLU, as the segmentation heads have them, in double precision."""
    torch.manual_seed(0)
    return ConvModule(3, 8, 3, norm_cfg=dict(type=norm)).double()


def images() -> torch.Tensor:
    """Four images of unlike brightness."""
    torch.manual_seed(1)
    return torch.randn(4, 3, 32, 32, dtype=torch.float64) + torch.arange(4).view(4, 1, 1, 1)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Buffers and gradients of a model, on the CPU."""
    found = {name: buffer.cpu() for name, buffer in model.named_buffers()}
    return found | {name: p.grad.cpu() for name, p in model.named_parameters()}


def main() -> None:
    out, det, seg, cls, calls = sys.argv[1:]
    distributed.start('slurm', dict(dist_cfg=dict(backend='nccl', timeout=TIMEOUT)))
    rank = get_rank()
    group = torch.distributed.group.WORLD
    found: dict = dict(timeout=group._get_backend(torch.device('cpu')).options._timeout.total_seconds())

    asked: list[str] = []
    torch.hub.set_dir(f'{out}/hub')
    fetching._download = lambda url, file: (asked.append(url), file.touch())
    fetching.fetch('https://example.org/weights.pth')
    found['downloads'] = asked

    share = slice(2 * rank, 2 * rank + 2)
    for config in (seg, cls):
        found[config] = gradients(config, share, distributed.CPUDistributedDataParallel)
    found['batches'] = [batches(det), batches(det)]
    torch.save(found, f'{out}/{rank}.pt')

    sys.path.insert(0, str(TOOLS))  # As of scripts that Python is given.
    distributed.start = lambda *_: None  # The processes have met.
    for tool, *arguments in json.loads(calls):
        forget_visualizers()
        print(HEADING.format(' '.join([tool, *arguments])), flush=True)
        sys.argv = [tool, *arguments, '--launcher', 'slurm']
        runpy.run_path(str(TOOLS / f'{tool}.py'), run_name='__main__')


if __name__ == '__main__':
    main()
