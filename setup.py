"""Packaging of mmiformer. Everything but the linters' settings is stated here."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
README = ROOT / 'README.md'


def read_version() -> str:
    """Read the version without importing the package, which needs torch."""
    text = (ROOT / 'mmiformer' / '__init__.py').read_text(encoding='utf-8')
    match = re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE)
    if match is None:
        raise RuntimeError("mmiformer/__init__.py has no line __version__ = '...'")
    return match.group(1)


# No mm distribution may stand among the core requirements: mmengine and onedl-mmengine (mmcv and
# onedl-mmcv, ...) install into the same import folder, and pip would overwrite whichever of the
# two lines is there already.
CORE = ['filelock', 'numpy', 'packaging', 'safetensors', 'torch>=2.7']

# mmseg's CLIP text encoder imports ftfy and regex, mmpretrain imports torchvision; the original
# line declares none of them.
UNDECLARED = ['ftfy', 'regex', 'torchvision']

# Most peers of iFormer, and its teacher, are timm's.
PEERS = ['timm>=1.0.31']

# What tools/export.py writes for; each on its own, since they want different versions of others.
RUNTIMES = {
    'coreml': ['coremltools>=9.0'],
    'executorch': ['executorch>=1.4.1'],
    'litert': ['ai-edge-litert>=2.3', 'litert-torch>=0.10'],
    'ncnn': ['ncnn', 'pnnx'],
    'onnx': ['onnx>=1.23', 'onnxruntime>=1.31', 'onnxscript>=0.7'],
    'openvino': ['nncf>=3.4', 'onnxscript>=0.7', 'openvino>=2026.4'],
}

ONEDL = [
    'onedl-mmdetection>=3.5.1',
    'onedl-mmengine>=0.10.12',
    'onedl-mmpretrain>=1.3.6',
    'onedl-mmsegmentation>=1.4.2',
    *UNDECLARED,
    *PEERS,
]
# mmengine 0.10.7 imports pkg_resources, which newer releases of setuptools lack.
OPENMMLAB = [
    'mmdet>=3.3.0',
    'mmengine>=0.10.7',
    'mmpretrain>=1.2.0',
    'mmsegmentation>=1.2.2',
    'setuptools<81',
    *UNDECLARED,
    *PEERS,
]

EXTRAS = {
    'onedl': ['onedl-mmcv>=2.3.6', *ONEDL],
    # mmcv without its compiled half, so nothing is compiled here. mmdet 3.3 refuses mmcv 2.2.
    'openmmlab': ['mmcv-lite>=2.1.0,<2.2', *OPENMMLAB],
    # For an mmcv that is installed already: pip does not know that mmcv-lite would overwrite mmcv.
    'onedl-toolboxes': ONEDL,
    'openmmlab-toolboxes': OPENMMLAB,
    **RUNTIMES,
    'benchmark': ['matplotlib', 'rich', *PEERS],
    'test': [
        *('build', 'fvcore', 'hypothesis', 'lmdb', 'model-index', 'mypy', 'pytest', 'pytest-xdist', 'ruff'),
        *PEERS,
        # coremltools and litert-torch want different versions of typing-extensions, by way of others.
        *(package for name in RUNTIMES if name != 'litert' for package in RUNTIMES[name]),
    ],
}

# A tool that works on a checkout alone.
OF_THE_CHECKOUT = shutil.ignore_patterns('__pycache__', 'generate.py')


class BuildWithConfigs(build_py):
    """Puts configs, tools and metafiles into the package, where OpenMMLab's tools look for them."""

    def run(self) -> None:
        """Builds; an editable install gets links to the checkout's own."""
        super().run()
        mim = (ROOT if self.editable_mode else Path(self.build_lib)) / 'mmiformer' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in ('configs', 'tools', 'model-index.yml'):
            source = ROOT / name
            if self.editable_mode:
                (mim / name).symlink_to(source, target_is_directory=source.is_dir())
            elif source.is_dir():
                shutil.copytree(source, mim / name, ignore=OF_THE_CHECKOUT)
            else:
                shutil.copy(source, mim)


setup(
    name='mmiformer',
    version=read_version(),
    description='Mobile hybrid vision backbones (iFormer, MoCoViT) for OpenMMLab',
    long_description=README.read_text(encoding='utf-8') if README.is_file() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    packages=find_packages(include=['mmiformer', 'mmiformer.*']),
    cmdclass={'build_py': BuildWithConfigs},
    python_requires='>=3.10',
    install_requires=CORE,
    extras_require=EXTRAS,
    keywords='computer vision, object detection, segmentation, mobile, OpenMMLab',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    zip_safe=False,
)
