_base_ = [
    '../_base_/models/retinanet_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_1x_sgd.py',
    '../_base_/default_runtime_det.py',
]

model = dict(
    backbone=dict(
        type='MoCoViT',
        arch='1.0',
        out_indices=(1, 2, 3),
        # No weights were ever released: train configs/classification/mocovit_in1k.py first, and name its
        # checkpoint here.
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/mocovit_in1k/epoch_400.pth'),
    ),
    neck=dict(in_channels=[40, 112, 160]),
)
