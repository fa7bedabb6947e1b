"""Rewrites a weight file with our names: ``python tools/convert_checkpoint.py SRC DST``."""

from arguments import ArgumentParser

parser = ArgumentParser(description="Convert the authors' or timm's weights to our names.")
parser.add_argument('src', help="weight file or https address: the authors', timm's or ours")
parser.add_argument('dst', help='file to write: .pth, or .safetensors')
args = parser.parse_args()  # --help answers before the imports below, which take seconds.

from pathlib import Path

import safetensors.torch
import torch

from mmiformer.apis import cli
from mmiformer.checkpoints import read, translate
from mmiformer.models.backbones import FAMILIES
from mmiformer.utils.errors import UserError
from mmiformer.utils.files import replacing


def main() -> None:
    """Prints what was recognised, and writes the file."""
    dst = Path(args.dst)
    if dst.suffix not in ('.pth', '.pt', '.safetensors'):
        raise UserError(dst, 'not a name of a weight file', 'expected .pth, .pt or .safetensors')
    if not dst.absolute().parent.is_dir():
        raise UserError(dst, 'its folder does not exist', 'make it first')

    checkpoint = read(args.src)
    translation = translate(checkpoint.state_dict)
    print(f'{args.src}: {translation.report()}')
    if translation.recognised is None:
        raise UserError(args.src, 'holds no network of this package', 'name the weights of one')
    state_dict = dict(translation.state_dict)
    backbone = {k.removeprefix('backbone.'): v for k, v in state_dict.items()}
    arch = next(filter(None, (family.arch_of(backbone) for family in FAMILIES)), None)
    print(f'arch: {arch or "not a published one"}')
    with replacing(dst) as part:
        if dst.suffix == '.safetensors':
            safetensors.torch.save_file({k: v.contiguous() for k, v in state_dict.items()}, part)
        else:
            torch.save(dict(state_dict=state_dict, meta=dict(dataset_meta=checkpoint.dataset_meta)), part)
    print(f'written: {dst} ({len(state_dict)} tensors)')


if __name__ == '__main__':
    cli.run(main)
