_base_ = [
    '../_base_/models/distilled_iformer.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_300e.py',
    '../_base_/default_runtime_cls.py',
]

model = dict(backbone=dict(arch='m'), head=dict(in_channels=384))
